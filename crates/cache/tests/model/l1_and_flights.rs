//! One node: its local level, its flights, its floors, and time. Two writers that may be here or elsewhere, three readers
//! here. Redis is a value that is never stale by a write elsewhere (that is the other models' matter), and may be by a
//! write here whose floor got lost.

use crate::explorer::{Invariant, Model, Steps, explore, large};

/// In ticks: how long an entry is shown, and how long the floor of a write that is over stays.
const TTL: u8 = 2;
const FLOOR: u8 = 3;
/// How long a floor stays that Redis may not know of.
const LONGEST_STALE: u8 = 9;
/// What a request may spend on Redis: far less than a tick, but it may begin before one and end after it.
const BUDGET: u8 = 1;
const READERS: usize = 3;
const WRITERS: usize = 2;
/// Each has a reader aboard, or had.
const FLIGHTS: usize = READERS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    AsIs,
    TtlFromInsert,
    JoinAnyFlight,
    /// A hit is handed to whoever has joined, with no second look at the floor.
    HitKeepsBoarding,
    /// Hits of the local level do not ask the floor.
    HitIgnoresFloor,
    /// The next flight takes off at once.
    NoTurns,
    /// The write-through to the local level counts from the insert, not from `begin_write`.
    WriteThroughFromInsert,
    /// An answer of Redis that comes after the budget has run out is taken.
    LateAnswersCount,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    name: &'static str,
    variant: Variant,
    redis: bool,
    readers: usize,
    /// Whether each writer is on this node.
    here: [bool; WRITERS],
    ticks: u8,
    /// Requests to Redis of writers here that are lost.
    lost: u8,
    /// The process may be stopped, so that an answer of Redis is looked at late.
    stops: bool,
    /// Clients that go away while they wait.
    leave: u8,
}

