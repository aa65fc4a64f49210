//! Until when an old version may be read: for each version what is known of it and of all newer ones.

use std::collections::HashMap;

use crate::history::{Effect, GONE, History, Micros, Outcome, SECOND, Value, Version};

/// How long a process may serve an entry of its own after another one wrote the row.
pub(crate) const LOCAL: Micros = SECOND;
/// How long an answer of Redis may be under way; a read may join it until then.
pub(crate) const REDIS: Micros = SECOND / 20;
/// Until the feed has told every node, where Redis could not.
const FEED: Micros = SECOND / 4;
/// For the clock itself. The local bound needs no more: the process counts from before its read, and the client from the
/// answer to the write, so that every delay of either is on the safe side.
pub(crate) const SLACK: Micros = SECOND / 20;
/// For a thread that has an answer of Redis and is not run at once.
const REDIS_SLACK: Micros = SECOND / 5;
/// For a look at the feed on a busy machine: a connection, a statement, a turn of the runtime.
const FEED_SLACK: Micros = SECOND;
/// Until the job has placed a floor anew that Redis has forgotten in the middle of a write: two seconds, and as much for
/// a busy worker.
const JOB: Micros = 4 * SECOND;
/// The same, when a worker was killed with the job in its hands: its lease has to run out.
const JOB_HELD: Micros = 14 * SECOND;
/// The longest that anything may be shown, where nothing but time forgets it.
const LONGEST: Micros = 904 * SECOND;

/// Why a read may be older than `LOCAL` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The writer could not place the floor; the feed told the node (G2b).
    ByFeed,
    /// The same, and the node could not follow the feed (G3).
    FeedAway,
    /// Redis forgot the floor in the middle of the write; the job placed it again.
    RedisForgot,
    /// One of these for a version in between; a later version, of which nothing has to be excused, bounds the read.
    Between,
}

/// A time, why it is not earlier, and the version whose time it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Micros,
    pub(crate) reason: Option<Reason>,
    pub(crate) version: Version,
}

/// What is known of a version and of all newer ones.
#[derive(Clone, Debug)]
pub(crate) struct Newer {
    /// The first moment that somebody was told of one: by an acknowledgement, or by a read that showed it.
    pub(crate) known: Micros,
    /// By node: until when something older may be shown.
    pub(crate) until: Vec<Deadline>,
    /// The same for what Redis or the database has answered.
    pub(crate) past_local: Deadline,
}

pub(crate) struct Bounds {
    all: Vec<Newer>,
    /// By key: its first version, where it is in `all`, how many there are.
    keys: Vec<(Version, usize, usize)>,
}

impl Bounds {
    pub(crate) fn of(history: &History) -> Self {
        let known = known(history);
        let never = Deadline { at: Micros::MAX, reason: None, version: 0 };
        let nothing = Newer { known: Micros::MAX, until: vec![never; history.nodes], past_local: never };
        let (mut all, mut keys) = (vec![], vec![]);
        for (key, versions) in history.ledger.iter().enumerate() {
            let first = versions.first().map_or(0, |first| first.version);
            keys.push((first, all.len(), versions.len()));
            let mut newer = nothing.clone();
            let mut backwards = vec![];
            for one in versions.iter().rev() {
                if let Some(&(start, at)) = known.get(&(key, one.version)) {
                    newer.known = newer.known.min(at);
                    for (node, until) in newer.until.iter_mut().enumerate() {
                        let deadline = deadline(history, node, start, at, one.by_feed);
                        if deadline.0 < until.at {
                            *until = Deadline { at: deadline.0, reason: deadline.1, version: one.version };
                        }
                    }
                    let placed = !one.by_feed && forgotten(history, start, at).is_none();
                    let until = at + REDIS + REDIS_SLACK;
                    if placed && until < newer.past_local.at {
                        newer.past_local = Deadline { at: until, reason: None, version: one.version };
                    }
                }
                backwards.push(newer.clone());
            }
            all.extend(backwards.into_iter().rev());
        }
        Self { all, keys }
    }

    /// What is known of the versions after `version`; none: nobody was told of any.
    pub(crate) fn after(&self, key: usize, version: Version) -> Option<&Newer> {
        let &(first, from, count) = self.keys.get(key)?;
        let place = usize::try_from(version + 1 - first).ok().filter(|place| *place < count)?;
        self.all.get(from + place).filter(|newer| newer.known < Micros::MAX)
    }
}

/// By key and version: when its write began, and when somebody was told of it first.
fn known(history: &History) -> HashMap<(usize, Version), (Micros, Micros)> {
    let mut known: HashMap<(usize, Version), (Micros, Micros)> = HashMap::new();
    let mut tell = |key, version, start, at: Micros| {
        let first = known.entry((key, version)).or_insert((start, at));
        *first = (first.0.min(start), first.1.min(at));
    };
    let mut started: HashMap<(usize, Value), Micros> = HashMap::new();
    for write in &history.writes {
        started.insert((write.key, write.value), write.start);
        match write.outcome {
            Outcome::Acknowledged(GONE) => {
                if let Some(version) = history.deletion(write.key) {
                    tell(write.key, version, write.start, write.end);
                }
            }
            Outcome::Acknowledged(version) => tell(write.key, version, write.start, write.end),
            _ => {}
        }
    }
    for read in history.reads.iter().filter(|read| read.version != GONE) {
        let start = started.get(&(read.key, read.value)).copied().unwrap_or(read.end);
        tell(read.key, read.version, start, read.end);
    }
    known
}

/// Until when `node` may show something older than a write that began at `start` and that somebody was told of at `known`.
fn deadline(
    history: &History,
    node: usize,
    start: Micros,
    known: Micros,
    by_feed: bool,
) -> (Micros, Option<Reason>) {
    let (mut deadline, mut reason) = (known + LOCAL + SLACK, None);
    if by_feed {
        (deadline, reason) = (known + FEED + LOCAL + FEED_SLACK, Some(Reason::ByFeed));
        for event in &history.events {
            let away = event.effect == Effect::FeedAway || event.effect == Effect::NodeAway(node);
            // Each one that begins before the feed must have been looked at puts that off.
            if away && event.from <= deadline && event.to >= start {
                let put_off = (event.to + FEED + LOCAL + FEED_SLACK).min(known + LONGEST);
                if put_off > deadline {
                    (deadline, reason) = (put_off, Some(Reason::FeedAway));
                }
            }
        }
    }
    if let Some(until) = forgotten(history, start, known)
        && until > deadline
    {
        (deadline, reason) = (until, Some(Reason::RedisForgot));
    }
    (deadline, reason)
}

/// Whether Redis lost what it held during a write, and until when the job must have seen to it.
fn forgotten(history: &History, start: Micros, known: Micros) -> Option<Micros> {
    let forgot = |event: &&crate::history::Event| {
        event.effect == Effect::RedisForgets && event.from <= known && event.to >= start
    };
    let at = history.events.iter().filter(forgot).map(|event| event.to.max(known)).max()?;
    let held = history
        .events
        .iter()
        .any(|event| event.effect == Effect::WorkerAway && event.from <= at + JOB && event.to >= start);
    Some(at + if held { JOB_HELD } else { JOB } + LOCAL + SLACK)
}
