//! The folder that holds the private servers' state, and the lock that gives it to one process at a time.
//!
//! ```text
//! .tenantry/data/          the servers' own, 0700; a link to /var/lib/tenantry/<hash> where they cannot get in
//! .tenantry/log/           what they say
//! /tmp/tenantry-<hash>/    their sockets, 0700: a socket's path may have 107 bytes at most
//! ```

use std::{
    fs::{self, DirBuilder, File},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown, fchown, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{
    error::{Doing, ServerError},
    process,
    user::User,
};

/// An opened home: ours as long as a clone of it lives, and no server runs in it that we have not started.
#[derive(Clone, Debug)]
pub struct Home {
    path: PathBuf,
    pub(super) data: PathBuf,
    pub(super) sockets: PathBuf,
    pub(super) user: User,
    _hold: Arc<Hold>,
}

/// What ends with the last clone of a home: its lock, and the folder of its sockets once no server has one there.
#[derive(Debug)]
struct Hold {
    sockets: PathBuf,
    _lock: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Not empty while a server that was not waited for still stops; the next start finds and removes it.
        let _ = fs::remove_dir(&self.sockets);
    }
}

impl Home {
    /// Opens (or makes) the home at `path`, and stops the servers that a killed predecessor left running.
    pub async fn open(path: &Path) -> Result<Home, ServerError> {
        fs::create_dir_all(path.join("log")).doing("make", path)?;
        let path = path.canonicalize().doing("find", path)?;
        let (user, data) = data_folder(&path).await?;
        let lock = lock(&data)?;
        let name = format!("tenantry-{}", hash(&data));
        let sockets = socket_folder(&user, &name).await?;
        process::stop_leftover(&data.join("postgres/postmaster.pid"), &name, "INT").await?;
        // These two are still there when somebody has deleted the data of running servers.
        process::stop_leftover(&sockets.join(".s.PGSQL.5432.lock"), &name, "INT").await?;
        process::stop_leftover(&sockets.join("redis.pid"), &name, "TERM").await?;
        let hold = Hold { sockets: sockets.clone(), _lock: lock };
        Ok(Home { path, data, sockets, user, _hold: Arc::new(hold) })
    }

    /// Forgets all data; to be called before the servers are started.
    pub fn wipe(&self) -> Result<(), ServerError> {
        for entry in fs::read_dir(&self.data).doing("read", &self.data)? {
            let path = entry.doing("read", &self.data)?.path();
            if path.is_dir() {
                fs::remove_dir_all(&path).doing("remove", path)?;
            }
        }
        Ok(())
    }

    /// Removes the home with all that belongs to it; to be called after the servers are stopped.
    pub fn remove(self) -> Result<(), ServerError> {
        for folder in [&self.sockets, &self.data, &self.path] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).doing("remove", folder);
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(name).with_extension("log")
    }

    /// Appends what `command` says to the log of that name, which starts anew when it has grown large.
    pub(super) fn log_output(&self, command: &mut Command, name: &str) -> Result<(), ServerError> {
        let path = self.log(name);
        let large = fs::metadata(&path).is_ok_and(|found| found.len() > 10_000_000);
        let open = || {
            let file = File::options().create(true).append(true).open(&path)?;
            if large {
                file.set_len(0)?;
            }
            if self.user.dropped {
                fchown(&file, Some(self.user.uid), Some(self.user.gid))?;
            }
            Ok((file.try_clone()?, file))
        };
        let (out, err) = open().doing("write", &path)?;
        command.stdout(out).stderr(err);
        Ok(())
    }
}

/// In place if the servers' user can get there, else (root in a folder only root can enter) below /var/lib.
async fn data_folder(home: &Path) -> Result<(User, PathBuf), ServerError> {
    let data = home.join("data");
    if let (Ok(target), false) = (fs::read_link(&data), data.exists()) {
        return Err(ServerError::Vanished { link: data, target });
    }
    let owner = fs::metadata(&data).ok().map(|found| (found.uid(), found.gid()));
    let user = User::for_servers(owner).await?;
    own_folder(&data, &user)?;
    let real = data.canonicalize().doing("find", &data)?;
    if !user.dropped || user.can_enter(&real).await {
        return Ok((user, real));
    }

    // Empty: just made, or by a start that was killed here.
    if fs::remove_dir(&data).is_err() {
        return Err(ServerError::Unreachable { path: data, uid: user.uid });
    }
    let elsewhere = Path::new("/var/lib/tenantry");
    DirBuilder::new().recursive(true).mode(0o711).create(elsewhere).doing("make", elsewhere)?;
    let elsewhere = elsewhere.join(hash(home));
    own_folder(&elsewhere, &user)?;
    symlink(&elsewhere, &data).doing("link", data)?;
    Ok((user, elsewhere))
}

/// The first that is short enough, needs no quoting in URLs and settings, and lets the servers' user through.
async fn socket_folder(user: &User, name: &str) -> Result<PathBuf, ServerError> {
    let plain = |path: &Path| {
        let path = path.to_str().unwrap_or(" ");
        path.len() <= 80 && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
    };
    for parent in [std::env::temp_dir(), "/tmp".into()] {
        let folder = parent.join(name);
        if plain(&folder) && parent.is_dir() {
            own_folder(&folder, user)?;
            if !user.dropped || user.can_enter(&folder).await {
                return Ok(folder);
            }
        }
    }
    Err(ServerError::NoSocketFolder(user.uid))
}

/// Makes `folder` (0700) for `user`, or makes sure that it is theirs, and no link that somebody else has planted.
fn own_folder(folder: &Path, user: &User) -> Result<(), ServerError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) if user.dropped => chown(folder, Some(user.uid), Some(user.gid)).doing("hand over", folder),
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let mut found = fs::symlink_metadata(folder).doing("read", folder)?;
            if found.is_symlink() && [0, user.uid].contains(&found.uid()) {
                found = fs::metadata(folder).doing("read", folder)?;
            }
            match found.uid() {
                owner if !found.is_dir() => Err(ServerError::Foreign { path: folder.into(), owner }),
                owner if owner == user.uid => Ok(()),
                // A kill between making and handing over left it root's, and empty.
                0 if user.dropped => chown(folder, Some(user.uid), Some(user.gid)).doing("hand over", folder),
                owner => Err(ServerError::Foreign { path: folder.into(), owner }),
            }
        }
        Err(error) => Err(error).doing("make", folder),
    }
}

/// Held until the file is closed; the kernel closes it for whoever is killed, and no child inherits it.
fn lock(data: &Path) -> Result<File, ServerError> {
    let path = data.join("lock");
    let open = || File::open(&path).or_else(|_| File::options().create(true).append(true).open(&path));
    let file = open().doing("open", &path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(ServerError::Busy(data.into())),
        Err(fs::TryLockError::Error(error)) => Err(error).doing("lock", path),
    }
}

/// Twelve hexadecimal digits that stand for a path.
fn hash(path: &Path) -> String {
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
