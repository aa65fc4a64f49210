//! PostgreSQL's disk, which is full. A small file system in memory, which the system's administrator alone may mount.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Promise, Scene, TOLD, settle};
use crate::{Result, cluster::until, servers::Servers};

const SIZE: &str = "size=384m";
const FULL: Duration = Duration::from_secs(5);
const BACK: Promise = Promise::new(
    "changes are taken 2 s after there is room",
    Duration::from_secs(2),
    Duration::from_secs(20),
);

/// Unmounted when it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder).status()?;
        if mounted.success() {
            Ok(Self(folder.to_owned()))
        } else {
            Err("a small file system cannot be mounted: this needs to be run as root, outside of a container without CAP_SYS_ADMIN".into())
        }
    }
}

/// All the room that there is, and what becomes free: PostgreSQL gives files back now and then, of which it could live for minutes.
struct Ballast {
    path: PathBuf,
    grows: JoinHandle<()>,
}

impl Ballast {
    fn new(mount: &Mount) -> Result<Self> {
        let path = mount.0.join("ballast");
        let mut file = File::create(&path)?;
        let grows = tokio::spawn(async move {
            loop {
                while file.write_all(&[1; 4096]).is_ok() {}
                sleep(Duration::from_millis(5)).await;
            }
        });
        Ok(Self { path, grows })
    }

    async fn remove(self) -> Result<()> {
        self.grows.abort();
        // It has its file open, whose room comes back when it is closed.
        let _ = self.grows.await;
        Ok(fs::remove_file(self.path)?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Its servers may need a moment to end, in which it is busy.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub(super) async fn is_full(mut scene: Scene<'_>) -> Result<()> {
    let mount = Mount::new(&scene.folder.join("small"))?;
    let servers = Servers::start(&mount.0.join("home")).await?;
    let cluster = scene.cluster_on(servers, 1, &[]).await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let ballast = Ballast::new(&mount)?;
    // Room in the pages of tables is used up first: from the first change on that is refused, there is none.
    until("a change is refused", Duration::from_secs(120), async || !cluster.target.changes().await).await?;
    let from = Instant::now();
    sleep(FULL).await;
    let to = Instant::now();
    ballast.remove().await?;
    let back = Instant::now();
    until("a change is taken", Duration::from_secs(60), async || cluster.target.changes().await).await?;
    let recovered = back.elapsed();
    settle().await;
    let seen = load.end().await?;
    scene.judge_outage(&seen, [from, to, back + recovered], TOLD)?;
    scene.judge_time(BACK, recovered);
    scene.judge_after(&seen, back + recovered);
    scene.judge_processes(&cluster).await?;
    scene.judge_changes(&cluster).await?;
    cluster.stop().await?;
    drop(mount);
    Ok(())
}
