//! Sessions: they begin by signing in, are renewed by refresh tokens, and end.

mod end;
mod renew;

use std::net::IpAddr;

use deadpool_postgres::Transaction;
use serde_json::json;
use tenantry_cache::State;
use tokio_postgres::Row;
use uuid::Uuid;

pub use end::{Session, change_password, list, log_out, log_out_everywhere, revoke};
pub use renew::renew;

use crate::{
    App, Error, Network, Result, SessionId, TenantId, UserId,
    audit::{self, By},
    db,
    fields::{Email, Secret},
    to_the_end,
    tokens::Token,
    users::{self, COLUMNS, User},
};

/// Where a login comes from, for the list of sessions.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The client's name for itself.
    pub user_agent: String,
    /// The client's address.
    pub address: Option<IpAddr>,
}

impl Origin {
    /// What is remembered of the address in the audit trail.
    fn network(&self) -> Option<Network> {
        self.address.map(Network::of)
    }
}

/// A session that has just begun: what an access token is made of.
pub struct SignedIn {
    /// Who signed in.
    pub user: User,
    /// The tenant's slug.
    pub tenant_slug: String,
    /// The session.
    pub session: SessionId,
    /// `users.auth_version`: tokens of an older one are void.
    pub user_version: i64,
    /// `tenants.auth_version`, likewise.
    pub tenant_version: i64,
    /// The opaque token that will renew the access token.
    pub refresh_token: Token,
}

/// Signs a user in by tenant (id or slug), address and password.
///
/// # Errors
/// [`Error::WrongCredentials`] whichever of the three is wrong, and for suspended tenants and inactive users; an
/// unknown account takes as many statements and hashes as a known one. [`Error::NotVerified`], [`Error::Busy`].
pub async fn login(
    app: &App,
    tenant: &str,
    email: &Email,
    password: Secret,
    origin: Origin,
) -> Result<SignedIn> {
    let account = account(app, tenant, email).await?;
    let hash = account.as_ref().map(|account| account.password_hash.clone());
    let same = app.passwords.verify(password, hash).await?;
    let account = account.ok_or(Error::WrongCredentials)?;
    if !same {
        audit::refused(app, account.tenant, account.user, origin.network());
        return Err(Error::WrongCredentials);
    }
    let app = app.clone();
    to_the_end(async move { begin(&app, account.tenant, account.user, &origin, None).await }).await
}

/// Begins a session for a user whose password nobody asked for: operators and load tests, from the shell.
///
/// # Errors
/// [`Error::NoUser`].
pub async fn impersonate(app: &App, tenant: &str, email: &Email, origin: Origin) -> Result<SignedIn> {
    let account = account(app, tenant, email).await?.ok_or(Error::NoUser)?;
    begin(app, account.tenant, account.user, &origin, Some(By::OPERATOR)).await
}

struct Account {
    tenant: TenantId,
    user: UserId,
    password_hash: String,
}

async fn account(app: &App, tenant: &str, email: &Email) -> Result<Option<Account>> {
    let client = app.db.client().await?;
    let statement = client
        .prepare_cached("select tenant_id, user_id, password_hash from tenantry.login_by_email($1, $2)")
        .await?;
    let Some(row) = client.query_opt(&statement, &[&tenant, &email.as_str()]).await? else { return Ok(None) };
    Ok(Some(Account {
        tenant: TenantId(row.try_get("tenant_id")?),
        user: UserId(row.try_get("user_id")?),
        password_hash: row.try_get("password_hash")?,
    }))
}

/// `by` is who begins the session, should it not be the user.
async fn begin(
    app: &App,
    tenant: TenantId,
    user: UserId,
    origin: &Origin,
    by: Option<By>,
) -> Result<SignedIn> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let touched = touch(&tx, tenant, user).await?;
    // Read again under a lock: the user may have been deactivated while the password was being verified.
    let account = Standing::lock(&tx, tenant, user).await?.ok_or(Error::WrongCredentials)?;
    if app.settings.require_verified_email && !account.user.email_verified {
        return Err(Error::NotVerified);
    }
    let (session, refresh_token) = insert(app, &tx, &account.user, origin).await?;
    let by = by.unwrap_or_else(|| By::signed_in(&account.user, origin.network()));
    let detail = json!({"user_id": user});
    audit::record(&tx, tenant, by, "session.begun", session.0, detail).await?;
    let signed_in = account.signed_in(session, refresh_token);
    if touched {
        users::commit(app, tx, &signed_in.user, State::Live, &[]).await?;
    } else {
        tx.commit().await?;
    }
    Ok(signed_in)
}

/// A user who may be signed in, locked so that this stays so until the transaction ends.
struct Standing {
    user: User,
    tenant_slug: String,
    user_version: i64,
    tenant_version: i64,
}

impl Standing {
    /// None when user or tenant are inactive or deleted.
    async fn lock(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<Option<Self>> {
        let statement = tx
            .prepare_cached(&format!(
                "select {COLUMNS}, auth_version, t.tenant_slug, t.tenant_version
                 from tenantry.users, lateral (
                   select slug as tenant_slug, t.auth_version as tenant_version
                   from tenantry.tenants t where t.id = tenant_id and t.is_active and t.deleted_at is null
                 ) t
                 where tenant_id = $1 and id = $2 and is_active and deleted_at is null
                 for share of users"
            ))
            .await?;
        let standing = |row: &Row| {
            Ok(Self {
                user: User::try_from(row)?,
                tenant_slug: row.try_get("tenant_slug")?,
                user_version: row.try_get("auth_version")?,
                tenant_version: row.try_get("tenant_version")?,
            })
        };
        tx.query_opt(&statement, &[&tenant.0, &user.0]).await?.as_ref().map(standing).transpose()
    }

    fn signed_in(self, session: SessionId, refresh_token: Token) -> SignedIn {
        let Self { user, tenant_slug, user_version, tenant_version } = self;
        SignedIn { user, tenant_slug, session, user_version, tenant_version, refresh_token }
    }
}

/// Raises `last_login_at`, at most once an hour: each raise is a new version of the cached user.
async fn touch(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "update tenantry.users set last_login_at = now(), version = version + 1
             where tenant_id = $1 and id = $2 and is_active and deleted_at is null
               and (last_login_at is null or last_login_at < now() - interval '1 hour')",
        )
        .await?;
    Ok(tx.execute(&statement, &[&tenant.0, &user.0]).await? > 0)
}

async fn insert(app: &App, tx: &Transaction<'_>, user: &User, origin: &Origin) -> Result<(SessionId, Token)> {
    let (tenant, session, token) = (user.tenant_id, SessionId::generate(), Token::generate(user.tenant_id)?);
    let ttl = app.settings.session_ttl.as_secs_f64();
    let user_agent: String = origin.user_agent.chars().filter(|c| !c.is_control()).take(200).collect();
    let statement = tx
        .prepare_cached(
            "with session as (
               insert into tenantry.sessions (tenant_id, id, user_id, user_agent, address, expires_at)
               values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6)) returning expires_at
             ), login as (
               insert into tenantry.user_logins (tenant_id, user_id, id) values ($1, $3, $7)
             )
             insert into tenantry.refresh_tokens (tenant_id, hash, session_id, expires_at)
             select $1, $8, $2, expires_at from session",
        )
        .await?;
    tx.execute(
        &statement,
        &[
            &tenant.0,
            &session.0,
            &user.id.0,
            &user_agent,
            &origin.address,
            &ttl,
            &Uuid::now_v7(),
            &token.hash,
        ],
    )
    .await?;
    Ok((session, token))
}
