//! The program itself: processes of their own on a database and a Redis of their own, and clients that keep their
//! connections. For tests that count what a process does, or take Redis away from it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use tenantry::dev::{Home, Server, redis, signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

use crate::{
    app::{eventually, from_stack},
    port::free_address,
};

/// A database with one seeded tenant, a Redis, and processes on both. All of it ends with the value.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// Everybody but the administrator, who is who asks.
    pub(crate) users: Vec<Uuid>,
    pub(crate) tenant: Uuid,
    pub(crate) token: String,
    /// A superuser in the database.
    pub(crate) database: Client,
    name: String,
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
    redis: Option<Server>,
    home: Home,
    folder: TempDir,
}

/// A process of the API.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    metrics: SocketAddr,
    child: Child,
}

/// What a client got.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `X-Cache`.
    pub(crate) level: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn contains(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|part| part == text.as_bytes())
    }

    pub(crate) fn is_hit(&self) -> bool {
        ["local", "redis"].contains(&self.level.as_str())
    }
}

impl Cluster {
    /// `nodes` processes with so many users, and settings that differ from the defaults.
    pub(crate) async fn start(nodes: usize, users: usize, different: &[(&'static str, &str)]) -> Self {
        Self::of(env!("CARGO_BIN_EXE_tenantry").into(), nodes, users, different).await
    }

    /// The same of the program with fail-points (crates/cache/src/planted.rs), for [`Self::arm`].
    pub(crate) async fn planted(nodes: usize, users: usize, different: &[(&'static str, &str)]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_tenantry")).with_file_name("examples/tenantry-planted");
        let build = "cargo build --workspace --example tenantry-planted --features tenantry/planted";
        assert!(program.exists(), "{} is not built: {build}", program.display());
        Self::of(program, nodes, users, different).await
    }

    async fn of(program: PathBuf, nodes: usize, users: usize, different: &[(&'static str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("home")).await.unwrap();
        let redis = redis::start(&home).await.unwrap();
        let name = format!("steady_{}", Uuid::now_v7().simple());
        let copy = format!("create database {name} template tenantry_template");
        connect("postgres").await.batch_execute(&copy).await.unwrap();
        let mut settings = vec![
            ("DATABASE_URL", in_database(&from_stack("TEST_DATABASE_URL"), &name)),
            ("REDIS_URL", redis::url(&home)),
            ("PUBLIC_URL", "http://tenantry.test".into()),
            ("JWT_KEYS_DIR", folder.path().join("keys").display().to_string()),
            // What is asked of Redis is counted, and one token asks for everything.
            ("RATE_LIMIT_IP", "off".into()),
            ("RATE_LIMIT_CALLER", "off".into()),
            ("RATE_LIMIT_TENANT_ENTERPRISE", "off".into()),
            ("RATE_LIMIT_REGISTER", "off".into()),
            // All of them come from one address here.
            ("MAX_CONNECTIONS_PER_ADDRESS", "10000".into()),
            ("RUST_LOG", "warn".into()),
            ("PLANTED_POINTS", folder.path().join("points").display().to_string()),
        ];
        std::fs::create_dir(folder.path().join("points")).unwrap();
        settings.extend(different.iter().map(|&(variable, value)| (variable, value.to_owned())));
        let mut cluster = Self {
            nodes: vec![],
            users: vec![],
            tenant: Uuid::nil(),
            token: String::new(),
            database: connect(&name).await,
            name,
            program,
            settings,
            redis: Some(redis),
            home,
            folder,
        };
        cluster.run(&["seed", "--tenants", "1", "--users", &(users + 1).to_string()]);
        for _ in 0..nodes {
            cluster.add_node().await;
        }
        let rows =
            cluster.database.query("select tenant_id, id, role from tenantry.users", &[]).await.unwrap();
        cluster.tenant = rows[0].get("tenant_id");
        let users = rows.iter().filter(|row| row.get::<_, &str>("role") == "user");
        cluster.users = users.map(|row| row.get("id")).collect();
        // The first node has made the keys.
        let (tenant, email) = (cluster.tenant.to_string(), "admin@example.org");
        cluster.token = cluster.run(&["token", "--tenant", &tenant, "--email", email]).trim().to_owned();
        cluster
    }

    /// What a variable is set to.
    pub(crate) fn setting(&self, variable: &str) -> &str {
        let set = self.settings.iter().rfind(|(name, _)| *name == variable);
        &set.unwrap_or_else(|| panic!("{variable} is not set")).1
    }

    /// Sets a variable for the processes that are started from now on.
    pub(crate) fn set(&mut self, variable: &'static str, value: String) {
        self.settings.push((variable, value));
    }

    /// A command of the program, to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(self.settings.iter().cloned()).current_dir("/").stdin(Stdio::null());
        command
    }

    pub(crate) async fn add_node(&mut self) {
        let log = self.folder.path().join(format!("node-{}.log", self.nodes.len()));
        // Somebody else may get a port between the look and the use; then the process ends and another is tried.
        for _ in 0..10 {
            let (address, metrics) = (free_address().unwrap(), free_address().unwrap());
            let mut command = self.command();
            command.arg("api").env("LISTEN", address.to_string()).env("METRICS_LISTEN", metrics.to_string());
            command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
            let mut node = Node { address, metrics, child: command.spawn().unwrap() };
            if node.is_up().await {
                self.nodes.push(node);
                return;
            }
        }
        panic!("no node starts: {}", std::fs::read_to_string(log).unwrap());
    }

    /// The next that gets to this fail-point, of [planted](Self::planted) nodes, does that.
    pub(crate) fn arm(&self, point: &str, action: &str) {
        let (points, unfinished) = (self.folder.path().join("points"), self.folder.path().join("unfinished"));
        std::fs::write(&unfinished, action).unwrap();
        std::fs::rename(unfinished, points.join(point)).unwrap();
    }

    /// What a node has written to its log.
    pub(crate) fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("node-{node}.log"))).unwrap()
    }

    /// A connection to a node, as the administrator.
    pub(crate) async fn client(&self, node: usize) -> Connection {
        Connection::open(self.nodes[node].address, &self.token).await
    }

    /// How often a row was read by id, by all nodes, since the cluster began.
    pub(crate) async fn reads_by_id(&self) -> i64 {
        let sql = "select coalesce(sum(calls), 0)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                   where d.datname = $1 and query like '%tenantry.user_by_id(%'";
        connect("postgres").await.query_one(sql, &[&self.name]).await.unwrap().get(0)
    }

    /// What has been asked of PostgreSQL, by all nodes, since the cluster began, and how often.
    pub(crate) async fn statements(&self) -> BTreeMap<String, i64> {
        let sql =
            "select query, sum(calls)::bigint from pg_stat_statements s join pg_database d on d.oid = s.dbid
                   where d.datname = $1 group by query";
        let rows = connect("postgres").await.query(sql, &[&self.name]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// How many blocks PostgreSQL has looked into, in memory or not, for the statements of all nodes.
    pub(crate) async fn blocks(&self) -> i64 {
        let sql = "select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint
                   from pg_stat_statements s join pg_database d on d.oid = s.dbid
                   where d.datname = $1 and query ~ 'tenantry.(users|search_users)'";
        connect("postgres").await.query_one(sql, &[&self.name]).await.unwrap().get(0)
    }

    /// How many commands Redis has been given.
    pub(crate) async fn redis_commands(&self) -> u64 {
        let stats: String = cmd("INFO").arg("stats").query_async(&mut self.redis().await).await.unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// The folder of the keys that sign access tokens.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.path().join("keys")
    }

    /// Another superuser's connection to the database.
    pub(crate) async fn another_client(&self) -> Client {
        connect(&self.name).await
    }

    /// The name of a user's entry in Redis, which holds it.
    pub(crate) async fn redis_key(&self, user: Uuid) -> String {
        let pattern = format!("u:*:{}:{user}", self.tenant);
        let found: Vec<String> = cmd("KEYS").arg(pattern).query_async(&mut self.redis().await).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    pub(crate) async fn redis(&self) -> deadpool_redis::redis::aio::MultiplexedConnection {
        let client = deadpool_redis::redis::Client::open(redis::url(&self.home)).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Sends a signal to Redis.
    pub(crate) fn signal_redis(&self, name: &str) {
        signal(self.redis.as_ref().and_then(Server::pid).unwrap(), name);
    }

    /// kill -9.
    pub(crate) async fn kill_redis(&mut self) {
        self.signal_redis("KILL");
        self.redis.take().unwrap().stop().await;
    }

    /// An empty one, which answers when this returns.
    pub(crate) async fn start_redis(&mut self) {
        self.redis = Some(redis::start(&self.home).await.unwrap());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(pid) = self.redis.as_ref().and_then(Server::pid) {
            // It may be stopped, and would not hear anything else.
            signal(pid, "KILL");
        }
    }
}

impl Node {
    async fn is_up(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(self.address).await.is_err()
            || TcpStream::connect(self.metrics).await.is_err()
        {
            assert!(Instant::now() < deadline, "a node neither listens nor ends");
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// The sum of a metric over those of its labels that contain `labels`.
    pub(crate) async fn metric(&self, name: &str, labels: &str) -> f64 {
        let page =
            reqwest::get(format!("http://{}/metrics", self.metrics)).await.unwrap().text().await.unwrap();
        let values = page.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            let is_it = found.is_empty() || found.starts_with('{');
            (is_it && found.contains(labels)).then(|| value.parse::<f64>().unwrap())
        });
        values.sum()
    }

    /// Waits until the process has nothing to do but wait, where that can be seen; not for long.
    pub(crate) async fn is_idle(&self) {
        let cpu = || {
            std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
                .ok()
                .map(|stat| stat.split(' ').skip(13).take(2).map(str::to_owned).collect::<Vec<_>>())
        };
        let deadline = Instant::now() + Duration::from_secs(1);
        let mut before = None;
        while before != Some(cpu()) && Instant::now() < deadline {
            before = Some(cpu());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory that it has had resident so far, in bytes.
    pub(crate) fn most_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let pid = self.child.id().to_string();
        let output = Command::new("ps").args(["-o", "rss=", "-p", &pid]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that keeps its connection, of one file descriptor and little more.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    pub(crate) token: String,
    /// `Accept`.
    pub(crate) accept: &'static str,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::with_capacity(2048, stream), token: token.to_owned(), accept: "*/*" }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path, "").await
    }

    pub(crate) async fn ask(&mut self, method: Method, path: &str, body: &str) -> Answer {
        self.send(method, path, body).await;
        self.answer().await
    }

    pub(crate) async fn look_up(&mut self, user: Uuid) -> Answer {
        self.get(&format!("/api/v1/users/{user}")).await
    }

    pub(crate) async fn send(&mut self, method: Method, path: &str, body: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: tenantry.test\r\nAuthorization: Bearer {}\r\nAccept: {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            self.accept,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
    }

    /// Whether the other side has closed it, having said nothing more.
    pub(crate) async fn ended(&mut self) -> bool {
        self.stream.read(&mut [0]).await.is_ok_and(|read| read == 0)
    }

    /// The answer to the oldest request that has none yet.
    pub(crate) async fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).expect("an answer").parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_owned(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let level = headers.get("x-cache").cloned().unwrap_or_default();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        Answer { status, level, headers, body }
    }
}

pub(crate) fn in_database(url: &str, name: &str) -> String {
    url.replacen("/tenantry?", &format!("/{name}?"), 1)
}

pub(crate) async fn connect(database: &str) -> Client {
    let url = in_database(&from_stack("TEST_DATABASE_SUPERUSER_URL"), database);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Waits until somebody waits for what this connection holds.
pub(crate) async fn is_waited_for(holder: &Client) {
    // Not out of the view of activities, which a transaction reads once.
    let sql = "select exists (select from pg_locks where not granted and pg_backend_pid() = any (pg_blocking_pids(pid)))";
    eventually(Duration::from_secs(1), || async { holder.query_one(sql, &[]).await.unwrap().get(0) }).await;
}
