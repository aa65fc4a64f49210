//! A server under load, and what it and others have cost.

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::sleep,
};

use crate::Result;

/// A process that listens. It dies with the value.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Process {
    /// Starts `command`, which will listen on `address`; what it says goes to the file `log`.
    pub(crate) async fn start(mut command: Command, address: SocketAddr, log: &Path) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(log)?).kill_on_drop(true);
        let mut child = command.spawn()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).await.is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                return Err(format!("a server does not start: {}", fs::read_to_string(log)?).into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(Self { address, child })
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self.child.id().ok_or("the server has ended")?)
    }

    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu(self.pid()?)
    }

    /// The memory it has, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most memory it has had, in bytes.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    /// A number of bytes out of what the kernel says of it: proc(5).
    fn status(&self, name: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no such line")?;
        Ok(kilobytes.trim().parse::<f64>()? * 1024.0)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// The programs that were built with this one.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let examples = env::current_exe()?.parent().map(Path::to_owned).ok_or("no folder")?;
    let found = [examples.join(name), examples.join("..").join(name)].into_iter().find(|path| path.is_file());
    found.ok_or_else(|| format!("{name} is not built: see make help").into())
}

/// A program of others, as `scripts/clients WANTED` installs it in a folder of its own, or from elsewhere.
pub(crate) fn tool(folder: &str, name: &str, wanted: &str) -> Result<PathBuf> {
    let target = env::current_exe()?.ancestors().nth(3).map(PathBuf::from).ok_or("no folder")?;
    let installed = [target.join("tools").join(folder).join("bin")].into_iter();
    let paths = env::var_os("PATH").unwrap_or_default();
    let mut found = installed.chain(env::split_paths(&paths)).map(|folder| folder.join(name));
    found
        .find(|program| program.is_file())
        .ok_or_else(|| format!("{name} is missing; run: scripts/clients {wanted}").into())
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Seconds of processor time that `pid` has used so far.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    let (own, _, _) = times(pid)?;
    Ok(own)
}

/// The same of the children that this process has waited for.
pub(crate) fn cpu_of_ended_children() -> Result<f64> {
    let (_, ended, _) = times(std::process::id())?;
    Ok(ended)
}

/// The same of a process and its children, those that have ended included.
pub(crate) fn cpu_of_family(pid: u32) -> Result<f64> {
    let (own, ended, _) = times(pid)?;
    let mut sum = own + ended;
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may end meanwhile.
        if let Ok((own, _, parent)) = times(child)
            && parent == pid
        {
            sum += own;
        }
    }
    Ok(sum)
}

/// Of a process: its own time, that of children it has waited for, its parent. proc(5)
fn times(pid: u32) -> Result<(f64, f64, u32)> {
    // The kernel tells ticks of a hundredth of a second on every system that Linux runs on.
    const TICK: f64 = 0.01;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").ok_or("no /proc as Linux has it")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |n: usize| -> Result<f64> { Ok(fields.get(n).ok_or("short")?.parse::<f64>()? * TICK) };
    let parent = fields.get(1).ok_or("short")?.parse()?;
    Ok((ticks(11)? + ticks(12)?, ticks(13)? + ticks(14)?, parent))
}
