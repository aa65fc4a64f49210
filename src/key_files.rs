//! Folders of keys: several files, one of which is used for what is new. Keys come and go while the service runs.

use std::{
    collections::HashMap,
    io::Write,
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The folder or a file of it cannot be used.
    #[error("{setting}: {path}: {source}")]
    File {
        /// The setting that names the folder.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{setting}: {path} is not {wanted}")]
    NotAKey {
        /// The setting that names the folder.
        setting: &'static str,
        /// Which.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The folder is empty.
    #[error(
        "{setting}: {folder} holds no key; the first `tenantry api` makes one, or point it at the folder of the running service"
    )]
    None {
        /// The setting that names the folder.
        setting: &'static str,
        /// Which.
        folder: PathBuf,
    },
    /// No randomness.
    #[error("the system gave no randomness for a key")]
    NoRandomness,
}

/// A key that is kept in a file.
pub(crate) trait KeyFile: Clone {
    /// The setting that names the folder.
    const SETTING: &'static str;
    /// Of the files, without the dot.
    const EXTENSION: &'static str;
    /// What a file should hold, in words.
    const WANTED: &'static str;

    /// Of what a file holds.
    fn parse(text: &str) -> Option<Self>;
    /// What a file holds, for a new key of random bytes.
    fn write(random: [u8; 32]) -> Option<String>;
    /// The same for the same key.
    fn id(&self) -> &str;
}

/// A folder of keys, and when this process first saw each of them.
pub(crate) struct KeyFolder<K> {
    pub(crate) path: PathBuf,
    /// How long a new key is only read with, so that every process knows it before any writes with it.
    rest: Duration,
    seen: Mutex<HashMap<String, Instant>>,
    keys: PhantomData<fn() -> K>,
}

/// The keys of a folder.
pub(crate) struct Read<K> {
    /// The newest that has rested; where none has, the oldest.
    pub(crate) writing: K,
    /// Each once, the oldest first.
    pub(crate) all: Vec<K>,
}

impl<K: KeyFile> KeyFolder<K> {
    pub(crate) fn new(path: PathBuf, rest: Duration) -> Self {
        Self { path, rest, seen: Mutex::default(), keys: PhantomData }
    }

    /// Often enough that a new key has been read well before it may write.
    pub(crate) fn read_every(&self) -> Duration {
        (self.rest / 5).clamp(Duration::from_millis(100), Duration::from_secs(60))
    }

    /// Its keys.
    ///
    /// Their order is that of the files' names, which is the same for every process; `first` is the oldest, whatever the others
    /// are called. The files' times say nothing: to copy a file may keep its old one, and what mounts a secret gives all files a
    /// new one, at each start and whenever one is added. So a key has rested once this process has known it for long enough. A
    /// process that has just started knows that of none and writes with the oldest, which the others know if they know any.
    pub(crate) fn read(&self, now: Instant) -> Result<Read<K>, KeyError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut first_seen, mut writing, mut all) = (HashMap::new(), None, vec![]);
        for path in self.files()? {
            let text = std::fs::read_to_string(&path).map_err(failed::<K>(&path))?;
            let not_a_key =
                || KeyError::NotAKey { setting: K::SETTING, path: path.clone(), wanted: K::WANTED };
            let key = K::parse(&text).ok_or_else(not_a_key)?;
            if first_seen.contains_key(key.id()) {
                continue;
            }
            let since = seen.get(key.id()).copied().unwrap_or(now);
            first_seen.insert(key.id().to_owned(), since);
            if writing.is_none() || now.saturating_duration_since(since) >= self.rest {
                writing = Some(key.clone());
            }
            all.push(key);
        }
        *seen = first_seen;
        let none = || KeyError::None { setting: K::SETTING, folder: self.path.clone() };
        Ok(Read { writing: writing.ok_or_else(none)?, all })
    }

    /// The key files, oldest first. A folder that does not exist has none.
    fn files(&self) -> Result<Vec<PathBuf>, KeyError> {
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(failed::<K>(&self.path)(error)),
        };
        let mut files = vec![];
        for entry in entries {
            let path = entry.map_err(failed::<K>(&self.path))?.path();
            if path.extension().is_some_and(|extension| extension == K::EXTENSION)
                && path.metadata().map_err(failed::<K>(&path))?.is_file()
            {
                files.push(path);
            }
        }
        files.sort_by_key(|path| (path.file_stem().is_some_and(|name| name != "first"), path.clone()));
        Ok(files)
    }

    /// Makes the first key if there is none, and says whether it did. It appears whole or not at all, and of two processes that
    /// start at once one makes it.
    pub(crate) fn make_first(&self) -> Result<bool, KeyError> {
        if !self.files()?.is_empty() {
            return Ok(false);
        }
        std::fs::create_dir_all(&self.path).map_err(failed::<K>(&self.path))?;
        let mut random = [0; 32];
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut random)
            .map_err(|_| KeyError::NoRandomness)?;
        let text = K::write(random).ok_or(KeyError::NoRandomness)?;
        let draft = self.path.join(format!(".{}", uuid::Uuid::now_v7()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft).map_err(failed::<K>(&draft))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed::<K>(&draft))?;
        let first = self.path.join(format!("first.{}", K::EXTENSION));
        let made = std::fs::hard_link(&draft, &first);
        std::fs::remove_file(&draft).map_err(failed::<K>(&draft))?;
        match made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed::<K>(&first)(error)),
            Ok(()) => Ok(true),
        }
    }

    /// Takes back the key that this process has just made.
    pub(crate) fn unmake_first(&self) {
        let first = self.path.join(format!("first.{}", K::EXTENSION));
        if let Err(error) = std::fs::remove_file(&first) {
            tracing::warn!("{} could not be removed: {error}", first.display());
        }
    }
}

