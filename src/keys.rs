//! The Ed25519 keys that access tokens are signed and verified with.

use std::collections::HashMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::key_files::{KeyFile, Read};

/// A key and its public half.
#[derive(Clone)]
pub(crate) struct KeyPair {
    /// After its public half.
    id: String,
    x: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl KeyFile for KeyPair {
    const SETTING: &'static str = "JWT_KEYS_DIR";
    const EXTENSION: &'static str = "pem";
    const WANTED: &'static str = "an Ed25519 private key in PEM (PKCS #8)";

    fn parse(pem: &str) -> Option<Self> {
        let key = SigningKey::from_pkcs8_pem(pem).ok()?;
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(&x)[..12]);
        let signing = EncodingKey::from_ed_pem(pem.as_bytes()).ok()?;
        let verifying = DecodingKey::from_ed_components(&x).ok()?;
        Some(Self { id, x, signing, verifying })
    }

    fn write(random: [u8; 32]) -> Option<String> {
        let pem = SigningKey::from_bytes(&random).to_pkcs8_pem(LineEnding::LF).ok()?;
        Some(pem.as_str().to_owned())
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// The keys as they were when they were read.
pub(crate) struct Keys {
    /// The id and the key that new tokens are signed with.
    pub(crate) signing: (String, EncodingKey),
    /// By id.
    pub(crate) verifying: HashMap<String, DecodingKey>,
    /// The public keys (RFC 7517).
    pub(crate) jwks: serde_json::Value,
}

impl From<Read<KeyPair>> for Keys {
    fn from(Read { writing, all }: Read<KeyPair>) -> Self {
        let public = |key: &KeyPair| json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": key.id, "x": key.x});
        Self {
            signing: (writing.id, writing.signing),
            jwks: json!({"keys": all.iter().map(public).collect::<Vec<_>>()}),
            verifying: all.into_iter().map(|key| (key.id, key.verifying)).collect(),
        }
    }
}
