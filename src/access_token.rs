//! Access tokens: JWTs signed with Ed25519 (RFC 8037), short-lived, verified without any I/O.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
    time::{Duration, SystemTime},
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
    Actor, Network, SessionId, SignedInUser, TenantId, UserId, Who, revocations::Basis, sessions::SignedIn,
    users::Role,
};

/// How long a new key file is only verified with, so that every process knows it before any signs with it.
const KEY_REST: Duration = Duration::from_secs(120);
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
}

impl Claims {
    /// Who asks, in the tenant of the token.
    pub(crate) fn actor(&self, from: Option<Network>) -> Actor {
        let user = SignedInUser { id: self.sub, version: self.uv, session: self.sid };
        Actor { tenant: self.tid, home: self.tid, who: Who::User(user), role: self.role, from }
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

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder or a file of it cannot be used.
    #[error("JWT_KEYS_DIR: {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("JWT_KEYS_DIR: {0} is not an Ed25519 private key in PEM (PKCS #8)")]
    NotAKey(PathBuf),
    /// The folder is empty.
    #[error(
        "JWT_KEYS_DIR: {0} holds no key; the first `tenantry api` makes one, or point it at the folder of the running service"
    )]
    None(PathBuf),
    /// No randomness.
    #[error("the system gave no randomness for a key")]
    NoRandomness,
}

/// Makes and verifies access tokens with the keys of a folder.
pub(crate) struct AccessTokens {
    folder: PathBuf,
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
        let keys = read(folder)?.ok_or_else(|| KeyError::None(folder.into()))?;
        let (keys, verified) = (RwLock::new(Arc::new(keys)), quick_cache::sync::Cache::new(REMEMBERED));
        Ok(Self { folder: folder.into(), issuer, ttl, keys, verified })
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
            iss: self.issuer.clone(),
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
            return (claims.exp > chrono::Utc::now().timestamp()).then_some(claims);
        }
        let (keys, header) = (self.keys(), jsonwebtoken::decode_header(token).ok()?);
        // Whatever else the keys may sign one day is no access token (RFC 9068).
        if header.typ.as_deref() != Some(TYPE) {
            return None;
        }
        let key = keys.verifying.get(&header.kid?)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = 0;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let claims = Arc::new(jsonwebtoken::decode::<Claims>(token, key, &validation).ok()?.claims);
        self.verified.insert(token.into(), claims.clone());
        Some(claims)
    }

    /// The public keys (RFC 7517), for those who verify tokens themselves.
    pub(crate) fn jwks(&self) -> serde_json::Value {
        self.keys().jwks.clone()
    }
}

/// The keys of `folder`, or none when it has none. The newest that has rested signs; all verify.
fn read(folder: &Path) -> Result<Option<Keys>, KeyError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KeyError::File { path, source }
    };
    let mut files = vec![];
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.map_err(failed(folder))?.path();
                let data = path.metadata().map_err(failed(&path))?;
                if data.is_file() && path.extension().is_some_and(|extension| extension == "pem") {
                    let changed = data.modified().map_err(failed(&path))?;
                    files.push((changed, path));
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(folder)(error)),
    }
    files.sort();
    let (mut signing, mut verifying, mut public) = (None, HashMap::new(), vec![]);
    for (changed, path) in files {
        let pem = std::fs::read_to_string(&path).map_err(failed(&path))?;
        let not_a_key = || KeyError::NotAKey(path.clone());
        let key = SigningKey::from_pkcs8_pem(&pem).map_err(|_| not_a_key())?;
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(&x)[..12]);
        let rested = SystemTime::now().duration_since(changed).is_ok_and(|age| age >= KEY_REST);
        if rested || signing.is_none() {
            let key = EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| not_a_key())?;
            signing = Some((id.clone(), key));
        }
        verifying.insert(id.clone(), DecodingKey::from_ed_components(&x).map_err(|_| not_a_key())?);
        public.push(json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": x}));
    }
    Ok(signing.map(|signing| Keys { signing, verifying, jwks: json!({"keys": public}) }))
}

/// Makes the first key if there is none. It appears whole or not at all, and of two processes that start at once one makes it.
pub(crate) fn make_first(folder: &Path) -> Result<(), KeyError> {
    if read(folder)?.is_some() {
        return Ok(());
    }
    let failed = |source| KeyError::File { path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut seed = [0; 32];
    rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut seed)
        .map_err(|_| KeyError::NoRandomness)?;
    let pem =
        SigningKey::from_bytes(&seed).to_pkcs8_pem(LineEnding::LF).map_err(|_| KeyError::NoRandomness)?;
    let draft = folder.join(format!(".{}", uuid::Uuid::now_v7()));
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&draft).map_err(failed)?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let made = std::fs::hard_link(&draft, folder.join("first.pem"));
    std::fs::remove_file(&draft).map_err(failed)?;
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}
