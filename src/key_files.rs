//! Folders of keys: several files, one of which is used for what is new. Keys come and go while the service runs.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How long a new key file is only read with, so that every process knows it before any writes with it.
const REST: Duration = Duration::from_secs(120);

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

/// A folder of keys: those of its files that have the extension.
#[derive(Debug, Clone)]
pub(crate) struct KeyFolder {
    pub(crate) setting: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) extension: &'static str,
}

/// The keys of a folder. None has been left out.
pub(crate) struct Read<K> {
    /// The newest that has rested; where none has, the oldest.
    pub(crate) writing: K,
    pub(crate) all: Vec<K>,
}

impl KeyFolder {
    /// Its keys, or none when it has none. `parse` makes a key of what a file holds.
    pub(crate) fn read<K: Clone>(
        &self,
        wanted: &'static str,
        parse: impl Fn(&str) -> Option<K>,
    ) -> Result<Option<Read<K>>, KeyError> {
        let (mut writing, mut all) = (None, vec![]);
        for (changed, path) in self.files()? {
            let text = std::fs::read_to_string(&path).map_err(self.failed(&path))?;
            let not_a_key = || KeyError::NotAKey { setting: self.setting, path: path.clone(), wanted };
            let key = parse(&text).ok_or_else(not_a_key)?;
            let rested = SystemTime::now().duration_since(changed).is_ok_and(|age| age >= REST);
            if rested || writing.is_none() {
                writing = Some(key.clone());
            }
            all.push(key);
        }
        Ok(writing.map(|writing| Read { writing, all }))
    }

    /// The files by age, the oldest first.
    fn files(&self) -> Result<Vec<(SystemTime, PathBuf)>, KeyError> {
        let mut files = vec![];
        match std::fs::read_dir(&self.path) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(self.failed(&self.path))?.path();
                    let data = path.metadata().map_err(self.failed(&path))?;
                    if data.is_file() && path.extension().is_some_and(|extension| extension == self.extension)
                    {
                        files.push((data.modified().map_err(self.failed(&path))?, path));
                    }
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(self.failed(&self.path)(error)),
        }
        files.sort();
        Ok(files)
    }

    /// Makes the first key of 32 random bytes, written down by `write`. It appears whole or not at all, and of two
    /// processes that start at once one makes it.
    pub(crate) fn make_first(&self, write: impl Fn([u8; 32]) -> Option<String>) -> Result<(), KeyError> {
        if !self.files()?.is_empty() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.path).map_err(self.failed(&self.path))?;
        let mut seed = [0; 32];
        rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut seed)
            .map_err(|_| KeyError::NoRandomness)?;
        let text = write(seed).ok_or(KeyError::NoRandomness)?;
        let draft = self.path.join(format!(".{}", uuid::Uuid::now_v7()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&draft).map_err(self.failed(&draft))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(self.failed(&draft))?;
        let first = self.path.join(format!("first.{}", self.extension));
        let made = std::fs::hard_link(&draft, &first);
        std::fs::remove_file(&draft).map_err(self.failed(&draft))?;
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(self.failed(&first)(error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn none(&self) -> KeyError {
        KeyError::None { setting: self.setting, folder: self.path.clone() }
    }

    fn failed(&self, path: &Path) -> impl Fn(std::io::Error) -> KeyError + use<> {
        let (setting, path) = (self.setting, path.to_owned());
        move |source| KeyError::File { setting, path: path.clone(), source }
    }
}
