//! Judges a history. Versions order the writes of a key, so every rule is a look-up or a minimum: no search.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use crate::history::{Effect, History, Micros, Outcome, Phase, Read, SECOND, Version};

/// How long a process may serve an entry of its own after another one wrote the row.
const LOCAL: Micros = SECOND;
/// How long until the feed has told every node, where Redis could not.
const FEED: Micros = SECOND / 4;
/// For the clock itself.
const SLACK: Micros = SECOND / 20;
/// For a look at the feed to be taken on a busy machine.
const FEED_SLACK: Micros = SECOND / 4;
/// Until the job has placed a floor anew that Redis has forgotten in the middle of a write.
const JOB: Micros = 3 * SECOND;
/// Of the phase before: transactions that wait for its locks.
const SHADOW: Micros = SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Rule {
    /// A version that was never committed was read or acknowledged.
    Uncommitted,
    /// A version was seen with two values, or an ETag with another version's body.
    OneValue,
    /// An acknowledged write is not in the database.
    LostWrite,
    /// A write that was refused took effect.
    RefusedWrite,
    /// What the database itself notes does not fit together.
    Ledger,
    /// Older than an acknowledged write of the same process.
    ReadYourWrites,
    /// Older than `X-Min-Version`.
    MinVersion,
    /// Older than the bound allows.
    Stale,
    /// Not the row, after everything was healed.
    Converged,
    /// A user who exists was not found.
    Missing,
    /// 500 or more where neither PostgreSQL nor the node was away.
    Unavailable,
    /// A process ended that nobody had killed.
    Exit,
}

/// Why a read may be older than `LOCAL` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The writer could not place the floor; the feed told the node (G2b).
    ByFeed,
    /// The same, and the node could not follow the feed (G3).
    FeedAway,
    /// Redis forgot the floor in the middle of the write; the job placed it again.
    RedisForgot,
}

#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) at: Micros,
    pub(crate) detail: String,
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// In the order of time.
    pub(crate) violations: Vec<Violation>,
    /// For each read how long before its start the oldest newer write had been acknowledged; 0: there was none.
    pub(crate) staleness: Vec<Micros>,
    /// Reads that a reason excused, by their place.
    pub(crate) excused: Vec<(usize, Reason)>,
}

impl Findings {
    fn violation(&mut self, rule: Rule, at: Micros, detail: String) {
        self.violations.push(Violation { rule, at, detail });
    }
}

/// Judges a history by every rule.
pub(crate) fn check(history: &History) -> Findings {
    let mut findings = Findings::default();
    ledger(history, &mut findings);
    writes(history, &mut findings);
    failures(history, &mut findings);
    let acknowledged = Acknowledged::of(history);
    let deadlines = Deadlines::of(history);
    for (place, read) in history.reads.iter().enumerate() {
        one_value(history, read, &mut findings);
        least_version(read, &acknowledged, &mut findings);
        let staleness = staleness(place, read, history, &deadlines, &mut findings);
        findings.staleness.push(staleness);
    }
    for read in &history.finals {
        let row = history.rows[read.key];
        if (read.version, read.value) != row {
            let detail = format!("{read:?}, but the row is {row:?}");
            findings.violation(Rule::Converged, read.start, detail);
        }
    }
    for (at, exit) in &history.exits {
        findings.violation(Rule::Exit, *at, exit.clone());
    }
    findings.violations.sort_by_key(|violation| (violation.at, violation.rule));
    findings
}

/// Versions go up by one, and the last is the row.
fn ledger(history: &History, findings: &mut Findings) {
    for (key, versions) in history.ledger.iter().enumerate() {
        for pair in versions.windows(2) {
            if pair[1].version != pair[0].version + 1 {
                findings.violation(Rule::Ledger, 0, format!("key {key}: {:?} after {:?}", pair[1], pair[0]));
            }
        }
        let (last, row) = (versions.last().map(|last| (last.version, last.value)), history.rows[key]);
        if last != Some(row) {
            findings.violation(Rule::Ledger, 0, format!("key {key}: {last:?} was last, the row is {row:?}"));
        }
    }
}

