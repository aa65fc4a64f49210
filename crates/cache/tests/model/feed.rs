//! Time in Redis, and floors that could not be placed there: one row, a node that writes, another that reads and fills,
//! the invalidation job, the feed. Reads are not steps here: each state is asked what a read would show that began now.
//!
//! Redis can be out of reach for the writer and the workers while the reader reaches it: the worst that can be for a
//! cache, since nobody can tell Redis what the reader must not be told.

use crate::{
    explorer::{Invariant, Model, Steps, explore, large},
    redis::{Entry, Fill, Lease, Rules, Token, WRITER},
};

/// In ticks, in the order in which the real ones lie: 250 ms, 1 s, 2 s, 3 s, 30 s, 900 s.
const POLL: u8 = 1;
const L1: u8 = 2;
const SECOND_LOOK: u8 = 1;
const RULES: Rules =
    Rules { lease: 2, floor: 4, ttl: 5, expired_leases_fill_nothing: true, leases_leave_floors_alone: true };
const LONGEST_STALE: u8 = RULES.ttl + RULES.lease;
/// Longer than any bound: where counting ends.
const EVER: u8 = 13;

const NODES: usize = 2;
const WRITING: usize = 0;
const READING: usize = 1;
const WHO: [&str; NODES] = ["node 0", "node 1"];
const WRITES: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Run {
    name: &'static str,
    rules: Rules,
    /// The writing node and the workers do not reach Redis, until it heals.
    cut: bool,
    /// The reading node does not see the feed.
    feed_cut: bool,
    /// A process may stop for as long as it likes between `select` and `fill`.
    stalls: bool,
    /// A planted bug: nobody raises a floor by the feed.
    feed_ignored: bool,
    /// A node whose feed is older does not answer.
    max_lag: u8,
    /// A planted bug: a node answers before its first look at the feed.
    answers_blindly: bool,
    writes: u8,
    kills: u8,
    /// Restarts of the reading node.
    reader_kills: u8,
    flushes: u8,
    /// For how many ticks after COMMIT the other node may show what was before. What lives for n ticks is seen for the
    /// last time after n - 1.
    bound: u8,
    /// For how many ticks a floor of a write that never was may stand.
    floor_bound: u8,
}

