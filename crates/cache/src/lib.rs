//! A versioned read-through cache: a bounded map in the process, over Redis, over the truth in Postgres.
//!
//! It knows nothing of users. A caller names a row ([`Key`]), says how to read it, and gets the bytes that were serialised
//! once when the row was read. In return a write tells the cache *before* it commits ([`Cache::begin_write`]) and how it
//! ended ([`Write`]).
//!
//! What it promises, Redis up, down, hung or flushed: a read on this node that starts after a write here was
//! acknowledged sees that write; on another node it does so within the time of the local level (a second); a read with a
//! minimum version never sees less; nobody sees what was not committed. How: every version has a *floor*. In Redis a floor
//! is placed before the commit; it drops the value, cancels the leases of readers, without which nobody may fill, and
//! refuses older fills. In the process a floor is looked at on every hit.
//!
//! Related work: leases, Nishtala et al., "Scaling Memcache at Facebook" (NSDI 2013); versions and invalidation from the
//! transaction, Uber's CacheFront.
#![warn(missing_docs)]

mod budget;
mod entry;
mod flight;
mod floors;
mod key;
mod local;
mod redis;
mod sync;
mod write;

use std::{
    any::Any,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    budget::Budget,
    flight::{Flight, Flights, Outcome},
    floors::Floors,
    local::Local,
    redis::{Lease, Redis, Times},
    sync::Lock,
};
pub use crate::{
    entry::{Entry, State, Version},
    key::Key,
    write::Write,
};

/// The pauses of a reader while another one fills: 30 ms in all, then it reads Postgres itself.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8), Duration::from_millis(16)];

/// What a worker or a readiness check grants Redis; unlike a request they can wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a cache is set up. The defaults are the protocol's; tests shorten them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://`, `redis+unix://` or `unix://`; without it the cache lives in this process alone.
    pub redis_url: Option<String>,
    /// The timeline of the database, part of every key in Redis.
    pub epoch: String,
    /// What the bodies look like, such as `users/1`: a value stored under another schema is a miss. No space or newline.
    pub schema: &'static str,
    /// How many entries are held in the process.
    pub local_entries: usize,
    /// How long an entry in the process is shown, counted from before it was read.
    pub local_ttl: Duration,
    /// How many rows written lately the node remembers; with more it bypasses its caches for a while.
    pub node_floors: usize,
    /// How long an entry stays in Redis at most.
    pub ttl: Duration,
    /// How long a reader alone may fill an entry, or a writer.
    pub lease: Duration,
    /// How long a floor stays; longer than any transaction and any read can take.
    pub floor: Duration,
    /// How long one request waits for Redis, over all its calls.
    pub redis_budget: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            redis_url: None,
            epoch: "0".into(),
            schema: "1",
            local_entries: 100_000,
            local_ttl: Duration::from_secs(1),
            node_floors: 65_536,
            ttl: Duration::from_secs(900),
            lease: Duration::from_secs(3),
            floor: Duration::from_secs(30),
            redis_budget: Duration::from_millis(50),
        }
    }
}

/// The cache of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    local: Local,
    flights: Arc<Flights>,
    redis: Option<Arc<Redis>>,
    /// Tokens are this node's name and a number that is never used twice.
    node: Uuid,
    tokens: AtomicU64,
}

/// What the truth says of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// It is there, live or deleted.
    Row(Entry),
    /// There is no such row.
    Absent,
}

/// What a read found, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The row; `None` if there is none.
    pub entry: Option<Arc<Entry>>,
    /// Who answered.
    pub level: Level,
}

/// Who answered a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The process.
    Local,
    /// Redis.
    Redis,
    /// The truth.
    Postgres,
}

/// Why a read found nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// The row could not be read; the error is shared by everyone who waited for this read.
    #[error("could not read the row")]
    Load(Arc<E>),
    /// Even the row itself is older than the minimum version.
    #[error("the row has not reached the version asked for")]
    VersionNotReached,
    /// The shared read died before it had an answer: it panicked, or the runtime is shutting down.
    #[error("the shared read died; try again")]
    Gone,
}

