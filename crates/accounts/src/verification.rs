//! Showing that an address is one's own: a token goes there by mail and comes back once.

use deadpool_postgres::Transaction;
use serde_json::json;
use tenantry_cache::State;
use uuid::Uuid;

use crate::{
    App, Error, Result, TenantId, UserId, audit, db,
    fields::{Email, Secret},
    to_the_end,
    tokens::{self, Token},
    users::{self, COLUMNS, User},
};

/// What the verification mail is made of.
pub struct Letter {
    /// Where it goes.
    pub to: Email,
    /// Whom it greets.
    pub name: String,
    /// The tenant's name.
    pub tenant_name: String,
    /// What its link carries.
    pub token: String,
}

/// Makes the token for one mail, which job `job` sends. None when there is nothing to verify any more.
///
/// The token is committed before the mail is sent, or a crash in between would send a dead link. A job that runs
/// again makes another token beside the first, whose mail may have gone out; a newer job voids both.
pub async fn issue(app: &App, tenant: TenantId, user: UserId, job: Uuid) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select u.email, u.name, t.name as tenant_name
             from tenantry.users u join tenantry.tenants t on t.id = u.tenant_id
             where u.tenant_id = $1 and u.id = $2 and u.deleted_at is null and not u.email_verified
             for no key update of u",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.0]).await? else { return Ok(None) };
    let email: Email = row.try_get::<_, String>("email")?.into();
    let token = Token::generate(tenant)?;
    let ttl = app.settings.verification_ttl.as_secs_f64();
    tx.execute(
        "delete from tenantry.email_tokens
         where tenant_id = $1 and user_id = $2 and purpose = 'verify_email' and used_at is null and job_id <> $3",
        &[&tenant.0, &user.0, &job],
    )
    .await?;
    tx.execute(
        "insert into tenantry.email_tokens (tenant_id, hash, purpose, user_id, email, job_id, expires_at)
         values ($1, $2, 'verify_email', $3, $4, $5, now() + make_interval(secs => $6))",
        &[&tenant.0, &token.hash, &user.0, &email.as_str(), &job, &ttl],
    )
    .await?;
    let letter = Letter {
        to: email,
        name: row.try_get("name")?,
        tenant_name: row.try_get("tenant_name")?,
        token: token.text,
    };
    tx.commit().await?;
    Ok(Some(letter))
}

/// Takes a token back and marks the address as verified.
///
/// # Errors
/// [`Error::InvalidToken`] when it is unknown, used, expired, void, or of an address the user no longer has.
pub async fn redeem(app: &App, token: &Secret) -> Result<User> {
    let (tenant, hash) = tokens::parse(token)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, tenant).await?;
        let user = use_up(&tx, tenant, &hash).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set email_verified = true, version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2 returning {COLUMNS}"
            ))
            .await?;
        let user = User::try_from(&tx.query_one(&statement, &[&tenant.0, &user.0]).await?)?;
        audit::record(&tx, tenant, Some(user.id), "user.email_verified", user.id.0, json!({})).await?;
        users::commit(&app, tx, &user, State::Live, &[]).await?;
        Ok(user)
    })
    .await
}

/// Uses the token up. The user's row is locked first, as every change of a user does; of two that come at once, the
/// conditional update lets one find the token used.
async fn use_up(tx: &Transaction<'_>, tenant: TenantId, hash: &[u8]) -> Result<UserId> {
    let statement = tx
        .prepare_cached(
            "select u.id from tenantry.users u
               join tenantry.email_tokens t on t.tenant_id = u.tenant_id and t.user_id = u.id and t.email = u.email
             where t.tenant_id = $1 and t.hash = $2 and t.purpose = 'verify_email' and u.deleted_at is null
             for no key update of u",
        )
        .await?;
    let user: Uuid =
        tx.query_opt(&statement, &[&tenant.0, &hash]).await?.ok_or(Error::InvalidToken)?.try_get("id")?;
    let statement = tx
        .prepare_cached(
            "update tenantry.email_tokens set used_at = now()
             where tenant_id = $1 and hash = $2 and used_at is null and expires_at > now()",
        )
        .await?;
    match tx.execute(&statement, &[&tenant.0, &hash]).await? {
        1 => Ok(UserId(user)),
        _ => Err(Error::InvalidToken),
    }
}
