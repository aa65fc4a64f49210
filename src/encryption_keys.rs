//! The keys that encrypt secrets in the database: files of 32 random bytes in base64.

use base64::{Engine, engine::general_purpose::STANDARD};
use tenantry_accounts::{
    self as accounts, App,
    encryption::{Encryption, Key},
    second_factor,
};

use crate::{
    config::Config,
    key_files::{KeyError, KeyFolder},
};

const WANTED: &str = "32 bytes in base64, as `openssl rand -base64 32` prints them";

/// Where the keys are.
pub(crate) fn folder(config: &Config) -> KeyFolder {
    let path = config.encryption_keys_dir().to_owned();
    KeyFolder { setting: "ENCRYPTION_KEYS_DIR", path, extension: "key" }
}

/// Makes the first key if there is none.
pub(crate) fn make_first(folder: &KeyFolder) -> Result<(), KeyError> {
    folder.make_first(|bytes| Some(STANDARD.encode(bytes) + "\n"))
}

/// Gives `encryption` the keys of the folder, which has some.
pub(crate) fn load(folder: &KeyFolder, encryption: &Encryption) -> Result<(), KeyError> {
    let read = folder.read(WANTED, parse)?.ok_or_else(|| folder.none())?;
    encryption.replace(read.writing, read.all);
    Ok(())
}

/// The same while the service runs: a folder that cannot be read changes nothing.
pub(crate) fn reload(folder: &KeyFolder, encryption: &Encryption) {
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

fn parse(text: &str) -> Option<Key> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    Some(Key::new(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::SystemTime};

    use super::*;

    #[test]
    fn the_first_key_is_made_once_and_for_its_owner_only() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder { setting: "X", path: home.path().join("keys"), extension: "key" };
        let encryption = Encryption::default();
        assert!(load(&folder, &encryption).unwrap_err().to_string().contains("holds no key"));
        make_first(&folder).unwrap();
        let file = folder.path.join("first.key");
        let made = fs::read_to_string(&file).unwrap();
        make_first(&folder).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), made);
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 1, "no draft is left");
        load(&folder, &encryption).unwrap();
        assert!(encryption.knows(parse(&made).unwrap().id()));
    }

    #[test]
    fn a_new_key_reads_at_once_and_writes_when_it_has_rested() {
        let home = tempfile::tempdir().unwrap();
        let folder = KeyFolder { setting: "X", path: home.path().into(), extension: "key" };
        let write = |name: &str, byte: u8, age: u64| {
            let file = folder.path.join(name);
            fs::write(&file, STANDARD.encode([byte; 32])).unwrap();
            let changed = SystemTime::now() - std::time::Duration::from_secs(age);
            fs::File::options().write(true).open(&file).unwrap().set_modified(changed).unwrap();
            Key::new([byte; 32]).id().to_owned()
        };
        let (old, new) = (write("b.key", 1, 1000), write("a.key", 2, 60));
        let writing =
            |folder: &KeyFolder| folder.read(WANTED, parse).unwrap().unwrap().writing.id().to_owned();
        let encryption = Encryption::default();
        load(&folder, &encryption).unwrap();
        assert!(encryption.knows(&old) && encryption.knows(&new));
        assert_eq!(writing(&folder), old);
        write("a.key", 2, 130);
        assert_eq!(writing(&folder), new);
        fs::write(folder.path.join("c.key"), "short").unwrap();
        let refused = load(&folder, &encryption).unwrap_err().to_string();
        assert!(refused.contains("c.key is not 32 bytes in base64"), "{refused}");
    }
}
