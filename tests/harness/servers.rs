//! A PostgreSQL and a Redis that may be taken away, where they are, and a folder for all of it.

#[path = "port.rs"]
mod port;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tenantry::{
    dev::{Home, Server, postgres, redis},
    migrate,
};
use tokio::{
    process::Command,
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_postgres::NoTls;

pub(crate) use self::port::free_address;
use crate::{Result, harness::send};

/// Of PostgreSQL itself, in its folder; who goes through a proxy has the same name in another.
pub(crate) const SOCKET: &str = ".s.PGSQL.5432";

pub(crate) struct Servers {
    pub(crate) home: Home,
    pub(crate) postgres: Mutex<Option<Server>>,
    pub(crate) redis: Mutex<Option<Server>>,
}

impl Servers {
    /// Starts both, with a migrated database.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let servers = Self::empty(folder).await?;
        migrate::run(&postgres::owner_url(&servers.home), &postgres::app_url(&servers.home)).await?;
        Ok(servers)
    }

    /// Starts both, with nothing in them.
    pub(crate) async fn empty(folder: &Path) -> Result<Self> {
        let home = Home::open(folder).await?;
        let postgres = postgres::start(&home, postgres::Use::Dev).await?;
        let redis = redis::start(&home).await?;
        Ok(Self { home, postgres: Mutex::new(Some(postgres)), redis: Mutex::new(Some(redis)) })
    }

    /// The socket of PostgreSQL.
    pub(crate) fn postgres_socket(&self) -> Result<PathBuf> {
        Ok(self.redis_socket().parent().ok_or("Redis has no folder")?.join(SOCKET))
    }

    /// The socket of Redis.
    pub(crate) fn redis_socket(&self) -> PathBuf {
        redis::url(&self.home).replace("redis+unix://", "").into()
    }

    /// A connection as a superuser.
    pub(crate) async fn database(&self) -> Result<tokio_postgres::Client> {
        let url = postgres::superuser_url(&self.home);
        let connect = tokio_postgres::connect(&url, NoTls);
        let (client, connection) = timeout(Duration::from_secs(5), connect).await??;
        tokio::spawn(connection);
        Ok(client)
    }

    /// kill -9 of Redis.
    pub(crate) async fn kill_redis(&self) -> Result<()> {
        if let Some(server) = self.redis.lock().await.take() {
            if let Some(pid) = server.pid() {
                send(pid, "KILL").await?;
            }
            server.stop().await;
        }
        Ok(())
    }

    /// An empty one, where it was killed.
    pub(crate) async fn start_redis(&self) -> Result<()> {
        *self.redis.lock().await = Some(redis::start(&self.home).await?);
        Ok(())
    }

    /// Ends PostgreSQL with a signal (QUIT: an immediate shutdown), some time, and starts it again.
    pub(crate) async fn crash_postgres(&self, name: &'static str, dead: Duration) -> Result<()> {
        let mut slot = self.postgres.lock().await;
        if let Some(server) = slot.take() {
            if let Some(pid) = server.pid() {
                send(pid, name).await?;
            }
            server.stop().await;
        }
        sleep(dead).await;
        // After a kill -9 the next one starts only when the orphans have ended.
        let mut tries = 0;
        loop {
            match postgres::start(&self.home, postgres::Use::Dev).await {
                Ok(server) => {
                    *slot = Some(server);
                    return Ok(());
                }
                Err(error) if tries == 100 => return Err(error.into()),
                Err(_) => {
                    tries += 1;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Stops and removes both.
    pub(crate) async fn stop(self) -> Result<()> {
        for server in [self.postgres, self.redis].into_iter().filter_map(Mutex::into_inner) {
            server.stop().await;
        }
        Ok(self.home.remove()?)
    }
}

/// Runs a command of the program, and returns what it prints.
pub(crate) async fn tenantry(
    program: &Path,
    settings: &[(String, String)],
    arguments: &[&str],
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(settings.iter().cloned()).current_dir("/").stdin(Stdio::null());
    let output = command.output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("tenantry {}: {said}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A folder of this run's own, named `prefix` and the number of its process. What runs that ended early have left goes, and
/// servers that still run there.
pub(crate) async fn new_folder(prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let Some(run) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        if run.parse::<u32>().is_err() || Path::new("/proc").join(run).exists() {
            continue;
        }
        for cluster in fs::read_dir(entry.path())?.flatten() {
            let home = cluster.path().join("home");
            if home.exists() {
                Home::open(&home).await?.remove()?;
            }
        }
        fs::remove_dir_all(entry.path())?;
    }
    let path = std::env::temp_dir().join(format!("{prefix}{}", std::process::id()));
    fs::create_dir(&path)?;
    Ok(path)
}
