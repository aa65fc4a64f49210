//! Access tokens: JWTs signed with Ed25519 (RFC 8037), short-lived, verified without any I/O.

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;

use std::{
    sync::{Arc, RwLock},
    time::{Duration, Instant},
};

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use tenantry_accounts::{
    Actor, Network, SessionId, SignedInUser, TenantId, UserId, Who,
    revocations::Basis,
    sessions::{Method, SignedIn},
    tenants::Plan,
    users::Role,
};

use crate::{
    clock,
    key_files::{KeyError, KeyFolder},
    keys::{KeyPair, Keys},
};

/// The type of access tokens in their headers.
const TYPE: &str = "at+jwt";
/// How many verified tokens a process remembers.
const REMEMBERED: usize = 50_000;

/// What an access token says (RFC 7519; our own names are short because tokens travel with each request).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    iss: String,
    /// When the token was made, in Unix seconds.
    pub iat: i64,
    /// When it ends, in Unix seconds.
    pub exp: i64,
    /// The user.
    pub sub: UserId,
    /// The user's tenant.
    pub tid: TenantId,
    /// The tenant's slug.
    pub slug: String,
    /// The session.
    pub sid: SessionId,
    /// What the user may do.
    pub role: Role,
    /// `users.auth_version` when the token was made.
    pub uv: i64,
    /// `tenants.auth_version` when the token was made.
    pub tv: i64,
    /// Whether the address was verified when the token was made.
    pub email_verified: bool,
    /// The tenant's plan when the token was made, for its quota of requests; tokens that others made before may say nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Plan>,
    /// How the user signed in (RFC 8176).
    #[serde(default)]
    pub amr: Vec<Method>,
    /// What is missing of the sign-in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfa: Option<Missing>,
}

/// What is missing of a sign-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Missing {
    /// The second factor that the tenant requires: all one may do is set it up.
    Required,
}

impl Claims {
    /// Who asks, in the tenant of the token.
    pub(crate) fn actor(&self, from: Option<Network>) -> Actor {
        let user = SignedInUser { id: self.sub, version: self.uv, session: self.sid };
        Actor { tenant: self.tid, home: self.tid, who: Who::User(user), role: self.role, from }
    }

    /// Whether all that the token is good for is to set up a second factor.
    pub(crate) fn setup_only(&self) -> bool {
        self.mfa.is_some()
    }

    /// What must not have been revoked.
    pub(crate) fn basis(&self) -> Basis {
        Basis {
            tenant: self.tid,
            user: self.sub,
            session: self.sid,
            user_version: self.uv,
            tenant_version: self.tv,
        }
    }
}

/// Makes and verifies access tokens with the keys of a folder.
pub(crate) struct AccessTokens {
    folder: KeyFolder<KeyPair>,
    issuer: String,
    ttl: Duration,
    keys: RwLock<Arc<Keys>>,
    verified: quick_cache::sync::Cache<Box<str>, Arc<Claims>>,
}

impl AccessTokens {
    /// Reads the keys of `folder`, which has some.
    ///
    /// # Errors
    /// When the folder cannot be read, has no key, or a file of it is no key.
    pub(crate) fn open(folder: KeyFolder<KeyPair>, issuer: String, ttl: Duration) -> Result<Self, KeyError> {
        let keys = Keys::from(folder.read(Instant::now())?);
        let (keys, verified) = (RwLock::new(Arc::new(keys)), quick_cache::sync::Cache::new(REMEMBERED));
        Ok(Self { folder, issuer, ttl, keys, verified })
    }

    /// How often to [`reload`](Self::reload).
    pub(crate) fn reload_every(&self) -> Duration {
        self.folder.read_every()
    }

    /// Reads the folder again: keys may come and go while the service runs. A folder that cannot be read changes nothing.
    pub(crate) fn reload(&self) {
        match self.folder.read(Instant::now()) {
            Ok(read) => {
                let keys = Keys::from(read);
                let gone = self.keys().verifying.keys().any(|id| !keys.verifying.contains_key(id));
                if let Ok(mut current) = self.keys.write() {
                    *current = Arc::new(keys);
                }
                if gone {
                    self.verified.clear();
                }
            }
            Err(error) => tracing::warn!("{error}; the known keys stay in use"),
        }
    }

    fn keys(&self) -> Arc<Keys> {
        // A poisoned lock still holds whole keys: they are swapped in one step.
        self.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// How long a token lives.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// A token for a session that has just begun.
    ///
    /// # Errors
    /// When signing fails, which a key that was read does not.
    pub(crate) fn issue(&self, session: &SignedIn) -> Result<String, jsonwebtoken::errors::Error> {
        let now = clock::unix();
        let claims = Claims {
            iss: if session.setup_only { self.setup_issuer() } else { self.issuer.clone() },
            iat: now,
            exp: now + self.ttl.as_secs() as i64,
            sub: session.user.id,
            tid: session.user.tenant_id,
            slug: session.tenant_slug.clone(),
            sid: session.session,
            role: session.user.role,
            uv: session.user_version,
            tv: session.tenant_version,
            email_verified: session.user.email_verified,
            plan: Some(session.tenant_plan),
            amr: session.amr.clone(),
            mfa: session.setup_only.then_some(Missing::Required),
        };
        let keys = self.keys();
        let (id, key) = &keys.signing;
        let header =
            Header { kid: Some(id.clone()), typ: Some(TYPE.into()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, key)
    }

    /// What `token` says, if one of the keys signed it and it has not ended. A signature is verified once.
    pub(crate) fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.verified.get(token) {
            return (claims.exp > clock::unix()).then_some(claims);
        }
        let (keys, header) = (self.keys(), jsonwebtoken::decode_header(token).ok()?);
        // Whatever else the keys may sign one day is no access token (RFC 9068).
        if header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let key = keys.verifying.get(&header.kid?)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[&self.issuer, &self.setup_issuer()]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = Arc::new(jsonwebtoken::decode::<Claims>(token, key, &validation).ok()?.claims);
        self.verified.insert(token.into(), claims.clone());
        if !Arc::ptr_eq(&keys, &self.keys()) {
            // Its key may be the one that went meanwhile, and this came after what was remembered was cleared.
            self.verified.remove(token);
        }
        Some(claims)
    }

    /// The issuer of tokens that are good for setting up a second factor only. Others verify tokens by the published keys
    /// and know nothing of that: they look at the issuer, and refuse these.
    fn setup_issuer(&self) -> String {
        format!("{}/second-factor-setup", self.issuer)
    }

    /// The public keys (RFC 7517), for those who verify tokens themselves.
    pub(crate) fn jwks(&self) -> serde_json::Value {
        self.keys().jwks.clone()
    }
}
