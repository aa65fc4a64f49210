//! Sessions: they begin by signing in, are renewed by refresh tokens, and end.

mod end;
mod renew;

use std::net::IpAddr;

use crate::db::Transaction;
use poem_openapi::Enum;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tenantry_cache::State;
use tokio_postgres::Row;

pub use end::{Session, change_password, list, log_out, log_out_everywhere, revoke};
pub use renew::renew;

use crate::{
    App, Error, Network, Result, SessionId, TenantId, UserId,
    audit::{self, By},
    db,
    fields::{Email, Secret},
    passwords::{self, Turn},
    second_factor::{self, Checked, Code},
    tenants::Plan,
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

/// How somebody showed who they are (RFC 8176).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "AuthenticationMethod")]
pub enum Method {
    /// By a password.
    Pwd,
    /// By a code that works once: of an authenticator app, or a recovery code.
    Otp,
}

impl Method {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pwd => "pwd",
            Self::Otp => "otp",
        }
    }

    /// Those of a row.
    fn of(row: &Row) -> Result<Vec<Self>> {
        let names: Vec<&str> = row.try_get("amr")?;
        Ok([Self::Pwd, Self::Otp].into_iter().filter(|method| names.contains(&method.as_str())).collect())
    }
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
    /// What the tenant pays for.
    pub tenant_plan: Plan,
    /// The session.
    pub session: SessionId,
    /// `users.auth_version`: tokens of an older one are void.
    pub user_version: i64,
    /// `tenants.auth_version`, likewise.
    pub tenant_version: i64,
    /// The opaque token that will renew the access token.
    pub refresh_token: Token,
    /// How the user signed in; empty: an operator did, from the shell.
    pub amr: Vec<Method>,
    /// Whether the session may only set up a second factor, which the tenant requires.
    pub setup_only: bool,
}

/// Signs a user in by tenant (id or slug), address, password and, where there is a second factor, a code. The turn is taken
/// before anything is counted or asked of others for this attempt: what cannot be hashed soon costs nothing.
///
/// # Errors
/// [`Error::WrongCredentials`] whichever of the three is wrong, and for suspended tenants and inactive users; an
/// unknown account takes as many statements and hashes as a known one. [`Error::NotVerified`], [`Error::Busy`].
/// Once the password is right: [`Error::SecondFactorRequired`], [`Error::SecondFactorRefused`],
/// [`Error::SecondFactorLocked`].
pub async fn login(
    app: &App,
    turn: Turn,
    tenant: &str,
    email: &Email,
    password: Secret,
    code: Option<Code>,
    origin: Origin,
) -> Result<SignedIn> {
    let mut first = Some(turn);
    // Twice where another password is chosen, or the same is hashed anew, while this one is being verified.
    for _ in 0..2 {
        let turn = first.take().map_or_else(|| app.passwords.turn(), Ok)?;
        let account = account(app, tenant, email).await?;
        let hash = account.as_ref().map(|account| account.password_hash.clone());
        let same = app.passwords.verify(turn, password.clone(), hash).await?;
        let named = account.as_ref().map(|account| (account.tenant, account.user));
        let Some(account) = account.filter(|_| same) else {
            audit::refused(app, named, origin.network());
            return Err(Error::WrongCredentials);
        };
        let (app, code, origin, password) = (app.clone(), code.clone(), origin.clone(), password.clone());
        let signed_in = to_the_end(async move {
            let signed_in = begin(&app, &account, Shown::Password(code), &origin).await?;
            if signed_in.is_some() && app.passwords.is_outdated(&account.password_hash) {
                // Nobody waits for it, and nobody is kept out by it: what fails now is done at the next sign-in.
                tokio::spawn(tenantry_trace::carried(async move {
                    if let Err(error) = renew_hash(&app, &account, password).await {
                        tracing::info!("a password hash stays as it is until the next sign-in: {error}");
                    }
                }));
            }
            Ok(signed_in)
        });
        if let Some(signed_in) = signed_in.await? {
            return Ok(signed_in);
        }
    }
    Err(Error::WrongCredentials)
}

/// Stores the password as passwords are hashed today, unless it has been changed meanwhile.
async fn renew_hash(app: &App, account: &Account, password: Secret) -> Result<()> {
    let hash = app.passwords.hash_again(password).await?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, account.tenant).await?;
    passwords::replace(&tx, account.tenant, account.user, Some(&account.password_hash), &hash).await?;
    Ok(tx.commit().await?)
}

/// Begins a session for a user whom nobody asked for password or second factor: operators and load tests, from the shell.
///
/// # Errors
/// [`Error::NoUser`].
pub async fn impersonate(app: &App, tenant: &str, email: &Email, origin: Origin) -> Result<SignedIn> {
    let account = account(app, tenant, email).await?.ok_or(Error::NoUser)?;
    begin(app, &account, Shown::Nothing, &origin).await?.ok_or(Error::NoUser)
}

/// What somebody has shown of who they are.
enum Shown {
    /// The password, and perhaps a code.
    Password(Option<Code>),
    /// That they may run this program.
    Nothing,
}

struct Account {
    tenant: TenantId,
    user: UserId,
    password_hash: String,
}

async fn account(app: &App, tenant: &str, email: &Email) -> Result<Option<Account>> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.login_by_email");
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

