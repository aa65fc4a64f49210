use std::{
    fs,
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::Job;
use tenantry_queue::{JobId, Leased, Outcome, enqueue};
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, Config, NoTls, Row};
use uuid::Uuid;

const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// A fresh, migrated database with one tenant, on the server that all tests of this binary share.
pub(crate) struct Database {
    pub(crate) name: String,
    /// The application's login: it owns nothing and becomes a role inside each transaction.
    pub(crate) pool: Pool,
    /// A superuser, to look behind the walls and to move time.
    pub(crate) admin: Client,
    pub(crate) tenant: Uuid,
}

impl Database {
    pub(crate) async fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        static COPYING: Mutex<()> = Mutex::const_new(());
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let server = server().await;
        {
            let _one_at_a_time = COPYING.lock().await;
            let maintenance = connect(server, "postgres", "postgres").await;
            maintenance.batch_execute(&format!("create database {name} template migrated")).await.unwrap();
        }
        let admin = connect(server, &name, "postgres").await;
        let database = Self { pool: pool(server, &name), admin, name, tenant: Uuid::nil() };
        Self { tenant: database.add_tenant().await, ..database }
    }

    pub(crate) async fn add_tenant(&self) -> Uuid {
        let id = Uuid::now_v7();
        let slug = format!("t{}", id.simple());
        let sql = "insert into tenantry.tenants (id, name, slug) values ($1, 'Test', $2)";
        self.admin.execute(sql, &[&id, &slug]).await.unwrap();
        id
    }

    /// Another login of the application to this database.
    pub(crate) async fn client(&self) -> Object {
        self.pool.get().await.unwrap()
    }

    /// Enqueues and commits, behind the tenant's wall.
    pub(crate) async fn enqueue<J: Job>(&self, job: &J) -> JobId {
        let mut client = self.client().await;
        let tx = client.transaction().await.unwrap();
        enter(&tx, self.tenant).await;
        let id = enqueue(&tx, self.tenant, job).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn row(&self, id: JobId) -> Row {
        let sql = "select *, payload::text as payload_text from tenantry.jobs where id = $1";
        self.admin.query_one(sql, &[&id.0]).await.unwrap()
    }

    pub(crate) async fn state(&self, id: JobId) -> String {
        self.row(id).await.get("state")
    }

    pub(crate) async fn states(&self) -> Vec<String> {
        let sql = "select state from tenantry.jobs order by state";
        self.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Time passes: whatever waits is due, and every lease has run out.
    pub(crate) async fn let_time_pass(&self) {
        let sql =
            "update tenantry.jobs set run_at = now() where state in ('pending', 'failed') and run_at > now();
          update tenantry.jobs set lease_expires_at = now() - interval '1 s' where state = 'running'";
        self.admin.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn run_due<H>(&self, handler: H) -> usize
    where
        H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
    {
        tenantry_queue::run_due(&self.pool, Some(self.tenant), handler).await.unwrap()
    }

    /// Waits until the job is as the condition says.
    pub(crate) async fn until(&self, id: JobId, condition: &str) {
        let sql = format!("select 1 from tenantry.jobs where id = $1 and ({condition})");
        for _ in 0..3000 {
            if self.admin.query_opt(&sql, &[&id.0]).await.unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("job {id} never came to be: {condition}; it is {:?}", self.row(id).await);
    }
}

/// Takes the tenant's role, as the application does.
pub(crate) async fn enter(tx: &deadpool_postgres::Transaction<'_>, tenant: Uuid) {
    let sql = "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1, true)";
    tx.query_one(sql, &[&tenant.to_string()]).await.unwrap();
}

/// A handler that always ends like this.
pub(crate) fn always(
    outcome: Outcome,
) -> impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static {
    move |_| std::future::ready(outcome.clone()).boxed()
}

pub(crate) fn pool(server: &Path, database: &str) -> Pool {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(login(server, database, "app"), NoTls, config))
        .max_size(8)
        .build()
        .unwrap()
}

async fn connect(server: &Path, database: &str, user: &str) -> Client {
    let (client, connection) = login(server, database, user).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn login(server: &Path, database: &str, user: &str) -> Config {
    let mut config = Config::new();
    config.host_path(server).dbname(database).user(user);
    config
}

/// The socket directory of the server that all tests share.
pub(crate) async fn server() -> &'static Path {
    static SERVER: OnceCell<PathBuf> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            let directory = tokio::task::spawn_blocking(start).await.unwrap();
            migrate(&directory).await;
            directory
        })
        .await
}

/// Starts a server that ends with this process, however that ends: a shell waits for the end of its input, which we
/// hold open, stops the server and removes its directory. As root the server is run by the user postgres.
fn start() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("tenantry-queue-").tempdir().unwrap().keep();
    let mut shell = Command::new("sh");
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).unwrap() == 0 {
        let (uid, gid) = user("postgres");
        chown(&directory, Some(uid), Some(gid)).unwrap();
        shell.uid(uid).gid(gid);
    }
    let script = r#"
        "$1/initdb" -D "$2/data" -U postgres -A trust --no-sync > "$2/log" 2>&1 || exit 1
        "$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=300 >> "$2/log" 2>&1 &
        server=$!
        read end
        kill -INT $server
        wait $server
        rm -rf "$2"
    "#;
    let child = shell
        .args(["-c", script, "sh", BINARIES])
        .arg(&directory)
        .current_dir(&directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    std::mem::forget(child);
    directory
}

fn user(name: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    let mut fields = line.split(':').skip(2).map(|field| field.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

/// Makes the database that all others are copies of.
async fn migrate(server: &Path) {
    let admin = started(server).await;
    admin.batch_execute("create database migrated").await.unwrap();
    let admin = connect(server, "migrated", "postgres").await;
    admin.batch_execute("create schema tenantry; set search_path = tenantry").await.unwrap();
    for migration in migrations() {
        admin.batch_execute(&fs::read_to_string(migration).unwrap()).await.unwrap();
    }
    let login = "create role app login noinherit; grant tenantry_app, tenantry_system to app;
      grant usage on schema tenantry to app";
    admin.batch_execute(login).await.unwrap();
    // A database with a connection cannot be copied.
    drop(admin);
    let admin = connect(server, "postgres", "postgres").await;
    let busy = "select 1 from pg_stat_activity where datname = 'migrated'";
    while admin.query_opt(busy, &[]).await.unwrap().is_some() {
        tokio::task::yield_now().await;
    }
}

async fn started(server: &Path) -> Client {
    for _ in 0..3000 {
        if let Ok((client, connection)) = login(server, "postgres", "postgres").connect(NoTls).await {
            tokio::spawn(connection);
            return client;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::io::stderr().write_all(&fs::read(server.join("log")).unwrap_or_default()).unwrap();
    panic!("no server of the tests in {}", server.display());
}

/// In the order of their numbers.
fn migrations() -> Vec<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| number(file).is_some());
    files.sort_by_key(|file| number(file));
    files
}

fn number(file: &Path) -> Option<u32> {
    file.file_name()?.to_str()?.strip_suffix(".sql")?.strip_prefix('V')?.split_once("__")?.0.parse().ok()
}
