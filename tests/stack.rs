//! Runs a command, the tests, with a private and migrated PostgreSQL and Redis around it, gone afterwards:
//!
//! ```text
//! cargo run --example stack -- cargo nextest run --workspace
//! ```
//!
//! The command finds them in `TEST_DATABASE_URL` (the application's login), `TEST_DATABASE_OWNER_URL`,
//! `TEST_DATABASE_SUPERUSER_URL` and `TEST_REDIS_URL`; its exit code is ours. Tests that need a database of their own
//! copy `tenantry_template`. How often statements ran is in `pg_stat_statements` of the database `postgres`. With
//! `STACK_DURABLE` set PostgreSQL waits for the disk, as for measurements.

use std::{
    env,
    error::Error,
    fs, io,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tenantry::{
    dev::{Home, postgres, redis, signal},
    migrate,
};
use tokio::{
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal as on_signal},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PREFIX: &str = "tenantry-stack-";

#[tokio::main]
async fn main() -> ExitCode {
    run().await.unwrap_or_else(|error| {
        eprintln!("stack: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            eprintln!("stack:   because {cause}");
            source = cause.source();
        }
        ExitCode::FAILURE
    })
}

async fn run() -> Result<ExitCode> {
    // From here on a signal ends the command, not us: what we started is always stopped and removed.
    let mut signals = Signals::listen()?;
    let path = new_folder()?;
    remove_leftovers(&path).await;
    let home = Home::open(&path).await?;
    let status = with_postgres(&home, &mut signals).await;
    home.remove()?;
    let status = status?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

async fn with_postgres(home: &Home, signals: &mut Signals) -> Result<ExitStatus> {
    // What is measured is measured on a PostgreSQL that keeps its promises.
    let durable = env::var_os("STACK_DURABLE").is_some();
    let purpose = if durable { postgres::Use::Dev } else { postgres::Use::Test };
    let server = postgres::start(home, purpose).await?;
    let status = with_redis(home, signals).await;
    server.stop().await;
    status
}

async fn with_redis(home: &Home, signals: &mut Signals) -> Result<ExitStatus> {
    let server = redis::start(home).await?;
    let status = migrate_and_run(home, signals).await;
    server.stop().await;
    status
}

async fn migrate_and_run(home: &Home, signals: &mut Signals) -> Result<ExitStatus> {
    let (owner_url, app_url) = (postgres::owner_url(home), postgres::app_url(home));
    let superuser_url = postgres::superuser_url(home);
    migrate::run(&owner_url, &app_url).await?;
    make_template(&superuser_url).await?;
    let mut arguments = env::args_os().skip(1);
    let program = arguments.next().ok_or("usage: stack COMMAND [ARGUMENT]...")?;
    let child = Command::new(&program)
        .args(arguments)
        .env("TEST_DATABASE_URL", app_url)
        .env("TEST_DATABASE_OWNER_URL", owner_url)
        .env("TEST_DATABASE_SUPERUSER_URL", superuser_url)
        .env("TEST_REDIS_URL", redis::url(home))
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", program.display()))?;
    Ok(signals.wait(child).await?)
}

/// A migrated database that nobody works in, since one that somebody is connected to cannot be copied.
async fn make_template(superuser_url: &str) -> Result<()> {
    let mut config: tokio_postgres::Config = superuser_url.parse()?;
    let (client, connection) = config.dbname("postgres").connect(tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    // Who asks how often a statement ran asks there; the server counts for all databases.
    client.batch_execute("create extension pg_stat_statements").await?;
    // The migrations' own connection is closing.
    let copy = "create database tenantry_template template tenantry";
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while let Err(error) = client.batch_execute(copy).await {
        if error.code() != Some(&tokio_postgres::error::SqlState::OBJECT_IN_USE)
            || std::time::Instant::now() > deadline
        {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(client);
    Ok(connection.await??)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: on_signal(SignalKind::interrupt())?,
            terminate: on_signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the command, which gets a Ctrl-C from the terminal itself and anything else from us.
    async fn wait(&mut self, mut child: Child) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                status = child.wait() => return status,
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => child.id().into_iter().for_each(|pid| signal(pid, "TERM")),
            }
        }
    }
}

/// A folder that nobody else can have made before us, however public the one above it is.
fn new_folder() -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = env::temp_dir().join(format!("{PREFIX}{}-{}", std::process::id(), now.as_nanos()));
    fs::create_dir(&path)?;
    Ok(path)
}

/// Removes what runs that were killed have left: folders of ours that nobody holds any more.
async fn remove_leftovers(ours: &Path) {
    let Ok(us) = fs::metadata(ours).map(|found| found.uid()) else { return };
    for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let age = found.modified().ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
        // A young one may not have taken its lock yet.
        let left_over = found.is_dir() && found.uid() == us && age > Duration::from_secs(30);
        if left_over
            && entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(home) = Home::open(&entry.path()).await
            && let Err(error) = home.remove()
        {
            eprintln!("stack: {error}");
        }
    }
}
