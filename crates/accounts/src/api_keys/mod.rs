//! API keys: how programs ask. A key belongs to its tenant, may do what its scopes say, and ends by itself.

mod scope;
pub(crate) mod secret;

use std::time::Duration;

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

pub use scope::Scope;
pub use secret::Presented;

use crate::{
    Actor, ApiKeyId, App, Error, Result, TenantId, audit,
    db::{self, OnConstraint},
    fields::Name,
    idempotency::Once,
    revocations::{self, Revocation, Subject},
    tenants::{Plan, seats},
    to_the_end,
    users::Role,
};

/// How many a tenant may have: each that is in use takes a place in the memory of every process.
const MOST: i64 = 100;

/// An API key, without its secret.
#[derive(Debug, Clone, Serialize, Object)]
pub struct ApiKey {
    /// Names the key.
    pub id: ApiKeyId,
    /// What the tenant calls it.
    pub name: String,
    /// The last characters of the key, to tell it from others.
    pub hint: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// How many requests it may make in a minute, to each process of the service.
    pub requests_per_minute: i32,
    /// Who made it. It goes on without them.
    pub created_by: Uuid,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: DateTime<Utc>,
    /// When it was last used, to a minute; null: never.
    #[oai(nullable)]
    pub last_used_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str =
    "id, name, hint, scopes, requests_per_minute, created_by, created_at, expires_at, last_used_at";

impl TryFrom<&Row> for ApiKey {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: ApiKeyId(row.try_get("id")?),
            name: row.try_get("name")?,
            hint: row.try_get("hint")?,
            scopes: scopes(row)?,
            requests_per_minute: row.try_get("requests_per_minute")?,
            created_by: row.try_get("created_by")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: row.try_get("last_used_at")?,
        })
    }
}

/// Those that this version knows: what a newer one granted means nothing here.
fn scopes(row: &Row) -> Result<Vec<Scope>> {
    let names: Vec<&str> = row.try_get("scopes")?;
    Ok(names.into_iter().filter_map(Scope::named).collect())
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Unique among the tenant's keys.
    pub name: Name,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// How many requests it may make in a minute.
    pub requests_per_minute: i32,
    /// When it stops working.
    pub expires_at: DateTime<Utc>,
}

/// Makes a key; its text is told once and kept by nobody.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NameTaken`], [`Error::TooManyKeys`], [`Error::InFlight`].
pub async fn create(
    app: &App,
    actor: Actor,
    new: NewKey,
    once: Once<(ApiKey, String)>,
) -> Result<(ApiKey, String)> {
    actor.require(Role::Admin)?;
    let by = actor.user()?.id;
    let app = app.clone();
    to_the_end(async move {
        let tenant = actor.tenant;
        let (id, secret) = (ApiKeyId::generate(), secret::Secret::generate(tenant)?);
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        let once = once.begin(&tx).await?;
        // One after the other, or each of two would count without the other's.
        seats::lock(&tx, tenant).await?;
        let statement = tx
            .prepare_cached(&format!(
                "insert into tenantry.api_keys
                   (tenant_id, id, name, hash, hint, scopes, requests_per_minute, created_by, expires_at)
                 select $1, $2, $3, $4, $5, $6, $7, $8, $9
                 where (select count(*) from tenantry.api_keys
                        where tenant_id = $1 and revoked_at is null and expires_at > now()) < $10
                 returning {COLUMNS}"
            ))
            .await?;
        let scopes: Vec<_> = new.scopes.iter().map(|scope| scope.as_str()).collect();
        let key = secret.with_id(id);
        let row = tx
            .query_opt(
                &statement,
                &[
                    &tenant.0,
                    &id.0,
                    &new.name.as_str(),
                    &key.hash,
                    &key.hint(),
                    &scopes,
                    &new.requests_per_minute,
                    &by.0,
                    &new.expires_at,
                    &MOST,
                ],
            )
            .await
            .on_constraint("api_keys_name", Error::NameTaken)?
            .ok_or(Error::TooManyKeys)?;
        let detail = json!({"scopes": scopes, "expires_at": new.expires_at});
        audit::record(&tx, tenant, actor, "api_key.created", id.0, detail).await?;
        let made = (ApiKey::try_from(&row)?, key.text);
        once.end(&app, &tx, &made).await?;
        tx.commit().await?;
        Ok(made)
    })
    .await
}

