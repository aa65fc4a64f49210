//! Who pays in Stripe for which tenant.

use deadpool_postgres::Transaction;
use serde_json::json;
use tenantry_jobs::{CreateCustomer, SyncSubscription};
use tenantry_queue::Options;
use uuid::Uuid;

use super::sync;
use crate::{
    Actor, App, Error, Result, TenantId, audit,
    db::{self, OnConstraint},
    tenants::seats,
    to_the_end,
};

/// Has a customer made for a new tenant, when `tx` commits.
pub(crate) async fn request(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.billing_customers (tenant_id) values ($1) on conflict do nothing",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0]).await?;
    tenantry_queue::enqueue(tx, tenant.0, &CreateCustomer {}).await?;
    Ok(())
}

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
    let statement = tx
        .prepare_cached(
            "insert into tenantry.billing_customers (tenant_id) values ($1) on conflict do nothing",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0]).await?;
    let statement = tx
        .prepare_cached(
            "select c.customer_id, c.key, c.attempt, t.name,
               (select u.email from tenantry.users u
                where u.tenant_id = t.id and u.role = 'admin' and u.deleted_at is null order by u.id limit 1) as email
             from tenantry.billing_customers c join tenantry.tenants t on t.id = c.tenant_id
             where c.tenant_id = $1 and t.deleted_at is null",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    if let Some(customer) = row.try_get::<_, Option<String>>("customer_id")? {
        return Ok(Ok(customer));
    }
    Ok(Err(Wanted {
        mark: row.try_get("key")?,
        attempt: row.try_get("attempt")?,
        name: row.try_get("name")?,
        email: row.try_get("email")?,
    }))
}

/// From now on another key is used: what `wanted` asked for was not made, and never will be by its key.
///
/// # Errors
/// When the database cannot be asked.
pub async fn use_another_key(app: &App, tenant: TenantId, wanted: &Wanted) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    // Of two who come to this end at once, one is heard.
    let sql =
        "update tenantry.billing_customers set attempt = attempt + 1 where tenant_id = $1 and attempt = $2";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0, &wanted.attempt]).await?;
    tx.commit().await?;
    Ok(())
}

/// Notes that `customer` pays for `tenant`, and has what was parked for want of that fetched again. What the tenant had
/// already stays: the one that is returned.
///
/// # Errors
/// [`Error::CustomerTaken`] when it pays for another tenant.
pub async fn link(app: &App, tenant: TenantId, customer: &str) -> Result<String> {
    link_by(app, tenant, customer, None).await
}

/// The same at the word of an operator, and instead of the one that the tenant had.
///
/// # Errors
/// [`Error::CustomerTaken`], [`Error::NoTenant`], [`Error::Forbidden`].
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
                sync::follow(&app, &tx, tenant, settings).await?;
            }
            audit::record(&tx, tenant, actor, "billing.customer_linked", tenant.0, json!({"customer_id": linked})).await?;
        }
        // All of them, not those alone that are parked: one may be about to be, by a transaction that does not see this yet.
        let theirs = "select id from tenantry.stripe_objects where customer_id = $1 order by id";
        let statement = tx.prepare_cached(theirs).await?;
        for row in tx.query(&statement, &[&linked]).await? {
            let subscription_id: String = row.try_get(0)?;
            let options = Options { unique_key: Some(&subscription_id), ..Options::default() };
            let job = SyncSubscription { subscription_id: subscription_id.clone(), if_dirty: false };
            tenantry_queue::enqueue_with(&tx, tenant.0, &job, options).await?;
        }
        tx.commit().await?;
        app.db.nudge();
        Ok(linked)
    })
    .await
}

/// Customers that are known to pay for nobody, each with how many subscriptions.
///
/// # Errors
/// When the database cannot be asked.
pub async fn parked(app: &App) -> Result<Vec<(String, i64)>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql = "select customer_id, count(*) from tenantry.stripe_objects
               where parked_at is not null and customer_id is not null group by 1 order by 1";
    let rows = tx.query(sql, &[]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
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
    let sql = "select c.tenant_id, c.customer_id, t.name,
                 (select u.email from tenantry.users u
                  where u.tenant_id = t.id and u.role = 'admin' and u.deleted_at is null order by u.id limit 1) as email
               from tenantry.billing_customers c join tenantry.tenants t on t.id = c.tenant_id
               where c.customer_id is not null order by c.tenant_id";
    let rows = tx.query(sql, &[]).await?;
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