/// What was acknowledged is there, what was refused is not.
fn writes(history: &History, findings: &mut Findings) {
    let made: HashMap<_, _> = history
        .ledger
        .iter()
        .enumerate()
        .flat_map(|(key, versions)| versions.iter().map(move |one| ((key, one.value), one.version)))
        .collect();
    for write in &history.writes {
        let made = made.get(&(write.key, write.value)).copied();
        let rule = match write.outcome {
            Outcome::Acknowledged(version) if made != Some(version) => Rule::LostWrite,
            Outcome::Refused(_) if made.is_some() => Rule::RefusedWrite,
            _ => continue,
        };
        findings.violation(rule, write.end, format!("{write:?}, but the database made it {made:?}"));
    }
}

/// Users are always there, and always answered for unless PostgreSQL or the node is away.
fn failures(history: &History, findings: &mut Findings) {
    let unknown = history.writes.iter().filter_map(|write| match write.outcome {
        Outcome::Unknown(status) => Some((write.start, write.end, status, write.node, write.key, "PATCH")),
        _ => None,
    });
    let reads = history.failures.iter();
    let reads = reads.map(|one| (one.start, one.end, one.status, one.node, one.key, "GET"));
    for (start, end, status, node, key, method) in unknown.chain(reads) {
        let detail = format!("{status} to {method} of key {key} on node {node} after {} us", end - start);
        let calm = |phase: &&Phase| phase.always_answers && phase.from + SHADOW <= start && end < phase.to;
        if status == 404 {
            findings.violation(Rule::Missing, start, detail);
        } else if status >= 500
            && let Some(phase) = history.phases.iter().find(calm)
        {
            findings.violation(Rule::Unavailable, start, format!("{detail} in phase {}", phase.name));
        }
    }
}

/// A read shows a version that was committed, with the value that was committed.
fn one_value(history: &History, read: &Read, findings: &mut Findings) {
    let versions = &history.ledger[read.key];
    let found = versions.binary_search_by_key(&read.version, |one| one.version);
    match found.map(|place| &versions[place]) {
        Err(_) => {
            let last = versions.last();
            findings.violation(
                Rule::Uncommitted,
                read.end,
                format!("{read:?}, but the last committed is {last:?}"),
            );
        }
        Ok(committed) if committed.value != read.value || read.body_version != read.version => {
            findings.violation(
                Rule::OneValue,
                read.end,
                format!("{read:?}, but committed was {committed:?}"),
            );
        }
        Ok(_) => {}
    }
}

/// A read shows what the same process acknowledged before, and what the client asked for at least.
fn least_version(read: &Read, acknowledged: &Acknowledged, findings: &mut Findings) {
    if let Some(run) = read.run
        && let Some((at, version)) = acknowledged.before(read.key, read.node, run, read.start)
        && read.version < version
    {
        let detail = format!(
            "{read:?}, but {version} was acknowledged there {} ms before it started",
            (read.start - at) / 1000
        );
        findings.violation(Rule::ReadYourWrites, read.start, detail);
    }
    if read.min.is_some_and(|min| read.version < min) {
        findings.violation(Rule::MinVersion, read.start, format!("{read:?}"));
    }
}

/// By key, node and process: when it had acknowledged which version at least.
struct Acknowledged(HashMap<(usize, usize, u32), BTreeMap<Micros, Version>>);

impl Acknowledged {
    fn of(history: &History) -> Self {
        let mut all: HashMap<_, BTreeMap<_, _>> = HashMap::new();
        for write in &history.writes {
            if let (Outcome::Acknowledged(version), Some(run)) = (write.outcome, write.run) {
                let newest: &mut Version =
                    all.entry((write.key, write.node, run)).or_default().entry(write.end).or_default();
                *newest = version.max(*newest);
            }
        }
        for versions in all.values_mut() {
            let mut newest = 0;
            for version in versions.values_mut() {
                newest = newest.max(*version);
                *version = newest;
            }
        }
        Self(all)
    }

    fn before(&self, key: usize, node: usize, run: u32, at: Micros) -> Option<(Micros, Version)> {
        let versions = self.0.get(&(key, node, run))?;
        versions.range(..at).next_back().map(|(at, version)| (*at, *version))
    }
}

