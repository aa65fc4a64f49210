//! A server process: started until it answers, stopped for good, started again when it dies.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Child,
    time::{sleep, timeout},
};
use tracing::{error, info, warn};

use super::{
    error::{Doing, ServerError},
    home::Home,
};

/// Crash recovery after a hard stop may take its time.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(15);
/// Long enough to watch a server be gone, and to see that the rest goes on.
const RESTART: Duration = Duration::from_secs(10);

/// How to run a server, and how to tell that it is there.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) home: Home,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) socket: PathBuf,
    /// What is said to it, and the first byte of what it answers when it is ready.
    pub(super) greeting: (&'static [u8], u8),
    /// The signal that stops it in order.
    pub(super) stop: &'static str,
}

/// A private server that runs. Dropped, it is told to stop; `stop` also waits for it.
#[derive(Debug)]
pub struct Server {
    plan: Plan,
    child: Child,
}

impl Server {
    /// Starts the server and returns when it answers.
    pub(super) async fn start(plan: Plan) -> Result<Server, ServerError> {
        let child = spawn(&plan)?;
        let mut server = Server { plan, child };
        server.ready().await?;
        Ok(server)
    }

    /// The process id; `None` once it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it answers.
    pub async fn is_alive(&self) -> bool {
        answers(&self.plan).await
    }

    /// Stops the server in order; kills it when it does not end.
    pub async fn stop(mut self) {
        self.end().await;
    }

    /// Starts the server again, in the same place, whenever it dies, until `stopped` is; then stops it.
    pub async fn supervise(mut self, stopped: impl Future<Output = ()>) {
        tokio::select! {
            () = stopped => {}
            () = self.restart_when_it_dies() => {}
        }
        self.end().await;
    }

    async fn restart_when_it_dies(&mut self) {
        let name = self.plan.name;
        loop {
            let status = match self.child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => error.to_string(),
            };
            warn!(server = name, "private {name} ended ({status}); starting it again in {RESTART:?}");
            sleep(RESTART).await;
            match spawn(&self.plan) {
                Ok(child) => self.child = child,
                Err(error) => {
                    error!(server = name, "private {name} cannot be started: {error}");
                    continue;
                }
            }
            match self.ready().await {
                Ok(()) => info!(server = name, "private {name} is back"),
                Err(error) => error!(server = name, "{error}"),
            }
        }
    }

    async fn ready(&mut self) -> Result<(), ServerError> {
        let deadline = Instant::now() + START;
        while !answers(&self.plan).await {
            if !matches!(self.child.try_wait(), Ok(None)) || Instant::now() > deadline {
                let log = self.plan.home.log(self.plan.name);
                return Err(ServerError::Start { name: self.plan.name, tail: tail(&log), log });
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn end(&mut self) {
        self.tell();
        if timeout(STOP, self.child.wait()).await.is_err() {
            warn!(server = self.plan.name, "private {} does not stop: killed", self.plan.name);
            if let Err(error) = self.child.kill().await {
                error!(server = self.plan.name, "private {} cannot be killed: {error}", self.plan.name);
            }
        }
    }

    fn tell(&self) {
        if let Some(pid) = self.child.id() {
            signal(pid, self.plan.stop);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Stops the process that `pid_file` names, if it is one of ours: its command line holds `mark`.
pub(super) async fn stop_leftover(pid_file: &Path, mark: &str, stop: &str) -> Result<(), ServerError> {
    let Ok(content) = fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = content.lines().next().and_then(|line| line.trim().parse().ok()) else { return Ok(()) };
    match command_line(pid) {
        // PostgreSQL sorts out the files of a dead one itself, with more care than we could.
        None => return Ok(()),
        Some(line) if line.contains(mark) => {}
        // The number was given to another process since.
        Some(_) => return fs::remove_file(pid_file).doing("remove", pid_file),
    }
    info!(pid, "stopping process {pid}, left over from an earlier run");
    let ours = || command_line(pid).is_some_and(|line| line.contains(mark));
    for stop in [stop, "KILL"] {
        signal(pid, stop);
        let deadline = Instant::now() + STOP;
        while ours() && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(())
}

fn spawn(plan: &Plan) -> Result<Child, ServerError> {
    let mut command = plan.home.user.command(&plan.program, &plan.home.data);
    command.args(&plan.arguments);
    plan.home.log_output(&mut command, plan.name)?;
    command.spawn().doing("run", &plan.program)
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let content = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().map(|line| format!("    {line}\n")).collect()
}

async fn answers(plan: &Plan) -> bool {
    let (hello, expected) = plan.greeting;
    let exchange = async {
        let mut stream = UnixStream::connect(&plan.socket).await?;
        stream.write_all(hello).await?;
        stream.read_u8().await
    };
    matches!(timeout(Duration::from_secs(1), exchange).await, Ok(Ok(answer)) if answer == expected)
}

/// Sends a signal (`INT`, `TERM`) by the shell's own `kill`: std cannot signal without unsafe code, and small images have no other.
pub fn signal(pid: u32, name: &str) {
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", r#"kill -s "$1" "$2" 2>/dev/null"#, "sh", name, &pid.to_string()]);
    if let Err(error) = shell.status() {
        error!(pid, "cannot signal process {pid}: {error}");
    }
}

/// The command line of a running process; `None` when there is none (or it is dead and not yet buried).
fn command_line(pid: u32) -> Option<String> {
    let line = if Path::new("/proc/self").exists() {
        fs::read(format!("/proc/{pid}/cmdline")).ok()?
    } else {
        std::process::Command::new("ps")
            .args(["-o", "command=", "-p", &pid.to_string()])
            .output()
            .ok()?
            .stdout
    };
    (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
}
