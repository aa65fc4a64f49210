//! The read path: the process, a flight, and there Redis, then the truth.

use std::{
    any::Any,
    fmt,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use metrics::Counter;
use tokio::time::{Instant, sleep};

use crate::{
    Entry, Inner, Key, Version,
    budget::Budget,
    entry::{self, Known},
    era::Era,
    flight::{Flight, Flown, Outcome, Seat},
    planted::{self, Bug},
    redis::Lease,
    sync::{Lock, Shared},
};

/// The pauses of a reader while another one fills: 30 ms in all, then it reads Postgres itself.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(2), Duration::from_millis(4), Duration::from_millis(8), Duration::from_millis(16)];

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
    /// Whether the truth was asked only because a cache held less than the minimum version: what a client can cost us by
    /// its word alone. A read that ends in [`ReadError::VersionNotReached`] has cost as much.
    pub bypassed: bool,
}

impl Read {
    pub(crate) fn new(entry: Known, level: Level) -> Self {
        Self { entry, level, bypassed: false }
    }
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

impl Inner {
    pub(crate) async fn read<L, F, E>(
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
        let min = min.filter(|_| !planted::bug(Bug::MinIgnored));
        let reaches = |known: &Known| min.is_none_or(|min| entry::version(known) >= min);
        let held = self.era.reading().local.get(&key);
        let holds_less = match held {
            Some(entry) if reaches(&entry) => return Ok(Read::new(entry, Level::Local)),
            Some(_) => true,
            None => false,
        };
        let budget = Budget::of_request(self.settings.redis_budget);
        // In a place of its own, so that those who find something in the process do not carry it along.
        let mut read = Box::pin(self.read_past_local(key, min, load, budget)).await?;
        read.bypassed |= holds_less && read.level == Level::Postgres;
        Ok(read)
    }

    /// Reads without a look at what the process holds. `budget` is for the flight, should this reader lead it; one that he
    /// joins waits for Redis no longer than that, either.
    pub(crate) async fn read_past_local<L, F, E>(
        self: &Arc<Self>,
        key: Key,
        min: Option<Version>,
        load: L,
        budget: Budget,
    ) -> Result<Read, ReadError<E>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let reaches = |known: &Known| min.is_none_or(|min| entry::version(known) >= min);
        let era = self.era();
        if budget.is_spent() {
            // Another's flight may be waiting for Redis.
            let entry =
                self.select(&era, key, load).await.map_err(|error| ReadError::Load(Arc::new(error)))?.known;
            return Ok(Read::new(entry, Level::Postgres));
        }

        // The flight takes the load out when it needs it. Left over, it serves to bypass what the flight has brought.
        let load = Arc::new(Mutex::new(Some(load)));
        let left = Some(budget.left()).filter(|left| *left < self.settings.redis_budget);
        let outcome = match era.flights.join(key, left) {
            Seat::Pilot(flight) => {
                let flown = Flown::new(self.clone().fly(era.clone(), key, flight, load.clone(), budget));
                planted::point("after-join").await;
                flown.await
            }
            Seat::Passenger(board) => {
                planted::point("after-join").await;
                board.landing().await
            }
        };
        let mut read = match outcome {
            Some(Ok(read)) => read,
            Some(Err(error)) => return Err(error.downcast().map_or(ReadError::Gone, ReadError::Load)),
            None => return Err(ReadError::Gone),
        };
        // An answer of the truth cannot be bypassed: its select was sent after this read began.
        if read.level != Level::Postgres && !reaches(&read.entry) {
            let load = load.locked().take().ok_or(ReadError::Gone)?;
            let entry =
                self.select(&era, key, load).await.map_err(|error| ReadError::Load(Arc::new(error)))?.known;
            read = Read { entry, level: Level::Postgres, bypassed: true };
        }
        // What gets here without an entry is the truth's word, or the client asked for nothing.
        if read.entry.is_none() || reaches(&read.entry) {
            Ok(read)
        } else {
            Err(ReadError::VersionNotReached)
        }
    }

