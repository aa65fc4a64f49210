//! Seats that are paid for one by one: the quantity in Stripe follows the seats that are used.

use crate::db::Transaction;
use tenantry_jobs::SyncSeats;
use tenantry_queue::Options;
use uuid::Uuid;

use super::Settings;
use crate::{App, Result, TenantId, db};

/// Seats come and go in bursts: one change of the quantity is made for all of a minute.
const COALESCED: std::time::Duration = std::time::Duration::from_secs(60);

/// Has the quantity follow, when `tx` commits, if a price of the tenant's is by seat.
pub(crate) async fn changed(
    tx: &Transaction<'_>,
    settings: Option<&Settings>,
    tenant: TenantId,
) -> Result<()> {
    let by_seat = settings.map(by_seat).unwrap_or_default();
    if by_seat.is_empty() {
        return Ok(());
    }
    let statement = tx
        .prepare_cached(
            "select exists (select from tenantry.subscription_items where tenant_id = $1 and price_id = any ($2))",
        )
        .await?;
    if tx.query_one(&statement, &[&tenant.0, &by_seat]).await?.try_get(0)? {
        request(tx, tenant).await?;
    }
    Ok(())
}

/// Has the quantity follow, when `tx` commits, if it is another than it should be: one that could not be set before, or whose
/// price was not by seat then.
pub(super) async fn keep_in_step(tx: &Transaction<'_>, settings: &Settings, tenant: TenantId) -> Result<()> {
    if differing(tx, settings, &[tenant.0]).await?.is_empty() { Ok(()) } else { request(tx, tenant).await }
}

async fn request(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    let options = Options { unique_key: Some("seats"), delay: COALESCED, ..Options::default() };
    tenantry_queue::enqueue_with(tx, tenant.0, &SyncSeats {}, options).await?;
    Ok(())
}

/// An item whose quantity is another than the seats that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfStep {
    /// Whose.
    pub tenant: TenantId,
    /// The item in Stripe.
    pub item: String,
    /// How many seats are used; one at least, since Stripe takes no subscription to nothing.
    pub used: i64,
}

/// Items of a tenant that are out of step.
///
/// # Errors
/// When the database cannot be asked.
pub async fn out_of_step(app: &App, tenant: TenantId) -> Result<Vec<OutOfStep>> {
    let Some(settings) = &app.settings.billing else { return Ok(vec![]) };
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let items = differing(&tx, settings, &[tenant.0]).await?;
    tx.commit().await?;
    Ok(items)
}

/// The same of several tenants.
pub(super) async fn differing(
    tx: &Transaction<'_>,
    settings: &Settings,
    tenants: &[Uuid],
) -> Result<Vec<OutOfStep>> {
    let by_seat = by_seat(settings);
    if by_seat.is_empty() {
        return Ok(vec![]);
    }
    let statement = tx
        .prepare_cached(
            "select i.tenant_id, i.stripe_id, greatest(t.used, 1)::bigint as used
             from tenantry.subscription_items i
               join tenantry.subscriptions s on s.tenant_id = i.tenant_id and s.id = i.subscription_id
               join tenantry.billing_customers c on c.tenant_id = s.tenant_id and c.customer_id = s.customer_id
               join tenantry.tenant_seats t on t.tenant_id = i.tenant_id
             where i.tenant_id = any ($1) and i.price_id = any ($2) and s.status in ('trialing', 'active', 'past_due')
               and i.quantity is distinct from greatest(t.used, 1)",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenants, &by_seat]).await?;
    let row = |row: &tokio_postgres::Row| {
        let tenant = TenantId(row.try_get("tenant_id")?);
        Ok(OutOfStep { tenant, item: row.try_get("stripe_id")?, used: row.try_get("used")? })
    };
    rows.iter().map(row).collect()
}

fn by_seat(settings: &Settings) -> Vec<&str> {
    settings.prices.iter().filter(|(_, price)| price.by_seat).map(|(id, _)| id.as_str()).collect()
}
