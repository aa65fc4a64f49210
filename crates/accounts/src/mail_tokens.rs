//! Tokens that travel by mail and come back once. Only their hash is stored, bound to a user, an address and a purpose.

use crate::db::Transaction;
use uuid::Uuid;

use crate::{Error, Result, TenantId, UserId, fields::Email, tokens::Token};

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Shows that the user's address is theirs.
    VerifyEmail,
    /// Shows that the address they want to have is.
    ChangeEmail,
    /// Lets them choose another password.
    ResetPassword,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::ChangeEmail => "change_email",
            Self::ResetPassword => "reset_password",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::VerifyEmail, Self::ChangeEmail, Self::ResetPassword]
            .into_iter()
            .find(|purpose| purpose.as_str() == name)
    }
}

/// So long after one mail the next to the same address is not sent: whoever presses the button again gets one. In seconds.
const PAUSE: f64 = 30.0;

/// Makes the token for one mail, which job `job` sends; the user's row is locked. None when another job has sent one to
/// the same address a moment ago.
///
/// The token is committed before the mail is sent, or a crash in between would send a dead link. A job that runs
/// again makes another token beside the first, whose mail may have gone out; a newer job voids both.
pub(crate) async fn issue(
    tx: &Transaction<'_>,
    tenant: TenantId,
    (user, email): (UserId, &Email),
    purpose: Purpose,
    job: Uuid,
    ttl: std::time::Duration,
) -> Result<Option<Token>> {
    let statement = tx
        .prepare_cached(
            "select exists (
               select from tenantry.email_tokens
               where tenant_id = $1 and user_id = $2 and purpose = $3 and email = $4 and used_at is null
                 and job_id <> $5 and created_at > now() - make_interval(secs => $6)
             )",
        )
        .await?;
    let known: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
        [&tenant.0, &user.0, &purpose.as_str(), &email.as_str(), &job, &PAUSE];
    if tx.query_one(&statement, &known).await?.try_get(0)? {
        return Ok(None);
    }
    let statement = tx
        .prepare_cached(
            "delete from tenantry.email_tokens
             where tenant_id = $1 and user_id = $2 and purpose = $3 and used_at is null and job_id <> $4",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0, &purpose.as_str(), &job]).await?;
    let token = Token::generate(tenant)?;
    let statement = tx
        .prepare_cached(
            "insert into tenantry.email_tokens (tenant_id, hash, purpose, user_id, email, job_id, expires_at)
             values ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))",
        )
        .await?;
    let ttl = ttl.as_secs_f64();
    tx.execute(
        &statement,
        &[&tenant.0, &token.hash, &purpose.as_str(), &user.0, &email.as_str(), &job, &ttl],
    )
    .await?;
    Ok(Some(token))
}

/// Uses a token up. The user's row is locked first, as every change of a user does; of two that come at once, the
/// conditional update lets one find the token used. The address must still be the user's, or the one they want to have.
pub(crate) async fn use_up(
    tx: &Transaction<'_>,
    tenant: TenantId,
    hash: &[u8],
    purposes: &[Purpose],
) -> Result<(UserId, Purpose)> {
    let purposes: Vec<_> = purposes.iter().map(|purpose| purpose.as_str()).collect();
    let statement = tx
        .prepare_cached(
            "select u.id, t.purpose from tenantry.users u
               join tenantry.email_tokens t on t.tenant_id = u.tenant_id and t.user_id = u.id
                 and t.email = case t.purpose when 'change_email' then u.pending_email else u.email end
             where t.tenant_id = $1 and t.hash = $2 and t.purpose = any ($3) and u.deleted_at is null
               and exists (select from tenantry.tenants where id = u.tenant_id and deleted_at is null)
             for no key update of u",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash, &purposes]).await?.ok_or(Error::InvalidToken)?;
    let purpose = Purpose::named(row.try_get("purpose")?).ok_or(Error::InvalidToken)?;
    let statement = tx
        .prepare_cached(
            "update tenantry.email_tokens set used_at = now()
             where tenant_id = $1 and hash = $2 and used_at is null and expires_at > now()",
        )
        .await?;
    match tx.execute(&statement, &[&tenant.0, &hash]).await? {
        1 => Ok((UserId(row.try_get("id")?), purpose)),
        _ => Err(Error::InvalidToken),
    }
}

/// What everybody knows about the user of a token that would work; asked before a password is hashed, and uses nothing up.
pub(crate) async fn known_about(
    tx: &Transaction<'_>,
    tenant: TenantId,
    hash: &[u8],
    purpose: Purpose,
) -> Result<Vec<String>> {
    let statement = tx
        .prepare_cached(
            "select array[u.email, u.name, n.name, n.slug] as known
             from tenantry.email_tokens t join tenantry.users u on u.tenant_id = t.tenant_id and u.id = t.user_id
               join tenantry.tenants n on n.id = t.tenant_id and n.deleted_at is null
             where t.tenant_id = $1 and t.hash = $2 and t.purpose = $3 and t.used_at is null and t.expires_at > now()
               and u.deleted_at is null and u.is_active",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &hash, &purpose.as_str()]).await?;
    Ok(row.ok_or(Error::InvalidToken)?.try_get("known")?)
}

/// Voids the tokens of a user that were not used, of one purpose.
pub(crate) async fn void(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    purposes: &[Purpose],
) -> Result<()> {
    let purposes: Vec<_> = purposes.iter().map(|purpose| purpose.as_str()).collect();
    let statement = tx
        .prepare_cached(
            "delete from tenantry.email_tokens
             where tenant_id = $1 and user_id = $2 and purpose = any ($3) and used_at is null",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0, &purposes]).await?;
    Ok(())
}
