//! The Ed25519 keys of a folder, which access tokens are signed and verified with. They come and go while the service runs.

use std::{
    collections::HashMap,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, spki::der::pem::LineEnding},
};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The file of the key that the first start makes. It is the oldest, whatever the others are called.
const FIRST: &str = "first.pem";

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

/// The keys as they were when they were read.
pub(crate) struct Keys {
    /// The id and the key that new tokens are signed with.
    pub(crate) signing: (String, EncodingKey),
    /// By id.
    pub(crate) verifying: HashMap<String, DecodingKey>,
    /// The public keys (RFC 7517).
    pub(crate) jwks: serde_json::Value,
}

/// A folder of keys, and when this process first saw each of them.
pub(crate) struct KeyFolder {
    pub(crate) path: PathBuf,
    /// How long a new key is only verified with, so that every process knows it before any signs with it.
    rest: Duration,
    seen: Mutex<HashMap<String, Instant>>,
}

impl KeyFolder {
    pub(crate) fn new(path: PathBuf, rest: Duration) -> Self {
        Self { path, rest, seen: Mutex::default() }
    }

    /// Often enough that a new key has been read well before it may sign.
    pub(crate) fn read_every(&self) -> Duration {
        (self.rest / 5).clamp(Duration::from_millis(100), Duration::from_secs(60))
    }

    /// The keys of the folder, or none when it has none. All verify; the newest that has rested signs.
    ///
    /// The order is that of the files' names, which is the same for every process. Their times say nothing: to copy a file
    /// may keep its old one, and what mounts a secret gives all files a new one, at each start and whenever one is added.
    /// So a key has rested once this process has known it for long enough. A process that has just started knows that
    /// of none and signs with the oldest, which the others know if they know any.
    pub(crate) fn read(&self, now: Instant) -> Result<Option<Keys>, KeyError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut first_seen, mut verifying, mut public) = (HashMap::new(), HashMap::new(), vec![]);
        let mut signing = None;
        for path in files(&self.path)? {
            let pem = std::fs::read_to_string(&path).map_err(failed(&path))?;
            let not_a_key = || KeyError::NotAKey(path.clone());
            let key = SigningKey::from_pkcs8_pem(&pem).map_err(|_| not_a_key())?;
            let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
            let id = URL_SAFE_NO_PAD.encode(&Sha256::digest(&x)[..12]);
            if verifying.contains_key(&id) {
                continue;
            }
            let since = seen.get(&id).copied().unwrap_or(now);
            first_seen.insert(id.clone(), since);
            if signing.is_none() || now.saturating_duration_since(since) >= self.rest {
                let key = EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| not_a_key())?;
                signing = Some((id.clone(), key));
            }
            verifying.insert(id.clone(), DecodingKey::from_ed_components(&x).map_err(|_| not_a_key())?);
            public.push(
                json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": x}),
            );
        }
        *seen = first_seen;
        Ok(signing.map(|signing| Keys { signing, verifying, jwks: json!({"keys": public}) }))
    }
}

/// The key files, oldest first. A folder that does not exist has none.
fn files(folder: &Path) -> Result<Vec<PathBuf>, KeyError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(failed(folder)(error)),
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "pem")
            && path.metadata().map_err(failed(&path))?.is_file()
        {
            files.push(path);
        }
    }
    files.sort_by_key(|path| (path.file_name().is_some_and(|name| name != FIRST), path.clone()));
    Ok(files)
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> KeyError + use<> {
    let path = path.to_owned();
    move |source| KeyError::File { path: path.clone(), source }
}

