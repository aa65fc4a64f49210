//! What requests name: rows of a tenant, and what leads to them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::Utc;
use reqwest::StatusCode;
use serde_json::json;
use tenantry_accounts::{
    ImportId, TenantId,
    imports::{self, Step},
};
use tokio_postgres::Client;
use totp_rs::{Builder, Secret};
use uuid::Uuid;

use super::world::{Caller, PROJECT, Tenant};
use crate::app::{PASSWORD, TestApp, answer};

/// What a request names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Thing {
    Nothing,
    Tenant,
    User,
    DeletedUser,
    /// A user who has a second factor.
    UserWithFactor,
    UserInProject,
    UserWithMetadata,
    /// What only the metadata of one user has.
    MetadataValue,
    /// A user's address.
    Address,
    /// The address of a user who has a password.
    Account,
    Invitation,
    /// An import that has ended.
    Import,
    /// A session of the caller.
    Session,
    /// A job that waits.
    Job,
    DeadJob,
    ApiKey,
    Subscription,
    AccessToken,
    RefreshToken,
    ResetToken,
    VerificationToken,
    InvitationToken,
    /// What proves the second factor that the caller is setting up.
    ProvingCode,
    /// What stands for the second factor that the caller has.
    RecoveryCode,
}

impl Thing {
    /// One of the tenant, made by its administrator. What is made has the tenant's slug wherever there is a text.
    pub(super) async fn make(self, app: &TestApp, database: &Client, tenant: &Tenant, by: &Caller) -> String {
        let email = tenant.email(&format!("vera-{}", Uuid::now_v7().simple()));
        if self != Self::RecoveryCode {
            // The factor of another case would be asked for at the next sign-in.
            let sql = "delete from tenantry.second_factors
                       where tenant_id = $1 and user_id = $2 and confirmed_at is not null";
            database.execute(sql, &[&tenant.id, &tenant.admin]).await.unwrap();
        }
        match self {
            Self::Nothing => String::new(),
            Self::Tenant => tenant.id.to_string(),
            Self::User => tenant.create_user(app, by, &email, false).await.to_string(),
            Self::DeletedUser => {
                let user = tenant.create_user(app, by, &email, false).await;
                let request = app.http.delete(format!("{}/api/v1/users/{user}", app.url));
                assert!(answer(request.bearer_auth(&by.token)).await.0.is_success());
                user.to_string()
            }
            Self::UserWithFactor => {
                let user = tenant.create_user(app, by, &email, false).await;
                give_factor(database, tenant, user).await;
                user.to_string()
            }
            Self::UserInProject => {
                let user = tenant.create_user(app, by, &email, false).await;
                let sql =
                    "insert into tenantry.user_projects (tenant_id, user_id, project_id) values ($1, $2, $3)";
                database.execute(sql, &[&tenant.id, &user, &PROJECT]).await.unwrap();
                user.to_string()
            }
            Self::UserWithMetadata | Self::MetadataValue => {
                let user = tenant.create_user(app, by, &email, false).await;
                let value = format!("{}-{}", tenant.slug, Uuid::now_v7().simple());
                let sql = "insert into tenantry.user_metadata (tenant_id, user_id, public, version)
                           values ($1, $2, jsonb_build_object('number', $3::text), 1)";
                database.execute(sql, &[&tenant.id, &user, &value]).await.unwrap();
                if self == Self::MetadataValue { value } else { user.to_string() }
            }
            Self::ProvingCode => {
                let started = by.post(app, "/api/v1/auth/totp", &json!({"current_password": PASSWORD})).await;
                let secret = Secret::try_from_base32(started["data"]["secret"].as_str().unwrap()).unwrap();
                let phone = Builder::new().with_secret(secret).build().unwrap();
                phone.generate(Utc::now().timestamp().unsigned_abs()).to_string()
            }
            Self::RecoveryCode => give_factor(database, tenant, tenant.admin).await,
            Self::Address | Self::Account => {
                let user = tenant.create_user(app, by, &email, self == Self::Account).await;
                // As hot as it may be: in the process, in Redis, and by its address.
                let path = format!("/api/v1/users/lookup?email={email}");
                let request = app.http.get(format!("{}{path}", app.url)).bearer_auth(&by.token);
                assert_eq!(answer(request).await.1["data"]["id"], user.to_string());
                email
            }
            Self::Invitation => invite(app, by, &email).await,
            Self::Import => {
                let row = json!({"email": email, "name": tenant.slug}).to_string();
                let request =
                    app.http.post(format!("{}/api/v1/users/imports", app.url)).bearer_auth(&by.token);
                let request = request.header("Content-Type", "application/x-ndjson").body(row);
                let (status, imported) = answer(request).await;
                assert_eq!(status, StatusCode::ACCEPTED, "{imported}");
                let id: Uuid = imported["data"]["id"].as_str().unwrap().parse().unwrap();
                // No more than five may be under way.
                let step = imports::step(&app.state.app, TenantId(tenant.id), ImportId(id)).await.unwrap();
                assert!(matches!(step, Step::Ended(_)), "{step:?}");
                id.to_string()
            }
            Self::Session => {
                let session = Caller::sign_in(app, by.role, &tenant.slug, &tenant.email(by.role)).await;
                claim(&session.token, "sid")
            }
            Self::Job | Self::DeadJob => {
                let job = json!({
                    "kind": "verify_email", "payload": {"user_id": tenant.admin}, "run_at": "2099-01-01T00:00:00Z",
                });
                let pushed = by.post(app, "/api/v1/jobs", &job).await;
                let id = pushed["data"]["id"].as_str().unwrap().to_owned();
                if self == Self::DeadJob {
                    let sql = "update tenantry.jobs set state = 'dead', finished_at = now() where id = $1";
                    assert_eq!(database.execute(sql, &[&id.parse::<Uuid>().unwrap()]).await.unwrap(), 1);
                }
                id
            }
            Self::ApiKey => {
                let key =
                    json!({"name": format!("{} {}", tenant.slug, Uuid::now_v7()), "scopes": ["users:read"]});
                let made = by.post(app, "/api/v1/api-keys", &key).await;
                made["data"]["api_key"]["id"].as_str().unwrap().to_owned()
            }
            Self::Subscription => {
                // Whose customer pays for it; the portal makes that if there is none.
                by.post(
                    app,
                    "/api/v1/billing/portal-sessions",
                    &json!({"return_url": "http://tenantry.test/"}),
                )
                .await;
                let (id, text) = (Uuid::now_v7(), format!("{} {}", tenant.slug, Uuid::now_v7()));
                let sql = "insert into tenantry.subscriptions (tenant_id, id, stripe_id, customer_id, status, created_at,
                             ended_at, cancel_at_period_end, payment_paused, raw)
                           select $1, $2, $3, customer_id, 'canceled', now(), now(), false, false, '{}'
                           from tenantry.billing_customers where tenant_id = $1";
                // One that has ended is in the way of no checkout.
                assert_eq!(database.execute(sql, &[&tenant.id, &id, &text]).await.unwrap(), 1);
                id.to_string()
            }
            Self::AccessToken => by.token.clone(),
            Self::RefreshToken => {
                let body =
                    json!({"tenant": tenant.slug, "email": tenant.email(by.role), "password": PASSWORD});
                let login = by.post(app, "/api/v1/auth/login", &body).await;
                login["data"]["refresh_token"].as_str().unwrap().to_owned()
            }
            Self::ResetToken | Self::VerificationToken => {
                let user = tenant.create_user(app, by, &email, false).await;
                let (text, bytes) = token(tenant.id, None);
                let purpose = if self == Self::ResetToken { "reset_password" } else { "verify_email" };
                let sql = "insert into tenantry.email_tokens (tenant_id, hash, purpose, user_id, email, job_id, expires_at)
                           values ($1, sha256($2), $3, $4, $5, gen_random_uuid(), now() + interval '1 hour')";
                database.execute(sql, &[&tenant.id, &bytes, &purpose, &user, &email]).await.unwrap();
                text
            }
            Self::InvitationToken => {
                let invitation: Uuid = invite(app, by, &email).await.parse().unwrap();
                let (text, bytes) = token(tenant.id, None);
                let sql =
                    "update tenantry.invitations set hash = sha256($3) where tenant_id = $1 and id = $2";
                assert_eq!(database.execute(sql, &[&tenant.id, &invitation, &bytes]).await.unwrap(), 1);
                text
            }
        }
    }

    /// One that nobody has, as somebody of `ours` would name it.
    pub(super) fn unknown(self, ours: &Tenant) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Address | Self::Account => format!("nobody-{}@example.org", Uuid::now_v7().simple()),
            Self::ProvingCode => format!("{:06}", Uuid::new_v4().as_u128() % 1_000_000),
            Self::RecoveryCode => recovery_code(),
            _ if self.is_token() => token(ours.id, None).0,
            _ => Uuid::now_v7().to_string(),
        }
    }

    /// What is another tenant's, as somebody of `ours` may try to name it: the tenant that a token has in front is a word
    /// of whoever sends it.
    pub(super) fn claimed(self, ours: &Tenant, theirs: &str) -> String {
        if !self.is_token() {
            return theirs.to_owned();
        }
        let bytes = URL_SAFE_NO_PAD.decode(theirs).unwrap();
        token(ours.id, Some(&bytes[16..])).0
    }

    fn is_token(self) -> bool {
        matches!(
            self,
            Self::RefreshToken | Self::ResetToken | Self::VerificationToken | Self::InvitationToken
        )
    }
}

