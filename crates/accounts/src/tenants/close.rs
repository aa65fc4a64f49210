//! Closing a tenant: at once for its users, for good after a while.

use serde_json::json;
use tokio_postgres::Row;

use super::{Tenant, lock, read, within_reach};
use crate::{
    Actor, App, Error, Result, TenantId, Who,
    audit::{self, By},
    billing, db, revocations, to_the_end,
    users::{IfMatch, Role},
};

/// Closes a tenant: nobody signs in any more, every token is void, its slug stays its own. What it pays for ends with the
/// period that is paid. It may be opened again until the period of grace is over, and is purged then.
///
/// # Errors
/// [`Error::NoTenant`], also when it is closed already; [`Error::VersionChanged`]; [`Error::Forbidden`], for programs and for
/// the tenant of super administrators.
pub async fn close(app: &App, actor: Actor, id: TenantId, if_match: IfMatch) -> Result<Tenant> {
    within_reach(actor, id)?;
    actor.require(Role::Admin)?;
    if id == TenantId::SYSTEM || matches!(actor.who, Who::ApiKey(_)) {
        return Err(Error::Forbidden);
    }
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, id).await?;
        let before = lock(&tx, id, &if_match).await?;
        let statement = tx
            .prepare_cached(
                "update tenantry.tenants set
                   deleted_at = now(), purge_after = now() + make_interval(secs => $2),
                   auth_version = auth_version + 1, version = version + 1, updated_at = now()
                 where id = $1",
            )
            .await?;
        tx.execute(&statement, &[&id.0, &app.settings.tenant_grace.as_secs_f64()]).await?;
        let revoked = revocations::outdate_tenant(&tx, id).await?;
        let tenant = read(&tx, id).await?;
        let detail = json!({"slug": before.slug, "purge_after": tenant.purge_after});
        audit::record(&tx, id, actor, "tenant.closed", id.0, detail).await?;
        billing::closed::request(&tx, app.settings.billing.as_ref(), id).await?;
        tx.commit().await?;
        app.db.nudge();
        app.revocations.add(&[revoked]);
        Ok(tenant)
    })
    .await
}

/// Opens a closed tenant again, as it was; one that is open stays so. Tokens of before stay void, sessions go on.
///
/// # Errors
/// [`Error::Forbidden`]; [`Error::NoTenant`], also when the period of grace is over.
pub async fn reopen(app: &App, actor: Actor, id: TenantId) -> Result<Tenant> {
    actor.require(Role::SuperAdmin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, id).await?;
        let statement = tx
            .prepare_cached(
                "update tenantry.tenants set
                   deleted_at = null, purge_after = null, version = version + 1, updated_at = now()
                 where id = $1 and deleted_at is not null and purge_after > now()",
            )
            .await?;
        let reopened = tx.execute(&statement, &[&id.0]).await? > 0;
        let tenant = read(&tx, id).await?;
        if tenant.closed_at.is_some() {
            return Err(Error::NoTenant);
        }
        if reopened {
            audit::record(&tx, id, actor, "tenant.reopened", id.0, json!({})).await?;
        }
        tx.commit().await?;
        Ok(tenant)
    })
    .await
}

/// Removes up to `batch` rows of a closed tenant whose period of grace is over, at last the tenant itself; false when there is
/// no such tenant. Its own transaction. The audit trail stays, and tells of the end.
///
/// # Errors
/// When the database fails.
pub async fn purge(app: &App, batch: u32) -> Result<bool> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql = "select id, slug from tenantry.tenants where purge_after <= now()
               order by purge_after limit 1 for update skip locked";
    let Some(row) = tx.query_opt(sql, &[]).await? else { return Ok(false) };
    let column = |row: &Row| Ok::<_, Error>((TenantId(row.try_get("id")?), row.try_get("slug")?));
    let (tenant, slug): (TenantId, String) = column(&row)?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let gone: bool =
        tx.query_one("select tenantry.purge_tenant($1, $2)", &[&tenant.0, &batch]).await?.try_get(0)?;
    if gone {
        audit::record(&tx, tenant, By::SYSTEM, "tenant.purged", tenant.0, json!({"slug": slug})).await?;
    }
    tx.commit().await?;
    Ok(true)
}
