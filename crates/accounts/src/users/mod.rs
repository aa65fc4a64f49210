//! Users of a tenant: the row, its look-up and its changes.

mod bulk;
pub mod cached;
mod change;
mod deleted;
mod export;
mod figures;
mod list;
pub mod logins;
pub(crate) mod many;
pub mod projects;
pub mod stats;

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tenantry_cache::{
    Entry, Key, Level, Loaded, Pointer, Read, ReadError, State, Version,
    planted::{self, Bug},
};
use tenantry_trace::InDatabase;
use tokio_postgres::Row;

pub use bulk::{BulkRow, Extent, Outcome, Outcomes, Refused, create_many};
pub use change::{Change, IfMatch, NewUser, Password, create, delete, invalidate, purge_deleted, update};
pub(crate) use change::{another_admin, commit, insert, lock};
pub use deleted::{DELETED_KEPT, DeletedBefore, DeletedUser, deleted, restore};
pub use export::{Export, export};
pub use figures::Figures;
pub use list::{DEEPEST, Filter, List, Lists, Order, Part, Position, Selection, SortBy, Total, Wanted, list};

use crate::{App, Error, Result, TenantId, UserId, fields::Email};

/// What a user may do. Each role may do what those before it may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum Role {
    /// Reads the tenant's users and changes their own record.
    User,
    /// Manages the tenant and its users.
    Admin,
    /// Manages all tenants. Exists in the tenant `system` only and is never granted over HTTP.
    SuperAdmin,
}

impl Role {
    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::SuperAdmin => "super_admin",
        }
    }

    /// The role of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::User, Self::Admin, Self::SuperAdmin].into_iter().find(|role| role.as_str() == name)
    }
}

/// A user. Row, cache entry and answer are this one shape; credentials are elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub struct User {
    /// Names the user within the tenant.
    pub id: UserId,
    /// The tenant the user belongs to.
    pub tenant_id: TenantId,
    /// The address in its stored form: trimmed and in lower case. Unique within the tenant.
    pub email: Email,
    /// The user's full name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may sign in.
    pub is_active: bool,
    /// Whether the user has shown to receive mail at the address.
    pub email_verified: bool,
    /// The address the user wants to have and has not shown yet to receive mail at; null: none.
    #[oai(nullable)]
    pub pending_email: Option<Email>,
    /// When the user last signed in, to the hour; null: never.
    #[oai(nullable)]
    pub last_login_at: Option<DateTime<Utc>>,
    /// When the user was made.
    pub created_at: DateTime<Utc>,
    /// When the user was last changed; signing in is no change.
    pub updated_at: DateTime<Utc>,
    /// Goes up with each change; the `ETag` of a look-up.
    pub version: i64,
}

/// The columns of a [`User`], in every statement that reads one.
pub(crate) const COLUMNS: &str = "id, tenant_id, email, name, role, is_active, email_verified, pending_email, last_login_at, \
                                  created_at, updated_at, version";

impl TryFrom<&Row> for User {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: UserId(row.try_get("id")?),
            tenant_id: TenantId(row.try_get("tenant_id")?),
            email: row.try_get::<_, String>("email")?.into(),
            name: row.try_get("name")?,
            role: Role::named(row.try_get("role")?).ok_or(Error::Internal("a stored role has no name"))?,
            is_active: row.try_get("is_active")?,
            email_verified: row.try_get("email_verified")?,
            pending_email: row.try_get::<_, Option<String>>("pending_email")?.map(Email::from),
            last_login_at: row.try_get("last_login_at")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
        })
    }
}

impl User {
    /// What the cache holds: the public JSON, serialised once.
    fn entry(&self, state: State) -> Result<Entry> {
        let body = serde_json::to_vec(self).map_err(|_| Error::Internal("a user could not be serialised"))?;
        Ok(Entry { version: self.version, state, body: Bytes::from(body) })
    }
}

/// A user as looked up: the JSON as it was serialised when the row was read.
#[derive(Debug, Clone)]
pub struct Found {
    /// The entry, which is live.
    pub entry: Arc<Entry>,
    /// Where it came from.
    pub level: Level,
    /// Whether the database was asked only because the caller wanted more than a cache held. A limit by caller should
    /// count such a look-up twice, and so one that ends in [`Error::VersionNotReached`].
    pub bypassed: bool,
}

/// Looks up a user of `tenant`. `min` is the oldest version that will do.
///
/// # Errors
/// [`Error::NoUser`], also for users of other tenants and deleted ones; [`Error::VersionNotReached`].
pub async fn get(app: &App, tenant: TenantId, id: UserId, min: Option<Version>) -> Result<Found> {
    let (key, reader) = (key(tenant, id), app.clone());
    let load = move || async move { select(&reader, tenant, id).await };
    let read = app.cache.read_through(&key, min, load).await.map_err(read_error)?;
    match read.entry {
        Some(entry) if entry.state == State::Live => {
            Ok(Found { entry, level: read.level, bypassed: read.bypassed })
        }
        _ => Err(Error::NoUser),
    }
}

