//! Who pays in Stripe for which tenant.

use crate::db::Transaction;
use serde_json::json;
use tenantry_jobs::CreateCustomer;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{directory, follow::follow, sync};
use crate::{
    Actor, App, Error, Result, TenantId,
    audit::{self, By},
    db::{self, OnConstraint},
    tenants::seats,
    to_the_end,
};

/// Has a customer made for a new tenant, when `tx` commits.
pub(crate) async fn request(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    want(tx, tenant).await?;
    tenantry_queue::enqueue(tx, tenant.0, &CreateCustomer {}).await?;
    Ok(())
}

/// Notes that the tenant wants a customer, if it has not been noted.
async fn want(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    let sql = "insert into tenantry.billing_customers (tenant_id) values ($1) on conflict do nothing";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0]).await?;
    Ok(())
}

/// The address of the first administrator of a tenant `t`.
pub(crate) const FIRST_ADMIN: &str = "(select u.email from tenantry.users u
    where u.tenant_id = t.id and u.role = 'admin' and u.deleted_at is null order by u.id limit 1)";

/// A customer that Stripe has to be asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// By what it is found again. Nobody else knows it.
    pub mark: Uuid,
    /// How many keys have got no answer but that Stripe had a fault.
    pub attempt: i32,
    /// The tenant's name.
    pub name: String,
    /// The address of its first administrator.
    pub email: Option<String>,
    /// It was not made before then, in Unix seconds.
    pub since: i64,
    /// Whether Stripe had a fault at it so long ago that what came of it is listed by now.
    pub is_settled: bool,
}

impl Wanted {
    /// Makes Stripe give the same answer however often it is asked.
    pub fn key(&self) -> String {
        format!("{}-{}", self.mark, self.attempt)
    }
}

/// The customer of a tenant, or what Stripe has to be asked for.
///
/// # Errors
/// [`Error::NoTenant`].
pub async fn find(app: &App, tenant: TenantId) -> Result<std::result::Result<String, Wanted>> {
    if tenant == TenantId::SYSTEM {
        // The service pays nothing to itself.
        return Err(Error::NoTenant);
    }
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    want(&tx, tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select c.customer_id, c.key, c.attempt, t.name, extract(epoch from c.created_at)::bigint as since,
               coalesce(c.failed_at < now() - make_interval(secs => $2), false) as is_settled, {FIRST_ADMIN} as email
             from tenantry.billing_customers c join tenantry.tenants t on t.id = c.tenant_id
             where c.tenant_id = $1 and t.deleted_at is null"
        ))
        .await?;
    let settle = app.settings.billing.as_ref().map_or(0.0, |billing| billing.settle.as_secs_f64());
    let row = tx.query_opt(&statement, &[&tenant.0, &settle]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    if let Some(customer) = row.try_get::<_, Option<String>>("customer_id")? {
        return Ok(Ok(customer));
    }
    Ok(Err(Wanted {
        mark: row.try_get("key")?,
        attempt: row.try_get("attempt")?,
        name: row.try_get("name")?,
        email: row.try_get("email")?,
        since: row.try_get("since")?,
        is_settled: row.try_get("is_settled")?,
    }))
}

/// Notes that Stripe had a fault while it made what `wanted` asks for, and is not seen to have made it.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note_fault(app: &App, tenant: TenantId, wanted: &Wanted) -> Result<()> {
    let sql = "update tenantry.billing_customers set failed_at = coalesce(failed_at, now())
               where tenant_id = $1 and attempt = $2";
    of_attempt(app, tenant, wanted, sql).await
}

/// From now on another key is used: what `wanted` asked for was not made, and never will be by its key.
///
/// # Errors
/// When the database cannot be asked.
pub async fn use_another_key(app: &App, tenant: TenantId, wanted: &Wanted) -> Result<()> {
    let sql = "update tenantry.billing_customers set attempt = attempt + 1, failed_at = null
               where tenant_id = $1 and attempt = $2";
    of_attempt(app, tenant, wanted, sql).await
}

/// Of two who come to the same end at once, one is heard.
async fn of_attempt(app: &App, tenant: TenantId, wanted: &Wanted, sql: &str) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0, &wanted.attempt]).await?;
    tx.commit().await?;
    Ok(())
}

/// Notes that `customer` pays for `tenant`, and has what was parked for want of that fetched again. What the tenant had
/// already stays: the one that is returned.
///
/// # Errors
/// [`Error::CustomerTaken`] when it pays for another tenant, [`Error::CustomerDeleted`] when Stripe has deleted it,
/// [`Error::NoTenant`].
pub async fn link(app: &App, tenant: TenantId, customer: &str) -> Result<String> {
    link_by(app, tenant, customer, None).await
}

/// The same at the word of an operator, and instead of the one that the tenant had.
///
/// # Errors
/// As [`link`], and [`Error::Forbidden`].
pub async fn relink(app: &App, actor: Actor, customer: &str) -> Result<String> {
    actor.require(crate::users::Role::SuperAdmin)?;
    link_by(app, actor.tenant, customer, Some(actor)).await
}

