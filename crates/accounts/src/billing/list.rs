//! Subscriptions as their tenant sees them.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use tokio_postgres::Row;

use super::Entitlement;
use crate::{Actor, App, Error, Result, SubscriptionId, TenantId, db, tenants::Plan, users::Role};

/// A subscription of the tenant's, as Stripe last told it.
#[derive(Debug, Clone, Serialize, Object)]
pub struct Subscription {
    /// Names the subscription here.
    pub id: SubscriptionId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// Names it in Stripe.
    pub stripe_subscription_id: String,
    /// Names in Stripe who pays for it.
    pub stripe_customer_id: String,
    /// One of Stripe's: incomplete, incomplete_expired, trialing, active, past_due, canceled, unpaid, paused; `unknown` for
    /// one that Stripe has thought of since.
    pub status: String,
    /// What is paid for.
    pub items: Vec<SubscriptionItem>,
    /// When the present period began; null: there is none.
    #[oai(nullable)]
    pub current_period_start: Option<DateTime<Utc>>,
    /// When it ends.
    #[oai(nullable)]
    pub current_period_end: Option<DateTime<Utc>>,
    /// When the trial ends or ended; null: there is none.
    #[oai(nullable)]
    pub trial_end: Option<DateTime<Utc>>,
    /// When it will end; null: that has not been decided.
    #[oai(nullable)]
    pub cancel_at: Option<DateTime<Utc>>,
    /// Whether it ends with the present period.
    pub cancel_at_period_end: bool,
    /// When it was decided that it ends; null: it has not been.
    #[oai(nullable)]
    pub canceled_at: Option<DateTime<Utc>>,
    /// When it ended; null: it has not.
    #[oai(nullable)]
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether payments are paused at present.
    pub payment_paused: bool,
    /// When they go on; null: that has not been decided.
    #[oai(nullable)]
    pub resumes_at: Option<DateTime<Utc>>,
    /// Names in Stripe the schedule that will change it; null: there is none.
    #[oai(nullable)]
    pub stripe_schedule_id: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it last changed here.
    pub updated_at: DateTime<Utc>,
    /// Goes up with each change.
    pub version: i64,
}

/// One thing that is paid for.
#[derive(Debug, Clone, Serialize, Object)]
pub struct SubscriptionItem {
    /// Names it in Stripe.
    pub stripe_item_id: String,
    /// The price in Stripe.
    pub price_id: String,
    /// The product in Stripe; null: not told.
    #[oai(nullable)]
    pub product_id: Option<String>,
    /// How many; null: it is metered.
    #[oai(nullable)]
    pub quantity: Option<i64>,
    /// When its present period began.
    #[oai(nullable)]
    pub current_period_start: Option<DateTime<Utc>>,
    /// When it ends.
    #[oai(nullable)]
    pub current_period_end: Option<DateTime<Utc>>,
}

/// What a tenant pays for and may have.
#[derive(Debug, Clone, Serialize, Object)]
pub struct Billing {
    /// The newest first; at most 100.
    pub subscriptions: Vec<Subscription>,
    /// What they give.
    pub entitlement: Entitlement,
}

const SELECT: &str =
    "select s.tenant_id, s.id, s.stripe_id, s.customer_id, s.status, s.created_at, s.trial_end, s.cancel_at,
    s.cancel_at_period_end, s.canceled_at, s.ended_at, s.payment_paused, s.resumes_at, s.schedule_id, s.updated_at, s.version
  from tenantry.subscriptions s
  where s.tenant_id = $1 and s.customer_id in (
    select c.customer_id from tenantry.billing_customers c where c.tenant_id = $1
    union all select p.customer_id from tenantry.billing_past_customers p where p.tenant_id = $1)";

/// What the actor's tenant pays for and may have.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(app: &App, actor: Actor) -> Result<Billing> {
    actor.require(Role::Admin)?;
    let tenant = actor.tenant;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement =
        tx.prepare_cached(&format!("{SELECT} order by s.created_at desc, s.id desc limit 100")).await?;
    let rows = tx.query(&statement, &[&tenant.0]).await?;
    let subscriptions = with_items(&tx, tenant, rows).await?;
    let statement = tx
        .prepare_cached(
            "select plan, active_until, grace_until from tenantry.entitlements where tenant_id = $1",
        )
        .await?;
    let entitlement = match tx.query_opt(&statement, &[&tenant.0]).await? {
        Some(row) => Entitlement::try_from(&row)?,
        None => Entitlement::default(),
    };
    tx.commit().await?;
    Ok(Billing { subscriptions, entitlement })
}