/// Makes the first key if there is none. It appears whole or not at all, and of two processes that start at once one makes it.
pub(crate) fn make_first(folder: &Path) -> Result<(), KeyError> {
    if !files(folder)?.is_empty() {
        return Ok(());
    }
    let failed = failed(folder);
    std::fs::create_dir_all(folder).map_err(&failed)?;
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
    let mut file = options.open(&draft).map_err(&failed)?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).map_err(&failed)?;
    let made = std::fs::hard_link(&draft, folder.join(FIRST));
    std::fs::remove_file(&draft).map_err(&failed)?;
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(300);

    struct Keychain {
        folder: tempfile::TempDir,
        ids: HashMap<String, String>,
    }

    impl Keychain {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap(), ids: HashMap::new() }
        }

        fn add(&mut self, name: &str) {
            let other = tempfile::tempdir().unwrap();
            make_first(other.path()).unwrap();
            let keys = KeyFolder::new(other.path().into(), REST).read(Instant::now()).unwrap().unwrap();
            std::fs::copy(other.path().join(FIRST), self.folder.path().join(name)).unwrap();
            self.ids.insert(keys.signing.0, name.into());
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.folder.path().join(name)).unwrap();
        }

        /// A process that has not read anything yet.
        fn process(&self) -> KeyFolder {
            KeyFolder::new(self.folder.path().into(), REST)
        }

        /// Which file signs, and how many verify.
        fn read(&self, process: &KeyFolder, at: Instant) -> (&str, usize) {
            let keys = process.read(at).unwrap().unwrap();
            assert_eq!(keys.jwks["keys"].as_array().unwrap().len(), keys.verifying.len());
            (&self.ids[&keys.signing.0], keys.verifying.len())
        }
    }

    #[test]
    fn a_new_key_verifies_at_once_and_signs_when_it_has_been_known_for_long_enough() {
        let (mut keys, start) = (Keychain::new(), Instant::now());
        keys.add(FIRST);
        let process = keys.process();
        assert_eq!(keys.read(&process, start), (FIRST, 1));

        keys.add("2026-12.pem");

        let added = start + 10 * REST;
        assert_eq!(keys.read(&process, added), (FIRST, 2));
        assert_eq!(keys.read(&process, added + REST - Duration::from_millis(1)), (FIRST, 2));
        assert_eq!(keys.read(&process, added + REST), ("2026-12.pem", 2));
        keys.remove(FIRST);
        assert_eq!(keys.read(&process, added + REST), ("2026-12.pem", 1));
    }

    #[test]
    fn a_process_that_starts_signs_with_the_oldest_until_it_has_known_the_others_for_long_enough() {
        let (mut keys, start) = (Keychain::new(), Instant::now());
        for name in ["2026-12.pem", "2027-01.pem", FIRST] {
            keys.add(name);
        }
        let process = keys.process();
        assert_eq!(keys.read(&process, start), (FIRST, 3));
        assert_eq!(keys.read(&process, start + REST), ("2027-01.pem", 3));
    }

    #[test]
    fn a_secret_that_is_mounted_anew_lets_no_new_key_sign() {
        let (mut keys, start) = (Keychain::new(), Instant::now());
        keys.add("2026-11.pem");
        let process = keys.process();
        keys.read(&process, start);
        let added = start + REST;

        // All files are written again, and the new one looks a year old.
        keys.add("2026-12.pem");
        for (name, age) in [("2026-11.pem", 0), ("2026-12.pem", 365 * 24 * 3600)] {
            let file = std::fs::File::options().append(true).open(keys.folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
        }

        assert_eq!(keys.read(&process, added), ("2026-11.pem", 2));
        assert_eq!(keys.read(&keys.process(), added), ("2026-11.pem", 2), "a process that starts just now");
    }

    #[test]
    fn a_key_that_went_and_comes_again_rests_again() {
        let (mut keys, start) = (Keychain::new(), Instant::now());
        keys.add("1.pem");
        keys.add("2.pem");
        let process = keys.process();
        keys.read(&process, start);
        assert_eq!(keys.read(&process, start + REST), ("2.pem", 2));
        let second = std::fs::read(keys.folder.path().join("2.pem")).unwrap();
        keys.remove("2.pem");
        assert_eq!(keys.read(&process, start + 2 * REST), ("1.pem", 1));
        std::fs::write(keys.folder.path().join("2.pem"), second).unwrap();
        assert_eq!(keys.read(&process, start + 3 * REST), ("1.pem", 2));
    }
}
