//! Encryption of what is stored and must be read again: ChaCha20-Poly1305 (RFC 8439). Each text is bound to its row, so
//! that nobody who can write to the database can move it to another one. Of what we give out and take back, with longer
//! nonces (XChaCha20-Poly1305), since there is so much of it. And codes that tell whether something is the same again to
//! those who have the key, and nothing to others: HMAC-SHA-256 (RFC 2104). All nodes have these keys.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chacha20poly1305::{
    ChaCha20Poly1305, KeyInit, Nonce, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hmac::{Hmac, Mac as _};
use rand::{TryRngCore, rngs::OsRng};
use sha2::{Digest, Sha256};

use crate::{Error, Result, TenantId, UserId};

const NONCE: usize = 12;
/// Random ones of this length never come twice, however many there are.
const LONG_NONCE: usize = 24;

/// A key, and its name, which is stored beside what it has encrypted.
#[derive(Clone)]
pub struct Key {
    id: String,
    cipher: ChaCha20Poly1305,
    mac: Hmac<Sha256>,
    outbound: XChaCha20Poly1305,
}

impl Key {
    /// Of 256 random bits, after which it is named: the same key has the same name everywhere.
    pub fn new(bytes: [u8; 32]) -> Self {
        let id = Sha256::new().chain_update("tenantry encryption key").chain_update(bytes).finalize();
        // No two uses share a key.
        let key_for = |use_: &str| Sha256::new().chain_update(use_).chain_update(bytes).finalize();
        let mut block = [0; 64];
        block[..32].copy_from_slice(&key_for("tenantry authentication key"));
        let outbound = <[u8; 32]>::from(key_for("tenantry outbound key"));
        Self {
            id: URL_SAFE_NO_PAD.encode(&id[..12]),
            cipher: ChaCha20Poly1305::new(&bytes.into()),
            mac: <Hmac<Sha256> as hmac::Mac>::new(&block.into()),
            outbound: XChaCha20Poly1305::new(&outbound.into()),
        }
    }

    /// Its name, which tells nothing of it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The digest has one length, so the purpose ends where it begins.
    fn mac_of(&self, purpose: &'static str, digest: &[u8; 32]) -> Hmac<Sha256> {
        self.mac.clone().chain_update(purpose).chain_update(digest)
    }
}

/// Never the key itself.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// The keys there are: one encrypts, all decrypt.
#[derive(Debug, Default)]
pub struct Encryption {
    keys: RwLock<Arc<Keys>>,
}

#[derive(Debug, Default)]
struct Keys {
    writing: Option<Key>,
    /// Each with its place among them, the oldest first.
    all: HashMap<String, (usize, Key)>,
}

/// What is stored: encrypted, and by which key.
pub(crate) struct Sealed {
    pub(crate) key_id: String,
    pub(crate) bytes: Vec<u8>,
}

/// A code of something, and by which key.
pub(crate) struct Mac {
    pub(crate) key_id: String,
    pub(crate) bytes: Vec<u8>,
}

/// Whose a text is and what it is for.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) purpose: &'static str,
    pub(crate) tenant: TenantId,
    pub(crate) user: UserId,
}

impl Context {
    fn bytes(&self) -> Vec<u8> {
        [self.tenant.0.as_bytes().as_slice(), self.user.0.as_bytes(), self.purpose.as_bytes()].concat()
    }
}

