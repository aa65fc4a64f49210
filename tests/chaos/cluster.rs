//! What is tormented: a PostgreSQL, a Redis, API processes and workers, all of our own, and one tenant with its users.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::try_join_all;
use tenantry::dev::{Home, Server, postgres, redis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    Result,
    history::{Clock, Committed, Effect, Event, FOREIGN, History, Micros, NO_KEY, SEEDED, Value},
    mail,
    points::Points,
    process::{Parts, Process, send},
    program::set,
    proxy::Proxy,
    servers::{SOCKET, Servers, free_address, tenantry},
};

pub(crate) const APIS: usize = 3;
const WORKERS: usize = 2;

/// Notes every version of every user in the transaction that makes it: what the readers' answers are compared with.
const LEDGER: &str = "
    create schema chaos;
    create table chaos.ledger (user_id uuid, version bigint, name text, email text, deleted boolean);
    create function chaos.note() returns trigger language plpgsql security definer as $$ begin
      insert into chaos.ledger values (new.id, new.version, new.name, new.email, new.deleted_at is not null);
      return null; end $$;
    create trigger chaos_note after insert or update on tenantry.users
      for each row execute function chaos.note();
    insert into chaos.ledger select id, version, name, email, false from tenantry.users;
    -- As if every new address were proven at once: what is judged is that it moves, and not the mail.
    create function chaos.prove() returns trigger language plpgsql as $$ begin
      new.email := new.pending_email; new.pending_email := null;
      return new; end $$;
    create trigger chaos_prove before update on tenantry.users
      for each row when (new.pending_email is not null) execute function chaos.prove();
";

pub(crate) struct Cluster {
    pub(crate) clock: Clock,
    pub(crate) apis: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    pub(crate) token: String,
    /// The users that are read and written; a key is a place in this list, for ever.
    users: RwLock<Users>,
    next_value: AtomicU32,
    events: std::sync::Mutex<Vec<Event>>,
    exits: std::sync::Mutex<Vec<(Micros, String)>>,
    servers: Servers,
}

#[derive(Default)]
struct Users {
    ids: Vec<Uuid>,
    keys: HashMap<Uuid, usize>,
}

impl Users {
    fn key_of(&mut self, id: Uuid) -> usize {
        *self.keys.entry(id).or_insert_with(|| {
            self.ids.push(id);
            self.ids.len() - 1
        })
    }
}

impl Cluster {
    /// Starts everything below `folder`, with `keys` users, and settings that are different.
    pub(crate) async fn start(folder: &Path, logs: &Path, keys: usize, different: &[String]) -> Result<Self> {
        let servers = Servers::start(&folder.join("home")).await?;
        let program = program()?;
        let mut settings = settings(&servers.home, folder);
        settings.push(("SMTP_URL".into(), mail::start().await?));
        settings.extend(set(different)?);
        tenantry(&program, &settings, &["seed", "--tenants", "1", "--users", &(keys + 1).to_string()])
            .await?;
        let database = servers.database().await?;
        let tenant: String = database
            .query_one("select slug from tenantry.tenants where slug like 'seed-%'", &[])
            .await?
            .try_get(0)?;
        let sql = "select id from tenantry.users where email like 'user%@example.org' order by email";
        let mut users = Users::default();
        for row in database.query(sql, &[]).await? {
            users.key_of(row.try_get(0)?);
        }
        database.batch_execute(LEDGER).await?;

        let process = |name: String, address| -> Result<Process> {
            let own = folder.join(&name);
            fs::create_dir(&own)?;
            let (redis_socket, mut settings) = (own.join("redis.sock"), settings.clone());
            let postgres = Proxy::start(&own.join(SOCKET), servers.postgres_socket()?)?;
            let redis = Proxy::start(&redis_socket, servers.redis_socket())?;
            let app_url = format!("postgresql://tenantry@/tenantry?host={}", own.display());
            settings.push(("DATABASE_URL".into(), app_url));
            settings.push(("REDIS_URL".into(), format!("redis+unix://{}", redis_socket.display())));
            let points = Points::new(own.join("points"))?;
            let program = &program;
            Ok(Process::new(Parts { name, address, program, settings, logs, points, redis, postgres }))
        };
        let mut apis = vec![];
        for n in 0..APIS {
            apis.push(process(format!("api-{n}"), Some(free_address()?))?);
        }
        let workers = (0..WORKERS).map(|n| process(format!("worker-{n}"), None)).collect::<Result<_>>()?;
        let mut cluster = Self {
            clock: Clock::start(),
            apis,
            workers,
            token: String::new(),
            users: RwLock::new(users),
            next_value: AtomicU32::new(1),
            events: std::sync::Mutex::default(),
            exits: std::sync::Mutex::default(),
            servers,
        };
        for process in cluster.processes() {
            process.start().await?;
        }
        // The first of them has made the keys.
        let arguments = ["token", "--tenant", &tenant, "--email", "admin@example.org"];
        cluster.token = tenantry(&program, &settings, &arguments).await?.trim().to_owned();
        Ok(cluster)
    }