async fn invite(app: &TestApp, by: &Caller, email: &str) -> String {
    let invited = by.post(app, "/api/v1/invitations", &json!({"emails": [email]})).await;
    invited["data"]["invitations"][0]["id"].as_str().unwrap().to_owned()
}

/// Gives a user a second factor, unless there is one, and a recovery code more. Its secret opens nothing.
async fn give_factor(database: &Client, tenant: &Tenant, user: Uuid) -> String {
    let factor = "insert into tenantry.second_factors (tenant_id, user_id, key_id, secret, confirmed_at)
                  values ($1, $2, 'none', decode(repeat('00', 48), 'hex'), now())
                  on conflict (tenant_id, user_id) do update set confirmed_at = now()";
    database.execute(factor, &[&tenant.id, &user]).await.unwrap();
    let code = recovery_code();
    let sql = "insert into tenantry.recovery_codes (tenant_id, user_id, hash) values ($1, $2, sha256($3))";
    database.execute(sql, &[&tenant.id, &user, &code.as_bytes()]).await.unwrap();
    code
}

fn recovery_code() -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let chance = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    chance[..28].iter().map(|byte| char::from(letters[usize::from(byte & 31)])).collect()
}

/// An opaque token: the tenant's id, then what only its owner has.
fn token(tenant: Uuid, secret: Option<&[u8]>) -> (String, Vec<u8>) {
    let chance = [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat();
    let bytes = [tenant.as_bytes().as_slice(), secret.unwrap_or(&chance)].concat();
    (URL_SAFE_NO_PAD.encode(&bytes), bytes)
}

/// What an access token says.
fn claim(token: &str, name: &str) -> String {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    claims[name].as_str().unwrap().to_owned()
}