fn failed<K: KeyFile>(path: &Path) -> impl Fn(std::io::Error) -> KeyError + use<K> {
    let path = path.to_owned();
    move |source| KeyError::File { setting: K::SETTING, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(300);

    /// A key that is what its file holds.
    #[derive(Clone)]
    struct Plain(String);

    impl KeyFile for Plain {
        const SETTING: &'static str = "X";
        const EXTENSION: &'static str = "key";
        const WANTED: &'static str = "a word";

        fn parse(text: &str) -> Option<Self> {
            (!text.contains(' ')).then(|| Self(text.into()))
        }

        fn write(random: [u8; 32]) -> Option<String> {
            Some(format!("{random:02x?}").replace(' ', ""))
        }

        fn id(&self) -> &str {
            &self.0
        }
    }

    struct Keychain(tempfile::TempDir);

    impl Keychain {
        fn of(names: &[&str]) -> Self {
            let keys = Self(tempfile::tempdir().unwrap());
            names.iter().for_each(|name| keys.add(name));
            keys
        }

        fn add(&self, name: &str) {
            std::fs::write(self.0.path().join(name).with_extension("key"), name).unwrap();
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.0.path().join(name).with_extension("key")).unwrap();
        }

        /// A process that has not read anything yet.
        fn process(&self) -> KeyFolder<Plain> {
            KeyFolder::new(self.0.path().into(), REST)
        }
    }

    /// Which file writes, and how many read.
    fn read(process: &KeyFolder<Plain>, at: Instant) -> (String, usize) {
        let keys = process.read(at).unwrap();
        (keys.writing.0, keys.all.len())
    }

    #[test]
    fn a_new_key_reads_at_once_and_writes_when_it_has_been_known_for_long_enough() {
        let (keys, start) = (Keychain::of(&["first"]), Instant::now());
        let process = keys.process();
        assert_eq!(read(&process, start), ("first".into(), 1));

        keys.add("2026-12");

        let added = start + 10 * REST;
        assert_eq!(read(&process, added), ("first".into(), 2));
        assert_eq!(read(&process, added + REST - Duration::from_millis(1)), ("first".into(), 2));
        assert_eq!(read(&process, added + REST), ("2026-12".into(), 2));
        keys.remove("first");
        assert_eq!(read(&process, added + REST), ("2026-12".into(), 1));
    }

    #[test]
    fn a_process_that_starts_writes_with_the_oldest_until_it_has_known_the_others_for_long_enough() {
        let (keys, start) = (Keychain::of(&["2026-12", "2027-01", "first"]), Instant::now());
        let process = keys.process();
        assert_eq!(read(&process, start), ("first".into(), 3));
        assert_eq!(read(&process, start + REST), ("2027-01".into(), 3));
    }

    #[test]
    fn a_secret_that_is_mounted_anew_lets_no_new_key_write() {
        let (keys, start) = (Keychain::of(&["2026-11"]), Instant::now());
        let process = keys.process();
        read(&process, start);
        let added = start + REST;

        // All files are written again, and the new one looks a year old.
        keys.add("2026-12");
        for (name, age) in [("2026-11", 0), ("2026-12", 365 * 24 * 3600)] {
            let file = keys.0.path().join(name).with_extension("key");
            let file = std::fs::File::options().append(true).open(file).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
        }

        assert_eq!(read(&process, added), ("2026-11".into(), 2));
        assert_eq!(read(&keys.process(), added), ("2026-11".into(), 2), "a process that starts just now");
    }

    #[test]
    fn a_key_that_went_and_comes_again_rests_again() {
        let (keys, start) = (Keychain::of(&["1", "2"]), Instant::now());
        let process = keys.process();
        read(&process, start);
        assert_eq!(read(&process, start + REST), ("2".into(), 2));
        keys.remove("2");
        assert_eq!(read(&process, start + 2 * REST), ("1".into(), 1));
        keys.add("2");
        assert_eq!(read(&process, start + 3 * REST), ("1".into(), 2));
    }

    #[test]
    fn the_first_key_is_made_once_and_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder::<Plain>::new(home.path().join("keys"), REST);
        let none = folder.read(Instant::now()).err().unwrap().to_string();
        assert!(none.contains("holds no key"), "{none}");
        folder.make_first().unwrap();
        let file = folder.path.join("first.key");
        let made = std::fs::read_to_string(&file).unwrap();
        folder.make_first().unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), made);
        let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder.path).unwrap().count(), 1, "no draft is left");
        std::fs::write(folder.path.join("second.key"), "two words").unwrap();
        let refused = folder.read(Instant::now()).err().unwrap().to_string();
        assert!(refused.contains("second.key is not a word"), "{refused}");
    }
}
