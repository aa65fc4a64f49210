//! A new password for those who have forgotten theirs, or have none yet.

use serde_json::json;
use tenantry_cache::State;
use tenantry_jobs::{Job, Kind, ResetPasswordEmail};
use uuid::Uuid;

use crate::{
    App, Error, Letter, Network, Result, TenantId, UserId,
    audit::{self, By},
    db,
    fields::{Email, NewPassword, Secret},
    mail_tokens::{self, Purpose},
    passwords,
    revocations::{self, Which},
    to_the_end, tokens,
    users::{self, COLUMNS, User},
};

/// Sends whoever has the address in the tenant (id or slug) a link to choose another password. What is answered, and what
/// is done until then, is the same for addresses that nobody has.
///
/// # Errors
/// When the database cannot be asked.
pub async fn forgot(app: &App, tenant: &str, email: &Email) -> Result<()> {
    request_mail(app, ResetPasswordEmail::KIND, tenant, email).await
}

/// One statement, known or not.
pub(crate) async fn request_mail(app: &App, kind: Kind, tenant: &str, email: &Email) -> Result<()> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.request_mail");
    let sql = "select tenantry.request_mail($1, $2, $3) from set_config('tenantry.traceparent', $4, true)";
    let statement = client.prepare_cached(sql).await?;
    client.execute(&statement, &[&kind.as_str(), &tenant, &email.as_str(), &db::traceparent()]).await?;
    app.db.nudge();
    Ok(())
}

/// What the mail is made of. None when nobody is to have it, or one went out a moment ago.
///
/// # Errors
/// When the database cannot be asked.
pub async fn issue(app: &App, tenant: TenantId, user: UserId, job: Uuid) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select u.email, u.name, t.name as tenant_name
             from tenantry.users u join tenantry.tenants t on t.id = u.tenant_id
             where u.tenant_id = $1 and u.id = $2 and u.is_active and u.deleted_at is null and t.is_active
               and t.deleted_at is null
             for no key update of u",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &user.0]).await? else { return Ok(None) };
    let to: Email = row.try_get::<_, String>("email")?.into();
    let ttl = app.settings.reset_ttl;
    let issued = mail_tokens::issue(&tx, tenant, (user, &to), Purpose::ResetPassword, job, ttl).await?;
    let Some(token) = issued else { return Ok(None) };
    let (name, tenant_name) = (row.try_get("name")?, row.try_get("tenant_name")?);
    tx.commit().await?;
    Ok(Some(Letter { to, name, tenant_name, token: token.text }))
}

/// Takes the token of the mail back and gives the user another password. The address is thereby shown to be theirs;
/// every session ends, and every other link to choose a password is void.
///
/// # Errors
/// [`Error::InvalidToken`], [`Error::PersonalPassword`], [`Error::Busy`].
pub async fn reset(app: &App, token: Secret, password: NewPassword, from: Option<Network>) -> Result<User> {
    let (tenant, hash) = tokens::parse(&token)?;
    // Looked at first, so that nobody makes us hash without a token.
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let known = mail_tokens::known_about(&tx, tenant, &hash, Purpose::ResetPassword).await?;
    tx.commit().await?;
    drop(client);
    passwords::refuse_personal(&password, &known)?;
    let password_hash = app.passwords.hash(password).await?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, tenant).await?;
        let (user, _) = mail_tokens::use_up(&tx, tenant, &hash, &[Purpose::ResetPassword]).await?;
        passwords::store(&tx, tenant, user, &password_hash).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.users set email_verified = true, version = version + 1, updated_at = now()
                 where tenant_id = $1 and id = $2 and is_active returning {COLUMNS}"
            ))
            .await?;
        let row = tx.query_opt(&statement, &[&tenant.0, &user.0]).await?.ok_or(Error::InvalidToken)?;
        let user = User::try_from(&row)?;
        mail_tokens::void(&tx, tenant, user.id, &[Purpose::VerifyEmail, Purpose::ResetPassword]).await?;
        let revoked = revocations::end_sessions(&tx, tenant, user.id, Which::All).await?;
        audit::record(&tx, tenant, By::user(user.id, from), "user.password_reset", user.id.0, json!({}))
            .await?;
        users::commit(&app, tx, &user, State::Live, &[]).await?;
        app.revocations.add(&revoked);
        Ok(user)
    })
    .await
}
