//! The trail as it is read: newest first, part by part. Each part costs as much as any other: ids sort by age, and every
//! filter has an index that does, too.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::ActorKind;
use crate::{Actor, App, Error, Result, TenantId, db, tenants, users::Role};

/// Something that somebody did.
#[derive(Debug, Clone)]
pub struct Event {
    /// Names the event; sorts by age.
    pub id: Uuid,
    /// The tenant it was done in.
    pub tenant: TenantId,
    /// When.
    pub at: DateTime<Utc>,
    /// What kind of actor did it.
    pub actor_kind: ActorKind,
    /// The user or the API key; none for others.
    pub actor_id: Option<Uuid>,
    /// From which network; none where that is not known.
    pub address: Option<String>,
    /// What was done, as `noun.verb`.
    pub action: String,
    /// What it was done to.
    pub subject_id: Uuid,
    /// What changed; never a secret, never an address.
    pub detail: Value,
}

/// Which events.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this action only.
    pub action: Option<String>,
    /// Of this user or API key only.
    pub actor: Option<Uuid>,
    /// Done to this only.
    pub subject: Option<Uuid>,
    /// Not before.
    pub since: Option<DateTime<Utc>>,
    /// Before.
    pub until: Option<DateTime<Utc>>,
    /// Older than this event.
    pub before: Option<Uuid>,
}

/// An event's id is made by the same clock as its time, later in the same transaction, and no transaction lasts as long.
const LONGEST_TRANSACTION: TimeDelta = TimeDelta::hours(1);

/// At most `limit` events of a tenant, the newest first: of the actor's, or, for super administrators, of any, be it closed
/// or purged. That they look is an event, too.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(
    app: &App,
    actor: Actor,
    tenant: Option<TenantId>,
    filter: &Filter,
    limit: i64,
) -> Result<Vec<Event>> {
    actor.require(Role::Admin)?;
    let actor = Actor { tenant: tenant.unwrap_or(actor.tenant), ..actor };
    if actor.tenant != actor.home {
        actor.require(Role::SuperAdmin)?;
        tenants::enter(app, actor).await?;
    }
    let low = filter.since.map_or(Uuid::nil(), floor);
    let until = filter.until.map_or(Uuid::max(), |until| floor(until + LONGEST_TRANSACTION));
    let high = filter.before.map_or(until, |before| before.min(until));
    let mut sql = String::from(
        "select id, tenant_id, at, actor_kind, actor_id, address::text, action, subject_id, detail
         from tenantry.audit_events where tenant_id = $1 and id >= $2 and id < $3",
    );
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&actor.tenant.0, &low, &high];
    // A condition that is not asked for is not there: each text has a plan of its own.
    let conditions: [(&str, Option<&(dyn ToSql + Sync)>); 5] = [
        ("action =", filter.action.as_ref().map(|value| value as _)),
        ("actor_id =", filter.actor.as_ref().map(|value| value as _)),
        ("subject_id =", filter.subject.as_ref().map(|value| value as _)),
        ("at >=", filter.since.as_ref().map(|value| value as _)),
        ("at <", filter.until.as_ref().map(|value| value as _)),
    ];
    for (condition, value) in conditions {
        if let Some(value) = value {
            values.push(value);
            sql += &format!(" and {condition} ${}", values.len());
        }
    }
    values.push(&limit);
    sql += &format!(" order by id desc limit ${}", values.len());

    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx.prepare_cached(&sql).await?;
    let rows = tx.query(&statement, &values).await?;
    tx.commit().await?;
    rows.iter().map(Event::try_from).collect()
}

/// The lowest id of a moment, as `tenantry.uuid_floor` makes it.
fn floor(moment: DateTime<Utc>) -> Uuid {
    let millis = u128::try_from(moment.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128(millis << 80)
}

impl TryFrom<&Row> for Event {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        let kind = ActorKind::named(row.try_get("actor_kind")?);
        Ok(Self {
            id: row.try_get("id")?,
            tenant: TenantId(row.try_get("tenant_id")?),
            at: row.try_get("at")?,
            actor_kind: kind.ok_or(Error::Internal("a stored kind of actor has no name"))?,
            actor_id: row.try_get("actor_id")?,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            subject_id: row.try_get("subject_id")?,
            detail: row.try_get("detail")?,
        })
    }
}
