//! What the tests play with: a Redis of their own, nodes, and a row.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use deadpool_redis::redis::{
    Client, ErrorKind, RedisResult, ServerErrorKind, aio::MultiplexedConnection, cmd,
};
use futures_util::future::{BoxFuture, FutureExt};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tenantry_cache::{Cache, Entry, Key, Level, Loaded, Read, ReadError, Settings, State, Version};
use tokio::{sync::Semaphore, time::sleep};
use uuid::Uuid;

/// A private Redis on a socket in a folder of its own, without persistence unless told otherwise. It dies with the value.
pub(crate) struct RedisServer {
    child: Child,
    folder: TempDir,
    more: Vec<String>,
}

impl RedisServer {
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), &[]).await
    }

    /// With more settings, which may name files in `folder`.
    pub(crate) async fn start_with(folder: TempDir, more: &[&str]) -> Self {
        let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
        let server = Self { child: Self::spawn(&folder, &more), folder, more };
        server.ready().await;
        server
    }

    fn spawn(folder: &TempDir, more: &[String]) -> Child {
        Command::new("redis-server")
            .current_dir(folder)
            .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--appendonly", "no"])
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need `redis-server` in the path: apt-get install redis-server")
    }

    async fn ready(&self) {
        let client = Client::open(self.url()).unwrap();
        let up = async {
            while Self::answer(&client).await.is_err_and(|error| {
                error.is_io_error() || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
            }) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), up).await.expect("redis-server does not start");
    }

    async fn answer(client: &Client) -> RedisResult<()> {
        cmd("PING").exec_async(&mut client.get_multiplexed_async_connection().await?).await
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn settings(&self) -> Settings {
        // The patience of tests on a busy machine; those about the budget set their own.
        let redis_budget = Duration::from_secs(20);
        Settings { redis_url: Some(self.url()), redis_budget, ..Settings::default() }
    }

    pub(crate) async fn node(&self) -> Cache {
        node(self.settings()).await
    }

    /// A node that holds nothing in the process, so that its reads show what Redis holds.
    pub(crate) async fn bare_node(&self) -> Cache {
        node(Settings { local_ttl: Duration::ZERO, ..self.settings() }).await
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        Client::open(self.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
    }

    /// What the names of this run hold.
    pub(crate) async fn tag(&self) -> String {
        let mut connection = self.connection().await;
        let mut info = async |section: &str, name: &str| -> String {
            let text: String = cmd("INFO").arg(section).query_async(&mut connection).await.unwrap();
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned()
        };
        let (run, history) = (info("server", "run_id:").await, info("replication", "master_replid:").await);
        let digest = Sha256::digest(format!("{run} {history}"));
        digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) async fn start_again(&mut self) {
        self.child = Self::spawn(&self.folder, &self.more);
        self.ready().await;
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success()
        );
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn node(settings: Settings) -> Cache {
    let cache = Cache::new(settings).unwrap();
    let up = async {
        while cache.ping().await.is_err() || cache.has_given_up_redis() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), up).await.expect("the node does not find its redis");
    cache
}

/// A row of the database, and how often it was read.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) key: Key,
    id: Uuid,
    tenant: Uuid,
    row: Arc<Mutex<Loaded>>,
    loads: Arc<AtomicUsize>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Broken;

pub(crate) type Answer = Result<Read, ReadError<Broken>>;

impl Truth {
    pub(crate) fn new(row: impl Into<Option<Version>>) -> Self {
        let (tenant, id) = (Uuid::new_v4(), Uuid::new_v4());
        let row = row.into().map_or(Loaded::Absent, |version| Loaded::Row(entry(version)));
        let row = Arc::new(Mutex::new(row));
        Self { key: Key::new("u", tenant, id), tenant, id, row, loads: Arc::default() }
    }

    pub(crate) fn set(&self, version: Version) {
        *self.row.lock().unwrap() = Loaded::Row(entry(version));
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// The `select` of the row.
    pub(crate) fn load(
        &self,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<Loaded, Broken>> + Send + 'static {
        let truth = self.clone();
        move || async move { Ok(truth.select()) }.boxed()
    }

    fn select(&self) -> Loaded {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.row.lock().unwrap().clone()
    }

    /// A `select` that sees the row at once and answers when `gate` lets it.
    pub(crate) fn slow_load(
        &self,
        gate: &Gate,
    ) -> impl FnOnce() -> BoxFuture<'static, Result<Loaded, Broken>> + Send + 'static {
        let (truth, gate) = (self.clone(), gate.clone());
        move || {
            async move {
                let row = truth.select();
                gate.sent.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
                Ok(row)
            }
            .boxed()
        }
    }

    pub(crate) async fn read(&self, node: &Cache) -> Answer {
        node.read_through(&self.key, None, self.load()).await
    }

    /// Reads, and tells version and level.
    pub(crate) async fn seen(&self, node: &Cache) -> (Version, Level) {
        let read = self.read(node).await.unwrap();
        (read.entry.unwrap().version, read.level)
    }

    /// A whole write of `version` on `node`; tells whether its floor was confirmed.
    pub(crate) async fn write(&self, node: &Cache, version: Version) -> bool {
        let write = node.begin_write(&self.key, version).await;
        let confirmed = write.confirmed();
        self.set(version);
        write.committed(entry(version)).await;
        confirmed
    }

    pub(crate) async fn redis_key(&self, redis: &RedisServer) -> String {
        self.redis_key_in(redis, "0").await
    }

    pub(crate) async fn redis_key_in(&self, redis: &RedisServer, timeline: &str) -> String {
        format!("u:{timeline}-{}:{}:{}", redis.tag().await, self.tenant, self.id)
    }

    /// How many milliseconds the row has left in Redis.
    pub(crate) async fn left(&self, redis: &RedisServer) -> i64 {
        let mut connection = redis.connection().await;
        cmd("PTTL").arg(self.redis_key(redis).await).query_async(&mut connection).await.unwrap()
    }

    pub(crate) async fn field(&self, redis: &RedisServer, name: &str) -> Option<String> {
        let mut connection = redis.connection().await;
        cmd("HGET").arg(self.redis_key(redis).await).arg(name).query_async(&mut connection).await.unwrap()
    }
}

/// Lets a test see that a `select` was sent, and decide when it is answered.
#[derive(Clone)]
pub(crate) struct Gate {
    sent: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { sent: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    pub(crate) async fn sent(&self) {
        self.sent.acquire().await.unwrap().forget();
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

pub(crate) fn entry(version: Version) -> Entry {
    Entry { version, state: State::Live, body: Bytes::from(format!("{{\"version\":{version}}}")) }
}
