//! What a tenant pays for that has been closed.

use crate::db::Transaction;
use tenantry_jobs::EndSubscriptions;

use super::Settings;
use crate::{App, Result, TenantId, db};

/// Has what the tenant pays for end, when `tx` commits.
pub(crate) async fn request(
    tx: &Transaction<'_>,
    settings: Option<&Settings>,
    tenant: TenantId,
) -> Result<()> {
    if settings.is_some() {
        tenantry_queue::enqueue(tx, tenant.0, &EndSubscriptions {}).await?;
    }
    Ok(())
}

/// Subscriptions of a closed tenant that would be renewed. None of one that has been opened again.
///
/// # Errors
/// When the database cannot be asked.
pub async fn renewing(app: &App, tenant: TenantId) -> Result<Vec<String>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select s.stripe_id from tenantry.subscriptions s
               join tenantry.billing_customers c on c.tenant_id = s.tenant_id and c.customer_id = s.customer_id
               join tenantry.tenants t on t.id = s.tenant_id
             where s.tenant_id = $1 and t.deleted_at is not null and not s.cancel_at_period_end and s.cancel_at is null
               and s.status not in ('canceled', 'incomplete_expired')
             order by s.id",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
