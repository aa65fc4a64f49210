//! What was observed: every request with its times on one monotonic clock, and what the database committed.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Since the clock was started.
pub(crate) type Micros = u64;

pub(crate) type Version = i64;

/// The number of the write that made a name or an address; no two writes make the same one.
pub(crate) type Value = u32;

/// The name or address that a user was seeded with.
pub(crate) const SEEDED: Value = 0;

/// A name or address that no write has made.
pub(crate) const FOREIGN: Value = Value::MAX;

/// The version of a 404, and of a deletion before the ledger has told which it was.
pub(crate) const GONE: Version = -1;

/// The key of a user whose creation was not acknowledged.
pub(crate) const NO_KEY: usize = usize::MAX;

pub(crate) const SECOND: Micros = 1_000_000;

/// The clock that all clients share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Micros {
        Micros::try_from(self.0.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }
}

pub(crate) use crate::harness::Run;

/// What a write does to a user.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// A name of its own.
    Name,
    /// A name and an address of its own.
    Address,
    /// A user with a name and an address of its own.
    Create,
    Delete,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Write {
    pub(crate) key: usize,
    pub(crate) value: Value,
    pub(crate) change: Change,
    /// The `If-Match` that it was sent with.
    pub(crate) if_match: Option<Version>,
    pub(crate) node: usize,
    pub(crate) run: Run,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// With the version in its ETag; of a deletion, which has none, `GONE`.
    Acknowledged(Version),
    /// It certainly did nothing: a status of 400 to 499, or 0 where nobody listened.
    Refused(u16),
    /// Nobody knows: a status of 500 and more, or 0 where the answer was lost.
    Unknown(u16),
}

/// Who answered a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Level {
    Local,
    Redis,
    Miss,
    /// One of them: a batch and a 404 do not say.
    Any,
}

/// A look-up of a user that was answered: by id or address, alone or in a batch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Read {
    pub(crate) key: usize,
    pub(crate) node: usize,
    pub(crate) run: Run,
    /// The `X-Min-Version` that it was sent with.
    pub(crate) min: Option<Version>,
    /// The address that was asked for; none: the id was.
    pub(crate) asked: Option<Value>,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    /// In the ETag; `GONE` for 404.
    pub(crate) version: Version,
    /// In the body.
    pub(crate) body_version: Version,
    pub(crate) value: Value,
    pub(crate) address: Value,
    pub(crate) level: Level,
}

/// An address that was nobody's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Nobody {
    pub(crate) address: Value,
    pub(crate) node: usize,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
}

/// A look-up that was not answered; status 0 where there was no answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) key: usize,
    pub(crate) node: usize,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) status: u16,
}

/// A version that the database committed, as a trigger in the same transaction noted it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Committed {
    pub(crate) version: Version,
    pub(crate) value: Value,
    pub(crate) address: Value,
    pub(crate) deleted: bool,
    /// Redis had not confirmed the floor: the feed told the nodes.
    pub(crate) by_feed: bool,
}

/// The last look-up of a key on a node after everything was healed and quiet, and the row at that time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Healed {
    pub(crate) node: usize,
    pub(crate) key: usize,
    pub(crate) at: Micros,
    /// None: it was not answered.
    pub(crate) read: Option<Read>,
    /// None: deleted.
    pub(crate) row: Option<(Version, Value)>,
}

/// What the nemesis did, and until when.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) what: String,
    pub(crate) effect: Effect,
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

/// What an event may excuse, or demand.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Effect {
    Nothing,
    /// Redis lost what it held, floors included.
    RedisForgets,
    /// No node could follow the feed.
    FeedAway,
    /// This node could not follow the feed, or stood still.
    NodeAway(usize),
    /// A worker died or stood still, perhaps with jobs in its hands.
    WorkerAway,
    /// Nothing is wrong and nobody writes this key: Redis must answer for it.
    Warm(usize),
}

/// A stretch of the run with one kind of fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Answers of 500 and more are violations in it.
    pub(crate) always_answers: bool,
    pub(crate) from: Micros,
    /// The last fault is over; the load goes on until `to`.
    pub(crate) healed: Micros,
    pub(crate) to: Micros,
    /// Every node has shown every row.
    pub(crate) shown: Micros,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
    pub(crate) nobodies: Vec<Nobody>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) events: Vec<Event>,
    pub(crate) phases: Vec<Phase>,
    /// By key, in the order of versions.
    pub(crate) ledger: Vec<Vec<Committed>>,
    /// By key: the row at the end.
    pub(crate) rows: Vec<Committed>,
    /// Every key on every node after each phase.
    pub(crate) healed: Vec<Healed>,
    /// Processes that ended by themselves.
    pub(crate) exits: Vec<(Micros, String)>,
    pub(crate) nodes: usize,
}

impl History {
    pub(crate) fn extend(&mut self, other: Self) {
        self.writes.extend(other.writes);
        self.reads.extend(other.reads);
        self.nobodies.extend(other.nobodies);
        self.failures.extend(other.failures);
    }

    /// The version that deleted a key, if one did.
    pub(crate) fn deletion(&self, key: usize) -> Option<Version> {
        self.ledger.get(key)?.last().filter(|last| last.deleted).map(|last| last.version)
    }
}
