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

mod absences;
mod batch;
mod breaker;
mod budget;
mod entry;
mod era;
mod flight;
mod floors;
mod inspect;
mod key;
mod local;
mod lookup;
#[doc(hidden)]
pub mod planted;
mod pointer;
mod read;
mod redis;
mod scripts;
mod settings;
mod sync;
mod timeline;
mod write;
mod writes;

use std::{
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    absences::Absences,
    budget::Budget,
    era::Era,
    floors::Floors,
    local::Local,
    read::{Counts, count_failure},
    redis::{Redis, Run, Times, keep},
    timeline::Timeline,
};
pub use crate::{
    budget::{charge_request, of_this_request, one_request},
    entry::{Entry, State, Version},
    inspect::{Held, Lease, Mismatch, Target, Value},
    key::Key,
    lookup::Lookup,
    pointer::Pointer,
    read::{Level, Loaded, Read, ReadError},
    scripts::{RedisRun, Script},
    settings::Settings,
    write::Write,
    writes::Writes,
};

/// What a worker or a readiness check grants Redis; unlike a request they can wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// The cache of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    era: RwLock<Arc<Era>>,
    timeline: Timeline,
    floors: Arc<Floors>,
    absences: Absences,
    redis: Option<Arc<Redis>>,
    /// Tokens are this node's name and a number that is never used twice.
    node: Uuid,
    tokens: AtomicU64,
    counts: Counts,
}

/// Why a cache could not be set up. The message never holds the URL, which may hold a password.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// It cannot be read.
    #[error(
        "it is not usable; write redis://host:port, rediss://user:password@host:port for TLS, or such URLs of several \
         nodes of a cluster separated by commas (and %2C for a comma in a password)"
    )]
    Url(#[from] deadpool_redis::redis::RedisError),
    /// This program cannot connect in that way.
    #[error("it names a way to connect that is not built in")]
    Unsupported,
    /// Several servers, and not all of them on the network.
    #[error("several URLs are those of a cluster, whose nodes are not found on sockets")]
    ClusterOnSockets,
}

/// Redis did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It answered with an error, or the connection failed.
    #[error("redis failed; it is tried again")]
    Failed(#[source] deadpool_redis::redis::RedisError),
    /// It did not answer in time.
    #[error("redis did not answer in time; it is tried again")]
    TimedOut,
    /// It cannot be used as it is; the text says why.
    #[error("{0}")]
    Unusable(String),
    /// It was not asked, because it has not answered others lately.
    #[error("redis has not answered lately; it is used again as soon as it does")]
    GivenUp,
}

impl Unreachable {
    /// Whether Redis has answered, and refused.
    pub fn is_refusal(&self) -> bool {
        use deadpool_redis::redis::ErrorKind::{Extension, Server};
        matches!(self, Self::Failed(error) if matches!(error.kind(), Server(_) | Extension))
    }
}

