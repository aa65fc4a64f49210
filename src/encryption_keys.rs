//! The keys that encrypt secrets in the database: files of 32 random bytes in base64.

use std::time::Instant;

use base64::{Engine, engine::general_purpose::STANDARD};
use tenantry_accounts::{
    self as accounts, App,
    encryption::{Encryption, Key},
    second_factor,
};

use crate::{
    config::Config,
    key_files::{KeyError, KeyFile, KeyFolder, Read},
};

impl KeyFile for Key {
    const SETTING: &'static str = "ENCRYPTION_KEYS_DIR";
    const EXTENSION: &'static str = "key";
    const WANTED: &'static str = "32 bytes in base64, as `openssl rand -base64 32` prints them";

    fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        Some(Self::new(bytes.try_into().ok()?))
    }

    fn write(random: [u8; 32]) -> Option<String> {
        Some(STANDARD.encode(random) + "\n")
    }

    fn id(&self) -> &str {
        self.id()
    }
}

/// Where the keys are.
pub(crate) fn folder(config: &Config) -> KeyFolder<Key> {
    KeyFolder::new(config.encryption_keys_dir().to_owned(), config.jwt_key_rest)
}

/// Gives `encryption` the keys of the folder, which has some.
pub(crate) fn load(folder: &KeyFolder<Key>, encryption: &Encryption) -> Result<(), KeyError> {
    let Read { writing, all } = folder.read(Instant::now())?;
    encryption.replace(writing, all);
    Ok(())
}

/// The same while the service runs: a folder that cannot be read changes nothing.
pub(crate) fn reload(folder: &KeyFolder<Key>, encryption: &Encryption) {
    if let Err(error) = load(folder, encryption) {
        tracing::warn!("{error}; the known keys stay in use");
    }
}

/// The keys that secrets in the database need and the folder does not hold, with how many secrets these are.
///
/// # Errors
/// When the database cannot be asked.
pub(crate) async fn missing(app: &App) -> accounts::Result<Vec<(String, i64)>> {
    let used = second_factor::keys_in_use(app).await?;
    Ok(used.into_iter().filter(|(key, _)| !app.encryption.knows(key)).collect())
}
