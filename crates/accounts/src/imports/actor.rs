//! Who began an import, as its row remembers them: each batch asks whether they still may.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{
    Actor, ApiKeyId, Error, Network, Result, SessionId, SignedInUser, TenantId, UserId, Who, users::Role,
};

/// The columns, in every statement that reads or writes them.
pub(super) const COLUMNS: &str =
    "actor_home, actor_kind, actor_id, actor_role, actor_version, actor_session, actor_address";

/// The values of these columns.
pub(super) struct Noted {
    home: Uuid,
    kind: &'static str,
    id: Option<Uuid>,
    role: &'static str,
    version: Option<i64>,
    session: Option<Uuid>,
    address: Option<String>,
}

impl From<Actor> for Noted {
    fn from(actor: Actor) -> Self {
        let (kind, user) = match actor.who {
            Who::User(user) => ("user", Some(user)),
            Who::ApiKey(_) => ("api_key", None),
            Who::Operator => ("operator", None),
        };
        Self {
            home: actor.home.0,
            kind,
            id: actor.id(),
            role: actor.role.as_str(),
            version: user.map(|user| user.version),
            session: user.map(|user| user.session.0),
            address: actor.from.map(|network| network.to_string()),
        }
    }
}

impl Noted {
    pub(super) fn values(&self) -> [(&(dyn ToSql + Sync), Type); 7] {
        [
            (&self.home, Type::UUID),
            (&self.kind, Type::TEXT),
            (&self.id, Type::UUID),
            (&self.role, Type::TEXT),
            (&self.version, Type::INT8),
            (&self.session, Type::UUID),
            (&self.address, Type::TEXT),
        ]
    }
}

/// Who began the import of this row, which has `actor_address` as text.
pub(super) fn of(row: &Row, tenant: TenantId) -> Result<Actor> {
    let broken = || Error::Internal("an import does not say who began it");
    let id: Option<Uuid> = row.try_get("actor_id")?;
    let who = match row.try_get("actor_kind")? {
        "user" => Who::User(SignedInUser {
            id: UserId(id.ok_or_else(broken)?),
            version: row.try_get::<_, Option<i64>>("actor_version")?.ok_or_else(broken)?,
            session: SessionId(row.try_get::<_, Option<Uuid>>("actor_session")?.ok_or_else(broken)?),
        }),
        "api_key" => Who::ApiKey(ApiKeyId(id.ok_or_else(broken)?)),
        _ => Who::Operator,
    };
    let from: Option<&str> = row.try_get("actor_address")?;
    Ok(Actor {
        tenant,
        home: TenantId(row.try_get("actor_home")?),
        who,
        role: Role::named(row.try_get("actor_role")?).ok_or_else(broken)?,
        from: from.and_then(Network::stored),
    })
}
