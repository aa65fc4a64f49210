//! Metadata: JSON that others keep with users and tenants. `public` is for everybody who may see its owner, `private` for
//! administrators and API keys. It has a version of its own, and is nowhere near the owner's row.
//!
//! Documents go through here as text, and are patched by the database (`tenantry.merge_patch`): numbers stay what they are.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio_postgres::{Row, error::SqlState};
use uuid::Uuid;

use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    tenants, to_the_end,
    users::{COLUMNS, IfMatch, Role, User},
};

/// Whose metadata it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A user of the actor's tenant.
    User(UserId),
    /// A tenant: one's own, or any, as a super administrator.
    Tenant(TenantId),
}

/// For whom a part of the metadata is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everybody who may see its owner.
    Public,
    /// Administrators and API keys.
    Private,
}

impl Scope {
    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

/// The metadata of a user or a tenant.
#[derive(Debug, Serialize)]
pub struct Metadata {
    /// For everybody who may see its owner.
    pub public: Box<RawValue>,
    /// For administrators and API keys; none: not for whoever asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<Box<RawValue>>,
    /// When it was last changed; none: never.
    pub updated_at: Option<DateTime<Utc>>,
    /// Goes up with each change; nought: there was none.
    pub version: i64,
}

/// A merge patch (RFC 7396) of `{"public": {..}, "private": {..}}`, as text that is known to be one.
#[derive(Debug, Clone)]
pub struct Patch(String);

impl Patch {
    /// Takes what has been looked at: an object of these two members, without a NUL.
    pub fn of(text: String) -> Self {
        Self(text)
    }
}

/// The metadata of `owner`.
///
/// # Errors
/// [`Error::NoUser`], [`Error::NoTenant`].
pub async fn get(app: &App, actor: Actor, owner: Owner) -> Result<Metadata> {
    let tenant = owner.tenant(actor)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    owner.find(&tx, tenant, "").await?;
    let sql = format!("{} where {}", owner.select(), owner.condition());
    let row = tx.query_opt(&tx.prepare_cached(&sql).await?, &[&tenant.0, &owner.id()]).await?;
    tx.commit().await?;
    let mut found = row.as_ref().map_or_else(Metadata::none, Metadata::of)?;
    if actor.role < Role::Admin {
        found.private = None;
    }
    Ok(found)
}

/// Changes the metadata of `owner`. A change that changes nothing writes nothing.
///
/// # Errors
/// [`Error::NoUser`], [`Error::NoTenant`], [`Error::Forbidden`], [`Error::VersionChanged`], [`Error::Metadata`].
pub async fn patch(
    app: &App,
    actor: Actor,
    owner: Owner,
    patch: Patch,
    if_match: IfMatch,
) -> Result<Metadata> {
    actor.require(Role::Admin)?;
    let tenant = owner.tenant(actor)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        owner.find(&tx, tenant, " for share").await?;
        let before = owner.lock(&tx, tenant).await?;
        if if_match.is_some_and(|versions| !versions.contains(&before.version)) {
            return Err(Error::VersionChanged);
        }
        let changed = owner.changes(&tx, tenant, &patch).await?;
        if changed.public.is_empty() && changed.private.is_empty() {
            return Ok(before);
        }
        let sql = format!(
            "with patched as ({})
             update tenantry.{} m set public = p.public, private = p.private, version = m.version + 1, updated_at = now()
             from patched p where {} returning m.public::text, m.private::text, m.version, m.updated_at",
            owner.patched(),
            owner.table(),
            owner.condition()
        );
        let statement = tx.prepare_cached(&sql).await?;
        let row = tx.query_one(&statement, &[&tenant.0, &owner.id(), &patch.0]).await.map_err(refusal)?;
        let detail = json!({"public": changed.public, "private": changed.private});
        audit::record(&tx, tenant, actor, owner.action(), owner.id(), detail).await?;
        tx.commit().await?;
        Metadata::of(&row)
    })
    .await
}

/// Users whose metadata has `value` at `key`, up to `limit` of those that come after `after`, the oldest first. A number or
/// a truth value is found by how it is written.
///
/// # Errors
/// [`Error::Forbidden`]: by private metadata administrators and API keys find.
pub async fn find(
    app: &App,
    actor: Actor,
    scope: Scope,
    (key, value): (&str, &str),
    after: Option<UserId>,
    limit: i64,
) -> Result<Vec<User>> {
    if scope == Scope::Private {
        actor.require(Role::Admin)?;
    }
    let mut client = app.db.client().await?;
    let tx = db::as_reader(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select u.* from tenantry.user_metadata_keys k cross join lateral (
               select {COLUMNS} from tenantry.users
               where tenant_id = $1 and id = k.user_id and deleted_at is null offset 0
             ) u
             where k.tenant_id = $1 and k.scope = $2 and k.key = $3 and k.value = $4 and k.user_id > $5
             order by k.user_id limit $6"
        ))
        .await?;
    let after = after.map_or(Uuid::nil(), |after| after.0);
    let rows =
        tx.query(&statement, &[&actor.tenant.0, &scope.as_str(), &key, &value, &after, &limit]).await?;
    tx.commit().await?;
    rows.iter().map(User::try_from).collect()
}

/// Keys at the top of a document whose values become others.
struct Changed {
    public: Vec<String>,
    private: Vec<String>,
}

impl Owner {
    fn tenant(self, actor: Actor) -> Result<TenantId> {
        match self {
            Self::User(_) => Ok(actor.tenant),
            Self::Tenant(id) => tenants::within_reach(actor, id).map(|()| id),
        }
    }

