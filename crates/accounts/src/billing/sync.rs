//! Applying what was fetched.
//!
//! A fetch gets its number before it begins. Of two fetches of a subscription the one with the higher number began later,
//! so what it brought is at least as new: what has a lower number than what was applied last is dropped. What happens to
//! the subscription during a fetch makes it dirty again, and another fetch follows.

use std::collections::HashMap;

use crate::db::Transaction;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tenantry_jobs::SyncSubscription;
use tenantry_queue::Options;
use tenantry_stripe::{Item, Status, Subscription};
use uuid::Uuid;

use super::{Settings, directory, follow::follow};
use crate::{
    App, Error, Result, SubscriptionId, TenantId,
    audit::{self, By},
    billing, db,
    tenants::seats,
    to_the_end,
};

/// A fetch that is about to begin.
#[derive(Debug, Clone, Default)]
pub struct Begun {
    number: i64,
    dirty: i64,
    synced: i64,
    newest_event: Option<DateTime<Utc>>,
    parked: bool,
    tenant: Option<TenantId>,
}

impl Begun {
    /// One that asked for many at once, for one of them: `known` is what was known of it, read after Stripe had answered.
    /// What happened in between is not in the answer for certain, so only what was synced before counts as such.
    pub fn of(&self, known: &Self) -> Self {
        Self { number: self.number, dirty: known.synced, ..known.clone() }
    }

    /// Of two fetches the one with the higher number began later.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Whose it is, as far as that is known before Stripe is asked.
    pub fn tenant(&self) -> Option<TenantId> {
        self.tenant
    }

    /// Whether an event came since the fetch began that was applied last, or somebody is known by now to pay for it.
    pub fn is_dirty(&self) -> bool {
        self.dirty > self.synced || (self.parked && self.tenant.is_some())
    }
}

/// Numbers a fetch. To be called before Stripe is asked.
///
/// # Errors
/// When the database cannot be asked.
pub async fn begin(app: &App, subscription: &str) -> Result<Begun> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.begin_stripe_fetch");
    let sql =
        "select number, dirty, synced, newest_event, parked, tenant_id from tenantry.begin_stripe_fetch($1)";
    let statement = client.prepare_cached(sql).await?;
    Begun::try_from(&client.query_one(&statement, &[&subscription]).await?)
}

/// What is known of each of `subscriptions`, by their ids: for [`Begun::of`]. Nothing is known of those that are left out.
///
/// # Errors
/// When the database cannot be asked.
pub async fn known(app: &App, subscriptions: &[&str]) -> Result<HashMap<String, Begun>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select o.id, 0::bigint as number, o.dirty, o.synced, o.newest_event, o.parked_at is not null as parked,
               coalesce(c.tenant_id, p.tenant_id) as tenant_id
             from tenantry.stripe_objects o
               left join tenantry.billing_customers c on c.customer_id = o.customer_id
               left join tenantry.billing_past_customers p on p.customer_id = o.customer_id
             where o.id = any ($1)",
        )
        .await?;
    let rows = tx.query(&statement, &[&subscriptions]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, Begun::try_from(row)?))).collect()
}

impl TryFrom<&tokio_postgres::Row> for Begun {
    type Error = Error;

    fn try_from(row: &tokio_postgres::Row) -> Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            dirty: row.try_get("dirty")?,
            synced: row.try_get("synced")?,
            newest_event: row.try_get("newest_event")?,
            parked: row.try_get("parked")?,
            tenant: row.try_get::<_, Option<Uuid>>("tenant_id")?.map(TenantId),
        })
    }
}

/// Has a subscription fetched, whether or not an event came, when `tx` commits.
pub(super) async fn request(tx: &Transaction<'_>, tenant: TenantId, id: &str) -> Result<()> {
    let job = SyncSubscription { subscription_id: id.to_owned(), if_dirty: false };
    let options = Options { unique_key: Some(id), ..Options::default() };
    tenantry_queue::enqueue_with(tx, tenant.0, &job, options).await?;
    Ok(())
}

/// What Stripe answered.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The subscription.
    Found(Box<Subscription>),
    /// Stripe knows no such one, or no longer.
    Gone,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is stored, and is another than before.
    Changed,
    /// It is stored, and is as before.
    Same,
    /// A later fetch has been applied already.
    Overtaken,
    /// Nobody is known to pay for it. It is fetched again when somebody is.
    Parked,
}

