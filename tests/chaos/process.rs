//! A process of the program under test: started until it is ready, stopped, killed, started again.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tenantry::dev::signal;
use tenantry_cache::planted::Bug;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    sync::Mutex,
    time::{sleep, timeout},
};

use crate::{Result, history::Run, points::Points, proxy::Proxy};

pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) points: Points,
    /// On its way to Redis and to PostgreSQL.
    pub(crate) redis: Proxy,
    pub(crate) postgres: Proxy,
    command: &'static str,
    program: PathBuf,
    settings: Vec<(String, String)>,
    log: PathBuf,
    /// Even while a process runs or may be started, odd while one is being killed.
    generation: AtomicU32,
    child: Mutex<Option<Child>>,
    bug: std::sync::Mutex<Option<Bug>>,
}

/// What a process is made of.
pub(crate) struct Parts<'a> {
    pub(crate) name: String,
    /// `api`, which listens there, or `worker`.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) program: &'a Path,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) logs: &'a Path,
    pub(crate) points: Points,
    pub(crate) redis: Proxy,
    pub(crate) postgres: Proxy,
}

impl Process {
    pub(crate) fn new(parts: Parts<'_>) -> Self {
        let Parts { name, address, program, settings, logs, points, redis, postgres } = parts;
        Self {
            log: logs.join(&name).with_extension("log"),
            name,
            address,
            points,
            redis,
            postgres,
            command: if address.is_some() { "api" } else { "worker" },
            program: program.to_owned(),
            settings,
            generation: AtomicU32::new(1),
            child: Mutex::new(None),
            bug: std::sync::Mutex::new(None),
        }
    }

    /// Which of its lives the process is in; none between two.
    pub(crate) fn run(&self) -> Run {
        Some(self.generation.load(Ordering::SeqCst)).filter(|generation| generation % 2 == 0)
    }

    /// Starts it until it is ready; it may refuse while the database is away.
    pub(crate) async fn start(&self) -> Result<()> {
        self.start_in(&mut *self.child.lock().await).await
    }

    /// kill -9, some time of being dead, and a new one.
    pub(crate) async fn replace(&self, dead: Duration) -> Result<()> {
        let mut child = self.child.lock().await;
        self.kill_in(&mut child).await?;
        sleep(dead).await;
        self.start_in(&mut child).await
    }

    pub(crate) async fn kill(&self) -> Result<()> {
        self.kill_in(&mut *self.child.lock().await).await
    }

    /// From the next start on it errs like this.
    pub(crate) fn plant(&self, bug: Option<Bug>) -> Result<()> {
        *self.bug.lock().map_err(|_| "poisoned")? = bug;
        Ok(())
    }

    /// Waits until it has killed itself, at a point where it was told to.
    pub(crate) async fn died(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        let Some(mut dying) = child.take() else { return Ok(()) };
        self.generation.fetch_add(1, Ordering::SeqCst);
        timeout(Duration::from_secs(5), dying.wait()).await??;
        Ok(())
    }

    /// SIGSTOP, some time, SIGCONT.
    pub(crate) async fn freeze(&self, time: Duration) -> Result<()> {
        let child = self.child.lock().await;
        let Some(pid) = child.as_ref().and_then(Child::id) else { return Ok(()) };
        send(pid, "STOP").await?;
        sleep(time).await;
        send(pid, "CONT").await
    }

    /// SIGCONT, for one that has stopped itself.
    pub(crate) async fn thaw(&self) -> Result<()> {
        match self.child.lock().await.as_ref().and_then(Child::id) {
            Some(pid) => send(pid, "CONT").await,
            None => Ok(()),
        }
    }

    /// Starts it again if it has ended by itself, and says how it ended.
    pub(crate) async fn revive(&self) -> Result<Option<String>> {
        let mut slot = self.child.lock().await;
        let Some(child) = slot.as_mut() else { return Ok(None) };
        let Some(status) = child.try_wait()? else { return Ok(None) };
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.start_in(&mut slot).await?;
        Ok(Some(format!("{} ended by itself: {status}", self.name)))
    }

    async fn kill_in(&self, slot: &mut Option<Child>) -> Result<()> {
        if let Some(mut child) = slot.take() {
            self.generation.fetch_add(1, Ordering::SeqCst);
            child.kill().await?;
        }
        Ok(())
    }

    async fn start_in(&self, slot: &mut Option<Child>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut child = self.spawn()?;
            if self.ready(&mut child).await? {
                *slot = Some(child);
                self.generation.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            child.kill().await?;
            if Instant::now() > deadline {
                return Err(format!("{} does not start; see {}", self.name, self.log.display()).into());
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.arg(self.command).env_clear().envs(self.settings.iter().cloned());
        if let Some(address) = self.address {
            command.env("LISTEN", address.to_string());
        }
        command.env("PLANTED_POINTS", &self.points.folder);
        if let Some(bug) = *self.bug.lock().map_err(|_| "poisoned")? {
            command.env("PLANTED_BUG", format!("{bug:?}"));
        }
        // Where there is no .env.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.process_group(0).kill_on_drop(true);
        Ok(command.spawn()?)
    }

    /// False once it has ended.
    async fn ready(&self, child: &mut Child) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_secs(20);
        // A worker listens nowhere: it is ready when it has not refused to start.
        let settled = Instant::now() + Duration::from_millis(500);
        while Instant::now() < deadline {
            if child.try_wait()?.is_some() {
                return Ok(false);
            }
            match self.address {
                Some(address) if TcpStream::connect(address).await.is_ok() => return Ok(true),
                None if Instant::now() > settled => return Ok(true),
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
        Ok(false)
    }
}

/// By a shell, which blocks.
pub(crate) async fn send(pid: u32, name: &'static str) -> Result<()> {
    Ok(tokio::task::spawn_blocking(move || signal(pid, name)).await?)
}