/// None: another password has been chosen since the one that was shown was verified.
async fn begin(app: &App, account: &Account, shown: Shown, origin: &Origin) -> Result<Option<SignedIn>> {
    let &Account { tenant, user, .. } = account;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    // Read again under a lock: the user may have been deactivated while the password was being verified.
    let mut standing = Standing::lock(&tx, tenant, user).await?.ok_or(Error::WrongCredentials)?;
    if app.settings.require_verified_email && !standing.user.email_verified {
        return Err(Error::NotVerified);
    }
    let (amr, by) = match shown {
        Shown::Nothing => (vec![], By::OPERATOR),
        Shown::Password(code) => {
            // Whoever chooses another password ends all sessions: one that was about to begin by the old one would live on.
            if !passwords::is_still(&tx, tenant, user, &account.password_hash).await? {
                return Ok(None);
            }
            let by = By::signed_in(&standing.user, origin.network());
            let amr = match second_factor::check(app, &tx, (tenant, user), code.as_ref(), by).await? {
                Checked::Off => vec![Method::Pwd],
                Checked::Right => vec![Method::Pwd, Method::Otp],
                Checked::Wrong => {
                    tx.commit().await?;
                    app.db.nudge();
                    return Err(Error::SecondFactorRefused);
                }
            };
            (amr, by)
        }
    };
    let touched = touch(&tx, tenant, user).await?;
    let raised = touched.is_some();
    standing.user = touched.unwrap_or(standing.user);
    let (session, refresh_token) = insert(app, &tx, &standing.user, &amr, origin).await?;
    audit::record(&tx, tenant, by, "session.begun", session.0, json!({"user_id": user, "amr": amr})).await?;
    let signed_in = standing.signed_in(session, refresh_token, amr);
    if raised {
        users::commit(app, tx, &signed_in.user, State::Live, &[]).await?;
    } else {
        tx.commit().await?;
        if signed_in.amr.contains(&Method::Otp) {
            // A recovery code that was used is told by mail.
            app.db.nudge();
        }
    }
    Ok(Some(signed_in))
}

/// A user who may be signed in, locked so that this stays so until the transaction ends.
struct Standing {
    user: User,
    tenant_slug: String,
    tenant_plan: Plan,
    user_version: i64,
    tenant_version: i64,
    second_factor_required: bool,
}

impl Standing {
    /// None when user or tenant are inactive or deleted.
    async fn lock(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<Option<Self>> {
        let statement = tx
            .prepare_cached(&format!(
                "select {COLUMNS}, auth_version, t.tenant_slug, t.plan, t.tenant_version, t.require_second_factor
                 from tenantry.users, lateral (
                   select slug as tenant_slug, t.plan, t.auth_version as tenant_version, t.require_second_factor
                   from tenantry.tenants t where t.id = tenant_id and t.is_active and t.deleted_at is null
                 ) t
                 where tenant_id = $1 and id = $2 and is_active and deleted_at is null
                 for no key update of users"
            ))
            .await?;
        let standing = |row: &Row| {
            Ok(Self {
                user: User::try_from(row)?,
                tenant_slug: row.try_get("tenant_slug")?,
                tenant_plan: Plan::stored(row)?,
                user_version: row.try_get("auth_version")?,
                tenant_version: row.try_get("tenant_version")?,
                second_factor_required: row.try_get("require_second_factor")?,
            })
        };
        tx.query_opt(&statement, &[&tenant.0, &user.0]).await?.as_ref().map(standing).transpose()
    }

    fn signed_in(self, session: SessionId, refresh_token: Token, amr: Vec<Method>) -> SignedIn {
        let Self { user, tenant_slug, tenant_plan, user_version, tenant_version, second_factor_required } =
            self;
        let setup_only = second_factor_required && amr == [Method::Pwd];
        SignedIn {
            user,
            tenant_slug,
            tenant_plan,
            session,
            user_version,
            tenant_version,
            refresh_token,
            amr,
            setup_only,
        }
    }
}

/// Raises `last_login_at`, at most once an hour: each raise is a new version of the cached user, which is returned.
async fn touch(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<Option<User>> {
    let statement = tx
        .prepare_cached(&format!(
            "update tenantry.users set last_login_at = now(), version = version + 1
             where tenant_id = $1 and id = $2
               and (last_login_at is null or last_login_at < now() - interval '1 hour')
             returning {COLUMNS}"
        ))
        .await?;
    tx.query_opt(&statement, &[&tenant.0, &user.0]).await?.as_ref().map(User::try_from).transpose()
}

async fn insert(
    app: &App,
    tx: &Transaction<'_>,
    user: &User,
    amr: &[Method],
    origin: &Origin,
) -> Result<(SessionId, Token)> {
    let amr: Vec<_> = amr.iter().map(|method| method.as_str()).collect();
    let (tenant, session, token) = (user.tenant_id, SessionId::generate(), Token::generate(user.tenant_id)?);
    let ttl = app.settings.session_ttl.as_secs_f64();
    let user_agent: String = origin.user_agent.chars().filter(|c| !c.is_control()).take(200).collect();
    let statement = tx
        .prepare_cached(
            "with session as (
               insert into tenantry.sessions (tenant_id, id, user_id, user_agent, address, expires_at, amr)
               values ($1, $2, $3, $4, $5, now() + make_interval(secs => $6), $8) returning expires_at
             ), login as (
               insert into tenantry.user_logins (tenant_id, user_id, id) values ($1, $3, tenantry.event_id())
             )
             insert into tenantry.refresh_tokens (tenant_id, hash, session_id, expires_at)
             select $1, $7, $2, expires_at from session",
        )
        .await?;
    tx.execute(
        &statement,
        &[&tenant.0, &session.0, &user.id.0, &user_agent, &origin.address, &ttl, &token.hash, &amr],
    )
    .await?;
    Ok((session, token))
}
