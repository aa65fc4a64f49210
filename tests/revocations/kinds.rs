//! The ways in which a token is revoked, each through the front door.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use totp_rs::{Builder, Secret};
use uuid::Uuid;

use crate::{
    Result,
    cluster::{Cluster, PASSWORD, Person},
};

const NEW_PASSWORD: &str = "Better-Horse-2";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Logout,
    LogoutAll,
    SessionDeleted,
    PasswordChanged,
    PasswordReset,
    RoleChanged,
    Deactivated,
    Deleted,
    SecondFactorReset,
    TenantSuspended,
    TenantClosed,
    ApiKeyRevoked,
}

impl Kind {
    pub(crate) const ALL: [Self; 12] = [
        Self::Logout,
        Self::LogoutAll,
        Self::SessionDeleted,
        Self::PasswordChanged,
        Self::PasswordReset,
        Self::RoleChanged,
        Self::Deactivated,
        Self::Deleted,
        Self::SecondFactorReset,
        Self::TenantSuspended,
        Self::TenantClosed,
        Self::ApiKeyRevoked,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Logout => "sign out",
            Self::LogoutAll => "sign out everywhere",
            Self::SessionDeleted => "session ended by another",
            Self::PasswordChanged => "password changed",
            Self::PasswordReset => "password reset",
            Self::RoleChanged => "role changed",
            Self::Deactivated => "user deactivated",
            Self::Deleted => "user deleted",
            Self::SecondFactorReset => "second factor reset",
            Self::TenantSuspended => "tenant suspended",
            Self::TenantClosed => "tenant closed",
            Self::ApiKeyRevoked => "API key revoked",
        }
    }
}

/// A credential that is valid yet, and the request that ends it.
pub(crate) struct Victim {
    pub(crate) kind: Kind,
    /// What is presented all the time.
    pub(crate) bearer: String,
    /// A look-up that is answered from memory.
    pub(crate) look_up: String,
    revoke: Request,
    /// Afterwards, for the next one.
    restore: Option<Request>,
}

struct Request {
    method: &'static str,
    path: String,
    token: String,
    body: String,
    /// The version that it is about; empty: any.
    if_match: String,
    /// The answer once it is done.
    done: u16,
    /// The answer to a second one, when nobody knows what became of the first.
    done_already: u16,
}

impl Victim {
    /// Signs somebody new in.
    pub(crate) async fn new(cluster: &Cluster, node: usize, kind: Kind) -> Result<Self> {
        let of_tenant = matches!(kind, Kind::TenantSuspended | Kind::TenantClosed);
        let person = if of_tenant { cluster.person_to_suspend()? } else { cluster.person()? };
        let (bearer, revoke) = if kind == Kind::ApiKeyRevoked {
            api_key(cluster, node).await?
        } else {
            let bearer = cluster.sign_in(node, &person).await?;
            let revoke = request(cluster, node, kind, &person, &bearer).await?;
            (bearer, revoke)
        };
        let undone_by = match kind {
            Kind::TenantSuspended => {
                Some(("PATCH", revoke.path.clone(), json!({"is_active": true}).to_string()))
            }
            Kind::TenantClosed => Some(("POST", format!("{}/reopen", revoke.path), String::new())),
            _ => None,
        };
        let restore = undone_by.map(|(method, path, body)| Request {
            method,
            path,
            token: cluster.operator.clone(),
            body,
            if_match: String::new(),
            done: 200,
            done_already: 200,
        });
        Ok(Self { kind, bearer, look_up: person.tenant.look_up.clone(), revoke, restore })
    }

    /// Returns once it is acknowledged, and whether the first request was; the others go out because nobody knows what
    /// became of it.
    pub(crate) async fn revoke(&self, cluster: &Cluster, node: usize) -> Result<bool> {
        self.revoke.carry_out(cluster, node).await
    }

    pub(crate) async fn restore(&self, cluster: &Cluster, node: usize) -> Result<()> {
        match &self.restore {
            Some(request) => request.carry_out(cluster, node).await.map(drop),
            None => Ok(()),
        }
    }
}