const FEED: Run = Run {
    name: "writer and workers cut off from Redis",
    rules: RULES,
    cut: true,
    feed_cut: false,
    stalls: false,
    feed_ignored: false,
    max_lag: EVER,
    answers_blindly: false,
    writes: 1,
    kills: 0,
    reader_kills: 0,
    flushes: 0,
    bound: POLL,
    floor_bound: EVER,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    /// The version of a write under way; 0 if there is none.
    pending: u8,
    settled: u8,
    settled_left: u8,
    l1: u8,
    l1_left: u8,
    flight: Flight,
    flight_v: u8,
    flight_age: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Flight {
    #[default]
    None,
    Leased,
    Selected,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Writing {
    #[default]
    Idle,
    Begun,
    Floored,
    Committed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    redis: Entry,
    row: u8,
    /// Ticks since the COMMIT of version 2 and 3, plus one; 0 before.
    ages: [u8; WRITES],
    /// Ticks until the job of version 2 and 3 is due, plus one; 0 if there is none.
    jobs: [u8; WRITES],
    /// The newest version in the feed, and how far the other node has read; none before its first look.
    feed: u8,
    read_to: Option<u8>,
    lag: u8,
    cut: bool,
    nodes: [Node; NODES],
    acked: u8,
    writing: Writing,
    confirmed: bool,
    transaction_age: u8,
    writes: u8,
    kills: u8,
    reader_kills: u8,
    flushes: u8,
    /// Ticks for which Redis has had a floor above the row with no write under way.
    stranded: u8,
}

fn reader_token(node: usize) -> Token {
    u8::try_from(node).unwrap() + 1
}

impl Node {
    fn floor(&self) -> u8 {
        let settled = if self.settled_left > 0 { self.settled } else { 0 };
        self.pending.max(settled)
    }

    fn settle(&mut self, version: u8, life: u8) {
        self.settled_left = if version >= self.settled { life } else { self.settled_left.max(life) };
        self.settled = self.settled.max(version);
    }

    fn insert(&mut self, version: u8, left: u8) {
        if left > 0 && version >= self.floor() && (version, left) > (self.l1, self.l1_left) {
            (self.l1, self.l1_left) = (version, left);
        }
    }

    fn tick(&mut self) {
        self.settled_left = self.settled_left.saturating_sub(1);
        if self.settled_left == 0 {
            self.settled = 0;
        }
        self.l1_left = self.l1_left.saturating_sub(1);
        if self.l1_left == 0 {
            self.l1 = 0;
        }
        if self.flight != Flight::None {
            self.flight_age = (self.flight_age + 1).min(RULES.lease);
        }
    }
}

impl Run {
    fn reaches_redis(&self, state: &State, node: usize) -> bool {
        node == READING || !state.cut
    }

    fn answers(&self, state: &State, node: usize) -> bool {
        node == WRITING || state.lag <= self.max_lag && (state.read_to.is_some() || self.answers_blindly)
    }

    /// What a read that begins now would show without asking Postgres.
    fn shows(&self, state: &State, node: usize) -> Option<u8> {
        let Node { l1, l1_left, .. } = state.nodes[node];
        let floor = state.nodes[node].floor();
        if !self.answers(state, node) {
            None
        } else if l1_left > 0 && l1 >= floor {
            Some(l1)
        } else if self.reaches_redis(state, node) && state.redis.v != 0 && state.redis.v >= floor {
            Some(state.redis.v)
        } else {
            None
        }
    }

    fn fly(&self, state: &State, steps: &mut Steps<State>, node: usize) {
        let who = WHO[node];
        let token = reader_token(node);
        let mut next = *state;
        let here = &mut next.nodes[node];
        match here.flight {
            Flight::None if !self.answers(state, node) => {}
            Flight::None if !self.reaches_redis(state, node) => {
                here.insert(state.row, L1);
                steps.push(who, "select: Redis is out of reach", next);
            }
            Flight::None => {
                let floor = here.floor();
                let does = match next.redis.lease(token, floor, self.rules) {
                    Lease::Hit { v, .. } => {
                        here.insert(v, L1);
                        "lease: hit"
                    }
                    Lease::Granted => {
                        here.flight = Flight::Leased;
                        "lease: granted"
                    }
                    Lease::Filling | Lease::Writing => {
                        here.insert(state.row, L1);
                        "lease: not granted, select"
                    }
                };
                steps.push(who, does, next);
            }
            Flight::Leased => {
                (here.flight, here.flight_v) = (Flight::Selected, state.row);
                here.insert(state.row, L1);
                steps.push(who, "select", next);
            }
            Flight::Selected => {
                let (version, floor) = (here.flight_v, here.floor());
                (here.flight, here.flight_v, here.flight_age) = (Flight::None, 0, 0);
                let does = if !self.reaches_redis(state, node) {
                    "fill: Redis is out of reach"
                } else if version < floor {
                    next.redis.release(token);
                    "release: below the floor"
                } else {
                    match next.redis.fill(token, version, version, self.rules) {
                        Fill::Stored => "fill: stored",
                        Fill::NotOurs => "fill: the lease is not ours any more",
                        Fill::TooOld => "fill: refused by the floor",
                    }
                };
                steps.push(who, does, next);
            }
        }
    }

    fn write(&self, state: &State, steps: &mut Steps<State>) {
        let who = WHO[WRITING];
        let mut next = *state;
        let here = &mut next.nodes[WRITING];
        let version = here.pending;
        match state.writing {
            Writing::Idle if state.writes > 0 => {
                next.writes -= 1;
                next.writing = Writing::Begun;
                here.pending = state.row + 1;
                (here.l1, here.l1_left) = (0, 0);
                steps.push(who, "update, begin_write: raises the node's floor", next);
            }
            Writing::Begun => {
                next.writing = Writing::Floored;
                next.confirmed = !state.cut;
                if next.confirmed {
                    next.redis.floor(version, WRITER, self.rules);
                }
                let does = if next.confirmed { "floor: confirmed" } else { "floor: unconfirmed" };
                steps.push(who, does, next);
            }
            Writing::Floored => {
                let place = usize::from(version) - 2;
                let mut committed = State { writing: Writing::Committed, row: version, ..*state };
                committed.ages[place] = 1;
                committed.jobs[place] = if state.confirmed { SECOND_LOOK + 1 } else { 1 };
                if !state.confirmed {
                    committed.feed = version;
                }
                steps.push(who, "commit", committed);

                here.pending = 0;
                (next.writing, next.confirmed, next.transaction_age) = (Writing::Idle, false, 0);
                if !state.cut {
                    next.redis.unfloor(WRITER);
                }
                steps.push(who, "rollback, rolled_back", next);
            }
            Writing::Committed => {
                here.insert(version, L1.saturating_sub(state.transaction_age));
                let told = !state.cut;
                if told && next.redis.fill(WRITER, version, version, self.rules) != Fill::Stored {
                    next.redis.floor(version, 0, self.rules);
                }
                here.pending = 0;
                here.settle(version, if told { self.rules.floor } else { LONGEST_STALE });
                (next.writing, next.confirmed, next.transaction_age) = (Writing::Idle, false, 0);
                next.acked = version;
                let does = if told {
                    "committed, acknowledged"
                } else {
                    "committed: cannot tell Redis, acknowledged"
                };
                steps.push(who, does, next);
            }
            Writing::Idle => {}
        }
    }

    fn work(&self, state: &State, steps: &mut Steps<State>) {
        for (version, place) in (2..).zip(0..WRITES) {
            if state.jobs[place] == 1 && !state.cut {
                let mut next = *state;
                next.jobs[place] = 0;
                next.redis.floor(version, 0, self.rules);
                steps.push("worker", "invalidate: done", next);
            }
        }
    }

    fn poll(&self, state: &State, steps: &mut Steps<State>) {
        if self.feed_cut || state.lag == 0 && state.read_to == Some(state.feed) {
            return;
        }
        let mut next = State { lag: 0, read_to: Some(state.feed), ..*state };
        let does = if state.feed <= state.read_to.unwrap_or(0) || self.feed_ignored {
            "poll: nothing new"
        } else {
            next.nodes[READING].settle(state.feed, LONGEST_STALE);
            "poll: raise_floor"
        };
        steps.push(WHO[READING], does, next);
    }

    fn fail(&self, state: &State, steps: &mut Steps<State>) {
        if state.kills > 0 {
            let mut next = State { kills: state.kills - 1, ..*state };
            next.nodes[WRITING] = Node::default();
            next.acked = 0;
            (next.writing, next.confirmed, next.transaction_age) = (Writing::Idle, false, 0);
            steps.push(WHO[WRITING], "kill -9, starts again", next);
        }
        if state.reader_kills > 0 {
            let mut next = State { reader_kills: state.reader_kills - 1, read_to: None, lag: POLL, ..*state };
            next.nodes[READING] = Node::default();
            steps.push(WHO[READING], "kill -9, starts again", next);
        }
        if state.flushes > 0 && state.redis != Entry::default() {
            let next = State { flushes: state.flushes - 1, redis: Entry::default(), ..*state };
            steps.push("redis", "loses the entry", next);
        }
        if state.cut {
            steps.push("network", "heals", State { cut: false, ..*state });
        }
    }

    /// Time passes unless someone is due who can act.
    fn tick(&self, state: &State, steps: &mut Steps<State>) {
        let flies_on = |node: &Node| node.flight != Flight::None && node.flight_age >= RULES.lease;
        let due = state.writing == Writing::Committed
            || state.transaction_age + 1 >= RULES.floor
            || !state.cut && state.jobs.contains(&1)
            || !self.feed_cut && state.lag >= POLL
            || !self.stalls && state.nodes.iter().any(flies_on);
        if due {
            return;
        }
        let mut next = *state;
        next.redis.tick();
        next.nodes.iter_mut().for_each(Node::tick);
        for age in next.ages.iter_mut().filter(|age| **age > 0) {
            *age = (*age + 1).min(EVER + 1);
        }
        for job in next.jobs.iter_mut().filter(|job| **job > 1) {
            *job -= 1;
        }
        next.lag = (state.lag + 1).min(self.max_lag.saturating_add(1)).min(EVER);
        if state.writing != Writing::Idle {
            next.transaction_age += 1;
        }
        let stranded = next.redis.f > next.row && next.writing == Writing::Idle;
        next.stranded = if stranded { (state.stranded + 1).min(EVER) } else { 0 };
        steps.push("time", "passes", next);
    }
}

impl Model for Run {
    type State = State;

    fn start(&self) -> Vec<State> {
        let state = State {
            redis: Entry::default(),
            row: 1,
            ages: [0; WRITES],
            jobs: [0; WRITES],
            feed: 0,
            read_to: Some(0),
            lag: 0,
            cut: self.cut,
            nodes: [Node::default(); NODES],
            acked: 0,
            writing: Writing::Idle,
            confirmed: false,
            transaction_age: 0,
            writes: self.writes,
            kills: self.kills,
            reader_kills: self.reader_kills,
            flushes: self.flushes,
            stranded: 0,
        };
        let Rules { floor, ttl, .. } = self.rules;
        let warm = Entry { v: 1, d: 1, ttl, ..Entry::default() };
        let floored = Entry { f: 1, ttl: floor, ..Entry::default() };
        vec![state, State { redis: warm, ..state }, State { redis: floored, ..state }]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for node in 0..NODES {
            self.fly(state, steps, node);
        }
        self.write(state, steps);
        self.work(state, steps);
        self.poll(state, steps);
        self.fail(state, steps);
        self.tick(state, steps);
    }

    fn violated(&self, state: &State) -> Option<Invariant> {
        if self.shows(state, WRITING).is_some_and(|version| version < state.acked) {
            return Some(Invariant::ReadYourWrites);
        }
        let late =
            (2..).zip(state.ages).filter(|&(_, age)| age > self.bound + 1).map(|(version, _)| version).max();
        if self.shows(state, READING) < late && self.shows(state, READING).is_some() {
            return Some(Invariant::StaleWithinBound);
        }
        (state.stranded > self.floor_bound).then_some(Invariant::NoFloorAboveTheRow)
    }

    fn at_rest(&self, _: &State) -> bool {
        true
    }
}

const KILLED: Run = Run { name: "cut off, kill -9", kills: 1, ..FEED };
/// Without the feed the other node shows what Redis holds, which has an end. The last fill comes a tick before its lease
/// runs out.
const BLIND: Run =
    Run { name: "cut off, feed cut", feed_cut: true, bound: (LONGEST_STALE - 2) + (L1 - 1), ..FEED };
const LAGGING: Run = Run { name: "cut off, feed cut, answers for 3 ticks", max_lag: 3, bound: 3, ..BLIND };
/// A floor that stood is lost, and the writer with it.
const SECOND: Run = Run {
    name: "entry lost, kill -9",
    cut: false,
    kills: 1,
    flushes: 1,
    bound: SECOND_LOOK + (L1 - 1),
    ..FEED
};
/// A process is stopped between `select` and `fill`, longer than its lease.
const STALLED: Run = Run {
    name: "cut off, feed cut, a reader stalls",
    stalls: true,
    bound: (LONGEST_STALE - 1) + (L1 - 1),
    ..BLIND
};
/// A writer dies between floor and COMMIT, and the row is read all the time.
const HOT: Run = Run {
    name: "kill -9 before COMMIT, a hot row",
    cut: false,
    kills: 1,
    bound: L1 - 1,
    floor_bound: RULES.floor,
    ..FEED
};

fn holds(run: Run, interesting: &[&str]) {
    explore(&run).holds("feed", run.name, interesting);
}

/// The bound is the least that holds: there is a way to be stale for as long.
fn holds_tightly(run: Run, interesting: &[&str]) {
    holds(run, interesting);
    let name = format!("{}; bound a tick less", run.name);
    explore(&Run { bound: run.bound - 1, ..run }).catches(Invariant::StaleWithinBound, "feed", &name);
}

#[test]
fn what_redis_cannot_be_told_the_feed_tells_within_one_poll() {
    let interesting =
        ["floor: unconfirmed", "poll: raise_floor", "fill: stored", "release: below the floor", "heals"];
    holds_tightly(FEED, &interesting);
    holds_tightly(KILLED, &["kill -9, starts again"]);
    if large() {
        holds_tightly(Run { name: "2 writes, cut off, kill -9", writes: 2, ..KILLED }, &[]);
    }
    explore(&Run { feed_ignored: true, ..FEED }).catches(
        Invariant::StaleWithinBound,
        "feed",
        "FeedIgnored; cut off",
    );
}

/// A process that has just started knows no floors, whatever the feed has said since the value was stored.
#[test]
fn a_node_that_starts_looks_at_the_feed_before_it_answers() {
    let run = Run { name: "cut off, the other node restarts", reader_kills: 1, ..FEED };
    holds(run, &["kill -9, starts again", "poll: raise_floor"]);
    let name = format!("AnswersBlindly; {}", run.name);
    explore(&Run { answers_blindly: true, ..run }).catches(Invariant::StaleWithinBound, "feed", &name);
}

#[test]
fn without_the_feed_staleness_ends_with_what_redis_holds_or_with_the_answers() {
    holds_tightly(BLIND, &["invalidate: done"]);
    holds_tightly(LAGGING, &[]);
    if large() {
        holds_tightly(Run { name: "2 writes, cut off, feed cut", writes: 2, ..BLIND }, &[]);
    }
}

#[test]
fn the_job_looks_again_when_floor_and_writer_are_lost() {
    holds_tightly(SECOND, &["loses the entry", "invalidate: done", "floor: confirmed"]);
}

/// Redis keeps a lease that has run out until someone else takes one, so long as a floor keeps the entry alive. If it
/// still let its owner fill, a reader that stalled could fill a version for a whole life when the node's floor of the
/// write after has little left.
#[test]
fn a_reader_that_stalls_longer_than_its_lease_does_not_outlive_the_nodes_floor() {
    holds(STALLED, &["fill: the lease is not ours any more"]);
    let rules = Rules { expired_leases_fill_nothing: false, ..RULES };
    let name = "ExpiredLeasesFill; cut off, feed cut, a reader stalls";
    explore(&Run { rules, ..STALLED }).catches(Invariant::ReadYourWrites, "feed", name);
}

/// If each lease made an entry live for as long as the lease, its floor included, a floor on a hot row would not end.
#[test]
fn the_floor_of_a_dead_writer_ends_however_often_the_row_is_read() {
    holds(HOT, &["fill: refused by the floor"]);
    let rules = Rules { leases_leave_floors_alone: false, ..RULES };
    let name = "LeasesLengthenFloors; kill -9 before COMMIT, a hot row";
    explore(&Run { rules, ..HOT }).catches(Invariant::NoFloorAboveTheRow, "feed", name);
}
