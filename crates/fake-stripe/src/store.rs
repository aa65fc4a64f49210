//! The state file: what the fake knows, so that it knows it again when it is started anew.
//!
//! It is a snapshot, and a new one takes the old one's place as a whole. Whoever changes something is answered when it is
//! written; of many who wait at once, one writes for all.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Deserialize, Serialize};

use crate::{Shared, state::State};

/// What the file is known by; another layout will have another number.
const FORMAT: u32 = 1;

pub(crate) struct Store {
    path: PathBuf,
    /// Changes so far.
    changes: AtomicU64,
    /// The number of the last change that is in the file; none once the file is somebody else's.
    written: tokio::sync::Mutex<Option<u64>>,
    lock: File,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct Read {
    format: u32,
    state: Box<State>,
}

impl Store {
    /// Takes the file at `path` for this process alone, and reads what is in it; none where there is none yet.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Option<State>)> {
        fs::create_dir_all(folder(path)).map_err(|error| about("cannot make", folder(path), &error))?;
        let lock = lock(&with_suffix(path, ".lock"))?;
        let state = match fs::read(path) {
            Ok(content) => Some(read(&content).map_err(|why| unreadable(path, &why))?),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(about("cannot read", path, &error)),
        };
        let (changes, written) = (AtomicU64::new(0), tokio::sync::Mutex::new(Some(0)));
        Ok((Self { path: path.to_owned(), changes, written, lock }, state))
    }

    /// Notes that something has changed.
    pub(crate) fn touch(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns when all that has changed until now is in the file; does nothing where there is none.
pub(crate) async fn save(shared: &Arc<Shared>) -> io::Result<()> {
    let Some(store) = &shared.store else { return Ok(()) };
    let wanted = store.changes.load(Ordering::SeqCst);
    let mut written = store.written.lock().await;
    match *written {
        None => return Err(io::Error::other("it has been stopped")),
        Some(written) if written >= wanted => return Ok(()),
        Some(_) => {}
    }
    let shared = shared.clone();
    let work = tokio::task::spawn_blocking(move || write_now(&shared));
    *written = Some(work.await.map_err(io::Error::other)??);
    Ok(())
}

/// Writes what is not written yet, and lets go of the file: what is still being answered changes it no more.
pub(crate) async fn close(shared: &Arc<Shared>) -> io::Result<()> {
    let saved = save(shared).await;
    if let Some(store) = &shared.store {
        *store.written.lock().await = None;
        store.lock.unlock()?;
    }
    saved
}

/// Writes a snapshot; the number of the last change that is in it.
fn write_now(shared: &Shared) -> io::Result<u64> {
    let Some(store) = &shared.store else { return Ok(0) };
    let (number, content) = {
        let mut state = shared.lock();
        // Counted after they were made, so all that are counted by now are in it.
        let number = store.changes.load(Ordering::SeqCst);
        state.forget_old();
        (number, serde_json::to_vec(&Written { format: FORMAT, state: &state })?)
    };
    replace(&store.path, &content).map_err(|error| about("cannot write", &store.path, &error))?;
    Ok(number)
}

/// The old content or the new one, whenever the machine stops.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn read(content: &[u8]) -> Result<State, String> {
    let read: Read = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    if read.format == FORMAT { Ok(*read.state) } else { Err(format!("its format is {}", read.format)) }
}

/// Held until the file is closed; the kernel closes it for whoever is killed.
fn lock(path: &Path) -> io::Result<File> {
    let open = File::options().create(true).append(true).mode(0o600).open(path);
    let file = open.map_err(|error| about("cannot open", path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let message = format!("another fake Stripe holds {}: stop that one first", path.display());
            Err(io::Error::new(ErrorKind::WouldBlock, message))
        }
        Err(fs::TryLockError::Error(error)) => Err(about("cannot lock", path, &error)),
    }
}

fn unreadable(path: &Path, why: &str) -> io::Error {
    let message = format!(
        "{} is no state that this fake Stripe can read ({why}): put a good copy in its place, or remove it, and it begins with \
         nothing",
        path.display()
    );
    io::Error::new(ErrorKind::InvalidData, message)
}

fn about(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