const ALONE: Run = Run {
    name: "no Redis, writers here",
    variant: Variant::AsIs,
    redis: false,
    readers: 3,
    here: [true, true],
    ticks: 1,
    lost: 0,
    stops: false,
    leave: 1,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Flying {
    #[default]
    Nowhere,
    /// For its turn.
    Waits,
    /// About to ask Redis, with the floor as `v`.
    Asks,
    /// The answer of Redis is on its way.
    Hit,
    /// The hit was found to be allowed; about to put it into the local level.
    HitAllowed,
    Closed,
    /// The `select` has seen the row, and is not answered.
    Selected,
    /// What it saw was found to be allowed; about to put it into the local level.
    Allowed,
    Lands,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Flight {
    at: Flying,
    open: bool,
    v: u8,
    /// Ticks since `read_at`; no more than [`TTL`].
    age: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reading {
    #[default]
    Idle,
    Aboard(u8),
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reader {
    at: Reading,
    acked: u8,
    /// The newest version that had been committed for [`TTL`] when the read began.
    settled: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Writing {
    #[default]
    Idle,
    Begun,
    Floored,
    Committed,
    Held,
    RolledBack,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Writer {
    at: Writing,
    version: u8,
    /// Ticks since `begin_write`.
    age: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    row: u8,
    locked: bool,
    redis: u8,
    /// Ticks since the COMMIT of version 2 and 3.
    ages: [u8; WRITERS],
    l1: u8,
    l1_left: u8,
    floor: u8,
    floor_left: u8,
    acked: u8,
    /// In the order in which they were formed.
    flights: [Flight; FLIGHTS],
    readers: [Reader; READERS],
    writers: [Writer; WRITERS],
    ticks: u8,
    lost: u8,
    leave: u8,
    broken: Option<Invariant>,
}

const WHO_WRITES: [&str; WRITERS] = ["writer A", "writer B"];
const WHO_READS: [&str; READERS] = ["reader 1", "reader 2", "reader 3"];
const WHO_FLIES: [&str; FLIGHTS] = ["flight 1", "flight 2", "flight 3"];

impl Run {
    fn node_floor(&self, state: &State) -> u8 {
        let mut floor = if state.floor_left > 0 { state.floor } else { 0 };
        for (writer, here) in state.writers.iter().zip(self.here) {
            if here && !matches!(writer.at, Writing::Idle | Writing::Over) {
                floor = floor.max(writer.version);
            }
        }
        floor
    }

    fn insert(&self, state: &mut State, version: u8, age: u8) {
        let left = if self.variant == Variant::TtlFromInsert { TTL } else { TTL.saturating_sub(age) };
        if left > 0 && (version, left) > (state.l1, state.l1_left) {
            (state.l1, state.l1_left) = (version, left);
        }
    }

    fn read(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO_READS[number];
        let mut next = *state;
        match state.readers[number].at {
            Reading::Idle => {
                let settled =
                    (2..).zip(state.ages).filter(|&(version, age)| version <= state.row && age >= TTL);
                let settled = settled.map(|(version, _)| version).max().unwrap_or(1);
                let reader = Reader { at: Reading::Over, acked: state.acked, settled };
                let allowed = state.l1 >= self.node_floor(state) || self.variant == Variant::HitIgnoresFloor;
                if state.l1_left > 0 && allowed {
                    next.readers[number] = Reader { at: Reading::Over, ..Reader::default() };
                    next.broken = reader.broken(state, state.l1);
                    return steps.push(who, "read: a local hit", next);
                }
                let formed = state.flights.iter().filter(|flight| flight.at != Flying::Nowhere).count();
                let any = self.variant == Variant::JoinAnyFlight;
                let (does, slot) = match formed.checked_sub(1) {
                    Some(newest) if state.flights[newest].open || any => ("read: joins a flight", newest),
                    _ => {
                        next.flights[formed] = Flight { at: Flying::Waits, open: true, v: 0, age: 0 };
                        ("read: forms a flight", formed)
                    }
                };
                next.readers[number] = Reader { at: Reading::Aboard(u8::try_from(slot).unwrap()), ..reader };
                steps.push(who, does, next);
            }
            Reading::Aboard(_) if state.leave > 0 => {
                next.readers[number] = Reader { at: Reading::Over, ..Reader::default() };
                next.leave -= 1;
                steps.push(who, "read: goes away", next);
            }
            Reading::Aboard(_) | Reading::Over => {}
        }
    }

    fn fly(&self, state: &State, steps: &mut Steps<State>, slot: usize) {
        let who = WHO_FLIES[slot];
        let mut next = *state;
        let floor = self.node_floor(state);
        let flight = &mut next.flights[slot];
        let version = flight.v;
        match flight.at {
            Flying::Nowhere => {}
            Flying::Waits => {
                let taken = state.flights.iter().any(|flight| flight.has_turn());
                if !taken || self.variant == Variant::NoTurns {
                    *flight = if self.redis {
                        Flight { at: Flying::Asks, v: floor, age: 0, ..*flight }
                    } else {
                        Flight { at: Flying::Closed, open: false, v: 0, age: 0 }
                    };
                    steps.push(who, "turn", next);
                }
            }
            Flying::Asks if state.redis != 0 && state.redis >= version => {
                (flight.at, flight.v) = (Flying::Hit, state.redis);
                steps.push(who, "lease: hit", next);
            }
            Flying::Asks => {
                *flight = Flight { at: Flying::Closed, open: false, v: 0, age: 0 };
                steps.push(who, "lease: no value; close", next);
            }
            Flying::Hit if self.variant != Variant::LateAnswersCount && flight.age > BUDGET => {
                *flight = Flight { at: Flying::Closed, open: false, v: 0, age: 0 };
                steps.push(who, "lease: answered too late; close", next);
            }
            Flying::Hit if self.variant == Variant::HitKeepsBoarding => {
                flight.at = Flying::HitAllowed;
                steps.push(who, "ask_redis: takes the hit as it is", next);
            }
            Flying::Hit => {
                flight.open = false;
                if version >= floor {
                    flight.at = Flying::HitAllowed;
                    steps.push(who, "close; the hit is allowed", next);
                } else {
                    (flight.at, flight.v) = (Flying::Asks, floor);
                    steps.push(who, "close; the floor has risen, asks again", next);
                }
            }
            Flying::HitAllowed => {
                flight.at = Flying::Lands;
                let age = flight.age;
                self.insert(&mut next, version, age);
                steps.push(who, "insert", next);
            }
            Flying::Closed => {
                (flight.at, flight.v) = (Flying::Selected, state.row);
                steps.push(who, "select sees the row", next);
            }
            Flying::Selected => {
                if version >= floor {
                    flight.at = Flying::Allowed;
                    steps.push(who, "select is answered; the row is allowed", next);
                } else {
                    flight.at = Flying::Lands;
                    steps.push(who, "select is answered; the row is below the floor", next);
                }
            }
            Flying::Allowed => {
                flight.at = Flying::Lands;
                let age = flight.age;
                self.insert(&mut next, version, age);
                steps.push(who, "insert", next);
            }
            Flying::Lands => {
                for reader in &mut next.readers {
                    match reader.at {
                        Reading::Aboard(aboard) if usize::from(aboard) == slot => {
                            next.broken = next.broken.or(reader.broken(state, version));
                            *reader = Reader { at: Reading::Over, ..Reader::default() };
                        }
                        Reading::Aboard(ref mut aboard) if usize::from(*aboard) > slot => *aboard -= 1,
                        _ => {}
                    }
                }
                next.flights[slot..].rotate_left(1);
                next.flights[FLIGHTS - 1] = Flight::default();
                steps.push(who, "lands", next);
            }
        }
    }

    fn write_here(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO_WRITES[number];
        let mut next = *state;
        let writer = &mut next.writers[number];
        let version = writer.version;
        match writer.at {
            Writing::Idle if !state.locked => {
                *writer = Writer { at: Writing::Begun, version: state.row + 1, age: 0 };
                next.locked = true;
                (next.l1, next.l1_left) = (0, 0);
                steps.push(who, "update, begin_write: raises the floor, removes the entry", next);
            }
            Writing::Begun => {
                writer.at = Writing::Floored;
                if !self.redis {
                    return steps.push(who, "begin_write", next);
                }
                if state.lost > 0 {
                    steps.push(who, "floor: unconfirmed", State { lost: state.lost - 1, ..next });
                }
                next.redis = 0;
                steps.push(who, "floor: confirmed", next);
            }
            Writing::Floored => {
                writer.at = Writing::RolledBack;
                steps.push(who, "rollback", State { locked: false, ..next });
                next.writers[number].at = Writing::Committed;
                steps.push(who, "commit", State { locked: false, row: version, ..next });
            }
            Writing::Committed => {
                writer.at = Writing::Held;
                let age = if self.variant == Variant::WriteThroughFromInsert { 0 } else { writer.age };
                if version >= self.node_floor(state) {
                    self.insert(&mut next, version, age);
                }
                steps.push(who, "committed: insert", next);
            }
            Writing::Held => {
                *writer = Writer { at: Writing::Over, ..Writer::default() };
                next.acked = next.acked.max(version);
                if state.lost > 0 {
                    let mut untold = State { lost: state.lost - 1, ..next };
                    untold.settle(version, LONGEST_STALE);
                    steps.push(who, "committed: cannot tell Redis, settled, acknowledged", untold);
                }
                next.settle(version, FLOOR);
                if !self.redis {
                    return steps.push(who, "committed: settled, acknowledged", next);
                }
                if state.redis == 0 && version == state.row && !state.locked {
                    let filled = State { redis: version, ..next };
                    steps.push(who, "committed: written through, settled, acknowledged", filled);
                }
                if state.redis < version {
                    next.redis = 0;
                }
                steps.push(who, "committed: floor without a token, settled, acknowledged", next);
            }
            Writing::RolledBack => {
                *writer = Writer { at: Writing::Over, ..Writer::default() };
                steps.push(who, "rolled_back: withdraws the floor", next);
            }
            Writing::Idle | Writing::Over => {}
        }
    }

    fn write_elsewhere(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO_WRITES[number];
        let mut next = *state;
        let writer = &mut next.writers[number];
        let version = writer.version;
        match writer.at {
            Writing::Idle if !state.locked => {
                *writer = Writer { at: Writing::Begun, version: state.row + 1, age: 0 };
                (next.locked, next.redis) = (true, 0);
                steps.push(who, "update, floor: elsewhere", next);
            }
            Writing::Begun => {
                writer.at = Writing::Committed;
                steps.push(who, "commit: elsewhere", State { locked: false, row: version, ..next });
            }
            Writing::Committed => {
                *writer = Writer { at: Writing::Over, ..Writer::default() };
                if self.redis && state.redis == 0 && version == state.row && !state.locked {
                    next.redis = version;
                }
                steps.push(who, "written through: elsewhere", next);
            }
            _ => {}
        }
    }

    fn tick(&self, state: &State, steps: &mut Steps<State>) {
        let asks = |flight: &Flight| matches!(flight.at, Flying::Asks | Flying::Hit) && flight.age >= BUDGET;
        if state.ticks == 0 || !self.stops && state.flights.iter().any(asks) {
            return;
        }
        let mut next = State { ticks: state.ticks - 1, ..*state };
        for (version, age) in (2..).zip(&mut next.ages) {
            if version <= state.row {
                *age = (*age + 1).min(TTL);
            }
        }
        next.l1_left = state.l1_left.saturating_sub(1);
        if next.l1_left == 0 {
            next.l1 = 0;
        }
        next.floor_left = state.floor_left.saturating_sub(1);
        for flight in next.flights.iter_mut().filter(|flight| flight.has_turn()) {
            flight.age = (flight.age + 1).min(TTL);
        }
        for writer in &mut next.writers {
            if !matches!(writer.at, Writing::Idle | Writing::Over) {
                writer.age = (writer.age + 1).min(TTL);
            }
        }
        steps.push("time", "passes", next);
    }
}

impl State {
    fn settle(&mut self, version: u8, life: u8) {
        if version >= self.floor {
            (self.floor, self.floor_left) = (version, life);
        } else {
            self.floor_left = self.floor_left.max(life);
        }
    }
}

impl Flight {
    /// The turn is over when the `select` is answered and what it saw is held, or with the landing.
    fn has_turn(self) -> bool {
        !matches!(self.at, Flying::Nowhere | Flying::Waits | Flying::Lands)
    }

    fn selects(self) -> bool {
        matches!(self.at, Flying::Closed | Flying::Selected | Flying::Allowed)
    }
}

impl Reader {
    fn broken(self, state: &State, version: u8) -> Option<Invariant> {
        if version > state.row {
            Some(Invariant::NeverUncommitted)
        } else if version < self.acked {
            Some(Invariant::ReadYourWrites)
        } else if version < self.settled {
            Some(Invariant::StaleWithinBound)
        } else {
            None
        }
    }
}

impl Model for Run {
    type State = State;

    fn start(&self) -> Vec<State> {
        let over = Reader { at: Reading::Over, ..Reader::default() };
        let mut cold = State {
            row: 1,
            locked: false,
            redis: 0,
            ages: [0; WRITERS],
            l1: 0,
            l1_left: 0,
            floor: 0,
            floor_left: 0,
            acked: 0,
            flights: [Flight::default(); FLIGHTS],
            readers: [Reader::default(); READERS],
            writers: [Writer::default(); WRITERS],
            ticks: self.ticks,
            lost: self.lost,
            leave: self.leave,
            broken: None,
        };
        cold.readers[self.readers..].fill(over);
        let warm = State { l1: 1, l1_left: TTL, ..cold };
        if self.redis {
            vec![cold, State { redis: 1, ..cold }, State { redis: 1, ..warm }]
        } else {
            vec![cold, warm]
        }
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        // Of readers that have not begun, one is as good as another.
        let mut idle = false;
        for number in 0..READERS {
            let begins = state.readers[number].at == Reading::Idle;
            if !(begins && idle) {
                self.read(state, steps, number);
            }
            idle |= begins;
        }
        for slot in 0..FLIGHTS {
            self.fly(state, steps, slot);
        }
        for number in 0..WRITERS {
            if self.here[number] {
                self.write_here(state, steps, number);
            } else {
                self.write_elsewhere(state, steps, number);
            }
        }
        if state.readers.iter().any(|reader| reader.at != Reading::Over) {
            self.tick(state, steps);
        }
    }

    fn violated(&self, state: &State) -> Option<Invariant> {
        let selects = state.flights.iter().filter(|flight| flight.selects()).count();
        let waits = state.flights.iter().filter(|flight| flight.at == Flying::Waits).count();
        state.broken.or((selects > 1 || waits > 1).then_some(Invariant::TwoFlights))
    }

    fn at_rest(&self, state: &State) -> bool {
        state.readers.iter().all(|reader| reader.at == Reading::Over)
            && state.writers.iter().all(|writer| matches!(writer.at, Writing::Idle | Writing::Over))
    }

    fn canonical(&self, mut state: State) -> State {
        // All readers are alike.
        for (left, right) in [(0, 1), (1, 2), (0, 1)] {
            if state.readers[left] > state.readers[right] {
                state.readers.swap(left, right);
            }
        }
        if state.floor_left == 0 {
            state.floor = 0;
        }
        state
    }
}

/// A write elsewhere is seen here a second later.
const ELSEWHERE: Run =
    Run { name: "no Redis, a writer elsewhere", here: [true, false], ticks: 3, leave: 0, ..ALONE };
const REDIS: Run = Run { name: "Redis, writers here", redis: true, lost: 2, leave: 0, ticks: 1, ..ALONE };
const REDIS_ELSEWHERE: Run = Run {
    name: "Redis, a writer elsewhere",
    readers: 2,
    redis: true,
    here: [true, false],
    lost: 1,
    leave: 0,
    ticks: 3,
    ..ALONE
};

fn holds(run: Run, interesting: &[&str]) {
    explore(&run).holds("L1 and flights", run.name, interesting);
}

fn catches(run: Run, variant: Variant, invariant: Invariant) {
    let name = format!("{variant:?}; {}", run.name);
    explore(&Run { variant, ..run }).catches(invariant, "L1 and flights", &name);
}

#[test]
fn a_node_alone_reads_its_writes() {
    let interesting = [
        "read: a local hit",
        "read: joins a flight",
        "read: forms a flight",
        "read: goes away",
        "select is answered; the row is below the floor",
        "rolled_back: withdraws the floor",
    ];
    holds(ALONE, &interesting);
}

#[test]
fn a_write_elsewhere_is_seen_when_the_entry_here_ends() {
    holds(ELSEWHERE, &["commit: elsewhere", "read: a local hit"]);
}

#[test]
fn a_node_reads_its_writes_though_redis_has_not_heard_of_them() {
    holds(REDIS, &["floor: unconfirmed", "close; the floor has risen, asks again", "insert"]);
}

#[test]
fn a_hit_of_redis_is_no_longer_shown_than_an_entry_here() {
    holds(REDIS_ELSEWHERE, &["lease: hit", "commit: elsewhere"]);
    if large() {
        holds(Run { name: "3 readers, Redis, a writer elsewhere", readers: 3, ..REDIS_ELSEWHERE }, &[]);
    }
}

/// An answer may lie there for as long as the process was stopped, and until it is looked at readers join.
#[test]
fn an_answer_that_waited_while_the_process_was_stopped_is_no_answer() {
    let run = Run { name: "Redis, a writer elsewhere, the process stops", stops: true, ..REDIS_ELSEWHERE };
    holds(run, &["lease: answered too late; close"]);
    catches(run, Variant::LateAnswersCount, Invariant::StaleWithinBound);
}

#[test]
fn planted_bugs_are_caught() {
    use Invariant::{ReadYourWrites, StaleWithinBound, TwoFlights};
    catches(ELSEWHERE, Variant::TtlFromInsert, StaleWithinBound);
    catches(ALONE, Variant::JoinAnyFlight, ReadYourWrites);
    catches(REDIS, Variant::HitKeepsBoarding, ReadYourWrites);
    catches(ALONE, Variant::HitIgnoresFloor, ReadYourWrites);
    catches(ALONE, Variant::NoTurns, TwoFlights);
    catches(ELSEWHERE, Variant::WriteThroughFromInsert, StaleWithinBound);
}