/// Applies what was fetched, and what follows from it, in one transaction. `at` is when Stripe answered, by its own clock.
///
/// # Errors
/// When the database fails; then nothing is applied.
pub async fn apply(app: &App, id: &str, begun: &Begun, fetched: Fetched, at: Option<i64>) -> Result<Applied> {
    let Some(settings) = app.settings.billing.clone() else {
        return Err(Error::Internal("billing is not set up"));
    };
    let (app, id, begun) = (app.clone(), id.to_owned(), begun.clone());
    to_the_end(async move {
        let customer = match &fetched {
            Fetched::Found(subscription) => Some(subscription.customer.clone()),
            Fetched::Gone => None,
        };
        let mut client = app.db.client().await?;
        let mut tx = db::as_system(&mut client).await?;
        let mut tenant = tenant_of(&tx, &id, customer.as_deref()).await?;
        if let (None, Fetched::Found(subscription)) = (tenant, &fetched) {
            // Whoever links the customer at this moment either sees what is parked here, or is seen.
            let listed = if subscription.status.is_final() { 0 } else { begun.number };
            directory::lock(&tx, &subscription.customer, listed).await?;
            tenant = tenant_of(&tx, &id, customer.as_deref()).await?;
            if tenant.is_some() {
                // Seats are locked first; a customer that pays for somebody goes on doing so.
                tx.rollback().await?;
                tx = db::as_system(&mut client).await?;
            }
        }
        let mut applied = Applied::Same;
        if let Some(tenant) = tenant {
            // The first lock of all that touch a tenant's seats.
            seats::lock(&tx, tenant).await?;
            let changed = match &fetched {
                Fetched::Found(subscription) => store(&tx, tenant, subscription).await?,
                Fetched::Gone => store_gone(&tx, tenant, &id).await?,
            };
            follow(&app, &tx, tenant, &settings).await?;
            billing::seats::keep_in_step(&tx, &settings, tenant).await?;
            if changed {
                applied = Applied::Changed;
            }
        } else if customer.is_some() {
            applied = Applied::Parked;
        }
        // Last, since webhooks wait for this row. Two for one tenant have waited for each other at its seats.
        let parked = applied == Applied::Parked;
        let Some(dirty) = note(&tx, &id, customer.as_deref(), &begun, parked).await? else {
            tx.rollback().await?;
            return Ok(Applied::Overtaken);
        };
        again(&tx, tenant.unwrap_or(TenantId::SYSTEM), &id, &begun, dirty, &settings, at).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(applied)
    })
    .await
}

/// Whose subscription it is: by who pays for it or did until Stripe deleted them, never by what it says itself. One that is
/// gone is whose it was.
async fn tenant_of(tx: &Transaction<'_>, id: &str, customer: Option<&str>) -> Result<Option<TenantId>> {
    let statement = tx
        .prepare_cached(
            "select coalesce(c.tenant_id, p.tenant_id) from (
               select coalesce($2, (select o.customer_id from tenantry.stripe_objects o where o.id = $1)) as id) payer
               left join tenantry.billing_customers c on c.customer_id = payer.id
               left join tenantry.billing_past_customers p on p.customer_id = payer.id",
        )
        .await?;
    let row = tx.query_one(&statement, &[&id, &customer]).await?;
    Ok(row.try_get::<_, Option<Uuid>>(0)?.map(TenantId))
}

/// Notes of the object which fetch has been applied, and returns how dirty it is by now; none: a later one was before.
async fn note(
    tx: &Transaction<'_>,
    id: &str,
    customer: Option<&str>,
    begun: &Begun,
    parked: bool,
) -> Result<Option<i64>> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.stripe_objects as o (id, customer_id, applied, synced, parked_at)
               values ($1, $2, $3, $4, case when $5 then now() end)
             on conflict (id) do update set
               customer_id = coalesce(excluded.customer_id, o.customer_id), applied = excluded.applied,
               synced = greatest(o.synced, excluded.synced),
               parked_at = case when $5 then coalesce(o.parked_at, now()) end
             where o.applied <= excluded.applied
             returning dirty",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&id, &customer, &begun.number, &begun.dirty, &parked]).await?;
    Ok(row.map(|row| row.try_get("dirty")).transpose()?)
}

