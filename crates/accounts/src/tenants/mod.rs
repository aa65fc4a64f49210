//! Tenants: sign-up, look-up, change.

mod close;
mod enter;
mod list;
pub(crate) mod seats;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenantry_cache::State;
use tokio_postgres::Row;

pub use close::{close, purge, reopen};
pub use enter::{Entries, enter};
pub use list::{Filter, list};
pub use seats::{Seats, Used, used};

use crate::{
    Actor, App, Error, Network, Result, TenantId, UserId, Who,
    audit::{self, By},
    billing::customers,
    db::{self, OnConstraint},
    fields::{Email, Name, NewPassword, Slug},
    idempotency::Once,
    passwords, revocations, second_factor, to_the_end,
    users::{self, IfMatch, NewUser, Password, Role, User},
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

    /// The column `plan` of a row.
    pub(crate) fn stored(row: &Row) -> Result<Self> {
        Self::named(row.try_get("plan")?).ok_or(Error::Internal("a stored plan has no name"))
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
    /// Whether users of the tenant must have a second factor: who has none may only set one up.
    pub require_second_factor: bool,
    /// When the tenant signed up.
    pub created_at: DateTime<Utc>,
    /// When the tenant was last changed.
    pub updated_at: DateTime<Utc>,
    /// When the tenant was closed; null: it is open.
    #[oai(nullable)]
    pub closed_at: Option<DateTime<Utc>>,
    /// Until when a closed tenant may be opened again. After that all that is its own is removed.
    #[oai(nullable)]
    pub purge_after: Option<DateTime<Utc>>,
    /// Goes up with each change; the `ETag` of a look-up.
    pub version: i64,
}

/// Reads tenants, closed ones too; a condition follows.
const SELECT: &str =
    "select t.id, t.name, t.slug, t.plan, s.max as max_users, t.storage_limit_gb, t.is_active,
                        t.require_second_factor, t.created_at, t.updated_at, t.deleted_at as closed_at, t.purge_after, t.version
                      from tenantry.tenants t join tenantry.tenant_seats s on s.tenant_id = t.id";

impl TryFrom<&Row> for Tenant {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            id: TenantId(row.try_get("id")?),
            name: row.try_get("name")?,
            slug: row.try_get("slug")?,
            plan: Plan::stored(row)?,
            max_users: row.try_get("max_users")?,
            storage_limit_gb: row.try_get("storage_limit_gb")?,
            is_active: row.try_get("is_active")?,
            require_second_factor: row.try_get("require_second_factor")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            closed_at: row.try_get("closed_at")?,
            purge_after: row.try_get("purge_after")?,
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
    /// The administrator's password. Without one, they choose one by mail.
    pub password: Option<NewPassword>,
}

/// Makes tenant, first administrator and the job of the verification mail in one transaction.
///
/// # Errors
/// [`Error::SlugTaken`], [`Error::PersonalPassword`], [`Error::Busy`], [`Error::InFlight`]. An address may be used in many
/// tenants.
pub async fn sign_up(
    app: &App,
    sign_up: SignUp,
    plan: Plan,
    from: Option<Network>,
    once: Once<(Tenant, User)>,
) -> Result<(Tenant, User)> {
    make(app, sign_up, plan, move |admin| By::user(admin, from), once).await
}

/// The same for somebody else: by operators.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::PersonalPassword`], [`Error::SlugTaken`], [`Error::Busy`].
pub async fn create(app: &App, actor: Actor, new: SignUp, plan: Plan) -> Result<(Tenant, User)> {
    match actor.who {
        Who::Operator => make(app, new, plan, move |_| actor.into(), Once::unnamed()).await,
        Who::User(_) | Who::ApiKey(_) => Err(Error::Forbidden),
    }
}

async fn make(
    app: &App,
    new: SignUp,
    plan: Plan,
    by: impl FnOnce(UserId) -> By + Send + 'static,
    once: Once<(Tenant, User)>,
) -> Result<(Tenant, User)> {
    let hash = match new.password.clone() {
        Some(password) => {
            let known = [new.email.as_str(), new.admin_name.as_str(), new.name.as_str(), new.slug.as_str()];
            passwords::refuse_personal(&password, &known)?;
            Some(app.passwords.hash(password).await?)
        }
        None => None,
    };
    let app = app.clone();
    to_the_end(async move {
        let id = TenantId::generate();
        let mut client = app.db.client().await?;
        let tx = db::as_system(&mut client).await?;
        let once = once.begin(&tx).await?;
        let sql = "insert into tenantry.tenants (id, name, slug, plan) values ($1, $2, $3, $4)";
        let statement = tx.prepare_cached(sql).await?;
        let insert = async {
            let (name, slug, plan) = (new.name.as_str(), new.slug.as_str(), plan.as_str());
            let inserted = tx.execute(&statement, &[&id.0, &name, &slug, &plan]).await;
            inserted.on_constraint("tenants_slug_key", Error::SlugTaken)
        };
        db::pipelined(insert, seats::open(&tx, id, app.settings.seats.of(plan))).await?;
        let (email, name, password) = (new.email, new.admin_name, new.password);
        let password = password.map(Password::Chosen);
        let admin = NewUser { email, name, password, role: Role::Admin, verified: false };
        let user = users::insert(&tx, id, &admin, hash.as_deref()).await?;
        // It only reads: which of the two is done first matters to nobody.
        let detail = json!({"plan": plan});
        let record = audit::record(&tx, id, by(user.id), "tenant.created", id.0, detail);
        let (tenant, ()) = db::pipelined(read(&tx, id), record).await?;
        if app.settings.billing.is_some() {
            customers::request(&tx, id).await?;
        }
        let made = (tenant, user);
        once.end(&app, &tx, &made).await?;
        users::commit(&app, tx, &made.1, State::Live, &[&made.1.email]).await?;
        Ok(made)
    })
    .await
}

/// Looks up a tenant: one's own, or any, be it closed, as a super administrator.
///
/// # Errors
/// [`Error::NoTenant`], also for those that are none of the actor's business.
pub async fn get(app: &App, actor: Actor, id: TenantId) -> Result<Tenant> {
    within_reach(actor, id)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, id).await?;
    let tenant = read(&tx, id).await?;
    tx.commit().await?;
    if tenant.closed_at.is_none() || actor.role == Role::SuperAdmin {
        Ok(tenant)
    } else {
        Err(Error::NoTenant)
    }
}