/// The tenant's keys that have not been revoked, the newest first; expired ones, too, until they are purged. At most 1,000.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(app: &App, actor: Actor) -> Result<Vec<ApiKey>> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.api_keys
             where tenant_id = $1 and revoked_at is null order by id desc limit 1000"
        ))
        .await?;
    let rows = tx.query(&statement, &[&actor.tenant.0]).await?;
    tx.commit().await?;
    rows.iter().map(ApiKey::try_from).collect()
}

/// Ends a key: here at once, on every other node within a second.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoApiKey`].
pub async fn revoke(app: &App, actor: Actor, id: ApiKeyId) -> Result<()> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let tenant = actor.tenant;
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        let sql = "update tenantry.api_keys set revoked_at = now()
                   where tenant_id = $1 and id = $2 and revoked_at is null";
        let statement = tx.prepare_cached(sql).await?;
        if tx.execute(&statement, &[&tenant.0, &id.0]).await? == 0 {
            return Err(Error::NoApiKey);
        }
        revocations::end_api_key(&tx, tenant, id).await?;
        audit::record(&tx, tenant, actor, "api_key.revoked", id.0, json!({})).await?;
        tx.commit().await?;
        app.revocations.add(&[Revocation { tenant, subject: Subject::ApiKey(id.0), min_version: i64::MAX }]);
        Ok(())
    })
    .await
}

/// Removes up to `batch` keys that expired or were revoked longer than `keep` ago; returns how many. Its own transaction.
///
/// # Errors
/// When the database fails.
pub async fn purge(app: &App, keep: Duration, batch: u32) -> Result<u64> {
    let client = app.db.client().await?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let statement =
        client.prepare_cached("select tenantry.purge_api_keys(make_interval(secs => $1), $2)").await?;
    let removed: i64 = client.query_one(&statement, &[&keep.as_secs_f64(), &batch]).await?.try_get(0)?;
    Ok(removed.unsigned_abs())
}

/// A key that works, as of when its row was read.
#[derive(Debug, Clone)]
pub struct Valid {
    /// Names the key.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's slug.
    pub tenant_slug: String,
    /// What the tenant pays for.
    pub tenant_plan: Plan,
    /// `tenants.auth_version`: what was read of an older one is void.
    pub tenant_version: i64,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// How many requests it may make in a minute.
    pub requests_per_minute: i32,
    /// When it stops working.
    pub expires_at: DateTime<Utc>,
}

/// Looks a key up by its primary key, in one statement. None when it does not work.
///
/// # Errors
/// When the database cannot be asked.
pub async fn check(app: &App, key: &Presented) -> Result<Option<Valid>> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.api_key_by_id");
    let statement = client
        .prepare_cached(
            "select scopes, requests_per_minute, expires_at, tenant_slug, tenant_plan as plan, tenant_version
             from tenantry.api_key_by_id($1, $2, $3)",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&key.tenant.0, &key.id.0, &key.hash]).await? else {
        return Ok(None);
    };
    Ok(Some(Valid {
        id: key.id,
        tenant: key.tenant,
        tenant_slug: row.try_get("tenant_slug")?,
        tenant_plan: Plan::stored(&row)?,
        tenant_version: row.try_get("tenant_version")?,
        scopes: scopes(&row)?,
        requests_per_minute: row.try_get("requests_per_minute")?,
        expires_at: row.try_get("expires_at")?,
    }))
}

/// When a key was last used.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub id: ApiKeyId,
    /// When.
    pub at: DateTime<Utc>,
}

/// Notes when keys were last used.
///
/// # Errors
/// When the database cannot be asked; then nothing is noted.
pub async fn note_used(app: &App, used: &[Used]) -> Result<()> {
    let client = app.db.client().await?;
    let statement = client.prepare_cached("select tenantry.note_api_keys_used($1, $2, $3)").await?;
    let tenants: Vec<_> = used.iter().map(|used| used.tenant.0).collect();
    let keys: Vec<_> = used.iter().map(|used| used.id.0).collect();
    let at: Vec<_> = used.iter().map(|used| used.at).collect();
    client.execute(&statement, &[&tenants, &keys, &at]).await?;
    Ok(())
}
