//! The text of a key: `tk_`, then in base64url the tenant, the key, 256 random bits and a checksum. Tenant and key stand in
//! front so that the row is found by its primary key; `tk_` and the checksum are for programs that look for secrets in
//! source code, and spare the database what was mistyped.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{ApiKeyId, Error, Result, TenantId};

const PREFIX: &str = "tk_";
const CHECKSUM: usize = 4;
const LENGTH: usize = 16 + 16 + 32 + CHECKSUM;

/// A key's secret before the key has a name.
pub(crate) struct Secret {
    tenant: TenantId,
    random: [u8; 32],
}

/// A whole key.
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) hash: Vec<u8>,
}

impl Secret {
    pub(super) fn generate(tenant: TenantId) -> Result<Self> {
        let mut random = [0; 32];
        OsRng.try_fill_bytes(&mut random).map_err(|_| Error::Internal("no randomness"))?;
        Ok(Self::of(tenant, random))
    }

    pub(crate) fn of(tenant: TenantId, random: [u8; 32]) -> Self {
        Self { tenant, random }
    }

    pub(crate) fn with_id(&self, id: ApiKeyId) -> Key {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(self.tenant.0.as_bytes());
        bytes.extend_from_slice(id.0.as_bytes());
        bytes.extend_from_slice(&self.random);
        let hash = Sha256::digest(&bytes).to_vec();
        bytes.extend_from_slice(&checksum(&bytes));
        Key { text: format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)), hash }
    }
}

impl Key {
    pub(super) fn hint(&self) -> String {
        self.text[self.text.len() - 4..].to_owned()
    }
}

/// A key that came with a request; whether it works is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    pub(super) tenant: TenantId,
    pub(crate) id: ApiKeyId,
    pub(super) hash: Vec<u8>,
}

impl Presented {
    /// Whether `text` means to be a key.
    pub fn looks_like_one(text: &str) -> bool {
        text.starts_with(PREFIX)
    }

    /// None unless `text` has the form of a key.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX).filter(|encoded| encoded.len() <= 2 * LENGTH)?;
        let bytes: [u8; LENGTH] = URL_SAFE_NO_PAD.decode(encoded).ok()?.try_into().ok()?;
        let (secret, sum) = bytes.split_at(LENGTH - CHECKSUM);
        let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).ok();
        (checksum(secret) == sum).then_some(())?;
        Some(Self {
            tenant: TenantId(uuid(&secret[..16])?),
            id: ApiKeyId(uuid(&secret[16..32])?),
            hash: Sha256::digest(secret).to_vec(),
        })
    }

    /// The tenant that it says it is of.
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// What it is remembered by: not the secret itself.
    pub fn digest(&self) -> &[u8] {
        &self.hash
    }
}

/// Not the beginning of the stored hash: that is over the same bytes without the prefix.
fn checksum(secret: &[u8]) -> [u8; CHECKSUM] {
    let digest = Sha256::new().chain_update(PREFIX).chain_update(secret).finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_what_it_says_and_refused_when_mistyped() {
        let (tenant, id) = (TenantId::generate(), ApiKeyId::generate());
        let key = Secret::generate(tenant).unwrap().with_id(id);

        let presented = Presented::parse(&key.text).unwrap();

        assert_eq!((presented.tenant, presented.id, presented.hash), (tenant, id, key.hash));
        assert!(key.text.starts_with("tk_") && key.text.len() == 94, "{}", key.text.len());
        let (head, tail) = key.text.split_at(40);
        let other = if tail.starts_with('A') { 'B' } else { 'A' };
        for wrong in
            [format!("{head}{other}{}", &tail[1..]), head.into(), format!("{}A", key.text), "tk_".into()]
        {
            assert_eq!(Presented::parse(&wrong), None, "{wrong}");
        }
    }
}
