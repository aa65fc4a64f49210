//! The sessions of a user, and how they end.

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::Row;

use super::{Method, renew::session_of};
use crate::{
    Actor, App, Error, Result, SessionId, SignedInUser, audit, db,
    fields::{NewPassword, Secret},
    mail_tokens::{self, Purpose},
    passwords,
    revocations::{self, Which},
    to_the_end,
};

/// A session that has not ended.
#[derive(Debug, Clone, Serialize, Object)]
pub struct Session {
    /// Names the session.
    pub id: SessionId,
    /// Whether it is the one that asks.
    pub current: bool,
    /// What the client calls itself.
    pub user_agent: String,
    /// Where it was begun from; null where that is not known.
    #[oai(nullable)]
    pub address: Option<String>,
    /// How the user signed in; empty: an operator did, from the shell.
    pub amr: Vec<Method>,
    /// When the user signed in.
    pub created_at: DateTime<Utc>,
    /// When it was last renewed; null: never.
    #[oai(nullable)]
    pub renewed_at: Option<DateTime<Utc>>,
    /// When it ends, whatever is done with it.
    pub expires_at: DateTime<Utc>,
}

/// The actor's sessions, the newest first; at most 100.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(app: &App, actor: Actor) -> Result<Vec<Session>> {
    let user = actor.user()?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.home).await?;
    let statement = tx
        .prepare_cached(
            "select id, user_agent, host(address) as address, amr, created_at, renewed_at, expires_at
             from tenantry.sessions
             where tenant_id = $1 and user_id = $2 and revoked_at is null and expires_at > now()
             order by id desc limit 100",
        )
        .await?;
    let rows = tx.query(&statement, &[&actor.home.0, &user.id.0]).await?;
    tx.commit().await?;
    let session = |row: &Row| {
        let id = SessionId(row.try_get("id")?);
        Ok(Session {
            id,
            current: id == user.session,
            user_agent: row.try_get("user_agent")?,
            address: row.try_get("address")?,
            amr: Method::of(row)?,
            created_at: row.try_get("created_at")?,
            renewed_at: row.try_get("renewed_at")?,
            expires_at: row.try_get("expires_at")?,
        })
    };
    rows.iter().map(session).collect()
}

/// Ends the session that asks, and the one of `refresh_token`, should that be another one of the same user.
///
/// # Errors
/// When the database cannot be asked. That a session has ended already is none.
pub async fn log_out(app: &App, actor: Actor, refresh_token: Option<Secret>) -> Result<()> {
    let user = actor.user()?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, actor.home).await?;
        let mut sessions = vec![user.session];
        if let Some(token) = refresh_token {
            sessions.extend(session_of(&tx, actor.home, user.id, &token).await?);
        }
        let mut revoked = vec![];
        for session in sessions {
            revoked.extend(revocations::end_sessions(&tx, actor.home, user.id, Which::One(session)).await?);
        }
        audit::record(&tx, actor.home, actor, "session.ended", user.session.0, json!({})).await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        Ok(())
    })
    .await
}

/// Ends every session of the actor.
///
/// # Errors
/// When the database cannot be asked.
pub async fn log_out_everywhere(app: &App, actor: Actor) -> Result<()> {
    end(app, actor, Which::All).await.map(drop)
}

/// Ends one of the actor's sessions.
///
/// # Errors
/// [`Error::NoSession`] when there is none of this id, or it has ended, or is somebody else's.
pub async fn revoke(app: &App, actor: Actor, session: SessionId) -> Result<()> {
    match end(app, actor, Which::One(session)).await? {
        0 => Err(Error::NoSession),
        _ => Ok(()),
    }
}

async fn end(app: &App, actor: Actor, which: Which) -> Result<usize> {
    let user = actor.user()?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, actor.home).await?;
        let (action, subject) = match which {
            Which::One(session) => ("session.ended", session.0),
            Which::All | Which::AllBut(_) => ("session.all_ended", user.id.0),
        };
        let revoked = revocations::end_sessions(&tx, actor.home, user.id, which).await?;
        if revoked.is_empty() {
            return Ok(0);
        }
        audit::record(&tx, actor.home, actor, action, subject, json!({})).await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        Ok(revoked.len())
    })
    .await
}

/// Gives the actor another password. The session that asks stays, all others end, and so do links to reset the password
/// that were mailed.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::PersonalPassword`], [`Error::Busy`], [`Error::Revoked`].
pub async fn change_password(app: &App, actor: Actor, current: Secret, new: NewPassword) -> Result<()> {
    let user = actor.user()?;
    let (before, known) = shown(app, actor, current.clone()).await?;
    passwords::refuse_personal(&new, &known)?;
    let hash = app.passwords.hash(new).await?;
    let app = app.clone();
    to_the_end(async move {
        if replace_password(&app, actor, user, &before, &hash).await? {
            return Ok(());
        }
        // Another hash is stored meanwhile. That may be one of the same password, which a sign-in has hashed anew; of two who
        // changed it only one has been right.
        let (before, _) = shown(&app, actor, current).await?;
        let replaced = replace_password(&app, actor, user, &before, &hash).await?;
        if replaced { Ok(()) } else { Err(Error::WrongPassword) }
    })
    .await
}

/// The stored hash of the actor's password, which `current` is, and what everybody knows about them.
async fn shown(app: &App, actor: Actor, current: Secret) -> Result<(String, Vec<String>)> {
    let turn = app.passwords.turn()?;
    let stored = passwords::stored(app, actor.home, actor.user()?.id).await?;
    let hash = stored.as_ref().map(|stored| stored.hash.clone());
    let is_right = app.passwords.verify(turn, current, hash).await?;
    match stored {
        Some(stored) if is_right => Ok((stored.hash, stored.known)),
        _ => Err(Error::WrongPassword),
    }
}

/// False when `before` is no longer the stored hash; then nothing is changed.
async fn replace_password(
    app: &App,
    actor: Actor,
    user: SignedInUser,
    before: &str,
    hash: &str,
) -> Result<bool> {
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, actor, actor.home).await?;
    // Before the password, as where such a link is used.
    mail_tokens::void(&tx, actor.home, user.id, &[Purpose::ResetPassword]).await?;
    if !passwords::replace(&tx, actor.home, user.id, Some(before), hash).await? {
        tx.rollback().await?;
        return Ok(false);
    }
    let revoked = revocations::end_sessions(&tx, actor.home, user.id, Which::AllBut(user.session)).await?;
    audit::record(&tx, actor.home, actor, "user.password_changed", user.id.0, json!({})).await?;
    tx.commit().await?;
    app.revocations.add(&revoked);
    Ok(true)
}
