//! Doing without a second factor again.

use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::SecondFactorEvent;

use super::{Checked, Code, ask_password, at_home, check, tell};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, audit,
    db::{self, Transaction},
    fields::Secret,
    revocations::{self, Which},
    to_the_end,
    users::{self, COLUMNS, Role, User},
};

/// Removes the actor's own, by password and code. The session that asks stays and counts as signed in by password alone;
/// access tokens made before are void, for they say otherwise. All other sessions end.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::WrongCode`], [`Error::SecondFactorLocked`], [`Error::NoSecondFactor`],
/// [`Error::Busy`], [`Error::Revoked`].
pub async fn disable(app: &App, actor: Actor, password: Secret, code: Code) -> Result<()> {
    let (actor, user) = at_home(actor)?;
    let tenant = actor.tenant;
    ask_password(app, tenant, user.id, password).await?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        users::lock(&tx, actor, user.id, &None).await?;
        match check(&app, &tx, (tenant, user.id), Some(&code), actor.into()).await? {
            Checked::Off => return Err(Error::NoSecondFactor),
            Checked::Wrong => {
                tx.commit().await?;
                app.db.nudge();
                return Err(Error::WrongCode);
            }
            Checked::Right => {}
        }
        remove(&tx, tenant, user.id).await?;
        let statement = tx
            .prepare_cached(
                "update tenantry.sessions set amr = array_remove(amr, 'otp')
                 where tenant_id = $1 and user_id = $2 and id = $3",
            )
            .await?;
        tx.execute(&statement, &[&tenant.0, &user.id.0, &user.session.0]).await?;
        let mut revoked =
            revocations::end_sessions(&tx, tenant, user.id, Which::AllBut(user.session)).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set auth_version = auth_version + 1, version = version + 1
                 where tenant_id = $1 and id = $2 returning {COLUMNS}"
            ))
            .await?;
        let account = User::try_from(&tx.query_one(&statement, &[&tenant.0, &user.id.0]).await?)?;
        revoked.push(revocations::outdate_user(&tx, tenant, user.id).await?);
        audit::record(&tx, tenant, actor, "user.second_factor_disabled", user.id.0, json!({})).await?;
        tell(&tx, tenant, user.id, SecondFactorEvent::Disabled).await?;
        users::commit(&app, tx, &account, State::Live, &[]).await?;
        app.revocations.add(&revoked);
        Ok(())
    })
    .await
}

/// Removes another user's, who has lost it. All their sessions end.
///
/// # Errors
/// [`Error::Forbidden`] also for oneself: who has stolen a session must not get rid of the code;
/// [`Error::NoUser`], [`Error::NoSecondFactor`], [`Error::Revoked`].
pub async fn reset(app: &App, actor: Actor, id: UserId) -> Result<()> {
    actor.require(Role::Admin)?;
    if actor.is(id) {
        return Err(Error::Forbidden);
    }
    let app = app.clone();
    to_the_end(async move {
        let tenant = actor.tenant;
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, tenant).await?;
        users::lock(&tx, actor, id, &None).await?;
        if !remove(&tx, tenant, id).await? {
            return Err(Error::NoSecondFactor);
        }
        let revoked = revocations::end_sessions(&tx, tenant, id, Which::All).await?;
        audit::record(&tx, tenant, actor, "user.second_factor_reset", id.0, json!({})).await?;
        tell(&tx, tenant, id, SecondFactorEvent::Reset).await?;
        tx.commit().await?;
        app.revocations.add(&revoked);
        app.db.nudge();
        Ok(())
    })
    .await
}

/// Removes it with its recovery codes; tells whether there was one.
async fn remove(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "delete from tenantry.second_factors
             where tenant_id = $1 and user_id = $2 and confirmed_at is not null",
        )
        .await?;
    Ok(tx.execute(&statement, &[&tenant.0, &user.0]).await? > 0)
}
