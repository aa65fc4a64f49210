//! The audit trail: who did what, and from where, in the transaction that did it.

mod list;
mod refusals;

use crate::db::Transaction;
use poem_openapi::Enum;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

pub use list::{Event, Filter, list};
pub(crate) use refusals::refused;

use crate::{
    Actor, App, Network, Result, TenantId, UserId, Who, db,
    users::{Role, User},
};

/// What kind of actor did something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum ActorKind {
    /// A user of the tenant.
    User,
    /// A super administrator, who is of another tenant.
    SuperAdmin,
    /// A program, by a key of the tenant.
    ApiKey,
    /// Whoever runs the service, by its command line.
    Operator,
    /// The service itself.
    System,
    /// Somebody who did not show who they are.
    Anonymous,
}

impl ActorKind {
    const ALL: [Self; 6] =
        [Self::User, Self::SuperAdmin, Self::ApiKey, Self::Operator, Self::System, Self::Anonymous];

    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::SuperAdmin => "super_admin",
            Self::ApiKey => "api_key",
            Self::Operator => "operator",
            Self::System => "system",
            Self::Anonymous => "anonymous",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Who did it, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct By {
    kind: ActorKind,
    id: Option<Uuid>,
    from: Option<Network>,
}

impl By {
    /// A user who showed who they are by a password or a mailed token.
    pub(crate) fn user(id: UserId, from: Option<Network>) -> Self {
        Self { kind: ActorKind::User, id: Some(id.0), from }
    }

    /// A user who has just signed in.
    pub(crate) fn signed_in(user: &User, from: Option<Network>) -> Self {
        let kind = if user.role == Role::SuperAdmin { ActorKind::SuperAdmin } else { ActorKind::User };
        Self { kind, id: Some(user.id.0), from }
    }

    /// Whoever runs this program on the service's own database.
    pub(crate) const OPERATOR: Self = Self { kind: ActorKind::Operator, id: None, from: None };

    /// The service itself.
    pub(crate) const SYSTEM: Self = Self { kind: ActorKind::System, id: None, from: None };
}

impl From<Actor> for By {
    fn from(actor: Actor) -> Self {
        let kind = match actor.who {
            Who::User(_) if actor.role == Role::SuperAdmin => ActorKind::SuperAdmin,
            Who::User(_) => ActorKind::User,
            Who::ApiKey(_) => ActorKind::ApiKey,
            Who::Operator => ActorKind::Operator,
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
            "insert into tenantry.audit_events (tenant_id, actor_kind, actor_id, address, action, subject_id, detail)
             values ($1, $2, $3, $4::text::cidr, $5, $6, $7)",
        )
        .await?;
    let from = from.map(|network| network.to_string());
    tx.execute(&statement, &[&tenant.0, &kind.as_str(), &id, &from, &action, &subject, &detail]).await?;
    Ok(())
}

/// The same of many subjects, in their order.
pub(crate) async fn record_many(
    tx: &Transaction<'_>,
    tenant: TenantId,
    by: impl Into<By>,
    action: &str,
    events: &[(Uuid, Value)],
) -> Result<()> {
    let By { kind, id, from } = by.into();
    let statement = tx
        .prepare_cached(
            "insert into tenantry.audit_events (tenant_id, actor_kind, actor_id, address, action, subject_id, detail)
             select $1, $2, $3, $4::text::cidr, $5, e.subject_id, e.detail
             from unnest($6::uuid[], $7::jsonb[]) with ordinality as e (subject_id, detail, position) order by e.position",
        )
        .await?;
    let from = from.map(|network| network.to_string());
    let (subjects, details): (Vec<Uuid>, Vec<&Value>) =
        events.iter().map(|(subject, detail)| (*subject, detail)).unzip();
    tx.execute(&statement, &[&tenant.0, &kind.as_str(), &id, &from, &action, &subjects, &details]).await?;
    Ok(())
}

/// Makes room for the events of the months to come, and drops the months of which everything is older than the retention;
/// returns how many.
///
/// # Errors
/// When the database fails, or somebody holds the trail for longer than everybody who writes to it should wait.
pub async fn rotate(app: &App) -> Result<u32> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    // A month may have to be moved, which takes as long as there are events in it.
    tx.batch_execute("set local statement_timeout = '50s'").await?;
    let keep = app.settings.audit_retention.as_secs_f64();
    let sql = "select tenantry.rotate_audit(make_interval(secs => $1))";
    let dropped: i32 = tx.query_one(sql, &[&keep]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(dropped.unsigned_abs())
}