/// Looks up the user of `tenant` who has this address.
///
/// The cache holds a pointer from the address to an id, which is only a hint: what it leads to must have the address.
/// That an address is nobody's is never held.
///
/// # Errors
/// [`Error::NoUser`].
pub async fn get_by_email(app: &App, tenant: TenantId, email: &Email) -> Result<Found> {
    let mut lookup = app.cache.look_up(&pointer(tenant, email)).await;
    if let Some(id) = lookup.target().map(UserId) {
        let (key, reader) = (key(tenant, id), app.clone());
        let load = move || async move { select(&reader, tenant, id).await };
        let read = lookup.read(&key, load).await;
        let Read { entry, level, .. } = read.map_err(read_error)?;
        let believed = planted::bug(Bug::PointerBelieved);
        let fits = |entry: &Arc<Entry>| entry.state == State::Live && (has_address(entry, email) || believed);
        if let Some(entry) = entry.filter(fits) {
            return Ok(Found { entry, level, bypassed: false });
        }
    }
    let user = select_by_email(app, tenant, email).await?;
    lookup.leads_to(user.as_ref().map(|user| user.id.0)).await;
    let entry = Arc::new(user.ok_or(Error::NoUser)?.entry(State::Live)?);
    Ok(Found { entry, level: Level::Postgres, bypassed: false })
}

fn has_address(entry: &Entry, email: &Email) -> bool {
    #[derive(Deserialize)]
    struct Address {
        email: Email,
    }
    serde_json::from_slice::<Address>(&entry.body).is_ok_and(|found| found.email == *email)
}

async fn select_by_email(app: &App, tenant: TenantId, email: &Email) -> Result<Option<User>> {
    let client = app.db.client().await?;
    let _asking = InDatabase::asking("select tenantry.user_by_email");
    let statement =
        client.prepare_cached(&format!("select {COLUMNS} from tenantry.user_by_email($1, $2)")).await?;
    client
        .query_opt(&statement, &[&tenant.0, &email.as_str()])
        .await?
        .as_ref()
        .map(User::try_from)
        .transpose()
}

/// Looks up many users of `tenant`, in the order of `ids`: what the caches hold, and one statement for the rest. None
/// for those who do not exist.
///
/// # Errors
/// When the database is needed and cannot be asked.
pub async fn get_many(app: &App, tenant: TenantId, ids: &[UserId]) -> Result<Vec<Option<Found>>> {
    let keys: Vec<_> = ids.iter().map(|id| key(tenant, *id)).collect();
    let by_key: HashMap<_, _> = keys.iter().copied().zip(ids.iter().copied()).collect();
    let load = |missing: Vec<Key>| async move {
        let ids: Vec<_> = missing.iter().filter_map(|key| by_key.get(key)).map(|id| id.0).collect();
        select_many(app, tenant, &ids).await
    };
    let reads = app.cache.read_many(&keys, load).await.map_err(read_error)?;
    let found =
        |read: Read| read.entry.filter(|entry| entry.state == State::Live).map(|entry| (entry, read.level));
    let found = |read| found(read).map(|(entry, level)| Found { entry, level, bypassed: false });
    Ok(reads.into_iter().map(found).collect())
}

fn read_error(error: ReadError<Error>) -> Error {
    match error {
        ReadError::Load(error) => Error::clone(&error),
        ReadError::VersionNotReached => Error::VersionNotReached,
        ReadError::Gone => Error::Internal("a look-up panicked"),
    }
}

/// The entry of the cache that is this user.
pub(crate) fn key(tenant: TenantId, id: UserId) -> Key {
    Key::new("u", tenant.0, id.0)
}

/// The hint from an address to an id. Hashed, so that Redis holds no list of addresses.
pub(crate) fn pointer(tenant: TenantId, email: &Email) -> Pointer {
    Pointer::new("e", tenant.0, Sha256::digest(email.as_str()).into())
}

/// Reads a user within a transaction.
pub(crate) async fn read(tx: &crate::db::Transaction<'_>, tenant: TenantId, id: UserId) -> Result<User> {
    let sql = format!("select {COLUMNS} from tenantry.users where tenant_id = $1 and id = $2");
    let statement = tx.prepare_cached(&sql).await?;
    User::try_from(&tx.query_opt(&statement, &[&tenant.0, &id.0]).await?.ok_or(Error::NoUser)?)
}

/// Reads the row that the cache misses: one statement, one round trip, walled to the tenant.
async fn select(app: &App, tenant: TenantId, id: UserId) -> Result<Loaded> {
    let client = app.db.client().await?;
    let _asking = InDatabase::asking("select tenantry.user_by_id");
    let statement = client
        .prepare_cached(&format!(
            "select {COLUMNS}, deleted_at is not null as deleted from tenantry.user_by_id($1, $2)"
        ))
        .await?;
    let Some(row) = client.query_opt(&statement, &[&tenant.0, &id.0]).await? else {
        return Ok(Loaded::Absent);
    };
    planted::point("after-row").await;
    let mut found = loaded(&row)?;
    if planted::bug(Bug::TwoSelects)
        && let Loaded::Row(entry) = &mut found
    {
        let later = client.query_one(&statement, &[&tenant.0, &id.0]).await?;
        entry.body = User::try_from(&later)?.entry(entry.state)?.body;
    }
    Ok(found)
}

async fn select_many(app: &App, tenant: TenantId, ids: &[uuid::Uuid]) -> Result<Vec<(Key, Loaded)>> {
    let client = app.db.client().await?;
    let _asking = InDatabase::asking("select tenantry.users_by_id");
    let statement = client
        .prepare_cached(&format!(
            "select {COLUMNS}, deleted_at is not null as deleted from tenantry.users_by_id($1, $2)"
        ))
        .await?;
    let rows = client.query(&statement, &[&tenant.0, &ids]).await?;
    rows.iter().map(|row| Ok((key(tenant, UserId(row.try_get("id")?)), loaded(row)?))).collect()
}

/// A row of the point reads, deleted or not.
fn loaded(row: &Row) -> Result<Loaded> {
    let state = if row.try_get("deleted")? { State::Deleted } else { State::Live };
    Ok(Loaded::Row(User::try_from(row)?.entry(state)?))
}
