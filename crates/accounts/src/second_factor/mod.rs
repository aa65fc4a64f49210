//! A second factor: codes of an authenticator app (TOTP, RFC 6238), and recovery codes for who has lost it.
//!
//! The row of the user is locked before anything of this is changed, as everywhere; so of two who come with the same
//! code one is first, on whatever process.

mod check;
mod code;
mod enrol;
mod recovery_codes;
mod remove;
mod totp;

use crate::db::Transaction;
use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use tenantry_jobs::{SecondFactorEvent, SecondFactorNoticeEmail};

pub(crate) use check::{Checked, check};
pub use code::{Code, RecoveryCode, TotpCode};
pub use enrol::{Enrolment, confirm, start};
pub use recovery_codes::renew as renew_recovery_codes;
pub use remove::{disable, reset};

use crate::{
    Actor, App, Error, Letter, Result, SignedInUser, TenantId, UserId, db,
    encryption::Context,
    fields::{Email, Secret},
    passwords,
};

/// The second factor of a user.
#[derive(Debug, Clone, Serialize, Object)]
#[oai(rename = "SecondFactor")]
pub struct Status {
    /// Whether signing in asks for a code.
    pub enabled: bool,
    /// Since when; null while it does not.
    #[oai(nullable)]
    pub enabled_at: Option<DateTime<Utc>>,
    /// How many recovery codes have not been used.
    pub recovery_codes_left: i64,
    /// Whether the tenant requires one.
    pub required: bool,
}

/// The actor's own second factor.
///
/// # Errors
/// When the database cannot be asked.
pub async fn status(app: &App, actor: Actor) -> Result<Status> {
    let (tenant, user) = (actor.home, actor.user()?);
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select f.confirmed_at, t.require_second_factor as required,
               (select count(*) from tenantry.recovery_codes
                where tenant_id = $1 and user_id = $2 and used_at is null) as recovery_codes_left
             from tenantry.tenants t
               left join tenantry.second_factors f on f.tenant_id = t.id and f.user_id = $2
             where t.id = $1",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &user.id.0]).await?.ok_or(Error::NoTenant)?;
    tx.commit().await?;
    let enabled_at: Option<DateTime<Utc>> = row.try_get("confirmed_at")?;
    Ok(Status {
        enabled: enabled_at.is_some(),
        enabled_at,
        recovery_codes_left: row.try_get("recovery_codes_left")?,
        required: row.try_get("required")?,
    })
}

/// Whether the user has one; within the tenant's own transaction.
pub(crate) async fn exists(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "select exists (
               select from tenantry.second_factors
               where tenant_id = $1 and user_id = $2 and confirmed_at is not null
             )",
        )
        .await?;
    Ok(tx.query_one(&statement, &[&tenant.0, &user.0]).await?.try_get(0)?)
}

/// Which keys encrypt how many secrets, of all tenants.
///
/// # Errors
/// When the database cannot be asked.
pub async fn keys_in_use(app: &App) -> Result<Vec<(String, i64)>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let sql =
        "select key_id, count(*) as secrets from tenantry.second_factors group by key_id order by key_id";
    let rows = tx.query(sql, &[]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok((row.try_get("key_id")?, row.try_get("secrets")?))).collect()
}

/// What the mail is made of that tells a user what happened to their second factor. None when the user is gone or
/// the tenant is closed.
///
/// # Errors
/// When the database cannot be asked.
pub async fn issue_notice(app: &App, tenant: TenantId, user: UserId) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select u.email, u.name, t.name as tenant_name
             from tenantry.users u join tenantry.tenants t on t.id = u.tenant_id
             where u.tenant_id = $1 and u.id = $2 and u.deleted_at is null and t.deleted_at is null",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.0]).await? else { return Ok(None) };
    tx.commit().await?;
    let to: Email = row.try_get::<_, String>("email")?.into();
    let (name, tenant_name) = (row.try_get("name")?, row.try_get("tenant_name")?);
    Ok(Some(Letter { to, name, tenant_name, token: String::new() }))
}

/// Tells the user by mail, when `tx` commits.
async fn tell(tx: &Transaction<'_>, tenant: TenantId, user: UserId, event: SecondFactorEvent) -> Result<()> {
    tenantry_queue::enqueue(tx, tenant.0, &SecondFactorNoticeEmail { user_id: user.0, event }).await?;
    Ok(())
}

/// The actor at home: a second factor is one's own, whatever tenant the request is for.
fn at_home(actor: Actor) -> Result<(Actor, SignedInUser)> {
    Ok((Actor { tenant: actor.home, ..actor }, actor.user()?))
}

/// Refuses when `offered` is not the user's password.
async fn ask_password(app: &App, tenant: TenantId, user: UserId, offered: Secret) -> Result<()> {
    let turn = app.passwords.turn()?;
    let stored = passwords::stored(app, tenant, user).await?.map(|stored| stored.hash);
    if app.passwords.verify(turn, offered, stored).await? { Ok(()) } else { Err(Error::WrongPassword) }
}

fn context(tenant: TenantId, user: UserId) -> Context {
    Context { purpose: "second factor", tenant, user }
}
