//! Recovery codes: ten, each works once in place of a code of the app. Shown once, stored as hashes.

use crate::db::Transaction;
use rand::{TryRngCore, rngs::OsRng};
use serde_json::json;
use tenantry_jobs::SecondFactorEvent;

use super::{Checked, Code, ask_password, at_home, check, code::RecoveryCode, tell};
use crate::{Actor, App, Error, Result, TenantId, UserId, audit, db, fields::Secret, to_the_end, users};

const HOW_MANY: usize = 10;

/// Gives the actor new recovery codes; those before are void. `code` may be one of them.
///
/// # Errors
/// [`Error::WrongPassword`], [`Error::WrongCode`], [`Error::SecondFactorLocked`], [`Error::NoSecondFactor`],
/// [`Error::Busy`], [`Error::Revoked`].
pub async fn renew(app: &App, actor: Actor, password: Secret, code: Code) -> Result<Vec<String>> {
    let (actor, user) = at_home(actor)?;
    ask_password(app, actor.tenant, user.id, password).await?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        users::lock(&tx, actor, user.id, &None).await?;
        match check(&app, &tx, (actor.tenant, user.id), Some(&code), actor.into()).await? {
            Checked::Off => return Err(Error::NoSecondFactor),
            Checked::Wrong => {
                tx.commit().await?;
                app.db.nudge();
                return Err(Error::WrongCode);
            }
            Checked::Right => {}
        }
        let codes = replace(&tx, actor.tenant, user.id).await?;
        audit::record(&tx, actor.tenant, actor, "user.recovery_codes_renewed", user.id.0, json!({})).await?;
        tell(&tx, actor.tenant, user.id, SecondFactorEvent::RecoveryCodesRenewed).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(codes)
    })
    .await
}

/// Makes ten codes in place of those there are.
pub(super) async fn replace(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<Vec<String>> {
    let statement = tx
        .prepare_cached("delete from tenantry.recovery_codes where tenant_id = $1 and user_id = $2")
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0]).await?;
    let codes: Vec<_> = (0..HOW_MANY).map(|_| generate()).collect::<Result<_>>()?;
    let hashes: Vec<_> = codes.iter().map(RecoveryCode::hash).collect();
    let statement = tx
        .prepare_cached(
            "insert into tenantry.recovery_codes (tenant_id, user_id, hash) select $1, $2, unnest($3::bytea[])",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0, &hashes]).await?;
    Ok(codes.iter().map(RecoveryCode::shown).collect())
}

/// Uses a code up; tells whether it worked. Of two who come with it at once it works for one.
pub(super) async fn use_up(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    code: &RecoveryCode,
) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "update tenantry.recovery_codes set used_at = now()
             where tenant_id = $1 and user_id = $2 and hash = $3 and used_at is null",
        )
        .await?;
    Ok(tx.execute(&statement, &[&tenant.0, &user.0, &code.hash()]).await? > 0)
}

fn generate() -> Result<RecoveryCode> {
    let mut bytes = [0; RecoveryCode::LENGTH];
    OsRng.try_fill_bytes(&mut bytes).map_err(|_| Error::Internal("no randomness"))?;
    Ok(RecoveryCode::of(bytes))
}
