//! Renewing a session: a refresh token is used once and makes the next.

use serde_json::json;
use uuid::Uuid;

use super::{Method, SignedIn, Standing};
use crate::{
    App, Error, Network, Result, SessionId, TenantId, UserId,
    audit::{self, By},
    db,
    fields::Secret,
    revocations::{self, Which},
    to_the_end,
    tokens::{self, Token},
};

/// For so long a token that was used gives its successor once more: two tabs of a browser renew at once, and an answer
/// may be lost. In seconds, by the clock of the database.
const GRACE: f64 = 10.0;

/// Renews a session by its refresh token, which is used up.
///
/// A token that comes again later than [`GRACE`] was copied: nobody can tell by whom, so the session ends.
///
/// # Errors
/// [`Error::SessionEnded`] when the token is unknown, used, or expired, the session has ended, or the user may no longer
/// sign in.
pub async fn renew(app: &App, token: Secret, from: Option<Network>) -> Result<SignedIn> {
    let (tenant, hash) = tokens::parse(&token).map_err(|_| Error::SessionEnded)?;
    let app = app.clone();
    to_the_end(async move { within(&app, (tenant, &hash), &token, from).await }).await
}

async fn within(
    app: &App,
    (tenant, hash): (TenantId, &[u8]),
    token: &Secret,
    from: Option<Network>,
) -> Result<SignedIn> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    // The user first, as every change of a user does; then the token.
    let statement = tx
        .prepare_cached(
            "select s.user_id, s.id from tenantry.refresh_tokens t
               join tenantry.sessions s on s.tenant_id = t.tenant_id and s.id = t.session_id
             where t.tenant_id = $1 and t.hash = $2",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash]).await?.ok_or(Error::SessionEnded)?;
    let (user, session) = (UserId(row.try_get("user_id")?), SessionId(row.try_get("id")?));
    let account = Standing::lock(&tx, tenant, user).await?.ok_or(Error::SessionEnded)?;
    let statement = tx
        .prepare_cached(
            "select t.used_at is not null as used, t.used_at > now() - make_interval(secs => $3) as lately, t.salt, s.amr
             from tenantry.refresh_tokens t join tenantry.sessions s on s.tenant_id = t.tenant_id and s.id = t.session_id
             where t.tenant_id = $1 and t.hash = $2 and s.revoked_at is null and t.expires_at > now()
             for no key update of t for share of s",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash, &GRACE]).await?.ok_or(Error::SessionEnded)?;
    let (used, lately): (bool, Option<bool>) = (row.try_get("used")?, row.try_get("lately")?);
    let amr = Method::of(&row)?;
    if used {
        if lately == Some(true) {
            let successor = Token::successor(token, row.try_get("salt")?)?;
            tx.commit().await?;
            return Ok(account.signed_in(session, successor, amr));
        }
        let revoked = revocations::end_sessions(&tx, tenant, user, Which::One(session)).await?;
        audit::record(&tx, tenant, By::user(user, from), "session.token_reused", session.0, json!({}))
            .await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        tracing::warn!(tenant.id = %tenant, user.id = %user, session.id = %session, "a refresh token was used twice; its session has ended");
        return Err(Error::SessionEnded);
    }
    if app.settings.require_verified_email && !account.user.email_verified {
        return Err(Error::NotVerified);
    }
    let salt = tokens::salt()?;
    let successor = Token::successor(token, &salt)?;
    let statement = tx
        .prepare_cached(
            "with used as (
               update tenantry.refresh_tokens set used_at = now(), salt = $3
               where tenant_id = $1 and hash = $2 returning session_id, expires_at
             ), renewed as (
               update tenantry.sessions s set renewed_at = now() from used where s.tenant_id = $1 and s.id = used.session_id
             )
             insert into tenantry.refresh_tokens (tenant_id, hash, session_id, expires_at)
             select $1, $4, session_id, expires_at from used",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &hash, &salt.as_slice(), &successor.hash]).await?;
    tx.commit().await?;
    Ok(account.signed_in(session, successor, amr))
}

/// The session of a refresh token, whether it still works or not.
pub(super) async fn session_of(
    tx: &crate::db::Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    token: &Secret,
) -> Result<Option<SessionId>> {
    let Ok((_, hash)) = tokens::parse(token) else { return Ok(None) };
    let statement = tx
        .prepare_cached(
            "select s.id from tenantry.refresh_tokens t
               join tenantry.sessions s on s.tenant_id = t.tenant_id and s.id = t.session_id
             where t.tenant_id = $1 and t.hash = $2 and s.user_id = $3",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash, &user.0]).await?;
    Ok(row.map(|row| row.try_get::<_, Uuid>("id")).transpose()?.map(SessionId))
}