impl Request {
    async fn carry_out(&self, cluster: &Cluster, node: usize) -> Result<bool> {
        let mut first = true;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let Self { method, path, token, body, if_match, .. } = self;
            let answer = cluster.ask_if(node, method, path, token, body, if_match).await;
            match &answer {
                Ok(answer) if answer.status == self.done => return Ok(first),
                Ok(answer) if !first && answer.status == self.done_already => return Ok(false),
                Ok(answer) if answer.status != 503 && answer.status != 500 => {
                    return Err(format!(
                        "{} {}: {} {:?}",
                        self.method,
                        self.path,
                        answer.status,
                        answer.json()
                    )
                    .into());
                }
                _ if tokio::time::Instant::now() > deadline => {
                    return Err(format!("{} {}: {answer:?}", self.method, self.path).into());
                }
                _ => first = false,
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// A key of the administrator's tenant, and the request that ends it.
async fn api_key(cluster: &Cluster, node: usize) -> Result<(String, Request)> {
    let body = json!({"name": Uuid::now_v7(), "scopes": ["users:read"], "requests_per_minute": 1_000_000});
    let made =
        cluster.ask(node, "POST", "/api/v1/api-keys", &cluster.admin, &body.to_string()).await?.json()?;
    let text = |pointer: &str| {
        Ok::<_, String>(made.pointer(pointer).and_then(Value::as_str).ok_or("no key")?.to_owned())
    };
    let request = Request {
        method: "DELETE",
        path: format!("/api/v1/api-keys/{}", text("/data/api_key/id")?),
        token: cluster.admin.clone(),
        body: String::new(),
        if_match: String::new(),
        done: 204,
        done_already: 404,
    };
    Ok((text("/data/key")?, request))
}

async fn request(
    cluster: &Cluster,
    node: usize,
    kind: Kind,
    person: &Person<'_>,
    bearer: &str,
) -> Result<Request> {
    let user = format!("/api/v1/users/{}", person.id);
    let admin = cluster.admin.clone();
    let own = bearer.to_owned();
    let auth = |what: &str| format!("/api/v1/auth/{what}");
    let mut if_match = String::new();
    let (method, path, token, body, done, done_already) = match kind {
        Kind::Logout => ("POST", auth("logout"), own, json!({}), 204, 401),
        Kind::LogoutAll => ("POST", auth("logout-all"), own, Value::Null, 204, 401),
        Kind::SessionDeleted => {
            let another = cluster.sign_in(node, person).await?;
            ("DELETE", auth(&format!("sessions/{}", session(bearer)?)), another, Value::Null, 204, 404)
        }
        Kind::PasswordChanged => {
            let another = cluster.sign_in(node, person).await?;
            let body = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
            ("POST", auth("change-password"), another, body, 204, 422)
        }
        Kind::PasswordReset => {
            let body = json!({"token": mailed(cluster, person).await?, "password": NEW_PASSWORD});
            ("POST", auth("reset-password"), String::new(), body, 204, 422)
        }
        Kind::RoleChanged => ("PATCH", user, admin, json!({"role": "admin"}), 200, 200),
        Kind::Deactivated => ("PATCH", user, admin, json!({"is_active": false}), 200, 200),
        Kind::Deleted => ("DELETE", user, admin, Value::Null, 204, 404),
        // See `api_key`.
        Kind::ApiKeyRevoked => return Err("an API key is nobody's session".into()),
        Kind::SecondFactorReset => {
            enrol(cluster, node, bearer).await?;
            ("DELETE", format!("{user}/totp"), admin, Value::Null, 204, 404)
        }
        Kind::TenantSuspended => {
            let path = format!("/api/v1/tenants/{}", person.tenant.id);
            ("PATCH", path, cluster.operator.clone(), json!({"is_active": false}), 200, 200)
        }
        Kind::TenantClosed => {
            let path = format!("/api/v1/tenants/{}", person.tenant.id);
            let tenant = cluster.ask(node, "GET", &path, &cluster.operator, "").await?.json()?;
            if_match = format!("\"{}\"", tenant["data"]["version"]);
            ("DELETE", path, cluster.operator.clone(), Value::Null, 204, 404)
        }
    };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Ok(Request { method, path, token, body, if_match, done, done_already })
}

/// Sets a second factor up for whoever has this token, which stays as good as it was.
async fn enrol(cluster: &Cluster, node: usize, bearer: &str) -> Result<()> {
    let body = json!({"current_password": PASSWORD}).to_string();
    let started = cluster.ask(node, "POST", "/api/v1/auth/totp", bearer, &body).await?.json()?;
    let secret = Secret::try_from_base32(started["data"]["secret"].as_str().ok_or("no secret")?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let code = Builder::new().with_secret(secret).build()?.generate(now).to_string();
    let body = json!({"code": code}).to_string();
    let confirmed = cluster.ask(node, "POST", "/api/v1/auth/totp/confirm", bearer, &body).await?;
    if confirmed.status == 200 { Ok(()) } else { Err("a second factor was not confirmed".into()) }
}

/// The session of an access token.
fn session(token: &str) -> Result<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).ok_or("no JWT")?)?;
    let claims: Value = serde_json::from_slice(&claims)?;
    Ok(claims["sid"].as_str().ok_or("no session")?.to_owned())
}

/// The token of a mail by which somebody chooses another password, as the worker would have made it.
async fn mailed(cluster: &Cluster, person: &Person<'_>) -> Result<String> {
    let mut bytes = [0; 48];
    bytes[..16].copy_from_slice(person.tenant.id.as_bytes());
    rand::Rng::fill(&mut rand::rng(), &mut bytes[16..]);
    let sql =
        "insert into tenantry.email_tokens (tenant_id, hash, purpose, user_id, email, job_id, expires_at)
               values ($1, $2, 'reset_password', $3, $4, $5, now() + interval '1 h')";
    let hash = Sha256::digest(bytes).to_vec();
    cluster
        .servers
        .database()
        .await?
        .execute(sql, &[&person.tenant.id, &hash, &person.id, &person.email, &Uuid::now_v7()])
        .await?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
