//! Seats: one row a tenant, always the first lock of a transaction that adds or removes users, so that they hold
//! however many act at once.

use crate::db::Transaction;

use crate::{App, Error, Result, TenantId, billing, db, invitations::end_expired, tenants::Plan};

/// Seats by plan; none: without limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats {
    /// Of the plan `basic`.
    pub basic: Option<i32>,
    /// Of the plan `pro`.
    pub pro: Option<i32>,
    /// Of the plan `enterprise`.
    pub enterprise: Option<i32>,
}

impl Seats {
    /// The seats of `plan`.
    pub fn of(&self, plan: Plan) -> Option<i32> {
        match plan {
            Plan::Basic => self.basic,
            Plan::Pro => self.pro,
            Plan::Enterprise => self.enterprise,
        }
    }
}

/// Opens the account of a new tenant, with the administrator in the first seat.
pub(crate) async fn open(tx: &Transaction<'_>, tenant: TenantId, max: Option<i32>) -> Result<()> {
    let sql = "insert into tenantry.tenant_seats (tenant_id, used, max) values ($1, 1, $2)";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0, &max]).await?;
    Ok(())
}

/// Takes `n` seats, and with them the tenant's lock. Invitations that were not accepted in time keep none.
pub(crate) async fn take(app: &App, tx: &Transaction<'_>, tenant: TenantId, n: i32) -> Result<()> {
    if !take_free(tx, tenant, n).await? {
        lock(tx, tenant).await?;
        if end_expired(tx, tenant).await? == 0 || !take_free(tx, tenant, n).await? {
            return Err(Error::NoSeat);
        }
    }
    billing::seats::changed(tx, app.settings.billing.as_ref(), tenant).await
}

async fn take_free(tx: &Transaction<'_>, tenant: TenantId, n: i32) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "update tenantry.tenant_seats set used = used + $2
             where tenant_id = $1 and (max is null or used + $2 <= max)",
        )
        .await?;
    Ok(tx.execute(&statement, &[&tenant.0, &n]).await? > 0)
}

/// How many seats are free, as far as `n` are wanted. The tenant's lock is held.
pub(crate) async fn free(app: &App, tx: &Transaction<'_>, tenant: TenantId, n: usize) -> Result<usize> {
    let free = count_free(tx, tenant).await?;
    if free >= n || end_expired(tx, tenant).await? == 0 {
        return Ok(free);
    }
    // It may be that nobody takes them.
    billing::seats::changed(tx, app.settings.billing.as_ref(), tenant).await?;
    count_free(tx, tenant).await
}

/// How many seats are free, as it is.
pub(crate) async fn count_free(tx: &Transaction<'_>, tenant: TenantId) -> Result<usize> {
    let statement =
        tx.prepare_cached("select max - used from tenantry.tenant_seats where tenant_id = $1").await?;
    let row = tx.query_opt(&statement, &[&tenant.0]).await?.ok_or(Error::NoTenant)?;
    let free: Option<i32> = row.try_get(0)?;
    // There may be fewer than are used.
    Ok(free.map_or(usize::MAX, |free| usize::try_from(free).unwrap_or(0)))
}

/// Gives `n` seats back, and takes the tenant's lock.
pub(crate) async fn give_back(app: &App, tx: &Transaction<'_>, tenant: TenantId, n: i32) -> Result<()> {
    let statement =
        tx.prepare_cached("update tenantry.tenant_seats set used = used - $2 where tenant_id = $1").await?;
    tx.execute(&statement, &[&tenant.0, &n]).await?;
    billing::seats::changed(tx, app.settings.billing.as_ref(), tenant).await
}

/// Takes the tenant's lock alone.
pub(crate) async fn lock(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    let statement =
        tx.prepare_cached("select used from tenantry.tenant_seats where tenant_id = $1 for update").await?;
    tx.query_opt(&statement, &[&tenant.0]).await?;
    Ok(())
}

/// Gives the tenant the seats of another plan, be they fewer than are used.
pub(crate) async fn resize(tx: &Transaction<'_>, tenant: TenantId, max: Option<i32>) -> Result<()> {
    tx.execute("update tenantry.tenant_seats set max = $2 where tenant_id = $1", &[&tenant.0, &max]).await?;
    Ok(())
}

/// How many seats are used and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// By users and by invitations that are open.
    pub used: i32,
    /// None: without limit.
    pub max: Option<i32>,
}

/// The seats of a tenant, be it closed.
///
/// # Errors
/// [`Error::NoTenant`].
pub async fn used(app: &App, tenant: TenantId) -> Result<Used> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let sql = "select used, max from tenantry.tenant_seats where tenant_id = $1";
    let row = tx.query_opt(sql, &[&tenant.0]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    Ok(Used { used: row.try_get("used")?, max: row.try_get("max")? })
}
