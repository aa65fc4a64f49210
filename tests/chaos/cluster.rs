//! What is tormented: a PostgreSQL, a Redis, API processes and workers, all of our own, and one tenant with its users.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rand::Rng;
use tenantry::{
    dev::{Home, Server, postgres, redis},
    migrate,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::{
    Result,
    history::{Clock, Committed, Effect, Event, FOREIGN, History, Micros, SEEDED, Value},
    process::{Process, send},
};

/// Of the folder of a run, before the number of its process.
const PREFIX: &str = "tenantry-chaos-";
const APIS: usize = 3;
const WORKERS: usize = 2;

/// Notes every version of every user in the transaction that makes it: what the readers' answers are compared with.
const LEDGER: &str = "
    create schema chaos;
    create table chaos.ledger (user_id uuid not null, version bigint not null, name text not null);
    create function chaos.note() returns trigger language plpgsql security definer as $$
      begin insert into chaos.ledger values (new.id, new.version, new.name); return null; end $$;
    create trigger chaos_note after insert or update on tenantry.users
      for each row execute function chaos.note();
    insert into chaos.ledger select id, version, name from tenantry.users;
";

pub(crate) struct Cluster {
    pub(crate) clock: Clock,
    pub(crate) apis: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    /// The users that are read and written; a key is a place in this list.
    pub(crate) users: Vec<Uuid>,
    pub(crate) token: String,
    events: std::sync::Mutex<Vec<Event>>,
    exits: std::sync::Mutex<Vec<(Micros, String)>>,
    home: Home,
    postgres: Mutex<Option<Server>>,
    redis: Mutex<Option<Server>>,
}

impl Cluster {
    /// Starts everything below `folder`, with `keys` users, and settings that are different.
    pub(crate) async fn start(folder: &Path, logs: &Path, keys: usize, different: &[String]) -> Result<Self> {
        let home = Home::open(&folder.join("home")).await?;
        let postgres = postgres::start(&home, postgres::Use::Dev).await?;
        let redis = redis::start(&home).await?;
        migrate::run(&postgres::owner_url(&home), &postgres::app_url(&home)).await?;

        let program = program()?;
        let mut settings = settings(&home, folder);
        for setting in different {
            let (name, value) = setting.split_once('=').ok_or("--set takes NAME=VALUE")?;
            settings.push((name.to_owned(), value.to_owned()));
        }
        tenantry(&program, &settings, &["seed", "--tenants", "1", "--users", &(keys + 1).to_string()])
            .await?;
        let database = database(&home).await?;
        let tenant: String = database
            .query_one("select slug from tenantry.tenants where slug like 'seed-%'", &[])
            .await?
            .try_get(0)?;
        let sql = "select id from tenantry.users where email like 'user%@example.org' order by email";
        let rows = database.query(sql, &[]).await?;
        let users = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<Vec<_>, _>>()?;
        database.batch_execute(LEDGER).await?;

        let process = |name: String, command, address| {
            Process::new(name, command, address, program.clone(), settings.clone(), logs)
        };
        let mut apis = vec![];
        for n in 0..APIS {
            apis.push(process(format!("api-{n}"), "api", Some(free_address()?)));
        }
        let workers = (0..WORKERS).map(|n| process(format!("worker-{n}"), "worker", None)).collect();
        let mut cluster = Self {
            clock: Clock::start(),
            apis,
            workers,
            users,
            token: String::new(),
            events: std::sync::Mutex::default(),
            exits: std::sync::Mutex::default(),
            home,
            postgres: Mutex::new(Some(postgres)),
            redis: Mutex::new(Some(redis)),
        };
        for process in cluster.processes() {
            process.start().await?;
        }
        // The first of them has made the keys.
        let arguments = ["token", "--tenant", &tenant, "--email", "admin@example.org"];
        cluster.token = tenantry(&program, &settings, &arguments).await?.trim().to_owned();
        Ok(cluster)
    }

    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.apis.iter().chain(&self.workers)
    }

    /// Does something to the cluster and notes when.
    pub(crate) async fn during<T>(
        &self,
        what: String,
        effect: Effect,
        action: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let from = self.clock.now();
        let done = action.await?;
        let event = Event { what, effect, from, to: self.clock.now() };
        self.events.lock().map_err(|_| "poisoned")?.push(event);
        Ok(done)
    }

    /// Starts again what ended by itself, which is noted.
    pub(crate) async fn revive(&self) -> Result<()> {
        for process in self.processes() {
            if let Some(end) = process.revive().await? {
                self.exits.lock().map_err(|_| "poisoned")?.push((self.clock.now(), end));
            }
        }
        Ok(())
    }

    /// kill -9 of Redis, some time, and an empty one.
    pub(crate) async fn replace_redis(&self, dead: Duration) -> Result<()> {
        let mut slot = self.redis.lock().await;
        if let Some(server) = slot.take() {
            if let Some(pid) = server.pid() {
                send(pid, "KILL").await?;
            }
            server.stop().await;
        }
        sleep(dead).await;
        *slot = Some(redis::start(&self.home).await?);
        Ok(())
    }

    /// SIGSTOP, some time, SIGCONT.
    pub(crate) async fn freeze_redis(&self, time: Duration) -> Result<()> {
        let slot = self.redis.lock().await;
        let Some(pid) = slot.as_ref().and_then(Server::pid) else { return Ok(()) };
        send(pid, "STOP").await?;
        sleep(time).await;
        send(pid, "CONT").await
    }

    /// Says one line to Redis; it may be away or slow, if something else torments it as well.
    pub(crate) async fn tell_redis(&self, line: &str) -> Result<()> {
        let path = redis::url(&self.home).replace("redis+unix://", "");
        let exchange = async {
            let mut stream = UnixStream::connect(path).await?;
            stream.write_all(format!("{line}\r\n").as_bytes()).await?;
            stream.read_u8().await
        };
        let _ = timeout(Duration::from_secs(2), exchange).await;
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

    /// kill -9 of one server process of the application: the postmaster ends all others and recovers.
    pub(crate) async fn crash_backend(&self) -> Result<()> {
        let _held = self.postgres.lock().await;
        let database = database(&self.home).await?;
        let sql = "select pid from pg_stat_activity where usename = 'tenantry' order by random() limit 1";
        let Some(row) = database.query_opt(sql, &[]).await? else { return Ok(()) };
        let pid: i32 = row.try_get(0)?;
        send(u32::try_from(pid)?, "KILL").await?;
        drop(database);
        for _ in 0..500 {
            sleep(Duration::from_millis(20)).await;
            if let Ok(database) = self::database(&self.home).await
                && database.batch_execute("select 1").await.is_ok()
            {
                return Ok(());
            }
        }
        Err("PostgreSQL does not recover".into())
    }

    /// Ends a part of the application's connections.
    pub(crate) async fn end_connections(&self, part: f64) -> Result<()> {
        // It may be away, if something else torments it as well.
        let Ok(database) = database(&self.home).await else { return Ok(()) };
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                   where usename = 'tenantry' and random() < $1";
        let _ = database.query(sql, &[&part]).await;
        Ok(())
    }

    /// What the database committed, and what happened to the cluster.
    pub(crate) async fn confess(&self, history: &mut History) -> Result<()> {
        history.nodes = self.apis.len();
        history.events = self.events.lock().map_err(|_| "poisoned")?.clone();
        history.exits = self.exits.lock().map_err(|_| "poisoned")?.clone();
        let place: HashMap<Uuid, usize> = self.users.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let database = database(&self.home).await?;
        history.ledger = vec![vec![]; self.users.len()];
        history.rows = vec![(0, FOREIGN); self.users.len()];
        let sql = "select l.user_id, l.version, l.name, exists (
                     select from tenantry.revocations r
                     where r.subject = 'cached_user' and r.subject_id = l.user_id and r.min_version = l.version
                   ) from chaos.ledger l order by l.version";
        for row in database.query(sql, &[]).await? {
            let Some(&key) = place.get(&row.try_get::<_, Uuid>(0)?) else { continue };
            let (version, value, by_feed) = (row.try_get(1)?, value(row.try_get(2)?), row.try_get(3)?);
            history.ledger[key].push(Committed { version, value, by_feed });
        }
        for row in database.query("select id, version, name from tenantry.users", &[]).await? {
            let Some(&key) = place.get(&row.try_get::<_, Uuid>(0)?) else { continue };
            history.rows[key] = (row.try_get(1)?, value(row.try_get(2)?));
        }
        Ok(())
    }

    /// Stops and removes everything.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { home, postgres, redis, apis, workers, .. } = self;
        drop((apis, workers));
        for server in [postgres, redis].into_iter().filter_map(Mutex::into_inner) {
            server.stop().await;
        }
        Ok(home.remove()?)
    }
}

