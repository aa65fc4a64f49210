//! Setting a second factor up: a secret that is pending until a code has proven it.

use serde_json::json;
use tenantry_jobs::SecondFactorEvent;

use super::{
    Code, ask_password, at_home,
    check::{FREE_FAILURES, sealed},
    context, exists, recovery_codes, tell, totp,
};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    fields::Secret,
    revocations::{self, Which},
    to_the_end, users,
};

/// What goes into an authenticator app. Shown once.
pub struct Enrolment {
    /// 160 bits in base32.
    pub secret: String,
    /// The same as `otpauth://totp/...`, for a QR code.
    pub uri: String,
}

/// Makes a secret for the actor's authenticator app. It counts once a code has proven it, within an hour; one that was not
/// proven makes place for the next.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::SecondFactorOn`], [`Error::Busy`], [`Error::Revoked`].
pub async fn start(app: &App, actor: Actor, password: Secret) -> Result<Enrolment> {
    let (actor, user) = at_home(actor)?;
    let tenant = actor.tenant;
    ask_password(app, tenant, user.id, password).await?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        let account = users::lock(&tx, actor, user.id, &None).await?;
        let secret = totp::generate()?;
        let sealed = app.encryption.seal(&secret, context(tenant, user.id))?;
        let statement = tx
            .prepare_cached(
                "insert into tenantry.second_factors as f (tenant_id, user_id, key_id, secret) values ($1, $2, $3, $4)
                 on conflict (tenant_id, user_id) do update set
                   key_id = excluded.key_id, secret = excluded.secret, created_at = now(), failures = 0
                 where f.confirmed_at is null",
            )
            .await?;
        let made =
            tx.execute(&statement, &[&tenant.0, &user.id.0, &sealed.key_id, &sealed.bytes]).await?;
        if made == 0 {
            return Err(Error::SecondFactorOn);
        }
        let issuer = issuer(&app, &tx, tenant).await?;
        audit::record(&tx, tenant, actor, "user.second_factor_started", user.id.0, json!({})).await?;
        tx.commit().await?;
        let (secret, uri) = totp::shown(&secret, &issuer, account.email.as_str())?;
        Ok(Enrolment { secret, uri })
    })
    .await
}

/// Proves the pending secret by a code: from now on signing in asks for one. Answers the recovery codes. The session that
/// asks counts as signed in with a code, all others end.
///
/// # Errors
/// [`Error::WrongCode`], [`Error::NoSecondFactor`] when none is pending, [`Error::SecondFactorOn`], [`Error::Revoked`].
pub async fn confirm(app: &App, actor: Actor, code: Code) -> Result<Vec<String>> {
    let (actor, user) = at_home(actor)?;
    let tenant = actor.tenant;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        users::lock(&tx, actor, user.id, &None).await?;
        let statement = tx
            .prepare_cached(
                "select key_id, secret from tenantry.second_factors
                 where tenant_id = $1 and user_id = $2 and confirmed_at is null
                   and created_at > now() - interval '1 hour' for no key update",
            )
            .await?;
        let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.id.0]).await? else {
            let on = exists(&tx, tenant, user.id).await?;
            return Err(if on { Error::SecondFactorOn } else { Error::NoSecondFactor });
        };
        let Code::Totp(code) = &code else { return Err(Error::WrongCode) };
        let secret = app.encryption.open(&sealed(&row)?, context(tenant, user.id))?;
        let Some(step) = totp::step_of(&secret, code.expose())? else {
            count_failure(&tx, tenant, actor, user.id).await?;
            tx.commit().await?;
            return Err(Error::WrongCode);
        };
        let statement = tx
            .prepare_cached(
                "update tenantry.second_factors set confirmed_at = now(), last_step = $3, failures = 0
                 where tenant_id = $1 and user_id = $2",
            )
            .await?;
        tx.execute(&statement, &[&tenant.0, &user.id.0, &step]).await?;
        let codes = recovery_codes::replace(&tx, tenant, user.id).await?;
        let statement = tx
            .prepare_cached(
                "update tenantry.sessions set amr = array_append(array_remove(amr, 'otp'), 'otp')
                 where tenant_id = $1 and user_id = $2 and id = $3",
            )
            .await?;
        tx.execute(&statement, &[&tenant.0, &user.id.0, &user.session.0]).await?;
        let revoked = revocations::end_sessions(&tx, tenant, user.id, Which::AllBut(user.session)).await?;
        audit::record(&tx, tenant, actor, "user.second_factor_enabled", user.id.0, json!({})).await?;
        tell(&tx, tenant, user.id, SecondFactorEvent::Enabled).await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        app.db.nudge();
        Ok(codes)
    })
    .await
}

/// A pending secret that was given too many wrong codes is gone: who has stolen a session must not guess their way to the
/// recovery codes of somebody who left off half-way. The trail tells of it as at sign-in.
async fn count_failure(tx: &Transaction<'_>, tenant: TenantId, actor: Actor, user: UserId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "update tenantry.second_factors set failures = failures + 1
             where tenant_id = $1 and user_id = $2 and confirmed_at is null
             returning failures",
        )
        .await?;
    let failures: i32 = tx.query_one(&statement, &[&tenant.0, &user.0]).await?.try_get("failures")?;
    let detail = json!({"failures": failures});
    audit::record(tx, tenant, actor, "user.second_factor_failed", user.0, detail).await?;
    let statement = tx
        .prepare_cached(
            "delete from tenantry.second_factors
             where tenant_id = $1 and user_id = $2 and confirmed_at is null and failures >= $3",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0, &FREE_FAILURES]).await?;
    Ok(())
}

/// What an app lists the account under: the product, and whose account it is, since one person may have one in several
/// tenants.
async fn issuer(app: &App, tx: &Transaction<'_>, tenant: TenantId) -> Result<String> {
    let statement = tx.prepare_cached("select name from tenantry.tenants where id = $1").await?;
    let name: String = tx.query_one(&statement, &[&tenant.0]).await?.try_get("name")?;
    Ok(match app.settings.product.as_str() {
        "" => name,
        product => format!("{product} ({name})"),
    })
}
