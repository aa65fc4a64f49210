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
mod key;
mod local;
mod lookup;
#[doc(hidden)]
pub mod planted;
mod pointer;
mod read;
mod redis;
mod settings;
mod sync;
mod write;

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
    read::{count, count_failure, count_read},
    redis::{Redis, Times},
};
pub use crate::{
    entry::{Entry, State, Version},
    key::Key,
    lookup::Lookup,
    pointer::Pointer,
    read::{Level, Loaded, Read, ReadError},
    settings::Settings,
    write::Write,
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
    floors: Arc<Floors>,
    absences: Absences,
    redis: Option<Arc<Redis>>,
    /// Tokens are this node's name and a number that is never used twice.
    node: Uuid,
    tokens: AtomicU64,
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
    /// It was not asked, because it has not answered others lately.
    #[error("redis has not answered lately; it is used again as soon as it does")]
    GivenUp,
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
            Some(url) => Some(Redis::connect(url, times)?),
            None => None,
        };
        let floors = Arc::new(Floors::new(settings.node_floors));
        let era = RwLock::new(Arc::new(Era::new(&settings.epoch, &settings, floors.clone())));
        let absences = Absences::new(if absent.is_zero() { 0 } else { settings.absent_per_second });
        let (node, tokens) = (Uuid::new_v4(), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { settings, era, floors, absences, redis, node, tokens })))
    }

    /// Reads a row through the cache. `load` reads it from the primary, version and body in one `select`; it is called at
    /// most once, and not at all where a cache or another reader's `load` answers. It runs in a task of its own, so
    /// that a client who goes away strands nobody who waits for the same row.
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
        count(&result);
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
            Ok(reads) => reads.iter().for_each(count_read),
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
        Write::begin(self.0.clone(), *key, version).await
    }

    /// Removes from Redis whatever is older than `version` of a row that was committed; for the worker, until it succeeds.
    ///
    /// # Errors
    /// If Redis has not confirmed it; at once while Redis is [given up](Self::has_given_up_redis).
    pub async fn invalidate(&self, key: &Key, version: Version) -> Result<(), Unreachable> {
        match &self.0.redis {
            Some(redis) => redis.floor(&self.0.era().row(key), version, "", &mut Budget::new(PATIENCE)).await,
            None => Ok(()),
        }
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
        self.0.begin_era(epoch);
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

    /// Whether a Redis is configured.
    pub fn has_redis(&self) -> bool {
        self.0.redis.is_some()
    }
}

impl Inner {
    /// A number that is this node's alone, and the name by which Redis knows a reader ('r') or a writer ('w') by it.
    fn token(&self, role: char) -> (u64, String) {
        let id = self.tokens.fetch_add(1, Ordering::Relaxed);
        (id, format!("{role}{}-{id}", self.node.simple()))
    }

    /// How long Redis can hold a value that no floor has reached.
    fn longest_stale(&self) -> Duration {
        match self.redis {
            Some(_) => self.settings.ttl + self.settings.lease,
            None => self.settings.floor,
        }
    }
}