/// The write that made a name.
pub(crate) fn value(name: &str) -> Value {
    match name.strip_prefix('w').map(str::parse) {
        Some(Ok(number)) => number,
        _ if name.starts_with("User ") => SEEDED,
        _ => FOREIGN,
    }
}

fn settings(home: &Home, folder: &Path) -> Vec<(String, String)> {
    let keys = folder.join("keys").display().to_string();
    let settings = [
        ("DATABASE_URL", postgres::app_url(home)),
        ("REDIS_URL", redis::url(home)),
        ("DATABASE_POOL", "10".into()),
        ("PUBLIC_URL", "http://tenantry.test".into()),
        ("JWT_KEYS_DIR", keys),
        ("ACCESS_TOKEN_TTL", "1d".into()),
        ("RATE_LIMIT_IP", "off".into()),
        // Nobody listens there, and nothing is mailed: names need no verification.
        ("SMTP_URL", "smtp://127.0.0.1:1".into()),
        ("RUST_LOG", "warn".into()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The program under test, which was built into the folder above ours.
fn program() -> Result<PathBuf> {
    let ours = std::env::current_exe()?;
    let program = ours.parent().and_then(Path::parent).map(|folder| folder.join("tenantry"));
    program.filter(|program| program.is_file()).ok_or("tenantry is not built: run cargo build first".into())
}

/// Runs a command of the program, and returns what it prints.
async fn tenantry(program: &Path, settings: &[(String, String)], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(settings.iter().cloned()).current_dir("/").stdin(Stdio::null());
    let output = command.output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("tenantry {}: {said}", arguments.join(" ")).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

async fn database(home: &Home) -> Result<tokio_postgres::Client> {
    let url = postgres::superuser_url(home);
    let connect = tokio_postgres::connect(&url, NoTls);
    let (client, connection) = timeout(Duration::from_secs(5), connect).await??;
    tokio::spawn(connection);
    Ok(client)
}

/// Below the ports that the kernel gives to connections, so that nobody takes it while a node is dead.
fn free_address() -> Result<SocketAddr> {
    for _ in 0..1000 {
        let address = SocketAddr::from(([127, 0, 0, 1], rand::rng().random_range(15_000..30_000)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err("no free port".into())
}

/// A folder of this run's own. What runs that ended early have left goes, and servers that still run there.
pub(crate) async fn new_folder() -> Result<PathBuf> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let Some(run) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if !Path::new("/proc").join(run).exists()
            && let Ok(home) = Home::open(&entry.path().join("home")).await
        {
            home.remove()?;
            fs::remove_dir_all(entry.path())?;
        }
    }
    let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&path)?;
    Ok(path)
}
