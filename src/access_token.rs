//! Access tokens: JWTs signed with Ed25519 (RFC 8037), short-lived, verified without any I/O.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, RwLock},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tenantry_accounts::{
    Actor, Network, SessionId, SignedInUser, TenantId, UserId, Who,
    revocations::Basis,
    sessions::{Method, SignedIn},
    users::Role,
};

use crate::key_files::{KeyError, KeyFolder};

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
    folder: KeyFolder,
    issuer: String,
    ttl: Duration,
    keys: RwLock<Arc<Keys>>,
    verified: quick_cache::sync::Cache<Box<str>, Arc<Claims>>,
}

struct Keys {
    signing: (String, EncodingKey),
    verifying: HashMap<String, DecodingKey>,
    jwks: serde_json::Value,
}

impl AccessTokens {
    /// Reads the keys of `folder`, which has some.
    ///
    /// # Errors
    /// When the folder cannot be read, has no key, or a file of it is no key.
    pub(crate) fn open(folder: &Path, issuer: String, ttl: Duration) -> Result<Self, KeyError> {
        let folder = self::folder(folder);
        let keys = read(&folder)?.ok_or_else(|| folder.none())?;
        let (keys, verified) = (RwLock::new(Arc::new(keys)), quick_cache::sync::Cache::new(REMEMBERED));
        Ok(Self { folder, issuer, ttl, keys, verified })
    }

    /// Reads the folder again: keys may come and go while the service runs. A folder that cannot be read changes nothing.
    pub(crate) fn reload(&self) {
        match read(&self.folder) {
            Ok(Some(keys)) => {
                let gone = self.keys().verifying.keys().any(|id| !keys.verifying.contains_key(id));
                if let Ok(mut current) = self.keys.write() {
                    *current = Arc::new(keys);
                }
                if gone {
                    self.verified.clear();
                }
            }
            Ok(None) => tracing::warn!("JWT_KEYS_DIR holds no key any more; the known ones stay in use"),
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
        let now = chrono::Utc::now().timestamp();
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
            amr: session.amr.clone(),
            mfa: session.setup_only.then_some(Missing::Required),
        };
        let keys = self.keys();
        let (id, key) = &keys.signing;
        let header =
            Header { kid: Some(id.clone()), typ: Some("at+jwt".into()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, key)
    }

    /// What `token` says, if one of the keys signed it and it has not ended. A signature is verified once.
    pub(crate) fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.verified.get(token) {
            return (claims.exp > chrono::Utc::now().timestamp()).then_some(claims);
        }
        let keys = self.keys();
        let key = keys.verifying.get(&jsonwebtoken::decode_header(token).ok()?.kid?)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[&self.issuer, &self.setup_issuer()]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = Arc::new(jsonwebtoken::decode::<Claims>(token, key, &validation).ok()?.claims);
        self.verified.insert(token.into(), claims.clone());
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

/// Where the keys are.
fn folder(path: &Path) -> KeyFolder {
    KeyFolder { setting: "JWT_KEYS_DIR", path: path.into(), extension: "pem" }
}

/// The keys of `folder`, or none when it has none. The newest that has rested signs; all verify.
fn read(folder: &KeyFolder) -> Result<Option<Keys>, KeyError> {
    let keys = folder.read("an Ed25519 private key in PEM (PKCS #8)", KeyPair::parse)?;
    Ok(keys.map(|keys| Keys {
        signing: (keys.writing.id, keys.writing.signing),
        jwks: json!({"keys": keys.all.iter().map(KeyPair::public).collect::<Vec<_>>()}),
        verifying: keys.all.into_iter().map(|key| (key.id, key.verifying)).collect(),
    }))
}

#[derive(Clone)]
struct KeyPair {
    /// After its public half.
    id: String,
    x: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl KeyPair {
    fn parse(pem: &str) -> Option<Self> {
        let key = SigningKey::from_pkcs8_pem(pem).ok()?;
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(&x)[..12]);
        let signing = EncodingKey::from_ed_pem(pem.as_bytes()).ok()?;
        let verifying = DecodingKey::from_ed_components(&x).ok()?;
        Some(Self { id, x, signing, verifying })
    }

    fn public(&self) -> serde_json::Value {
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": self.x})
    }
}

/// Makes the first key if there is none.
pub(crate) fn make_first(path: &Path) -> Result<(), KeyError> {
    folder(path).make_first(|seed| {
        let pem = SigningKey::from_bytes(&seed).to_pkcs8_pem(LineEnding::LF).ok()?;
        Some(pem.as_str().to_owned())
    })
}
