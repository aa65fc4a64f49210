//! Sign-ins that were refused to an account that there is.

use uuid::Uuid;

use super::ActorKind;
use crate::{App, Network, Result, TenantId, UserId, db};

/// Notes that somebody tried a wrong password on an account; at most once a minute, however many try.
///
/// It is done beside the answer, which must not take longer for accounts that there are, and is no change that it would
/// have to be together with: a process that dies just then has noted nothing.
pub(crate) fn refused(app: &App, tenant: TenantId, user: UserId, from: Option<Network>) {
    let app = app.clone();
    tokio::spawn(async move {
        if let Err(error) = record(&app, tenant, user, from).await {
            tracing::warn!(tenant.id = %tenant, user.id = %user, "a refused sign-in could not be noted: {error}");
        }
    });
}

async fn record(app: &App, tenant: TenantId, user: UserId, from: Option<Network>) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    // Of those who come at once one writes. The next statement sees what whoever held the lock before has written.
    let statement = tx.prepare_cached("select pg_try_advisory_xact_lock(hashtextextended($1, 7))").await?;
    let alone: bool = tx.query_one(&statement, &[&format!("refused {tenant} {user}")]).await?.try_get(0)?;
    if alone {
        let statement = tx
            .prepare_cached(
                "insert into tenantry.audit_events (tenant_id, actor_kind, actor_id, address, action, subject_id)
                 select $1, $2, $3, $4::text::cidr, 'session.refused', $5
                 where not exists (
                   select from tenantry.audit_events
                   where tenant_id = $1 and subject_id = $5 and action = 'session.refused'
                     and id >= tenantry.uuid_floor(clock_timestamp() - interval '1 minute')
                 )",
            )
            .await?;
        let (kind, from) = (ActorKind::Anonymous.as_str(), from.map(|network| network.to_string()));
        tx.execute(&statement, &[&tenant.0, &kind, &None::<Uuid>, &from, &user.0]).await?;
    }
    tx.commit().await?;
    Ok(())
}
