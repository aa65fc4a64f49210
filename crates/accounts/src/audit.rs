//! Who did what, in the transaction that did it.

use deadpool_postgres::Transaction;
use serde_json::Value;
use uuid::Uuid;

use crate::{Result, TenantId, UserId};

/// Writes one event. `detail` names what changed, never secrets and never addresses.
pub(crate) async fn record(
    tx: &Transaction<'_>,
    tenant: TenantId,
    actor: Option<UserId>,
    action: &str,
    subject: Uuid,
    detail: Value,
) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.audit_events (tenant_id, id, actor_id, action, subject_id, detail)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .await?;
    let actor = actor.map(|user| user.0);
    tx.execute(&statement, &[&tenant.0, &Uuid::now_v7(), &actor, &action, &subject, &detail]).await?;
    Ok(())
}
