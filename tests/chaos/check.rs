//! Judges a history. Versions order the writes of a key, so every rule is a look-up or a minimum: no search.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use crate::{
    bounds::{Bounds, Deadline, LOCAL, Reason, SLACK},
    history::{
        Change, Effect, GONE, History, Level, Micros, NO_KEY, Outcome, Phase, Read, SECOND, Value, Version,
    },
    load::shows,
};

/// Of the phase before: transactions that wait for its locks, connections that have to be made again.
const SHADOW: Micros = SECOND;
/// How long the service waits for a connection at least before it says 503.
const WAIT: Micros = SECOND;

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
    /// Older than Redis and the database may answer.
    StalePastLocal,
    /// A write took effect though the version in its `If-Match` was no longer the current one.
    IfMatch,
    /// A user was found by an address that is not theirs.
    WrongAddress,
    /// Not the row, after everything was healed.
    Converged,
    /// Redis did not answer where nothing kept it from that.
    Cold,
    /// A user who exists was not found, or one was found who was no more.
    Missing,
    /// 500 or more where neither PostgreSQL nor the node was away.
    Unavailable,
    /// A process ended that nobody had killed.
    Exit,
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
    /// For each read how long before its start somebody was told of a newer version; 0: nobody was.
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
    let deletions = deletions(history);
    nobodies(history, &deletions, &mut findings);
    let acknowledged = Acknowledged::of(history);
    let bounds = Bounds::of(history);
    for (place, read) in history.reads.iter().enumerate() {
        let known = read.version != GONE || gone(history, read, &deletions, &mut findings);
        let staleness = if known {
            // A 404 shows the last version.
            let version = history.deletion(read.key).filter(|_| read.version == GONE).unwrap_or(read.version);
            let read = &Read { version, ..read.clone() };
            one_value(history, read, &mut findings);
            least_version(read, &acknowledged, &mut findings);
            staleness(place, read, history, &bounds, &mut findings)
        } else {
            0
        };
        findings.staleness.push(staleness);
    }
    healed(history, &mut findings);
    for (at, exit) in &history.exits {
        findings.violation(Rule::Exit, *at, exit.clone());
    }
    findings.violations.sort_by_key(|violation| (violation.at, violation.rule));
    findings
}

/// Versions go up by one, the last is the row, and nothing comes after a deletion.
fn ledger(history: &History, findings: &mut Findings) {
    for (key, versions) in history.ledger.iter().enumerate() {
        for pair in versions.windows(2) {
            if pair[1].version != pair[0].version + 1 || pair[0].deleted {
                findings.violation(Rule::Ledger, 0, format!("key {key}: {:?} after {:?}", pair[1], pair[0]));
            }
        }
        let (last, row) = (versions.last(), &history.rows[key]);
        let same = last.is_some_and(|last| {
            (last.version, last.value, last.deleted) == (row.version, row.value, row.deleted)
        });
        if !same {
            findings.violation(Rule::Ledger, 0, format!("key {key}: {last:?} was last, the row is {row:?}"));
        }
    }
}

/// What was acknowledged is there, what was refused is not.
fn writes(history: &History, findings: &mut Findings) {
    // A deletion leaves the name, so the first version with it is the one that made it.
    let mut made: HashMap<Value, (usize, Version)> = HashMap::new();
    for (key, versions) in history.ledger.iter().enumerate() {
        for one in versions {
            made.entry(one.value).or_insert((key, one.version));
        }
    }
    for write in &history.writes {
        let made = match write.change {
            Change::Delete => history.deletion(write.key).map(|_| (write.key, GONE)),
            _ => made.get(&write.value).copied(),
        };
        let rule = match write.outcome {
            Outcome::Acknowledged(version) if made != Some((write.key, version)) => Rule::LostWrite,
            Outcome::Acknowledged(version) if write.if_match.is_some_and(|seen| seen + 1 != version) => {
                Rule::IfMatch
            }
            // Whether this deletion or another one took effect, nobody can tell.
            Outcome::Refused(_) if made.is_some() && write.change != Change::Delete => Rule::RefusedWrite,
            _ => continue,
        };
        findings.violation(rule, write.end, format!("{write:?}, but the database made it {made:?}"));
    }
}

/// What is asked is always answered, unless PostgreSQL or the node is away, or it took as long as the service waits for a
/// connection or a lock: so it is on a busy machine.
fn failures(history: &History, findings: &mut Findings) {
    let unknown = history.writes.iter().filter_map(|write| match write.outcome {
        Outcome::Unknown(status) => Some((write.start, write.end, status, write.node, write.key, "a write")),
        _ => None,
    });
    let reads = history.failures.iter();
    let reads = reads.map(|one| (one.start, one.end, one.status, one.node, one.key, "a look-up"));
    for (start, end, status, node, key, what) in unknown.chain(reads) {
        let calm = |phase: &&Phase| phase.always_answers && phase.from + SHADOW <= start && end < phase.to;
        if status >= 500
            && end - start < WAIT
            && let Some(phase) = history.phases.iter().find(calm)
        {
            let took = end - start;
            let detail =
                format!("{status} to {what} of key {key} on node {node} after {took} us in {}", phase.name);
            findings.violation(Rule::Unavailable, start, detail);
        }
    }
}

/// By key: when the first attempt to delete it began.
fn deletions(history: &History) -> HashMap<usize, Micros> {
    let mut first: HashMap<_, Micros> = HashMap::new();
    for write in history.writes.iter().filter(|write| write.change == Change::Delete) {
        let start = first.entry(write.key).or_insert(write.start);
        *start = write.start.min(*start);
    }
    first
}

