//! Tenants: sign-up, look-up, change.

pub(crate) mod seats;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenantry_cache::State;
use tokio_postgres::Row;

pub use seats::Seats;

use crate::{
    Actor, App, Error, Network, Result, TenantId,
    audit::{self, By},
    db::{self, OnConstraint},
    fields::{Email, Name, NewPassword, Slug},
    revocations, to_the_end,
    users::{self, IfMatch, NewUser, Role, User},
};

/// What a tenant pays for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub enum Plan {
    /// The plan of every new tenant.
    Basic,
    /// For teams.
    Pro,
    /// Without a limit of seats.
    Enterprise,
}

impl Plan {
    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Pro => "pro",
            Self::Enterprise => "enterprise",
        }
    }

    /// The plan of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Basic, Self::Pro, Self::Enterprise].into_iter().find(|plan| plan.as_str() == name)
    }
}

/// A tenant: one customer of the service, with users of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub struct Tenant {
    /// Names the tenant.
    pub id: TenantId,
    /// The tenant's name.
    pub name: String,
    /// The tenant's name in URLs and at sign-in. Never changes.
    pub slug: String,
    /// What the tenant pays for.
    pub plan: Plan,
    /// How many users the tenant may have; null: without limit.
    #[oai(nullable)]
    pub max_users: Option<i32>,
    /// How much the tenant may store, in GB.
    pub storage_limit_gb: i32,
    /// Whether users of the tenant may sign in.
    pub is_active: bool,
    /// When the tenant signed up.
    pub created_at: DateTime<Utc>,
    /// When the tenant was last changed.
    pub updated_at: DateTime<Utc>,
    /// Goes up with each change; the `ETag` of a look-up.
    pub version: i64,
}

const SELECT: &str =
    "select t.id, t.name, t.slug, t.plan, s.max as max_users, t.storage_limit_gb, t.is_active,
                        t.created_at, t.updated_at, t.version
                      from tenantry.tenants t join tenantry.tenant_seats s on s.tenant_id = t.id
                      where t.id = $1 and t.deleted_at is null";

impl TryFrom<&Row> for Tenant {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: TenantId(row.try_get("id")?),
            name: row.try_get("name")?,
            slug: row.try_get("slug")?,
            plan: Plan::named(row.try_get("plan")?).ok_or(Error::Internal("a stored plan has no name"))?,
            max_users: row.try_get("max_users")?,
            storage_limit_gb: row.try_get("storage_limit_gb")?,
            is_active: row.try_get("is_active")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            version: row.try_get("version")?,
        })
    }
}

/// A tenant and its first administrator, to be made together.
#[derive(Debug, Clone)]
pub struct SignUp {
    /// The tenant's name.
    pub name: Name,
    /// The tenant's name in URLs.
    pub slug: Slug,
    /// The administrator's address.
    pub email: Email,
    /// The administrator's name.
    pub admin_name: Name,
    /// The administrator's password.
    pub password: NewPassword,
}

/// Makes tenant, first administrator and the job of the verification mail in one transaction.
///
/// # Errors
/// [`Error::SlugTaken`], [`Error::Busy`]. An address may be used in many tenants.
pub async fn sign_up(
    app: &App,
    sign_up: SignUp,
    plan: Plan,
    from: Option<Network>,
) -> Result<(Tenant, User)> {
    let hash = app.passwords.hash(sign_up.password.clone()).await?;
    let app = app.clone();
    to_the_end(async move {
        let id = TenantId::generate();
        let mut client = app.db.client().await?;
        let tx = db::as_system(&mut client).await?;
        tx.execute(
            "insert into tenantry.tenants (id, name, slug, plan) values ($1, $2, $3, $4)",
            &[&id.0, &sign_up.name.as_str(), &sign_up.slug.as_str(), &plan.as_str()],
        )
        .await
        .on_constraint("tenants_slug_key", Error::SlugTaken)?;
        seats::open(&tx, id, app.settings.seats.of(plan)).await?;
        let admin = NewUser {
            email: sign_up.email,
            name: sign_up.admin_name,
            password: Some(sign_up.password),
            role: Role::Admin,
        };
        let user = users::insert(&tx, id, &admin, Some(&hash)).await?;
        let tenant = Tenant::try_from(&tx.query_one(SELECT, &[&id.0]).await?)?;
        audit::record(&tx, id, By::user(user.id, from), "tenant.created", id.0, json!({"plan": plan}))
            .await?;
        users::commit(&app, tx, &user, State::Live, &[&user.email]).await?;
        Ok((tenant, user))
    })
    .await
}