    /// The key of a user; a user not seen before gets a new one.
    pub(crate) fn key_of(&self, id: Uuid) -> usize {
        self.users.write().map_or(NO_KEY, |mut users| users.key_of(id))
    }

    pub(crate) fn id(&self, key: usize) -> Uuid {
        self.users.read().ok().and_then(|users| users.ids.get(key).copied()).unwrap_or_default()
    }

    pub(crate) fn keys(&self) -> usize {
        self.users.read().map_or(0, |users| users.ids.len())
    }

    /// A number that no write has used.
    pub(crate) fn new_value(&self) -> Value {
        self.next_value.fetch_add(1, Ordering::SeqCst)
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

    /// Notes what is so for a while.
    pub(crate) fn note(&self, event: Event) -> Result<()> {
        self.events.lock().map_err(|_| "poisoned")?.push(event);
        Ok(())
    }

    /// Starts processes anew.
    pub(crate) async fn replace<'a>(&self, processes: impl Iterator<Item = &'a Process>) -> Result<()> {
        try_join_all(processes.map(|process| process.replace(Duration::ZERO))).await?;
        Ok(())
    }

    /// kill -9 of Redis, some time, and an empty one.
    pub(crate) async fn replace_redis(&self, dead: Duration) -> Result<()> {
        self.servers.kill_redis().await?;
        sleep(dead).await;
        self.servers.start_redis().await
    }

    /// SIGSTOP, some time, SIGCONT.
    pub(crate) async fn freeze_redis(&self, time: Duration) -> Result<()> {
        let slot = self.servers.redis.lock().await;
        let Some(pid) = slot.as_ref().and_then(Server::pid) else { return Ok(()) };
        send(pid, "STOP").await?;
        sleep(time).await;
        send(pid, "CONT").await
    }

    /// Says one line to Redis; it may be away or slow, if something else torments it as well.
    pub(crate) async fn tell_redis(&self, line: &str) -> Result<()> {
        let path = self.servers.redis_socket();
        let exchange = async {
            let mut stream = UnixStream::connect(path).await?;
            stream.write_all(format!("{line}\r\n").as_bytes()).await?;
            let mut answer = [0; 512];
            stream.read(&mut answer).await
        };
        let _ = timeout(Duration::from_secs(2), exchange).await;
        Ok(())
    }

    /// Ends PostgreSQL with a signal (QUIT: an immediate shutdown), some time, and starts it again.
    pub(crate) async fn crash_postgres(&self, name: &'static str, dead: Duration) -> Result<()> {
        self.servers.crash_postgres(name, dead).await
    }