/// Stores the subscription and its items, if they differ; says whether they did. One that has ended stays so.
async fn store(tx: &Transaction<'_>, tenant: TenantId, new: &Subscription) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            &format!("select s.id, s.raw, {FACTS} from tenantry.subscriptions s where s.tenant_id = $1 and s.stripe_id = $2"),
        )
        .await?;
    let before = tx.query_opt(&statement, &[&tenant.0, &new.id]).await?;
    let mut id = SubscriptionId::generate();
    if let Some(before) = &before {
        let raw: Value = before.try_get("raw")?;
        // By what Stripe said: what it did not find may be found again, by the key of the right account.
        let told = Status::named(raw["status"].as_str().unwrap_or_default());
        id = SubscriptionId(before.try_get("id")?);
        if told.is_final() && told != new.status {
            tracing::warn!(subscription.id = %id, "stripe told of {} what had ended; it stays so", new.status.as_str());
            return Ok(false);
        }
        if !differs(before, new)? {
            if raw != new.raw {
                // Such as the name of a price, which Stripe writes into each subscription to it: nothing of this one's.
                let sql = "update tenantry.subscriptions set raw = $3 where tenant_id = $1 and id = $2";
                let statement = tx.prepare_cached(sql).await?;
                tx.execute(&statement, &[&tenant.0, &id.0, &new.raw]).await?;
            }
            return Ok(false);
        }
    }
    upsert(tx, tenant, id, new).await?;
    replace_items(tx, tenant, id, new).await?;
    let mut detail = json!({"status": new.status.as_str(), "stripe_id": new.id});
    if before.is_some() {
        audit::record(tx, tenant, By::SYSTEM, "subscription.updated", id.0, detail).await?;
        return Ok(true);
    }
    let beside = beside(tx, tenant, new).await?;
    if !beside.is_empty() {
        tracing::warn!(tenant.id = %tenant, subscription.id = %id, "a tenant pays for a subscription beside another: {} and {}",
            new.id, beside.join(", "));
        metrics::counter!("tenantry_stripe_second_subscriptions_total").increment(1);
        detail["beside"] = json!(beside);
    }
    audit::record(tx, tenant, By::SYSTEM, "subscription.created", id.0, detail).await?;
    Ok(true)
}

/// What the same customer has beside one that is new and has not ended: as when two checkouts were open, and both are paid.
async fn beside(tx: &Transaction<'_>, tenant: TenantId, new: &Subscription) -> Result<Vec<String>> {
    if new.status.is_final() {
        return Ok(vec![]);
    }
    let statement = tx
        .prepare_cached(
            "select stripe_id from tenantry.subscriptions
             where tenant_id = $1 and customer_id = $2 and stripe_id <> $3 and status not in ('canceled', 'incomplete_expired')
             order by stripe_id limit 10",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0, &new.customer, &new.id]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>()?)
}

/// What is stored by itself of a subscription `s`; [`differs`] compares it.
pub(super) const FACTS: &str = "jsonb_build_array(s.status, s.customer_id, extract(epoch from s.created_at)::bigint,
      extract(epoch from s.trial_end)::bigint, extract(epoch from s.cancel_at)::bigint, s.cancel_at_period_end,
      extract(epoch from s.canceled_at)::bigint, extract(epoch from s.ended_at)::bigint, s.payment_paused,
      extract(epoch from s.resumes_at)::bigint, s.schedule_id) as facts,
    (select coalesce(jsonb_agg(jsonb_build_array(i.stripe_id, i.price_id, i.product_id, i.quantity,
        extract(epoch from i.period_start)::bigint, extract(epoch from i.period_end)::bigint)), '[]')
     from tenantry.subscription_items i where i.tenant_id = s.tenant_id and i.subscription_id = s.id) as items";

/// Whether anything that is stored by itself is another than what Stripe says.
pub(super) fn differs(before: &tokio_postgres::Row, new: &Subscription) -> Result<bool> {
    let facts = json!([
        new.status.as_str(),
        new.customer,
        new.created,
        new.trial_end,
        new.cancel_at,
        new.cancel_at_period_end,
        new.canceled_at,
        new.ended_at,
        new.payment_paused,
        new.resumes_at,
        new.schedule,
    ]);
    let item = |item: &Item| {
        json!([item.id, item.price, item.product, item.quantity, item.period_start, item.period_end])
    };
    let in_order = |mut items: Vec<Value>| {
        items.sort_by_key(|item| item[0].as_str().map(str::to_owned));
        Value::from(items)
    };
    let (stored_facts, stored_items): (Value, Value) = (before.try_get("facts")?, before.try_get("items")?);
    let stored_items = in_order(stored_items.as_array().cloned().unwrap_or_default());
    Ok(stored_facts != facts || stored_items != in_order(new.items.iter().map(item).collect()))
}

