//! What was observed: every request with its times on one monotonic clock, and what the database committed.

use std::time::Instant;

/// Since the clock was started.
pub(crate) type Micros = u64;

pub(crate) type Version = i64;

/// The number of the write that made a name; no two writes make the same one.
pub(crate) type Value = u32;

/// The name that a key was seeded with.
pub(crate) const SEEDED: Value = 0;

/// A name that no write has made.
pub(crate) const FOREIGN: Value = Value::MAX;

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

/// One process of a node: a node that is killed and started again is another. None: it changed during the request.
pub(crate) type Run = Option<u32>;

/// A PATCH that gives a key a name of its own.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: usize,
    pub(crate) value: Value,
    pub(crate) node: usize,
    pub(crate) run: Run,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// With the version in its ETag.
    Acknowledged(Version),
    /// It certainly did nothing: a status of 400 to 499, or 0 where nobody listened.
    Refused(u16),
    /// Nobody knows: a status of 500 and more, or 0 where the answer was lost.
    Unknown(u16),
}

/// A GET that was answered with a user.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) key: usize,
    pub(crate) node: usize,
    pub(crate) run: Run,
    /// The `X-Min-Version` that it was sent with.
    pub(crate) min: Option<Version>,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    /// In the ETag.
    pub(crate) version: Version,
    /// In the body.
    pub(crate) body_version: Version,
    pub(crate) value: Value,
    /// What `X-Cache` says.
    pub(crate) level: &'static str,
}

/// A GET that was not; status 0 where there was no answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) key: usize,
    pub(crate) node: usize,
    pub(crate) start: Micros,
    pub(crate) end: Micros,
    pub(crate) status: u16,
}

/// A version that the database committed, as a trigger in the same transaction noted it.
#[derive(Clone, Debug)]
pub(crate) struct Committed {
    pub(crate) version: Version,
    pub(crate) value: Value,
    /// Redis had not confirmed the floor: the feed told the nodes.
    pub(crate) by_feed: bool,
}

/// What the nemesis did, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) what: String,
    pub(crate) effect: Effect,
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

/// What an event may excuse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Effect {
    Nothing,
    /// Redis lost what it held, floors included.
    RedisForgets,
    /// No node could follow the feed.
    FeedAway,
    /// This node could not follow the feed.
    NodeAway(usize),
}

/// A stretch of the run with one kind of fault.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    /// Answers of 500 and more are violations in it.
    pub(crate) always_answers: bool,
    pub(crate) from: Micros,
    pub(crate) to: Micros,
}

#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) events: Vec<Event>,
    pub(crate) phases: Vec<Phase>,
    /// By key, in the order of versions.
    pub(crate) ledger: Vec<Vec<Committed>>,
    /// By key: the row at the end.
    pub(crate) rows: Vec<(Version, Value)>,
    /// Reads of every key on every node after everything was healed.
    pub(crate) finals: Vec<Read>,
    /// Processes that ended by themselves.
    pub(crate) exits: Vec<(Micros, String)>,
    pub(crate) nodes: usize,
}