    /// kill -9 of one server process of the application: the postmaster ends all others and recovers.
    pub(crate) async fn crash_backend(&self) -> Result<()> {
        let _held = self.servers.postgres.lock().await;
        let database = self.servers.database().await?;
        let sql = "select pid from pg_stat_activity where usename = 'tenantry' order by random() limit 1";
        let Some(row) = database.query_opt(sql, &[]).await? else { return Ok(()) };
        let pid: i32 = row.try_get(0)?;
        send(u32::try_from(pid)?, "KILL").await?;
        drop(database);
        for _ in 0..500 {
            sleep(Duration::from_millis(20)).await;
            if let Ok(database) = self.servers.database().await
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
        let Ok(database) = self.servers.database().await else { return Ok(()) };
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                   where usename = 'tenantry' and random() < $1";
        let _ = database.query(sql, &[&part]).await;
        Ok(())
    }

    /// Ends the connections that are in the middle of a transaction.
    pub(crate) async fn end_transactions(&self) -> Result<u64> {
        let database = self.servers.database().await?;
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity
                   where usename = 'tenantry' and state = 'idle in transaction'";
        Ok(database.query(sql, &[]).await?.len() as u64)
    }

    /// By key: the rows as they are.
    pub(crate) async fn rows(&self) -> Result<Vec<Committed>> {
        let none = Committed { version: 0, value: FOREIGN, address: FOREIGN, deleted: false, by_feed: false };
        let mut rows = vec![none; self.keys()];
        let sql = "select id, version, name, email, deleted_at is not null, false from tenantry.users";
        for row in self.servers.database().await?.query(sql, &[]).await? {
            if let Some((key, committed)) = self.committed(&row)? {
                rows[key] = committed;
            }
        }
        Ok(rows)
    }

    fn committed(&self, row: &tokio_postgres::Row) -> Result<Option<(usize, Committed)>> {
        let id: Uuid = row.try_get(0)?;
        let key = self.users.read().map_err(|_| "poisoned")?.keys.get(&id).copied();
        let Some(key) = key else { return Ok(None) };
        let (version, value) = (row.try_get(1)?, value(row.try_get(2)?));
        let (address, deleted, by_feed) = (address_value(row.try_get(3)?), row.try_get(4)?, row.try_get(5)?);
        Ok(Some((key, Committed { version, value, address, deleted, by_feed })))
    }

    /// What the database committed, and what happened to the cluster since it was asked last.
    pub(crate) async fn confess(&self, history: &mut History) -> Result<()> {
        history.nodes = self.apis.len();
        history.events = std::mem::take(&mut *self.events.lock().map_err(|_| "poisoned")?);
        history.exits = std::mem::take(&mut *self.exits.lock().map_err(|_| "poisoned")?);
        history.rows = self.rows().await?;
        history.ledger = vec![vec![]; history.rows.len()];
        let sql = "select l.user_id, l.version, l.name, l.email, l.deleted, exists (
                     select from tenantry.revocations r
                     where r.subject = 'cached_user' and r.subject_id = l.user_id and r.min_version = l.version
                   ) from chaos.ledger l order by l.version";
        for row in self.servers.database().await?.query(sql, &[]).await? {
            if let Some((key, committed)) = self.committed(&row)? {
                history.ledger[key].push(committed);
            }
        }
        Ok(())
    }

    /// Stops and removes everything.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { servers, apis, workers, .. } = self;
        drop((apis, workers));
        servers.stop().await
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

/// The address that a write gives.
pub(crate) fn address(value: Value) -> String {
    format!("w{value}@example.org")
}

/// The write that gave an address.
pub(crate) fn address_value(address: &str) -> Value {
    match address.strip_suffix("@example.org") {
        Some(name) if name.starts_with("user") => SEEDED,
        Some(name) if name.starts_with('w') => value(name),
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
        // High, and kept: what the limits ask of Redis goes through all that happens to it.
        ("RATE_LIMIT_IP", "1000000000/15m".into()),
        ("RATE_LIMIT_CALLER", "1000000000/15m".into()),
        ("RATE_LIMIT_REGISTER", "1000000/1m".into()),
        ("RUST_LOG", "warn".into()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The program under test, which was built into our own folder.
fn program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("tenantry-planted");
    if !program.is_file() {
        return Err("tenantry-planted is not built: use `make chaos`".into());
    }
    Ok(program)
}