async fn link_by(app: &App, tenant: TenantId, customer: &str, actor: Option<Actor>) -> Result<String> {
    let (app, customer) = (app.clone(), customer.to_owned());
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_system(&mut client).await?;
        seats::lock(&tx, tenant).await?;
        if directory::lock(&tx, &customer, 0).await? {
            return Err(Error::CustomerDeleted);
        }
        let statement = tx
            .prepare_cached(
                "insert into tenantry.billing_customers as c (tenant_id, customer_id)
                 select id, $2 from tenantry.tenants where id = $1 and deleted_at is null
                 on conflict (tenant_id) do update
                   set customer_id = case when $3 then excluded.customer_id else coalesce(c.customer_id, excluded.customer_id) end
                 returning customer_id",
            )
            .await?;
        let row = tx
            .query_opt(&statement, &[&tenant.0, &customer, &actor.is_some()])
            .await
            .on_constraint("billing_customers_customer_key", Error::CustomerTaken)?
            .ok_or(Error::NoTenant)?;
        let linked: String = row.try_get(0)?;
        if let Some(actor) = actor {
            if let Some(settings) = &app.settings.billing {
                // What the customer paid who did so far is not this tenant's any more.
                follow(&app, &tx, tenant, settings).await?;
            }
            audit::record(&tx, tenant, actor, "billing.customer_linked", tenant.0, json!({"customer_id": linked})).await?;
        }
        // All of them, not those alone that are parked: what pays for another tenant now may have been stored there.
        let theirs = "select id from tenantry.stripe_objects where customer_id = $1 order by id";
        let statement = tx.prepare_cached(theirs).await?;
        fetch_again(&tx, tenant, tx.query(&statement, &[&linked]).await?).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(linked)
    })
    .await
}

/// Has these subscriptions fetched, when `tx` commits.
async fn fetch_again(tx: &Transaction<'_>, tenant: TenantId, subscriptions: Vec<Row>) -> Result<()> {
    for row in subscriptions {
        sync::request(tx, tenant, row.try_get(0)?).await?;
    }
    Ok(())
}

/// Unlinks a customer of whom Stripe has said that it has deleted it: another is made when one is needed next, and plan and
/// seats follow. What it paid for stays the tenant's, and is fetched once more. Returns whose it was; none: nobody's.
///
/// # Errors
/// When the database fails; then nothing has changed.
pub async fn unlink(app: &App, customer: &str) -> Result<Option<TenantId>> {
    let (app, customer) = (app.clone(), customer.to_owned());
    to_the_end(async move {
        loop {
            let mut client = app.db.client().await?;
            let tx = db::as_system(&mut client).await?;
            let tenant = payer(&tx, &customer).await?;
            if let Some(tenant) = tenant {
                seats::lock(&tx, tenant).await?;
            }
            directory::bury(&tx, &customer).await?;
            if payer(&tx, &customer).await? != tenant {
                // Somebody has linked it in between, and needs the lock of other seats. Nobody will from here on.
                tx.rollback().await?;
                continue;
            }
            if let Some(tenant) = tenant {
                unlink_in(&app, &tx, tenant, &customer).await?;
            }
            tx.commit().await?;
            app.db.nudge();
            return Ok(tenant);
        }
    })
    .await
}

async fn unlink_in(app: &App, tx: &Transaction<'_>, tenant: TenantId, customer: &str) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "with past as (
               insert into tenantry.billing_past_customers (tenant_id, customer_id) values ($1, $2) on conflict do nothing
             )
             update tenantry.billing_customers
             -- Another one is wanted from now on, and has met no fault.
             set customer_id = null, attempt = attempt + 1, created_at = now(), failed_at = null
             where tenant_id = $1 and customer_id = $2",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &customer]).await?;
    if let Some(settings) = &app.settings.billing {
        follow(app, tx, tenant, settings).await?;
    }
    let detail = json!({"customer_id": customer});
    audit::record(tx, tenant, By::SYSTEM, "billing.customer_unlinked", tenant.0, detail).await?;
    let statement = tx
        .prepare_cached(
            "select stripe_id from tenantry.subscriptions
             where tenant_id = $1 and customer_id = $2 and status not in ('canceled', 'incomplete_expired') order by stripe_id",
        )
        .await?;
    fetch_again(tx, tenant, tx.query(&statement, &[&tenant.0, &customer]).await?).await
}

/// For whom a customer pays; none: for nobody.
///
/// # Errors
/// When the database cannot be asked.
pub async fn tenant_of(app: &App, customer: &str) -> Result<Option<TenantId>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let tenant = payer(&tx, customer).await?;
    tx.commit().await?;
    Ok(tenant)
}

async fn payer(tx: &Transaction<'_>, customer: &str) -> Result<Option<TenantId>> {
    let sql = "select tenant_id from tenantry.billing_customers where customer_id = $1";
    let statement = tx.prepare_cached(sql).await?;
    let row = tx.query_opt(&statement, &[&customer]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?.map(TenantId))
}

/// A tenant that has a customer.
#[derive(Debug, Clone)]
pub struct Paying {
    /// The tenant.
    pub tenant: TenantId,
    /// Names in Stripe who pays for it.
    pub customer: String,
    /// The tenant's name.
    pub name: String,
    /// The address of its first administrator.
    pub email: Option<String>,
}

/// Every tenant that has a customer, closed ones too.
///
/// # Errors
/// When the database cannot be asked.
pub async fn paying(app: &App) -> Result<Vec<Paying>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql = format!(
        "select c.tenant_id, c.customer_id, t.name, {FIRST_ADMIN} as email
         from tenantry.billing_customers c join tenantry.tenants t on t.id = c.tenant_id
         where c.customer_id is not null order by c.tenant_id"
    );
    let rows = tx.query(&sql, &[]).await?;
    tx.commit().await?;
    let paying = |row: &tokio_postgres::Row| {
        Ok(Paying {
            tenant: TenantId(row.try_get("tenant_id")?),
            customer: row.try_get("customer_id")?,
            name: row.try_get("name")?,
            email: row.try_get("email")?,
        })
    };
    rows.iter().map(paying).collect()
}
