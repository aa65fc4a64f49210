//! A process under test: started until it is ready, stopped, killed, started again.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use tenantry::dev::signal;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    sync::Mutex,
    time::{sleep, timeout},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// One life of a process: one that is killed and started again is another. None: it changed meanwhile.
pub(crate) type Run = Option<u32>;

pub(crate) struct Process {
    pub(crate) name: String,
    /// Where it listens; a worker listens nowhere.
    pub(crate) address: Option<SocketAddr>,
    command: &'static str,
    program: PathBuf,
    settings: Vec<(String, String)>,
    log: PathBuf,
    /// Even while a process runs or may be started, odd while one is being killed.
    generation: AtomicU32,
    child: Mutex<Option<Child>>,
    /// Settings from the next start on, beside the others.
    more: std::sync::Mutex<Vec<(String, String)>>,
}

impl Process {
    /// Runs `program command`, and writes what it says to a file of its name in `logs`.
    pub(crate) fn new(
        name: String,
        command: &'static str,
        address: Option<SocketAddr>,
        program: &Path,
        settings: Vec<(String, String)>,
        logs: &Path,
    ) -> Self {
        let log = logs.join(&name).with_extension("log");
        let (generation, child, more) = (AtomicU32::new(1), Mutex::new(None), std::sync::Mutex::default());
        Self { name, address, command, program: program.to_owned(), settings, log, generation, child, more }
    }

    /// From the next start on it has these settings as well.
    pub(crate) fn set(&self, more: Vec<(String, String)>) -> Result<()> {
        *self.more.lock().map_err(|_| "poisoned")? = more;
        Ok(())
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

    /// SIGTERM, and waits until it has ended.
    pub(crate) async fn terminate(&self) -> Result<ExitStatus> {
        let mut child = self.child.lock().await;
        let mut ending = child.take().ok_or("it does not run")?;
        self.generation.fetch_add(1, Ordering::SeqCst);
        send(ending.id().ok_or("it has ended")?, "TERM").await?;
        Ok(timeout(Duration::from_secs(60), ending.wait()).await??)
    }

    /// The number of its process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.try_lock().ok()?.as_ref().and_then(Child::id)
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
        command.envs(self.more.lock().map_err(|_| "poisoned")?.iter().cloned());
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
