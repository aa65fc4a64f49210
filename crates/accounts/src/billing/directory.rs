//! What is known of Stripe's customers as such, whoever they pay for: which there are, and which have been deleted. Nothing
//! about the person.
//!
//! A customer's row is also its lock: who links it, parks what it pays for or unlinks it takes the tenant's seats first, then
//! this row, then objects, then jobs. That it was deleted is for good.

use crate::db::Transaction;
use uuid::Uuid;

use crate::{App, Result, TenantId, db};

/// Takes the customer's lock; says whether Stripe has deleted it. `listed` is the number of a fetch that shows that there is
/// such a customer, or 0.
pub(super) async fn lock(tx: &Transaction<'_>, customer: &str, listed: i64) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.stripe_customers as s (id, seen) values ($1, $2)
             on conflict (id) do update set seen = greatest(s.seen, excluded.seen) returning deleted_at is not null",
        )
        .await?;
    Ok(tx.query_one(&statement, &[&customer, &listed]).await?.try_get(0)?)
}

/// The same, and notes that Stripe has deleted it.
pub(super) async fn bury(tx: &Transaction<'_>, customer: &str) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.stripe_customers as s (id, deleted_at) values ($1, now())
             on conflict (id) do update set deleted_at = coalesce(s.deleted_at, excluded.deleted_at), missing_at = null",
        )
        .await?;
    tx.execute(&statement, &[&customer]).await?;
    Ok(())
}

/// Whether Stripe has told that it has deleted the customer.
///
/// # Errors
/// When the database cannot be asked.
pub async fn is_deleted(app: &App, customer: &str) -> Result<bool> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql =
        "select exists (select from tenantry.stripe_customers where id = $1 and deleted_at is not null)";
    let statement = tx.prepare_cached(sql).await?;
    let deleted = tx.query_one(&statement, &[&customer]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(deleted)
}

/// Notes that there are these customers: a fetch of this number came by them. Returns how many were not known.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note(app: &App, number: i64, customers: &[&str]) -> Result<i64> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            // In one order, whoever else is at it: two of them never wait for each other.
            "with noted as (
               insert into tenantry.stripe_customers as s (id, seen) select distinct id, $2::bigint from unnest($1::text[]) id order by id
               on conflict (id) do update set seen = greatest(s.seen, excluded.seen), missing_at = null
               returning xmax = 0 as fresh
             ) select count(*) filter (where fresh) from noted",
        )
        .await?;
    let fresh = tx.query_one(&statement, &[&customers, &number]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(fresh)
}

/// Notes that Stripe knows no such customer by our key.
///
/// # Errors
/// When the database cannot be asked.
pub async fn note_missing(app: &App, customer: &str) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "insert into tenantry.stripe_customers as s (id, missing_at) values ($1, now())
             on conflict (id) do update set missing_at = coalesce(s.missing_at, excluded.missing_at)",
        )
        .await?;
    tx.execute(&statement, &[&customer]).await?;
    tx.commit().await?;
    Ok(())
}

/// Tenants that have no customer and wait for one with one of these marks.
///
/// # Errors
/// When the database cannot be asked.
pub async fn awaited(app: &App, marks: &[Uuid]) -> Result<Vec<(Uuid, TenantId)>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select c.key, c.tenant_id from tenantry.billing_customers c
               join tenantry.tenants t on t.id = c.tenant_id and t.deleted_at is null
             where c.key = any ($1) and c.customer_id is null",
        )
        .await?;
    let rows = tx.query(&statement, &[&marks]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok((row.try_get("key")?, TenantId(row.try_get("tenant_id")?)))).collect()
}

/// Customers of tenants that no fetch since `number` has come by: tenant and customer, those after `after`.
///
/// # Errors
/// When the database cannot be asked.
pub async fn unlisted(app: &App, number: i64, after: Uuid, at_most: i64) -> Result<Vec<(TenantId, String)>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select c.tenant_id, c.customer_id {UNLISTED} and c.tenant_id > $2 order by c.tenant_id limit $3"
        ))
        .await?;
    let rows = tx.query(&statement, &[&number, &after, &at_most]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok((TenantId(row.try_get("tenant_id")?), row.try_get("customer_id")?))).collect()
}

/// How many these are.
///
/// # Errors
/// When the database cannot be asked.
pub async fn count_unlisted(app: &App, number: i64) -> Result<i64> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx.prepare_cached(&format!("select count(*) {UNLISTED}")).await?;
    let count = tx.query_one(&statement, &[&number]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(count)
}

const UNLISTED: &str =
    "from tenantry.billing_customers c left join tenantry.stripe_customers s on s.id = c.customer_id
    where c.customer_id is not null and coalesce(s.seen, 0) < $1";

/// Forgets customers that pay for nobody and that no fetch since `number` has come by: Stripe has them no more.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forget_unlisted(app: &App, number: i64) -> Result<()> {
    const BATCH: i64 = 1_000;
    loop {
        let mut client = app.db.client().await?;
        let tx = db::as_system(&mut client).await?;
        let statement = tx
            .prepare_cached(
                "delete from tenantry.stripe_customers where id in (
                   select s.id from tenantry.stripe_customers s
                   where s.seen < $1 and s.deleted_at is null
                     and not exists (select from tenantry.billing_customers c where c.customer_id = s.id)
                   order by s.id limit $2 for update of s skip locked)",
            )
            .await?;
        let removed = tx.execute(&statement, &[&number, &BATCH]).await?;
        tx.commit().await?;
        if removed < BATCH.unsigned_abs() {
            return Ok(());
        }
    }
}

/// Some of many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<T> {
    /// How many there are.
    pub total: i64,
    /// Some of them.
    pub first: Vec<T>,
}

/// Customers that pay for nobody: how many, and at most so many of those that have the most subscriptions, with how many
/// those are, ended ones too.
///
/// # Errors
/// When the database cannot be asked.
pub async fn nobodys(app: &App, at_most: i64) -> Result<Shown<(String, i64)>> {
    const NOBODYS: &str = "s.seen > 0 and s.deleted_at is null
        and not exists (select from tenantry.billing_customers c where c.customer_id = s.id)";
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql = format!("select count(*) from tenantry.stripe_customers s where {NOBODYS}");
    let total = tx.query_one(&sql, &[]).await?.try_get(0)?;
    let sql = format!(
        "select s.id, count(o.id) from tenantry.stripe_customers s
           left join tenantry.stripe_objects o on o.customer_id = s.id
         where {NOBODYS} group by s.id order by 2 desc, 1 limit $1"
    );
    let rows = tx.query(&sql, &[&at_most]).await?;
    tx.commit().await?;
    let first = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    Ok(Shown { total, first })
}

/// Tenants whose customer Stripe does not know by our key: how many, and at most so many of them by slug and customer.
///
/// # Errors
/// When the database cannot be asked.
pub async fn missing(app: &App, at_most: i64) -> Result<Shown<(String, String)>> {
    const MISSING: &str =
        "from tenantry.stripe_customers s join tenantry.billing_customers c on c.customer_id = s.id
          join tenantry.tenants t on t.id = c.tenant_id
        where s.missing_at is not null";
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let total = tx.query_one(&format!("select count(*) {MISSING}"), &[]).await?.try_get(0)?;
    let sql = format!("select t.slug, s.id {MISSING} order by t.slug limit $1");
    let rows = tx.query(&sql, &[&at_most]).await?;
    tx.commit().await?;
    let first = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    Ok(Shown { total, first })
}
