//! Who did what, in the transaction that did it.

use deadpool_postgres::Transaction;
use serde_json::Value;
use uuid::Uuid;

use crate::{Actor, Network, Result, TenantId, UserId, Who, users::Role};

/// Who did it, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    kind: &'static str,
    id: Option<Uuid>,
    from: Option<Network>,
}

impl By {
    /// The service itself, at the word of nobody here.
    pub(crate) fn system() -> Self {
        Self { kind: "system", id: None, from: None }
    }

    /// A user who showed who they are by a password or a mailed token.
    pub(crate) fn user(id: UserId, from: Option<Network>) -> Self {
        Self { kind: "user", id: Some(id.0), from }
    }
}

impl From<Actor> for By {
    fn from(actor: Actor) -> Self {
        let kind = match actor.who {
            Who::User(_) if actor.role == Role::SuperAdmin => "super_admin",
            Who::User(_) => "user",
            Who::ApiKey(_) => "api_key",
            Who::Operator => "operator",
        };
        Self { kind, id: actor.id(), from: actor.from }
    }
}

/// Writes one event. `detail` names what changed, never secrets and never addresses.
pub(crate) async fn record(
    tx: &Transaction<'_>,
    tenant: TenantId,
    by: impl Into<By>,
    action: &str,
    subject: Uuid,
    detail: Value,
) -> Result<()> {
    let By { kind, id, from } = by.into();
    let statement = tx
        .prepare_cached(
            "insert into tenantry.audit_events (tenant_id, id, actor_kind, actor_id, address, action, subject_id, detail)
             values ($1, $2, $3, $4, $5::text::cidr, $6, $7, $8)",
        )
        .await?;
    let from = from.map(|network| network.to_string());
    tx.execute(&statement, &[&tenant.0, &Uuid::now_v7(), &kind, &id, &from, &action, &subject, &detail])
        .await?;
    Ok(())
}
