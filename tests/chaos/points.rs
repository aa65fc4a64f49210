//! The fail-points of one process: files in a folder of its own (crates/cache/src/planted.rs).

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use tokio::time::{sleep, timeout};

use crate::Result;

/// How long until a process that must get to a point is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the process does there, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Goes on; it is seen to have been there.
    Note,
    /// One request waits until it is released.
    Hold,
    /// SIGSTOP.
    Stop,
    /// SIGKILL.
    Kill,
}

pub(crate) struct Points {
    pub(crate) folder: PathBuf,
}

impl Points {
    pub(crate) fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder)?;
        Ok(Self { folder })
    }

    /// The next that gets to `point` does this.
    pub(crate) fn arm(&self, point: &str, action: Action) -> Result<()> {
        self.release(point)?;
        let unfinished = self.folder.join("unfinished");
        let action = match action {
            Action::Note => "note",
            Action::Hold => "hold",
            Action::Stop => "stop",
            Action::Kill => "kill",
        };
        fs::write(&unfinished, action)?;
        Ok(fs::rename(unfinished, self.folder.join(point))?)
    }

    /// Waits until somebody is there.
    pub(crate) async fn reached(&self, point: &str) -> Result<()> {
        match self.reached_within(point, PATIENCE).await {
            true => Ok(()),
            false => Err(format!("nobody gets to {point}").into()),
        }
    }

    /// The same, for so long.
    pub(crate) async fn reached_within(&self, point: &str, time: Duration) -> bool {
        let reached = self.folder.join(format!("{point}.reached"));
        let wait = async {
            while !reached.exists() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(time, wait).await.is_ok()
    }

    /// Disarms it; false if somebody was there first.
    pub(crate) fn withdraw(&self, point: &str) -> Result<bool> {
        match fs::remove_file(self.folder.join(point)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(true),
        }
    }

    /// Lets whoever is there go on.
    pub(crate) fn release(&self, point: &str) -> Result<()> {
        remove(self.folder.join(format!("{point}.reached")))
    }

    /// Disarms all.
    pub(crate) fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            remove(entry?.path())?;
        }
        Ok(())
    }
}

fn remove(path: PathBuf) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