/// Why a cache could not be set up. The message never holds the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
#[error("the URL of redis is not usable; write redis://host:port")]
pub struct SetupError(#[from] deadpool_redis::redis::RedisError);

/// Redis did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It answered with an error, or the connection failed.
    #[error("redis failed; it is tried again")]
    Failed(#[source] deadpool_redis::redis::RedisError),
    /// It did not answer in time.
    #[error("redis did not answer in time; it is tried again")]
    TimedOut,
}

impl Cache {
    /// Sets up a cache, in a tokio runtime. The connection to Redis is made in the background: Redis may be away.
    ///
    /// # Errors
    /// If the URL of Redis cannot be understood.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let Settings { lease, floor, ttl, .. } = settings;
        let redis = match &settings.redis_url {
            Some(url) => Some(Redis::connect(url, settings.epoch.clone(), Times { lease, floor, ttl })?),
            None => None,
        };
        let floors = Floors::new(settings.node_floors);
        let local = Local::new(settings.local_entries, settings.local_ttl, floors);
        let (flights, node, tokens) = (Arc::default(), Uuid::new_v4(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { settings, local, flights, redis, node, tokens })))
    }

    /// Reads a row through the cache. `load` reads it from the primary, version and body in one `select`; it is called at
    /// most once, and not at all where a cache or another reader's `load` answers. It runs in a task of its own, so
    /// that a client who goes away strands nobody who waits for the same row.
    ///
    /// With `min` nothing older is returned: caches that hold less are passed by. They are not changed by it, since `min`
    /// is the client's word. A row that does not exist is `None` whatever `min` says.
    ///
    /// All readers of one kind of row must use the same `E`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub async fn read_through<L, F, E>(
        &self,
        key: &Key,
        min: Option<Version>,
        load: L,
    ) -> Result<Read, ReadError<E>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let result = self.0.read(*key, min, load).await;
        count(&result);
        result
    }

    /// Announces that `version` of a row is about to be committed. Call it with the row lock held, after the `update` that
    /// made the version and before COMMIT; once for each row, with the last version. Never fails: without Redis the
    /// write is [unconfirmed](Write::confirmed).
    pub async fn begin_write(&self, key: &Key, version: Version) -> Write {
        Write::begin(self.0.clone(), *key, version).await
    }

    /// Removes from Redis whatever is older than `version` of a row that was committed; for the worker, until it succeeds.
    ///
    /// # Errors
    /// If Redis has not confirmed it.
    pub async fn invalidate(&self, key: &Key, version: Version) -> Result<(), Unreachable> {
        match &self.0.redis {
            Some(redis) => redis.floor(key, version, "", &mut Budget::new(PATIENCE)).await,
            None => Ok(()),
        }
    }

    /// Takes note that some node has committed `version` of a row whose floor could not be placed in Redis; for the feed.
    pub fn raise_floor(&self, key: &Key, version: Version) {
        self.0.local.floors.raise(*key, version, Instant::now() + self.0.longest_stale());
    }

    /// Whether Redis answers; fine without Redis.
    ///
    /// # Errors
    /// If it does not answer within a second.
    pub async fn ping(&self) -> Result<(), Unreachable> {
        match &self.0.redis {
            Some(redis) => redis.ping(&mut Budget::new(PATIENCE)).await,
            None => Ok(()),
        }
    }

    /// Whether a Redis is configured.
    pub fn has_redis(&self) -> bool {
        self.0.redis.is_some()
    }
}

impl Inner {
    async fn read<L, F, E>(
        self: &Arc<Self>,
        key: Key,
        min: Option<Version>,
        load: L,
    ) -> Result<Read, ReadError<E>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let reaches = |entry: &Entry| min.is_none_or(|min| entry.version >= min);
        if let Some(entry) = self.local.get(&key).filter(|entry| reaches(entry)) {
            return Ok(Read { entry: Some(entry), level: Level::Local });
        }

