//! Sign-ins that were refused to an account that there is.

use chrono::{TimeDelta, Utc};
use uuid::{Builder, Uuid};

use super::ActorKind;
use crate::{App, Network, Result, TenantId, UserId, db};

/// How often a refusal is noted.
const NOTED: TimeDelta = TimeDelta::minutes(1);

/// Notes that somebody tried a wrong password on an account; at most once a minute, however many try. Where there is no such
/// account the same is asked of the database, and nothing noted.
///
/// It is done beside the answer, which must not take longer for accounts that there are, and is no change that it would
/// have to be together with: a process that dies just then has noted nothing.
pub(crate) fn refused(app: &App, account: Option<(TenantId, UserId)>, from: Option<Network>) {
    let (tenant, user) = account.unwrap_or((TenantId::SYSTEM, UserId(Uuid::new_v4())));
    let app = app.clone();
    tokio::spawn(tenantry_trace::carried(async move {
        if let Err(error) = record(&app, tenant, user, from).await {
            tracing::warn!(tenant.id = %tenant, user.id = %user, "a refused sign-in could not be noted: {error}");
        }
    }));
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
                 where exists (select from tenantry.users where tenant_id = $1 and id = $5) and not exists (
                   select from tenantry.audit_events
                   where tenant_id = $1 and subject_id = $5 and action = 'session.refused'
                     and id >= $6
                 )",
            )
            .await?;
        let (kind, from) = (ActorKind::Anonymous.as_str(), from.map(|network| network.to_string()));
        // Reckoned here: a function of the database would be called for those alone who exist.
        let since = u64::try_from((Utc::now() - NOTED).timestamp_millis()).unwrap_or(0);
        let since = Builder::from_unix_timestamp_millis(since, &[0; 10]).into_uuid();
        tx.execute(&statement, &[&tenant.0, &kind, &None::<Uuid>, &from, &user.0, &since]).await?;
    }
    tx.commit().await?;
    Ok(())
}