    fn id(self) -> Uuid {
        match self {
            Self::User(id) => id.0,
            Self::Tenant(id) => id.0,
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::User(_) => "user_metadata",
            Self::Tenant(_) => "tenant_metadata",
        }
    }

    /// What is true of its row `m`; $1 is the tenant, $2 the owner.
    fn condition(self) -> &'static str {
        match self {
            Self::User(_) => "m.tenant_id = $1 and m.user_id = $2",
            Self::Tenant(_) => "m.tenant_id = $1 and m.tenant_id = $2",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::User(_) => "user.metadata_changed",
            Self::Tenant(_) => "tenant.metadata_changed",
        }
    }

    fn select(self) -> String {
        format!(
            "select m.public::text, m.private::text, m.version, m.updated_at from tenantry.{} m",
            self.table()
        )
    }

    /// The documents as they will be; $3 is the patch. What is null there is empty afterwards.
    fn patched(self) -> String {
        format!(
            "select m.public as public_before, m.private as private_before,
               coalesce(d.document -> 'public', '{{}}') as public, coalesce(d.document -> 'private', '{{}}') as private
             from tenantry.{} m cross join lateral (select tenantry.merge_patch(
               jsonb_build_object('public', m.public, 'private', m.private), $3::text::jsonb) as document) d
             where {}",
            self.table(),
            self.condition()
        )
    }

    /// Refuses when there is no such owner. `lock` may keep it from being removed while the transaction runs.
    async fn find(self, tx: &Transaction<'_>, tenant: TenantId, lock: &str) -> Result<()> {
        let (sql, missing) = match self {
            Self::User(_) => (
                "select from tenantry.users where tenant_id = $1 and id = $2 and deleted_at is null",
                Error::NoUser,
            ),
            Self::Tenant(_) => (
                "select from tenantry.tenants where id = $1 and id = $2 and deleted_at is null",
                Error::NoTenant,
            ),
        };
        let statement = tx.prepare_cached(&format!("{sql}{lock}")).await?;
        tx.query_opt(&statement, &[&tenant.0, &self.id()]).await?.ok_or(missing)?;
        Ok(())
    }

    /// Locks the row, which is made where there is none.
    async fn lock(self, tx: &Transaction<'_>, tenant: TenantId) -> Result<Metadata> {
        let sql = match self {
            Self::User(_) => {
                "insert into tenantry.user_metadata (tenant_id, user_id) values ($1, $2) on conflict do nothing"
            }
            Self::Tenant(_) => {
                "insert into tenantry.tenant_metadata (tenant_id) select $1::uuid where $1 = $2::uuid on conflict do nothing"
            }
        };
        tx.execute(&tx.prepare_cached(sql).await?, &[&tenant.0, &self.id()]).await?;
        let sql = format!("{} where {} for update", self.select(), self.condition());
        let row = tx.query_one(&tx.prepare_cached(&sql).await?, &[&tenant.0, &self.id()]).await?;
        Metadata::of(&row)
    }

    /// What a patch changes; the row is locked.
    async fn changes(self, tx: &Transaction<'_>, tenant: TenantId, patch: &Patch) -> Result<Changed> {
        let keys = |part: &str| {
            format!(
                "array(select k from (select jsonb_object_keys(p.{part}_before) union select jsonb_object_keys(p.{part})) k (k)
                   where p.{part}_before -> k is distinct from p.{part} -> k order by k)"
            )
        };
        let sql = format!("select {}, {} from ({}) p", keys("public"), keys("private"), self.patched());
        let statement = tx.prepare_cached(&sql).await?;
        let row = tx.query_one(&statement, &[&tenant.0, &self.id(), &patch.0]).await.map_err(refusal)?;
        Ok(Changed { public: row.try_get(0)?, private: row.try_get(1)? })
    }
}

impl Metadata {
    fn of(row: &Row) -> Result<Self> {
        let part = |name: &str| {
            let text: String = row.try_get(name)?;
            RawValue::from_string(text).map_err(|_| Error::Internal("stored metadata is no JSON"))
        };
        let version = row.try_get("version")?;
        let updated_at: DateTime<Utc> = row.try_get("updated_at")?;
        Ok(Self {
            public: part("public")?,
            private: Some(part("private")?),
            updated_at: Some(updated_at).filter(|_| version > 0),
            version,
        })
    }

    fn none() -> Result<Self> {
        let empty = || RawValue::from_string("{}".into()).map_err(|_| Error::Internal("no JSON"));
        Ok(Self { public: empty()?, private: Some(empty()?), updated_at: None, version: 0 })
    }
}

/// Why metadata was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A part would be larger than 16 KiB.
    TooLarge(Scope),
    /// A part would have more than 128 keys at its top.
    TooManyKeys(Scope),
    /// There is a number in it that cannot be kept.
    Number,
}

fn refusal(error: tokio_postgres::Error) -> Error {
    let Some(refused) = error.as_db_error() else { return error.into() };
    let refusal = match refused.constraint() {
        Some("metadata_public_size") => Refusal::TooLarge(Scope::Public),
        Some("metadata_private_size") => Refusal::TooLarge(Scope::Private),
        Some("metadata_public_keys") => Refusal::TooManyKeys(Scope::Public),
        Some("metadata_private_keys") => Refusal::TooManyKeys(Scope::Private),
        _ if *refused.code() == SqlState::NUMERIC_VALUE_OUT_OF_RANGE => Refusal::Number,
        _ => return error.into(),
    };
    Error::Metadata(refusal)
}
