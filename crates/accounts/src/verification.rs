//! Showing that an address is one's own: the one a user has, or the one they want to have.

use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::{Job, VerifyEmail};
use uuid::Uuid;

use crate::{
    App, Error, Letter, Network, Result, TenantId, UserId,
    audit::{self, By},
    db::{self, OnConstraint},
    fields::{Email, Secret},
    mail_tokens::{self, Purpose},
    recovery, to_the_end, tokens,
    users::{self, COLUMNS, User},
};

/// Sends the verification mail once more, to whoever has the address and has not shown yet that it is theirs. What is
/// answered, and what is done until then, is the same for addresses that nobody has.
///
/// # Errors
/// When the database cannot be asked.
pub async fn resend(app: &App, tenant: &str, email: &Email) -> Result<()> {
    recovery::request_mail(app, VerifyEmail::KIND, tenant, email).await
}

/// What the mail is made of that asks a user to verify their address, or the one they want to have. None when there is
/// nothing to verify any more, or a mail went out a moment ago.
///
/// # Errors
/// When the database cannot be asked.
pub async fn issue(app: &App, tenant: TenantId, user: UserId, job: Uuid) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select coalesce(u.pending_email, u.email) as email, u.pending_email is not null as pending,
               u.name, t.name as tenant_name
             from tenantry.users u join tenantry.tenants t on t.id = u.tenant_id
             where u.tenant_id = $1 and u.id = $2 and u.deleted_at is null and t.deleted_at is null
               and (u.pending_email is not null or not u.email_verified)
             for no key update of u",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.0]).await? else { return Ok(None) };
    let to: Email = row.try_get::<_, String>("email")?.into();
    let purpose = if row.try_get("pending")? { Purpose::ChangeEmail } else { Purpose::VerifyEmail };
    let ttl = app.settings.verification_ttl;
    let Some(token) = mail_tokens::issue(&tx, tenant, (user, &to), purpose, job, ttl).await? else {
        return Ok(None);
    };
    let (name, tenant_name) = (row.try_get("name")?, row.try_get("tenant_name")?);
    tx.commit().await?;
    Ok(Some(Letter { to, name, tenant_name, token: token.text }))
}

/// Takes a token back: the address is verified, and is the user's from now on if it was the one they wanted to have.
///
/// # Errors
/// [`Error::InvalidToken`] when it is unknown, used, expired, void, or of an address the user no longer has or wants;
/// [`Error::EmailTaken`] when another has got the address meanwhile.
pub async fn redeem(app: &App, token: &Secret, from: Option<Network>) -> Result<User> {
    let (tenant, hash) = tokens::parse(token)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, tenant).await?;
        let (user, purpose) =
            mail_tokens::use_up(&tx, tenant, &hash, &[Purpose::VerifyEmail, Purpose::ChangeEmail]).await?;
        let before = users::read(&tx, tenant, user).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set
                   email = case when $3 then pending_email else email end,
                   pending_email = case when $3 then null else pending_email end,
                   email_verified = true, version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2 returning {COLUMNS}"
            ))
            .await?;
        let changes = purpose == Purpose::ChangeEmail;
        let row = tx
            .query_one(&statement, &[&tenant.0, &user.0, &changes])
            .await
            .on_constraint("users_tenant_email_key", Error::EmailTaken)?;
        let user = User::try_from(&row)?;
        let action = if changes { "user.email_changed" } else { "user.email_verified" };
        audit::record(&tx, tenant, By::user(user.id, from), action, user.id.0, json!({})).await?;
        let moved = [&before.email, &user.email];
        if changes {
            // A link that was mailed to the former address leads nowhere.
            mail_tokens::void(&tx, tenant, user.id, &[Purpose::VerifyEmail, Purpose::ResetPassword]).await?;
        }
        users::commit(&app, tx, &user, State::Live, if changes { &moved } else { &[] }).await?;
        Ok(user)
    })
    .await
}
