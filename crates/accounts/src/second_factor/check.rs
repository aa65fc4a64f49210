//! Asking for the second factor.

use crate::db::Transaction;
use serde_json::json;
use tenantry_jobs::SecondFactorEvent;
use tokio_postgres::Row;

use super::{Code, context, recovery_codes, tell, totp};
use crate::{
    App, Error, Result, TenantId, UserId,
    audit::{self, By},
    encryption::Sealed,
};

/// After so many wrong codes in a row codes of the app are not looked at for a minute, then for two, four and so on, a
/// day at most: whoever has the password guesses one in 300,000 a try.
pub(super) const FREE_FAILURES: i32 = 5;

/// What came of asking. The user's row is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Checked {
    /// The user has no second factor.
    Off,
    /// The code was right, and is used up when the transaction commits.
    Right,
    /// The code was wrong or used, which counts when the transaction commits: commit it before you tell.
    Wrong,
}

/// Asks for the second factor of a user whose password was right and whose row is locked. A code without a factor is not
/// looked at.
///
/// # Errors
/// [`Error::SecondFactorRequired`] without a code; [`Error::SecondFactorLocked`] after too many wrong ones, except for
/// recovery codes, which nobody guesses: or whoever has the password could keep the owner out.
pub(crate) async fn check(
    app: &App,
    tx: &Transaction<'_>,
    (tenant, user): (TenantId, UserId),
    code: Option<&Code>,
    by: By,
) -> Result<Checked> {
    let statement = tx
        .prepare_cached(
            "select key_id, secret, ceil(extract(epoch from locked_until - now()))::bigint as locked_for
             from tenantry.second_factors
             where tenant_id = $1 and user_id = $2 and confirmed_at is not null for no key update",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.0]).await? else { return Ok(Checked::Off) };
    let locked_for = row.try_get::<_, Option<i64>>("locked_for")?.filter(|seconds| *seconds > 0);
    let right = match code {
        None => return Err(Error::SecondFactorRequired),
        Some(Code::Totp(code)) => {
            if let Some(seconds) = locked_for {
                return Err(Error::SecondFactorLocked(seconds.unsigned_abs()));
            }
            use_up(app, tx, (tenant, user), &row, code.expose()).await?
        }
        Some(Code::Recovery(code)) => {
            let right = recovery_codes::use_up(tx, tenant, user, code).await?;
            if right {
                forgive(tx, tenant, user).await?;
                audit::record(tx, tenant, by, "user.recovery_code_used", user.0, json!({})).await?;
                tell(tx, tenant, user, SecondFactorEvent::RecoveryCodeUsed).await?;
            }
            right
        }
    };
    if right {
        return Ok(Checked::Right);
    }
    // While it is locked only recovery codes come this far. Counting them would lock for longer, as often as anybody likes.
    if locked_for.is_none() {
        count_failure(tx, (tenant, user), by).await?;
    }
    Ok(Checked::Wrong)
}

/// Uses a code of the app up, and encrypts the secret anew should there be a newer key.
async fn use_up(
    app: &App,
    tx: &Transaction<'_>,
    (tenant, user): (TenantId, UserId),
    row: &Row,
    code: &str,
) -> Result<bool> {
    let sealed = sealed(row)?;
    let secret = app.encryption.open(&sealed, context(tenant, user))?;
    let Some(step) = totp::step_of(&secret, code)? else { return Ok(false) };
    let sealed = match app.encryption.is_outdated(&sealed.key_id) {
        true => app.encryption.seal(&secret, context(tenant, user))?,
        false => sealed,
    };
    let statement = tx
        .prepare_cached(
            "update tenantry.second_factors
             set last_step = $3, failures = 0, locked_until = null, key_id = $4, secret = $5
             where tenant_id = $1 and user_id = $2 and last_step < $3",
        )
        .await?;
    let known: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&tenant.0, &user.0, &step, &sealed.key_id, &sealed.bytes];
    Ok(tx.execute(&statement, &known).await? > 0)
}

pub(super) fn sealed(row: &Row) -> Result<Sealed> {
    Ok(Sealed { key_id: row.try_get("key_id")?, bytes: row.try_get("secret")? })
}

async fn forgive(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "update tenantry.second_factors set failures = 0, locked_until = null
             where tenant_id = $1 and user_id = $2",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0]).await?;
    Ok(())
}

async fn count_failure(tx: &Transaction<'_>, (tenant, user): (TenantId, UserId), by: By) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "update tenantry.second_factors set
               failures = failures + 1,
               locked_until = case when failures + 1 >= $3
                 then now() + least(interval '1 minute' * power(2, least(failures + 1 - $3, 20)), interval '1 day')
                 else locked_until end
             where tenant_id = $1 and user_id = $2
             returning failures",
        )
        .await?;
    let failures: i32 =
        tx.query_one(&statement, &[&tenant.0, &user.0, &FREE_FAILURES]).await?.try_get("failures")?;
    let detail = json!({"failures": failures});
    audit::record(tx, tenant, by, "user.second_factor_failed", user.0, detail).await?;
    if failures == FREE_FAILURES {
        tell(tx, tenant, user, SecondFactorEvent::Locked).await?;
    }
    Ok(())
}