impl Cache {
    /// Sets up a cache, in a tokio runtime. The connection to Redis is made in the background: Redis may be away.
    ///
    /// # Errors
    /// If the URL of Redis cannot be understood.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let Settings { lease, floor, ttl, absent_ttl: absent, redis_budget: request, .. } = settings;
        let times = Times { lease, floor, ttl, absent, request };
        let redis = match &settings.redis_url {
            Some(url) => Some(Redis::new(url, times)?),
            None => None,
        };
        let floors = Arc::new(Floors::new(settings.node_floors));
        let local = Local::new(&settings, floors.clone());
        let era = RwLock::new(Arc::new(Era::new(&settings.epoch, redis.clone().map(Run::none), local)));
        let timeline = Timeline::new(&settings.epoch);
        let absences = Absences::new(if absent.is_zero() { 0 } else { settings.absent_per_second });
        let (node, tokens) = (Uuid::new_v4(), AtomicU64::new(0));
        let redis_kept = redis.clone();
        let counts = Counts::default();
        let inner = Inner { settings, era, timeline, floors, absences, redis, node, tokens, counts };
        let inner = Arc::new(inner);
        if let Some(redis) = redis_kept {
            tokio::spawn(keep(Arc::downgrade(&inner), redis));
        }
        Ok(Self(inner))
    }

    /// Reads a row through the cache. `load` reads it from the primary, version and body in one `select`; it is called at
    /// most once, and not at all where a cache or another reader's `load` answers. Where the future that has begun it is
    /// dropped it goes on in a task of its own, so that a client who goes away strands nobody who waits for the same row; but
    /// as long as it is kept and not polled, they wait.
    ///
    /// With `min` nothing older is returned: caches that hold less are passed by. They are not changed by it, since `min`
    /// is the client's word. A row that does not exist, as the truth has just said, is `None` whatever `min` says.
    ///
    /// That a row does not exist is remembered for a moment ([`Settings::absent_ttl`]), until it is created: whoever creates
    /// a row announces it as its first [write](Self::begin_write).
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
        self.0.counts.count(&result);
        result
    }

    /// Reads many rows through the cache: what this process holds, then what Redis holds, then all that is missing with one
    /// `load`, which is not called if nothing is. What `load` does not name does not exist. The answers are in the order of
    /// `keys`, which may repeat a key and may not be longer than what one `load` can read.
    ///
    /// Nothing is stored in Redis, since a batch takes no leases, and it waits for no other reader. Redis is asked under
    /// one budget; what it has not answered in time is missing.
    ///
    /// # Errors
    /// [`ReadError::Load`]
    pub async fn read_many<L, F, E>(&self, keys: &[Key], load: L) -> Result<Vec<Read>, ReadError<E>>
    where
        L: FnOnce(Vec<Key>) -> F,
        F: Future<Output = Result<Vec<(Key, Loaded)>, E>>,
    {
        let reads = self.0.read_many(keys, load).await;
        match &reads {
            Ok(reads) => reads.iter().for_each(|read| self.0.counts.count_read(read)),
            Err(_) => count_failure("failed"),
        }
        reads
    }

    /// Begins to look a row up by something other than its id; see [`Lookup`]. Never fails: without Redis the pointer
    /// leads nowhere, and the caller asks the truth.
    pub async fn look_up(&self, pointer: &Pointer) -> Lookup {
        Lookup::begin(self.0.clone(), *pointer).await
    }

    /// Announces that `version` of a row is about to be committed. Call it with the row lock held, after the `update` that
    /// made the version and before COMMIT; once for each row, with the last version. Never fails: without Redis the
    /// write is [unconfirmed](Write::confirmed).
    pub async fn begin_write(&self, key: &Key, version: Version) -> Write {
        Write::begin(self.0.clone(), self.0.era(), *key, version).await
    }

    /// As [`Self::begin_write`], for a write on a connection that was opened then. `None`, and nothing was announced, if
    /// that was before [the epoch began](Self::epoch_began): the row may be locked on the old primary only, and a floor of
    /// this write would take the place of one whose writer has locked the row that counts. Roll back.
    pub async fn begin_write_on(
        &self,
        opened: std::time::Instant,
        key: &Key,
        version: Version,
    ) -> Option<Write> {
        // Taken first: whatever epoch it is of, its beginning is known by the time it is compared.
        let era = self.0.era();
        if opened <= self.epoch_began() {
            return None;
        }
        Some(Write::begin(self.0.clone(), era, *key, version).await)
    }

    /// As [`Self::begin_write_on`], of many rows that one transaction writes: each once, with the version it will have.
    pub async fn begin_writes_on(
        &self,
        opened: std::time::Instant,
        rows: &[(Key, Version)],
    ) -> Option<Writes> {
        let era = self.0.era();
        if opened <= self.epoch_began() {
            return None;
        }
        Some(Writes::begin(self.0.clone(), era, rows).await)
    }

    /// Removes from Redis whatever is older than `version` of a row that was committed; for the worker, until it succeeds.
    ///
    /// # Errors
    /// If Redis has not confirmed it; at once while Redis is [given up](Self::has_given_up_redis).
    pub async fn invalidate(&self, key: &Key, version: Version) -> Result<(), Unreachable> {
        let era = self.0.era();
        let Some(run) = &era.run else { return Ok(()) };
        run.floor(&era.row(key), version, "", &mut Budget::new(PATIENCE)).await?;
        // In an era that is over nobody has been told.
        if self.0.is_over(&era) { Err(Unreachable::GivenUp) } else { Ok(()) }
    }

    /// Takes note that some node has committed `version` of a row whose floor could not be placed in Redis; for the feed.
    pub fn raise_floor(&self, key: &Key, version: Version) {
        self.0.floors.raise(*key, version, Instant::now() + self.0.longest_stale());
    }

    /// Tells the timeline of the database, as soon as it is known to have changed: after a fail-over or a restore. Nothing
    /// that was read before is shown to a read that begins afterwards, here or from Redis. The same epoch again changes
    /// nothing.
    ///
    /// Call it before a connection to the new timeline is used, so that a write on the new timeline places its floor where
    /// readers of the new timeline look. A write under way that ends afterwards places its floor there too; a process
    /// that has not learned of the change yet reads and writes under the old epoch. Never return to an earlier epoch: what
    /// Redis still has of it would be shown.
    pub fn set_epoch(&self, epoch: &str) {
        // First, so that nobody who reads in the new era is given a connection from before it.
        self.0.timeline.learn(epoch);
        self.0.begin_timeline(epoch);
    }

    /// The newest epoch that was [told](Self::set_epoch): one told later that is older, by length and then by digits, counted
    /// for nothing.
    pub fn epoch(&self) -> String {
        self.0.timeline.name()
    }

    /// When that epoch was first told. A connection to the database that is older may lead to a server of an epoch before: a
    /// read through the cache that is given one would store what it says under the new epoch. So whoever checks connections
    /// out compares this at each check-out, and [a writer](Self::begin_write_on) once more.
    pub fn epoch_began(&self) -> std::time::Instant {
        self.0.timeline.since()
    }

    /// How long an entry may be served after a newer one was committed, where nothing but time forgets it.
    pub fn longest_stale(&self) -> Duration {
        self.0.longest_stale()
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

    /// Whether Redis does not answer and so is not asked: reads go to the truth, writes are unconfirmed. It is so within a
    /// second of a Redis that hangs or is gone, and ends by itself when the background ping is answered again.
    pub fn has_given_up_redis(&self) -> bool {
        self.0.redis.as_ref().is_some_and(|redis| redis.is_given_up())
    }

    /// Sets the gauges of what this process holds, `tenantry_cache_local_entries` and `tenantry_cache_node_floors`; to be
    /// called when somebody looks at the metrics.
    pub fn measure(&self) {
        metrics::gauge!("tenantry_cache_local_entries").set(self.0.era().local.len() as f64);
        metrics::gauge!("tenantry_cache_node_floors").set(self.0.floors.len() as f64);
    }

    /// The name of a row in Redis, in the present epoch; see docs/cache.md for its parts.
    pub fn name_of(&self, key: &Key) -> String {
        self.0.era().row(key)
    }

    /// The name of a pointer in Redis, likewise.
    pub fn name_of_pointer(&self, pointer: &Pointer) -> String {
        self.0.era().pointer(pointer)
    }

    /// Whether a Redis is configured.
    pub fn has_redis(&self) -> bool {
        self.0.redis.is_some()
    }
}

impl Inner {
    /// A number that is this node's alone, and the name by which Redis knows a reader ('r') or a writer ('w') by it.
    fn token(&self, role: char) -> (u64, String) {
        let id = self.tokens.fetch_add(1, Ordering::Relaxed);
        let mut name = String::with_capacity(64);
        name.push(role);
        name.push_str(self.node.simple().encode_lower(&mut Uuid::encode_buffer()));
        name.push('-');
        name.push_str(itoa::Buffer::new().format(id));
        (id, name)
    }

    /// How long Redis can hold a value that no floor has reached.
    fn longest_stale(&self) -> Duration {
        match self.redis {
            Some(_) => self.settings.ttl + self.settings.lease,
            None => self.settings.floor,
        }
    }
}