/// Whether a 404 is right: the user was deleted, and somebody had begun to.
fn gone(history: &History, read: &Read, deletions: &HashMap<usize, Micros>, findings: &mut Findings) -> bool {
    let begun = deletions.get(&read.key).is_some_and(|start| *start <= read.end);
    if begun && history.deletion(read.key).is_some() {
        return true;
    }
    findings.violation(Rule::Missing, read.start, format!("404: {read:?}"));
    false
}

/// An address is nobody's only where nobody had it all the time: from the acknowledgement of the version that gave it until
/// somebody began to take it away.
fn nobodies(history: &History, deletions: &HashMap<usize, Micros>, findings: &mut Findings) {
    let began: HashMap<Value, Micros> =
        history.writes.iter().map(|write| (write.value, write.start)).collect();
    let given: HashMap<Value, _> = history
        .writes
        .iter()
        .filter(|write| matches!(write.change, Change::Address | Change::Create))
        .filter_map(|write| match write.outcome {
            Outcome::Acknowledged(version) => Some((write.value, (write.key, version, write.end))),
            _ => None,
        })
        .collect();
    for nobody in &history.nobodies {
        let Some(&(key, version, at)) = given.get(&nobody.address) else { continue };
        let Some(versions) = history.ledger.get(key) else { continue };
        let next = versions
            .iter()
            .find(|one| one.version > version && (one.deleted || one.address != nobody.address))
            .and_then(|one| if one.deleted { deletions.get(&key) } else { began.get(&one.value) });
        if at < nobody.start && next.is_none_or(|taken| *taken > nobody.end) {
            let detail = format!("404: {nobody:?}, but key {key} has had the address since {at}");
            findings.violation(Rule::Missing, nobody.start, detail);
        }
    }
}

/// A healed and quiet node shows every row, and Redis helps.
fn healed(history: &History, findings: &mut Findings) {
    for one in &history.healed {
        if !one.read.as_ref().is_some_and(|read| shows(read, one.row)) {
            findings.violation(Rule::Converged, one.at, format!("{one:?}"));
        }
    }
    for event in &history.events {
        let Effect::Warm(key) = event.effect else { continue };
        let within = |read: &&Read| read.key == key && event.from <= read.start && read.end <= event.to;
        if !history.reads.iter().filter(within).any(|read| read.level == Level::Redis) {
            let detail = format!("Redis answered no look-up of key {key} until {} us", event.to);
            findings.violation(Rule::Cold, event.from, detail);
        }
    }
}

/// A read shows a version that was committed, with the value that was committed, and by its own address.
fn one_value(history: &History, read: &Read, findings: &mut Findings) {
    let versions = history.ledger.get(read.key).map_or(&[][..], Vec::as_slice);
    let found = versions.binary_search_by_key(&read.version, |one| one.version);
    let Some(committed) = found.ok().map(|place| &versions[place]) else {
        let detail = format!("{read:?}, but the last committed is {:?}", versions.last());
        return findings.violation(Rule::Uncommitted, read.end, detail);
    };
    let shown = (read.version, read.value, read.address);
    if !committed.deleted && (shown != (read.body_version, committed.value, committed.address)) {
        let detail = format!("{read:?}, but committed was {committed:?}");
        findings.violation(Rule::OneValue, read.end, detail);
    } else if committed.deleted && read.body_version != GONE {
        findings.violation(Rule::Missing, read.end, format!("{read:?}, but that is a deletion"));
    }
    if read.asked.is_some_and(|asked| asked != read.address) {
        findings.violation(Rule::WrongAddress, read.end, format!("{read:?}"));
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
        for write in history.writes.iter().filter(|write| write.key != NO_KEY) {
            if let (Outcome::Acknowledged(version), Some(run)) = (write.outcome, write.run) {
                let version =
                    if version == GONE { history.deletion(write.key).unwrap_or(0) } else { version };
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

/// Measures how far a read is behind, and compares that with the bounds.
fn staleness(
    place: usize,
    read: &Read,
    history: &History,
    bounds: &Bounds,
    findings: &mut Findings,
) -> Micros {
    let Some(newer) = bounds.after(read.key, read.version) else { return 0 };
    let staleness = read.start.saturating_sub(newer.known);
    let until = newer.until[read.node];
    let past_local = matches!(read.level, Level::Redis | Level::Miss) && !stood_still(history, read);
    let late = |rule: Rule, bound: Deadline, findings: &mut Findings| {
        let write = history
            .writes
            .iter()
            .find(|write| write.key == read.key && write.outcome == Outcome::Acknowledged(bound.version));
        let detail = format!(
            "{staleness} us after somebody was told of a newer version, and {} us past the bound of version {} \
             ({:?}): {read:?}; {write:?}",
            read.start - bound.at,
            bound.version,
            bound.reason
        );
        findings.violation(rule, read.start, detail);
    };
    if read.start > until.at {
        late(Rule::Stale, until, findings);
    } else if past_local && read.start > newer.past_local.at {
        late(Rule::StalePastLocal, newer.past_local, findings);
    } else if staleness > LOCAL + SLACK {
        findings.excused.push((place, until.reason.unwrap_or(Reason::Between)));
    }
    staleness
}

/// Whether the node was frozen during a read: a thread may have been stopped between the clock and the answer.
fn stood_still(history: &History, read: &Read) -> bool {
    history.events.iter().any(|event| {
        event.effect == Effect::NodeAway(read.node) && event.from <= read.end && event.to >= read.start
    })
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
            Self::StalePastLocal => "staleness past the process",
            Self::IfMatch => "If-Match",
            Self::WrongAddress => "address",
            Self::Cold => "cold",
            Self::Converged => "convergence",
            Self::Missing => "user not found",
            Self::Unavailable => "availability",
            Self::Exit => "process ended",
        })
    }
}