impl Encryption {
    /// Takes these keys, the oldest first, in place of those before. `writing` is one of them.
    pub fn replace(&self, writing: Key, all: impl IntoIterator<Item = Key>) {
        let all = all.into_iter().enumerate().map(|(place, key)| (key.id.clone(), (place, key))).collect();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Keys { writing: Some(writing), all });
    }

    /// The name of the key that encrypts; none: there is none.
    pub fn writing_key(&self) -> Option<String> {
        self.keys().writing.as_ref().map(|key| key.id.clone())
    }

    /// Whether there is a key of this name.
    pub fn knows(&self, key_id: &str) -> bool {
        self.keys().all.contains_key(key_id)
    }

    /// Whether what `key_id` has encrypted would be encrypted with a newer key now. A process that has just started writes
    /// with the oldest: it must not take back what others have encrypted anew.
    pub(crate) fn is_outdated(&self, key_id: &str) -> bool {
        let keys = self.keys();
        let place = |id: &str| keys.all.get(id).map(|(place, _)| *place);
        keys.writing.as_ref().is_some_and(|writing| place(key_id) < place(&writing.id))
    }

    /// Encrypts `text`, which can then be read in the same context only.
    pub(crate) fn seal(&self, text: &[u8], context: Context) -> Result<Sealed> {
        let keys = self.keys();
        let key = keys.writing.as_ref().ok_or(Error::Internal("this process has no key to encrypt with"))?;
        let mut nonce = [0; NONCE];
        OsRng.try_fill_bytes(&mut nonce).map_err(|_| Error::Internal("no randomness"))?;
        let payload = Payload { msg: text, aad: &context.bytes() };
        let encrypted = key.cipher.encrypt(&Nonce::from(nonce), payload);
        let encrypted = encrypted.map_err(|_| Error::Internal("a secret could not be encrypted"))?;
        Ok(Sealed { key_id: key.id.clone(), bytes: [nonce.as_slice(), &encrypted].concat() })
    }

    /// Decrypts what [`seal`](Self::seal) made in the same context.
    pub(crate) fn open(&self, Sealed { key_id, bytes }: &Sealed, context: Context) -> Result<Vec<u8>> {
        let keys = self.keys();
        let Some((_, key)) = keys.all.get(key_id) else {
            tracing::error!(key.id = %key_id, "a secret is encrypted with key {key_id}, which ENCRYPTION_KEYS_DIR does not hold");
            return Err(Error::Internal("a secret is encrypted with a key that is missing"));
        };
        let unreadable = Error::Internal("a stored secret cannot be decrypted");
        let (nonce, encrypted) = bytes.split_first_chunk::<NONCE>().ok_or(unreadable.clone())?;
        let payload = Payload { msg: encrypted, aad: &context.bytes() };
        key.cipher.decrypt(&Nonce::from(*nonce), payload).map_err(|_| unreadable)
    }

    /// A code of `digest`, for one purpose.
    pub(crate) fn mac(&self, purpose: &'static str, digest: &[u8; 32]) -> Result<Mac> {
        let keys = self.keys();
        let key = keys.writing.as_ref().ok_or(Error::Internal("this process has no key to sign with"))?;
        let bytes = key.mac_of(purpose, digest).finalize().into_bytes().to_vec();
        Ok(Mac { key_id: key.id.clone(), bytes })
    }

    /// Whether [`mac`](Self::mac) made the code of this.
    pub(crate) fn is_mac_of(&self, mac: &Mac, purpose: &'static str, digest: &[u8; 32]) -> Result<bool> {
        let keys = self.keys();
        let Some((_, key)) = keys.all.get(&mac.key_id) else {
            tracing::error!(key.id = %mac.key_id, "an idempotency key of the last day was noted with key {}, which ENCRYPTION_KEYS_DIR does not hold", mac.key_id);
            return Err(Error::Internal("a code was made with a key that is missing"));
        };
        Ok(key.mac_of(purpose, digest).verify_slice(&mac.bytes).is_ok())
    }

    /// Encrypts what is given out and comes back, for `purpose` alone, with the key that encrypts.
    pub(crate) fn give_out(&self, text: &[u8], purpose: &[u8]) -> Result<Vec<u8>> {
        let keys = self.keys();
        let key = keys.writing.as_ref().ok_or(Error::Internal("this process has no key to encrypt with"))?;
        let mut nonce = [0; LONG_NONCE];
        OsRng.try_fill_bytes(&mut nonce).map_err(|_| Error::Internal("no randomness"))?;
        let encrypted = key.outbound.encrypt(&XNonce::from(nonce), Payload { msg: text, aad: purpose });
        let encrypted = encrypted.map_err(|_| Error::Internal("a text could not be encrypted"))?;
        Ok([nonce.as_slice(), &encrypted].concat())
    }

    /// Decrypts what [`give_out`](Self::give_out) made for this purpose with one of the keys; none: nothing did.
    pub(crate) fn take_back(&self, bytes: &[u8], purpose: &[u8]) -> Option<Vec<u8>> {
        let (nonce, encrypted) = bytes.split_first_chunk::<LONG_NONCE>()?;
        let payload = || Payload { msg: encrypted, aad: purpose };
        let by = |key: &Key| key.outbound.decrypt(&XNonce::from(*nonce), payload()).ok();
        self.keys().all.values().find_map(|(_, key)| by(key))
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        Context { purpose: "test", tenant: TenantId::generate(), user: UserId::generate() }
    }

    /// The oldest first; the one in this place writes.
    fn with(keys: &[u8], writing: usize) -> Encryption {
        let encryption = Encryption::default();
        let all: Vec<_> = keys.iter().map(|byte| Key::new([*byte; 32])).collect();
        encryption.replace(all[writing].clone(), all);
        encryption
    }

    #[test]
    fn a_text_is_read_in_its_own_row_only() {
        let (encryption, here) = (with(&[1], 0), context());
        let sealed = encryption.seal(b"secret", here).unwrap();
        assert_eq!(encryption.open(&sealed, here).unwrap(), b"secret");
        for elsewhere in [
            Context { user: UserId::generate(), ..here },
            Context { tenant: TenantId::generate(), ..here },
            Context { purpose: "other", ..here },
        ] {
            assert!(encryption.open(&sealed, elsewhere).is_err());
        }
    }

    #[test]
    fn the_newest_key_writes_and_all_read() {
        let here = context();
        let sealed = with(&[1], 0).seal(b"secret", here).unwrap();
        let rotated = with(&[1, 2], 1);
        assert_eq!(rotated.open(&sealed, here).unwrap(), b"secret");
        assert!(rotated.is_outdated(&sealed.key_id));
        let anew = rotated.seal(b"secret", here).unwrap();
        assert!(!rotated.is_outdated(&anew.key_id) && with(&[1], 0).open(&anew, here).is_err());
        // A process that has just started writes with the oldest, and takes back nothing.
        assert!(!with(&[1, 2], 0).is_outdated(&anew.key_id));
    }

    #[test]
    fn what_was_tampered_with_is_not_read() {
        let (encryption, here) = (with(&[1], 0), context());
        let mut sealed = encryption.seal(b"secret", here).unwrap();
        assert_ne!(sealed.bytes, encryption.seal(b"secret", here).unwrap().bytes, "a nonce is used once");
        let last = sealed.bytes.len() - 1;
        sealed.bytes[last] ^= 1;
        assert!(encryption.open(&sealed, here).is_err());
        sealed.bytes.truncate(5);
        assert!(encryption.open(&sealed, here).is_err());
    }

    #[test]
    fn a_code_is_of_one_digest_one_purpose_and_one_key() {
        let (first, other) = (with(&[1], 0), with(&[2], 0));
        let mac = first.mac("test", &[7; 32]).unwrap();
        assert_ne!(mac.bytes, other.mac("test", &[7; 32]).unwrap().bytes);
        let rotated = with(&[1, 2], 1);
        assert!(rotated.is_mac_of(&mac, "test", &[7; 32]).unwrap());
        assert!(!rotated.is_mac_of(&mac, "test", &[8; 32]).unwrap());
        assert!(!rotated.is_mac_of(&mac, "else", &[7; 32]).unwrap());
        assert!(other.is_mac_of(&mac, "test", &[7; 32]).is_err(), "it cannot be told");
    }

    #[test]
    fn without_a_key_nothing_is_written() {
        assert!(Encryption::default().seal(b"secret", context()).is_err());
        assert!(Encryption::default().mac("test", &[7; 32]).is_err());
        assert!(!format!("{:?}", with(&[7], 0)).contains("7, 7"), "keys are never printed");
    }
}