/// Reads a tenant within a transaction, be it closed.
async fn read(tx: &crate::db::Transaction<'_>, id: TenantId) -> Result<Tenant> {
    let statement = tx.prepare_cached(&format!("{SELECT} where t.id = $1")).await?;
    Tenant::try_from(&tx.query_opt(&statement, &[&id.0]).await?.ok_or(Error::NoTenant)?)
}

/// Locks a tenant that is open, for a change that starts from one of the versions. Nobody takes or gives a seat meanwhile.
async fn lock(tx: &crate::db::Transaction<'_>, id: TenantId, if_match: &IfMatch) -> Result<Tenant> {
    seats::lock(tx, id).await?;
    let tenant = read(tx, id).await?;
    if tenant.closed_at.is_some() {
        return Err(Error::NoTenant);
    }
    if if_match.as_ref().is_some_and(|versions| !versions.contains(&tenant.version)) {
        return Err(Error::VersionChanged);
    }
    Ok(tenant)
}

/// What shall be different. What is none stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// A new name.
    pub name: Option<Name>,
    /// A new plan, with its seats; by super administrators only. When more are used than it has, nobody loses theirs, and
    /// none is given until there is one.
    pub plan: Option<Plan>,
    /// Suspends the tenant or brings it back; by super administrators only.
    pub is_active: Option<bool>,
    /// Whether users must have a second factor; by users only.
    pub require_second_factor: Option<bool>,
}

/// Changes a tenant.
///
/// # Errors
/// [`Error::NoTenant`], [`Error::Forbidden`], [`Error::VersionChanged`]; [`Error::SecondFactorMissing`] when an
/// administrator of the tenant requires what they have not.
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
        if change.require_second_factor.is_some() && matches!(actor.who, Who::ApiKey(_)) {
            // A key that got lost must not take down what guards people.
            return Err(Error::Forbidden);
        }
        // Nobody could bring it back: those who may are of this tenant.
        if id == TenantId::SYSTEM && change.is_active == Some(false) {
            return Err(Error::Forbidden);
        }
        let tx = db::as_actor(&mut client, actor, id).await?;
        let before = lock(&tx, id, &if_match).await?;
        let name = change.name.as_ref().map_or(before.name.as_str(), Name::as_str);
        let plan = change.plan.unwrap_or(before.plan);
        let is_active = change.is_active.unwrap_or(before.is_active);
        let require = change.require_second_factor.unwrap_or(before.require_second_factor);
        let unchanged = (before.name.as_str(), before.plan, before.is_active, before.require_second_factor);
        if (name, plan, is_active, require) == unchanged {
            return Ok(before);
        }
        let stricter = require && !before.require_second_factor;
        if stricter && let Who::User(user) = actor.who {
            // Others than the tenant's own are not bound by it.
            if actor.home == id && !second_factor::exists(&tx, id, user.id).await? {
                return Err(Error::SecondFactorMissing);
            }
        }
        if plan != before.plan {
            seats::resize(&tx, id, app.settings.seats.of(plan)).await?;
        }
        let statement = tx
            .prepare_cached(
                "update tenantry.tenants set
                   name = $2, plan = $3, is_active = $4, require_second_factor = $5,
                   auth_version = auth_version + $6::bool::int,
                   version = version + 1, updated_at = now()
                 where id = $1",
            )
            .await?;
        // What tokens say of their sessions is no longer true.
        let outdated = before.is_active && !is_active || stricter;
        tx.execute(&statement, &[&id.0, &name, &plan.as_str(), &is_active, &require, &outdated]).await?;
        let tenant = read(&tx, id).await?;
        let mut revoked = vec![];
        if outdated {
            revoked.push(revocations::outdate_tenant(&tx, id).await?);
        }
        let detail = json!({
            "name": change.name.is_some(), "plan": change.plan, "is_active": change.is_active,
            "require_second_factor": change.require_second_factor,
        });
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
    tx: &crate::db::Transaction<'_>,
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

/// The id of a tenant that is open, by id or slug.
///
/// # Errors
/// [`Error::NoTenant`].
pub async fn find(app: &App, reference: &str) -> Result<TenantId> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.tenant_named");
    let statement = client.prepare_cached("select tenantry.tenant_named($1)").await?;
    let id: Option<uuid::Uuid> = client.query_one(&statement, &[&reference]).await?.try_get(0)?;
    id.map(TenantId).ok_or(Error::NoTenant)
}

/// The same, be it closed.
///
/// # Errors
/// [`Error::NoTenant`].
pub async fn find_any(app: &App, reference: &str) -> Result<TenantId> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    // A slug never has the shape of an id.
    let sql = "select id from tenantry.tenants where slug = $1 or id::text = lower($1)";
    let row = tx.query_opt(sql, &[&reference]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    Ok(TenantId(row.try_get(0)?))
}

/// Whether tenant `id` is any of the actor's business.
pub(crate) fn within_reach(actor: Actor, id: TenantId) -> Result<()> {
    if id == actor.tenant || actor.role == Role::SuperAdmin { Ok(()) } else { Err(Error::NoTenant) }
}