/// Looks up a tenant: one's own, or any as a super administrator.
///
/// # Errors
/// [`Error::NoTenant`], also for those that are none of the actor's business.
pub async fn get(app: &App, actor: Actor, id: TenantId) -> Result<Tenant> {
    within_reach(actor, id)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, id).await?;
    let statement = tx.prepare_cached(SELECT).await?;
    let row = tx.query_opt(&statement, &[&id.0]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    Tenant::try_from(&row)
}

/// What shall be different. What is none stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A new name.
    pub name: Option<Name>,
    /// A new plan, with its seats; by super administrators only.
    pub plan: Option<Plan>,
    /// Suspends the tenant or brings it back; by super administrators only.
    pub is_active: Option<bool>,
}

/// Changes a tenant.
///
/// # Errors
/// [`Error::NoTenant`], [`Error::Forbidden`], [`Error::VersionChanged`]; [`Error::NoSeat`] when more users exist than
/// the new plan has seats.
pub async fn update(
    app: &App,
    actor: Actor,
    id: TenantId,
    change: Change,
    if_match: IfMatch,
) -> Result<Tenant> {
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        within_reach(actor, id)?;
        actor.require(Role::Admin)?;
        if change.plan.is_some() || change.is_active.is_some() {
            actor.require(Role::SuperAdmin)?;
        }
        let tx = db::as_actor(&mut client, actor, id).await?;
        seats::lock(&tx, id).await?;
        let before = Tenant::try_from(&tx.query_opt(SELECT, &[&id.0]).await?.ok_or(Error::NoTenant)?)?;
        if if_match.is_some_and(|versions| !versions.contains(&before.version)) {
            return Err(Error::VersionChanged);
        }
        let name = change.name.as_ref().map_or(before.name.as_str(), Name::as_str);
        let plan = change.plan.unwrap_or(before.plan);
        let is_active = change.is_active.unwrap_or(before.is_active);
        if (name, plan, is_active) == (before.name.as_str(), before.plan, before.is_active) {
            return Ok(before);
        }
        if plan != before.plan {
            seats::resize(&tx, id, app.settings.seats.of(plan)).await?;
        }
        let statement = tx
            .prepare_cached(
                "update tenantry.tenants set
                   name = $2, plan = $3, is_active = $4,
                   auth_version = auth_version + case when is_active and not $4 then 1 else 0 end,
                   version = version + 1, updated_at = now()
                 where id = $1",
            )
            .await?;
        tx.execute(&statement, &[&id.0, &name, &plan.as_str(), &is_active]).await?;
        let tenant = Tenant::try_from(&tx.query_one(SELECT, &[&id.0]).await?)?;
        let mut revoked = vec![];
        if before.is_active && !is_active {
            revoked.push(revocations::outdate_tenant(&tx, id).await?);
        }
        let detail =
            json!({"name": change.name.is_some(), "plan": change.plan, "is_active": change.is_active});
        audit::record(&tx, id, actor, "tenant.updated", id.0, detail).await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        Ok(tenant)
    })
    .await
}

/// Gives a tenant another plan, with its seats. The seats' lock is held.
pub(crate) async fn set_plan(
    app: &App,
    tx: &deadpool_postgres::Transaction<'_>,
    tenant: TenantId,
    plan: Plan,
    by: By,
) -> Result<()> {
    seats::resize(tx, tenant, app.settings.seats.of(plan)).await?;
    let statement = tx
        .prepare_cached(
            "update tenantry.tenants set plan = $2, version = version + 1, updated_at = now() where id = $1",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &plan.as_str()]).await?;
    audit::record(tx, tenant, by, "tenant.updated", tenant.0, json!({"plan": plan})).await
}

/// The id of a tenant by id or slug.
///
/// # Errors
/// [`Error::NoTenant`].
pub async fn find(app: &App, reference: &str) -> Result<TenantId> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let id: Option<uuid::Uuid> =
        tx.query_one("select tenantry.tenant_id_of($1)", &[&reference]).await?.try_get(0)?;
    tx.commit().await?;
    id.map(TenantId).ok_or(Error::NoTenant)
}

/// Whether tenant `id` is any of the actor's business.
fn within_reach(actor: Actor, id: TenantId) -> Result<()> {
    if id == actor.tenant || actor.role == Role::SuperAdmin { Ok(()) } else { Err(Error::NoTenant) }
}