/// Measures how far a read is behind, and compares that with the bound.
fn staleness(
    place: usize,
    read: &Read,
    history: &History,
    deadlines: &Deadlines,
    findings: &mut Findings,
) -> Micros {
    let Some(newer) = deadlines.after(read.key, read.version) else { return 0 };
    let staleness = read.start.saturating_sub(newer.acknowledged);
    let (deadline, reason, version) = newer.until[read.node];
    if read.start > deadline {
        let write = history
            .writes
            .iter()
            .find(|write| write.key == read.key && write.outcome == Outcome::Acknowledged(version));
        let detail = format!(
            "{staleness} us after the oldest newer write was acknowledged, and {} us past the bound of version \
             {version} ({reason:?}): {read:?}; {write:?}",
            read.start - deadline
        );
        findings.violation(Rule::Stale, read.start, detail);
    } else if staleness > LOCAL + SLACK
        && let Some(reason) = reason
    {
        findings.excused.push((place, reason));
    }
    staleness
}

/// By key and version: until when an older one may be read.
struct Deadlines(Vec<Newer>, Vec<(Version, usize, usize)>);

/// What the acknowledgements of a version and of all newer ones say.
#[derive(Clone, Debug)]
struct Newer {
    /// The first of them.
    acknowledged: Micros,
    /// By node: the earliest deadline, why it is not earlier, and the version whose deadline it is.
    until: Vec<(Micros, Option<Reason>, Version)>,
}

impl Deadlines {
    fn of(history: &History) -> Self {
        let never = Newer { acknowledged: Micros::MAX, until: vec![(Micros::MAX, None, 0); history.nodes] };
        let mut acknowledged: HashMap<_, _> = HashMap::new();
        for write in &history.writes {
            if let Outcome::Acknowledged(version) = write.outcome {
                acknowledged.insert((write.key, version), (write.start, write.end));
            }
        }
        let (mut all, mut keys) = (vec![], vec![]);
        for (key, versions) in history.ledger.iter().enumerate() {
            let first = versions.first().map_or(0, |first| first.version);
            keys.push((first, all.len(), versions.len()));
            let mut newer = never.clone();
            let mut backwards = vec![];
            for one in versions.iter().rev() {
                if let Some(&(start, end)) = acknowledged.get(&(key, one.version)) {
                    newer.acknowledged = newer.acknowledged.min(end);
                    for (node, until) in newer.until.iter_mut().enumerate() {
                        let (deadline, reason) = deadline(history, node, start, end, one.by_feed);
                        if deadline < until.0 {
                            *until = (deadline, reason, one.version);
                        }
                    }
                }
                backwards.push(newer.clone());
            }
            all.extend(backwards.into_iter().rev());
        }
        Self(all, keys)
    }

    /// What is known of the versions after `version`.
    fn after(&self, key: usize, version: Version) -> Option<&Newer> {
        let (first, from, count) = self.1[key];
        let place = usize::try_from(version + 1 - first).ok().filter(|place| *place < count)?;
        self.0.get(from + place).filter(|newer| newer.acknowledged < Micros::MAX)
    }
}

/// Until when `node` may show something older than a write that took from `start` to its acknowledgement at `end`.
fn deadline(
    history: &History,
    node: usize,
    start: Micros,
    end: Micros,
    by_feed: bool,
) -> (Micros, Option<Reason>) {
    let (mut deadline, mut reason) = (end + LOCAL + SLACK, None);
    if by_feed {
        (deadline, reason) = (end + FEED + LOCAL + FEED_SLACK, Some(Reason::ByFeed));
        for event in &history.events {
            let away = event.effect == Effect::FeedAway || event.effect == Effect::NodeAway(node);
            // Each one that begins before the feed must have been looked at puts that off.
            if away && event.from <= deadline && event.to >= start {
                let put_off = event.to + FEED + LOCAL + FEED_SLACK;
                if put_off > deadline {
                    (deadline, reason) = (put_off, Some(Reason::FeedAway));
                }
            }
        }
    }
    for event in &history.events {
        if event.effect == Effect::RedisForgets && event.from <= end && event.to >= start {
            let until = event.to.max(end) + JOB + LOCAL + SLACK;
            if until > deadline {
                (deadline, reason) = (until, Some(Reason::RedisForgot));
            }
        }
    }
    (deadline, reason)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uncommitted => "uncommitted version",
            Self::OneValue => "one value for each version",
            Self::LostWrite => "acknowledged write lost",
            Self::RefusedWrite => "refused write took effect",
            Self::Ledger => "ledger",
            Self::ReadYourWrites => "read-your-writes",
            Self::MinVersion => "X-Min-Version",
            Self::Stale => "staleness",
            Self::Converged => "convergence",
            Self::Missing => "user not found",
            Self::Unavailable => "availability",
            Self::Exit => "process ended",
        })
    }
}