        // The flight takes the load out when it needs it. Left over, it serves to bypass what the flight has brought.
        let load = Arc::new(Mutex::new(Some(load)));
        let landing = self.flights.join(key, |flight| {
            tokio::spawn(self.clone().fly(key, flight, load.clone()));
        });
        let mut read = match landing.await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => return Err(error.downcast().map_or(ReadError::Gone, ReadError::Load)),
            Err(_) => return Err(ReadError::Gone),
        };
        // An answer of the truth cannot be bypassed: its select was sent after this read began.
        if read.level != Level::Postgres && !read.entry.as_deref().is_none_or(reaches) {
            let load = load.locked().take().ok_or(ReadError::Gone)?;
            read = self.select(key, load).await.map_err(|error| ReadError::Load(Arc::new(error)))?;
        }
        if read.entry.as_deref().is_none_or(reaches) { Ok(read) } else { Err(ReadError::VersionNotReached) }
    }

    /// One flight: Redis, else Postgres, then everyone who waits. Its first part is its turn; see [`flight`].
    async fn fly<L, F, E>(self: Arc<Self>, key: Key, flight: Flight, load: Arc<Mutex<Option<L>>>)
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let turn = flight.turn().await;
        let mut budget = Budget::new(self.settings.redis_budget);
        let token = match self.ask_redis(key, &flight, &mut budget).await {
            Asked::Found(entry) => return flight.land(Ok(Read { entry: Some(entry), level: Level::Redis })),
            Asked::MayFill(token) => Some(token),
            Asked::MayNotFill => None,
        };
        flight.close();
        let Some(load) = load.locked().take() else { return };
        let outcome = self.select(key, load).await;
        drop(turn);
        if let (Some(redis), Some(token)) = (&self.redis, token) {
            // A fill that fails costs others a miss, and a lease that stays costs them a short wait.
            let _ = match outcome.as_ref().map(|read| read.entry.as_deref()) {
                Ok(Some(entry)) => {
                    let data = entry::encode(self.settings.schema, &key, entry);
                    redis.fill(&key, &token, entry.version, &data, &mut budget).await.map(drop)
                }
                Ok(None) | Err(_) => redis.release(&key, &token, &mut budget).await,
            };
        }
        flight.land(outcome.map_err(|error| Arc::new(error) as Arc<dyn Any + Send + Sync>) as Outcome);
    }

    /// Looks in Redis, and asks for the lease where there is nothing to see.
    async fn ask_redis(&self, key: Key, flight: &Flight, budget: &mut Budget) -> Asked {
        let Some(redis) = &self.redis else { return Asked::MayNotFill };
        let (_, token) = self.token('r');
        let read_at = Instant::now();
        let mut rejected = Bytes::new();
        let mut pauses = PAUSES.into_iter();
        loop {
            let Some(floor) = self.local.floors.get(&key) else { return Asked::MayNotFill };
            match redis.lease(&key, &token, floor, &rejected, budget).await {
                Ok(Lease::Hit { version, data }) => {
                    let Some(entry) = entry::decode(self.settings.schema, &key, &version, &data) else {
                        metrics::counter!("tenantry_cache_mismatch_total").increment(1);
                        tracing::warn!(cache.key = %key, "dropped a value of {key} that is not its own");
                        rejected = data;
                        continue;
                    };
                    // Whoever has joined may have done so after a write here that Redis had not seen when it answered. So
                    // nobody joins any more, and then the floor is asked again; it has risen before any such write was
                    // acknowledged.
                    flight.close();
                    if self.local.floors.allow(&key, entry.version) {
                        let entry = Arc::new(entry);
                        self.local.insert(&key, entry.clone(), read_at);
                        return Asked::Found(entry);
                    }
                }
                Ok(Lease::Granted) => return Asked::MayFill(token),
                Ok(Lease::Filling) => match pauses.next() {
                    Some(pause) if budget.spend(sleep(pause)).await.is_some() => {}
                    _ => return Asked::MayNotFill,
                },
                Ok(Lease::Writing) | Err(_) => return Asked::MayNotFill,
            }
        }
    }

    /// Reads the row from the truth.
    async fn select<L, F, E>(&self, key: Key, load: L) -> Result<Read, E>
    where
        L: FnOnce() -> F,
        F: Future<Output = Result<Loaded, E>>,
    {
        let read_at = Instant::now();
        let entry = match load().await? {
            Loaded::Row(entry) => Some(Arc::new(entry)),
            Loaded::Absent => None,
        };
        if let Some(entry) = &entry {
            self.local.insert(&key, entry.clone(), read_at);
        }
        Ok(Read { entry, level: Level::Postgres })
    }

    /// A number that is this node's alone, and the name by which Redis knows a reader ('r') or a writer ('w') by it.
    fn token(&self, role: char) -> (u64, String) {
        let id = self.tokens.fetch_add(1, Ordering::Relaxed);
        (id, format!("{role}{}-{id}", self.node.simple()))
    }
}

/// What Redis has to say to a flight.
enum Asked {
    Found(Arc<Entry>),
    MayFill(String),
    MayNotFill,
}

/// Counts a read by who answered it, and with what.
fn count<E>(result: &Result<Read, ReadError<E>>) {
    let (level, outcome) = match result {
        Ok(Read { entry: Some(entry), level }) => (*level, entry.state.name()),
        Ok(Read { entry: None, level }) => (*level, "absent"),
        Err(ReadError::VersionNotReached) => (Level::Postgres, "version_not_reached"),
        Err(ReadError::Load(_) | ReadError::Gone) => (Level::Postgres, "failed"),
    };
    metrics::counter!("tenantry_cache_reads_total", "level" => level.name(), "outcome" => outcome)
        .increment(1);
}

impl Level {
    /// As in the labels of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
