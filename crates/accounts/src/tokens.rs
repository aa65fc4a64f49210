//! Opaque tokens: the tenant's id in front, so that the row is found within the tenant, then 256 random bits.
//! Only their SHA-256 is stored; at this length a slower hash would protect nothing.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{Error, Result, TenantId, fields::Secret};

/// A token as it travels. Shown once, never stored.
#[derive(Clone)]
pub struct Token {
    /// For the URL or the JSON field.
    pub text: String,
    pub(crate) hash: Vec<u8>,
}

impl Token {
    /// A new one of `tenant`.
    pub(crate) fn generate(tenant: TenantId) -> Result<Self> {
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(tenant.0.as_bytes());
        OsRng.try_fill_bytes(&mut bytes[16..]).map_err(|_| Error::Internal("no randomness"))?;
        Ok(Self::of(&bytes))
    }

    /// The one that follows `used`: the same for the same salt. Whoever has seen one of the two does not know it.
    pub(crate) fn successor(used: &Secret, salt: &[u8]) -> Result<Self> {
        let used = decode(used)?;
        let mut bytes = [0; 48];
        bytes[..16].copy_from_slice(&used[..16]);
        bytes[16..].copy_from_slice(&Sha256::new().chain_update(salt).chain_update(used).finalize());
        Ok(Self::of(&bytes))
    }

    fn of(bytes: &[u8; 48]) -> Self {
        Self { text: URL_SAFE_NO_PAD.encode(bytes), hash: Sha256::digest(bytes).to_vec() }
    }
}

/// Random bytes that make a successor.
pub(crate) fn salt() -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    OsRng.try_fill_bytes(&mut salt).map_err(|_| Error::Internal("no randomness"))?;
    Ok(salt)
}

/// The tenant and the hash of a token that came back.
pub(crate) fn parse(token: &Secret) -> Result<(TenantId, Vec<u8>)> {
    let bytes = decode(token)?;
    let mut tenant = [0; 16];
    tenant.copy_from_slice(&bytes[..16]);
    Ok((TenantId(Uuid::from_bytes(tenant)), Sha256::digest(bytes).to_vec()))
}

fn decode(token: &Secret) -> Result<[u8; 48]> {
    let bytes = URL_SAFE_NO_PAD.decode(token.expose()).map_err(|_| Error::InvalidToken)?;
    bytes.try_into().map_err(|_| Error::InvalidToken)
}