    /// One flight: Redis, else Postgres, then everyone who waits. Its first part is its turn; see [`flight`].
    async fn fly<L, F, E>(
        self: Arc<Self>,
        era: Arc<Era>,
        key: Key,
        mut flight: Flight,
        load: Arc<Mutex<Option<L>>>,
        mut budget: Budget,
    ) -> Option<Outcome>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        flight.turn().await;
        flight.patience().begin();
        let asked = tokio::select! {
            biased;
            asked = self.ask_redis(&era, key, &flight, &mut budget) => asked,
            // An answer may come yet, and a lease with it; the others wait for that as for any reader that died.
            () = flight.patience().ends() => Asked::MayNotFill,
        };
        if let Some(left) = flight.patience().left() {
            budget.cap(left);
        }
        let token = match asked {
            Asked::Found(entry) => return Some(flight.land(Ok(Read::new(entry, Level::Redis)))),
            Asked::MayFill(token) => Some(token),
            Asked::MayNotFill => None,
        };
        // In a place of its own, so that flights which end here do not carry it along.
        Box::pin(self.fetch(&era, key, flight, &load, (token, budget))).await
    }

    /// The rest of a flight that has found nothing in Redis. With a token it may fill.
    async fn fetch<L, F, E>(
        &self,
        era: &Era,
        key: Key,
        flight: Flight,
        load: &Mutex<Option<L>>,
        (token, mut budget): (Option<String>, Budget),
    ) -> Option<Outcome>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        if !planted::bug(Bug::JoinAnyFlight) {
            flight.close();
        }
        let load = load.locked().take()?;
        let outcome = self.select(era, key, load).await;
        flight.end_turn();
        if let (Some(run), Some(token)) = (&era.run, token) {
            let name = era.row(&key);
            planted::point("before-fill").await;
            if planted::bug(Bug::NoLease) {
                let _ = run.lease(&name, &token, 0, b"", &mut budget).await;
            }
            // A fill that fails costs others a miss, and a lease that stays costs them a short wait. While a write of this
            // node is under way its floor should be in Redis and refuse the fill; should it have been lost, the node
            // does not store what it knows to be on its way out.
            let _ = match &outcome {
                Ok(Selected { known, keep: true }) if self.floors.allow(&key, entry::version(known)) => {
                    let data = entry::encode(self.settings.schema, &key, known);
                    run.fill(&name, &token, entry::version(known), &data, &mut budget).await.map(drop)
                }
                _ => run.release(&name, &token, &mut budget).await,
            };
        }
        Some(flight.land(match outcome {
            Ok(Selected { known, .. }) => Ok(Read::new(known, Level::Postgres)),
            Err(error) => Err(Arc::new(error) as Arc<dyn Any + Send + Sync>),
        }))
    }

    /// Looks in Redis, and asks for the lease where there is nothing to see.
    async fn ask_redis(&self, era: &Era, key: Key, flight: &Flight, budget: &mut Budget) -> Asked {
        let Some(run) = &era.run else { return Asked::MayNotFill };
        let (name, (_, token)) = (era.row(&key), self.token('r'));
        let read_at = Instant::now();
        let mut rejected = Bytes::new();
        let mut pauses = PAUSES.into_iter();
        loop {
            let Some(floor) = self.floors.get(&key) else { return Asked::MayNotFill };
            let floor = if planted::bug(Bug::LeaseBelowNodeFloor) { 0 } else { floor };
            let answer = run.lease(&name, &token, floor, &rejected, budget).await;
            planted::point("after-lease").await;
            match answer {
                Ok(Lease::Hit { version, data }) => {
                    let Some(found) = self.decode(&key, &version, &data) else {
                        rejected = data;
                        continue;
                    };
                    // Whoever has joined may have done so after a write here that Redis had not seen when it answered. So
                    // nobody joins any more, and then the floor is asked again; it has risen before any such write was
                    // acknowledged.
                    if !planted::bug(Bug::HitKeepsBoarding) {
                        flight.close();
                    }
                    // The budget was looked at before that. A thread that was not run since has let others board meanwhile,
                    // for whom the answer is too old.
                    if read_at.elapsed() > self.settings.redis_budget && !planted::bug(Bug::LateAnswersCount)
                    {
                        return Asked::MayNotFill;
                    }
                    let known = found.known();
                    if self.floors.allow(&key, entry::version(&known))
                        || planted::bug(Bug::LeaseBelowNodeFloor)
                    {
                        planted::point("before-insert").await;
                        era.local.insert(&key, known.clone(), read_at);
                        return Asked::Found(known);
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

    /// What Redis holds of `key`; counts what is not its own.
    pub(crate) fn decode(&self, key: &Key, version: &[u8], data: &Bytes) -> Option<Loaded> {
        let found = entry::decode(self.settings.schema, key, version, data);
        if found.is_none() {
            metrics::counter!("tenantry_cache_mismatch_total", "reason" => "foreign").increment(1);
            tracing::warn!(cache.key = %key, "passed by a value of {key} that is not its own");
        }
        found
    }

    /// Reads the row from the truth.
    async fn select<L, F, E>(&self, era: &Era, key: Key, load: L) -> Result<Selected, E>
    where
        L: FnOnce() -> F,
        F: Future<Output = Result<Loaded, E>>,
    {
        let read_at = Instant::now();
        let known = load().await?.known();
        planted::point("after-select").await;
        let read_at = if planted::bug(Bug::TtlFromInsert) { Instant::now() } else { read_at };
        let keep = known.is_some() || self.absences.admit();
        if keep {
            era.local.insert(&key, known.clone(), read_at);
        }
        Ok(Selected { known, keep })
    }
}

impl Loaded {
    pub(crate) fn known(self) -> Known {
        match self {
            Self::Row(entry) => Some(Arc::new(entry)),
            Self::Absent => None,
        }
    }
}

/// What the truth has said, and whether there is room to remember it.
struct Selected {
    known: Known,
    keep: bool,
}

/// What Redis has to say to a flight.
enum Asked {
    Found(Known),
    MayFill(String),
    MayNotFill,
}

/// Reads by who answered them, and with what. What is found again and again is looked up once among the metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts([[OnceLock<Counter>; 3]; 3]);

impl Counts {
    pub(crate) fn count<E>(&self, result: &Result<Read, ReadError<E>>) {
        match result {
            Ok(read) => {
                if read.bypassed {
                    count_bypass();
                }
                self.count_read(read);
            }
            Err(ReadError::VersionNotReached) => {
                count_bypass();
                count_failure("version_not_reached");
            }
            Err(ReadError::Load(_) | ReadError::Gone) => count_failure("failed"),
        }
    }

    pub(crate) fn count_read(&self, read: &Read) {
        let (place, outcome) = match &read.entry {
            None => (0, "absent"),
            Some(entry) => (1 + entry.state as usize, entry.state.name()),
        };
        self.0[read.level as usize][place].get_or_init(|| counter(read.level, outcome)).increment(1);
    }
}

/// A read of the truth that a client has caused by a minimum version.
fn count_bypass() {
    metrics::counter!("tenantry_cache_bypassed_total").increment(1);
}

pub(crate) fn count_failure(outcome: &'static str) {
    counter(Level::Postgres, outcome).increment(1);
}

fn counter(level: Level, outcome: &'static str) -> Counter {
    metrics::counter!("tenantry_cache_reads_total", "level" => level.name(), "outcome" => outcome)
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