async fn upsert(
    tx: &Transaction<'_>,
    tenant: TenantId,
    id: SubscriptionId,
    new: &Subscription,
) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.subscriptions as s (tenant_id, id, stripe_id, customer_id, status, created_at, trial_end,
               cancel_at, cancel_at_period_end, canceled_at, ended_at, payment_paused, resumes_at, schedule_id, raw, past_due_since)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
               case when $5 = 'past_due' then now() end)
             on conflict (tenant_id, stripe_id) do update set
               customer_id = excluded.customer_id, status = excluded.status, created_at = excluded.created_at,
               trial_end = excluded.trial_end, cancel_at = excluded.cancel_at,
               cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
               ended_at = excluded.ended_at, payment_paused = excluded.payment_paused, resumes_at = excluded.resumes_at,
               schedule_id = excluded.schedule_id, raw = excluded.raw,
               past_due_since = case when excluded.status = 'past_due' then coalesce(s.past_due_since, now()) end,
               updated_at = now(), version = s.version + 1",
        )
        .await?;
    tx.execute(
        &statement,
        &[
            &tenant.0,
            &id.0,
            &new.id,
            &new.customer,
            &new.status.as_str(),
            &time(Some(new.created)).unwrap_or_default(),
            &time(new.trial_end),
            &time(new.cancel_at),
            &new.cancel_at_period_end,
            &time(new.canceled_at),
            &time(new.ended_at),
            &new.payment_paused,
            &time(new.resumes_at),
            &new.schedule,
            &new.raw,
        ],
    )
    .await?;
    Ok(())
}

async fn replace_items(
    tx: &Transaction<'_>,
    tenant: TenantId,
    id: SubscriptionId,
    new: &Subscription,
) -> Result<()> {
    let sql = "delete from tenantry.subscription_items where tenant_id = $1 and subscription_id = $2";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0, &id.0]).await?;
    let statement = tx
        .prepare_cached(
            "insert into tenantry.subscription_items
               (tenant_id, subscription_id, stripe_id, price_id, product_id, quantity, period_start, period_end)
             select $1, $2, * from unnest($3::text[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[], $8::timestamptz[])",
        )
        .await?;
    let items = &new.items;
    let ids: Vec<_> = items.iter().map(|item| item.id.as_str()).collect();
    let prices: Vec<_> = items.iter().map(|item| item.price.as_str()).collect();
    let products: Vec<_> = items.iter().map(|item| item.product.as_deref()).collect();
    let quantities: Vec<_> = items.iter().map(|item| item.quantity).collect();
    let starts: Vec<_> = items.iter().map(|item| time(item.period_start)).collect();
    let ends: Vec<_> = items.iter().map(|item| time(item.period_end)).collect();
    tx.execute(&statement, &[&tenant.0, &id.0, &ids, &prices, &products, &quantities, &starts, &ends])
        .await?;
    Ok(())
}

/// What Stripe no longer knows has ended.
async fn store_gone(tx: &Transaction<'_>, tenant: TenantId, stripe_id: &str) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "update tenantry.subscriptions set status = 'canceled', ended_at = coalesce(ended_at, now()),
               updated_at = now(), version = version + 1
             where tenant_id = $1 and stripe_id = $2 and status not in ('canceled', 'incomplete_expired') returning id",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &stripe_id]).await? else { return Ok(false) };
    let detail = json!({"status": "canceled", "stripe_id": stripe_id});
    audit::record(tx, tenant, By::SYSTEM, "subscription.updated", row.try_get::<_, Uuid>("id")?, detail)
        .await?;
    Ok(true)
}

/// Has it fetched again when an event came meanwhile, and a little later when one had only just happened: the copy that
/// Stripe answered from may have been behind it. What is fetched last comes after the newest event by more than that.
async fn again(
    tx: &Transaction<'_>,
    tenant: TenantId,
    id: &str,
    begun: &Begun,
    dirty: i64,
    settings: &Settings,
    at: Option<i64>,
) -> Result<()> {
    let enqueue = async |if_dirty, key: String, delay| {
        let job = SyncSubscription { subscription_id: id.to_owned(), if_dirty };
        let options = Options { unique_key: Some(&key), delay, ..Options::default() };
        tenantry_queue::enqueue_with(tx, tenant.0, &job, options).await
    };
    if dirty > begun.dirty {
        enqueue(true, id.to_owned(), std::time::Duration::ZERO).await?;
    }
    // Either way: a clock that is ahead must not make us fetch until it is no longer. A walk, which is told no time, leaves
    // this to the job that the event has.
    let settle = i64::try_from(settings.settle.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
    let just_happened = |event: DateTime<Utc>| at.is_some_and(|at| (at - event.timestamp()).abs() <= settle);
    if settle > 0 && begun.newest_event.is_some_and(just_happened) {
        // A second more: times are told in whole seconds, and the next fetch must be later than by that.
        enqueue(false, format!("settle:{id}"), settings.settle + std::time::Duration::from_secs(1)).await?;
    }
    Ok(())
}

fn time(seconds: Option<i64>) -> Option<DateTime<Utc>> {
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0))
}