/// One of them.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoSubscription`].
pub async fn get(app: &App, actor: Actor, id: SubscriptionId) -> Result<Subscription> {
    actor.require(Role::Admin)?;
    let tenant = actor.tenant;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx.prepare_cached(&format!("{SELECT} and s.id = $2")).await?;
    let rows = tx.query(&statement, &[&tenant.0, &id.0]).await?;
    let found = with_items(&tx, tenant, rows).await?.pop();
    tx.commit().await?;
    found.ok_or(Error::NoSubscription)
}

/// Whether the tenant has a subscription that has not ended. What a customer paid for whom Stripe has deleted has.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn subscribed(app: &App, actor: Actor) -> Result<bool> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(
            "select exists (select from tenantry.subscriptions s
               join tenantry.billing_customers c on c.tenant_id = s.tenant_id and c.customer_id = s.customer_id
             where s.tenant_id = $1 and s.ended_at is null and s.status <> 'incomplete_expired')",
        )
        .await?;
    let subscribed = tx.query_one(&statement, &[&actor.tenant.0]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(subscribed)
}

async fn with_items(
    tx: &crate::db::Transaction<'_>,
    tenant: TenantId,
    rows: Vec<Row>,
) -> Result<Vec<Subscription>> {
    let mut subscriptions = rows.iter().map(Subscription::try_from).collect::<Result<Vec<_>>>()?;
    let ids: Vec<_> = subscriptions.iter().map(|subscription| subscription.id.0).collect();
    let statement = tx
        .prepare_cached(
            "select subscription_id, stripe_id, price_id, product_id, quantity, period_start, period_end
             from tenantry.subscription_items where tenant_id = $1 and subscription_id = any ($2) order by stripe_id",
        )
        .await?;
    for row in tx.query(&statement, &[&tenant.0, &ids]).await? {
        let of = SubscriptionId(row.try_get("subscription_id")?);
        let Some(subscription) = subscriptions.iter_mut().find(|subscription| subscription.id == of) else {
            continue;
        };
        let item = SubscriptionItem::try_from(&row)?;
        subscription.current_period_start = subscription.current_period_start.or(item.current_period_start);
        subscription.current_period_end = subscription.current_period_end.or(item.current_period_end);
        subscription.items.push(item);
    }
    Ok(subscriptions)
}

impl TryFrom<&Row> for Subscription {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: SubscriptionId(row.try_get("id")?),
            tenant_id: TenantId(row.try_get("tenant_id")?),
            stripe_subscription_id: row.try_get("stripe_id")?,
            stripe_customer_id: row.try_get("customer_id")?,
            status: row.try_get("status")?,
            items: vec![],
            current_period_start: None,
            current_period_end: None,
            trial_end: row.try_get("trial_end")?,
            cancel_at: row.try_get("cancel_at")?,
            cancel_at_period_end: row.try_get("cancel_at_period_end")?,
            canceled_at: row.try_get("canceled_at")?,
            ended_at: row.try_get("ended_at")?,
            payment_paused: row.try_get("payment_paused")?,
            resumes_at: row.try_get("resumes_at")?,
            stripe_schedule_id: row.try_get("schedule_id")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
        })
    }
}

impl TryFrom<&Row> for Entitlement {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            plan: row.try_get::<_, Option<&str>>("plan")?.and_then(Plan::named),
            active_until: row.try_get("active_until")?,
            grace_until: row.try_get("grace_until")?,
        })
    }
}

impl TryFrom<&Row> for SubscriptionItem {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            stripe_item_id: row.try_get("stripe_id")?,
            price_id: row.try_get("price_id")?,
            product_id: row.try_get("product_id")?,
            quantity: row.try_get("quantity")?,
            current_period_start: row.try_get("period_start")?,
            current_period_end: row.try_get("period_end")?,
        })
    }
}
