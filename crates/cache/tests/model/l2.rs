//! Redis and Postgres, without the local level and without time: one row, two writers with one write each, three readers
//! with one read each, the invalidation job, two nodes.

use crate::{
    explorer::{Invariant, Model, Steps, explore, large},
    redis::{Entry, Fill, Lease, TIMELESS, Token, WRITER},
};

const NODES: usize = 2;
const WRITERS: usize = 2;
const READERS: usize = 3;
const WHO_WRITES: [&str; WRITERS] = ["writer A", "writer B"];
const WHO_READS: [&str; READERS] = ["reader 1", "reader 2", "reader 3"];
const WHO_DIES: [&str; NODES] = ["node 0", "node 1"];
/// The body the row has at the beginning, or that there is no row; writer n's is `n + 2`. 0 stands for none.
const FIRST: u8 = 1;
const NEVER: u8 = u8::MAX;

/// The code as it is, or with a bug planted in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    AsIs,
    /// No floor, no lease: fill what was read, DEL after COMMIT, as the guides have it. With the job all the same.
    DeleteAfterCommit,
    NoOutbox,
    NoLease,
    UntokenedWriteThrough,
    TwoSelects,
    FloorOutlivesRollback,
    LeaseBelowNodeFloor,
    /// One floor for each row instead of a place for each write: a rollback restores the former one if its own stands.
    OneFloorForAllWrites,
    /// A write fills whether its floor was confirmed or not.
    FillsUnconfirmed,
}

/// What goes wrong in a run, and how often.
#[derive(Clone, Copy, Debug)]
struct Run {
    name: &'static str,
    variant: Variant,
    /// There is no row at first, and the first write creates it.
    absent: bool,
    readers: usize,
    /// Where the writers are; the first reader is on node 0, the others on node 1.
    writers_on: [usize; WRITERS],
    rollbacks: bool,
    kills: u8,
    /// Requests to Redis that are lost, or whose answers are, or a connection that is lost in COMMIT.
    lost: u8,
    /// One of the lost requests may arrive in the end, after requests that were sent later.
    late: bool,
    /// The entry vanishes: a restart of Redis, an eviction, the end of its life.
    flushes: u8,
    /// Leases that run out.
    expiries: u8,
    /// Which writers are those of many rows in one transaction (`Writes`): floors without a token, nothing is written through,
    /// and a rollback leaves the floor in Redis to its end.
    many: [bool; WRITERS],
}

const CALM: Run = Run {
    name: "no fault",
    variant: Variant::AsIs,
    absent: false,
    readers: 3,
    writers_on: [0, 1],
    rollbacks: true,
    kills: 0,
    lost: 0,
    late: false,
    flushes: 0,
    expiries: 0,
    many: [false; WRITERS],
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Writing {
    #[default]
    Idle,
    /// `begin_write` has raised the node's floor; the one in Redis comes next.
    Begun,
    Floored,
    Committed,
    /// The write-through was refused.
    Refused,
    RolledBack,
    Withdrawn,
    /// The connection was lost in COMMIT, which may still happen.
    Unknown,
    /// It has happened, or will not.
    Ended,
    /// The process is dead and its COMMIT may still happen.
    Orphan,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Writer {
    at: Writing,
    version: u8,
    /// The floor before, for [`Variant::OneFloorForAllWrites`].
    former: u8,
    floor: Floor,
}

/// What a writer knows of its floor in Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Floor {
    #[default]
    Confirmed,
    /// The request failed; there is budget left for others.
    Failed,
    /// It took the whole budget.
    TimedOut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reading {
    #[default]
    Idle,
    /// About to ask Redis, with the node's floor (in `v`).
    Asking,
    Hit,
    Leased,
    /// Postgres, without filling.
    Bypass,
    /// Half of the row was read, for [`Variant::TwoSelects`].
    HalfLeased,
    HalfBypass,
    Selected,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reader {
    at: Reading,
    v: u8,
    d: u8,
    /// The newest version that was committed when the read began.
    committed: u8,
    /// The newest that its process had acknowledged.
    acked: u8,
}

/// A request to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Lease { token: Token, min: u8 },
    Fill { token: Token, v: u8, d: u8 },
    Release { token: Token },
    Floor { version: u8, token: Token },
    Unfloor { token: Token },
    Delete,
}

enum Answer {
    Lease(Lease),
    Fill(Fill),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    redis: Entry,
    version: u8,
    body: u8,
    /// Which version each body was committed as, or [`NEVER`].
    history: [u8; WRITERS + 2],
    locked: bool,
    /// Whose invalidation jobs wait.
    jobs: u8,
    /// What is left of each node's floor by writes that are over.
    settled: [u8; NODES],
    acked: [u8; NODES],
    writers: [Writer; WRITERS],
    readers: [Reader; READERS],
    late: Option<Request>,
    late_left: bool,
    kills: u8,
    lost: u8,
    flushes: u8,
    expiries: u8,
    broken: Option<u8>,
}

const fn node_of(reader: usize) -> usize {
    if reader == 0 { 0 } else { 1 }
}

fn reader_token(reader: usize) -> Token {
    u8::try_from(reader).unwrap() + 1
}

fn writer_token(writer: usize) -> Token {
    u8::try_from(writer).unwrap() + WRITER
}

fn body_of(writer: usize) -> u8 {
    u8::try_from(writer).unwrap() + 2
}

const ORDER: [Invariant; 3] =
    [Invariant::NeverUncommitted, Invariant::ReadYourWrites, Invariant::NeverStaleFromRedis];

impl Run {
    /// While requests are lost, floors vanish or leases run out, Redis may be stale for a moment.
    fn never_stale(&self) -> bool {
        self.lost == 0 && self.flushes == 0 && self.expiries == 0
    }

    fn call(&self, redis: &mut Entry, request: Request) -> Answer {
        match request {
            Request::Lease { token, min } => Answer::Lease(match self.variant {
                Variant::LeaseBelowNodeFloor => redis.lease(token, 0, TIMELESS),
                Variant::NoLease | Variant::DeleteAfterCommit => {
                    if redis.d != 0 && redis.v >= min {
                        Lease::Hit { v: redis.v, d: redis.d }
                    } else {
                        (redis.v, redis.d) = (0, 0);
                        redis.vanish_if_empty();
                        Lease::Granted
                    }
                }
                _ => redis.lease(token, min, TIMELESS),
            }),
            Request::Fill { token, v, d } => Answer::Fill(match self.variant {
                Variant::DeleteAfterCommit => {
                    *redis = Entry { v, d, ttl: TIMELESS.ttl, ..Entry::default() };
                    Fill::Stored
                }
                Variant::NoLease if token < WRITER => redis.store(v, d, TIMELESS),
                Variant::UntokenedWriteThrough if token >= WRITER => {
                    let fill = redis.store(v, d, TIMELESS);
                    if fill == Fill::Stored {
                        (redis.l, redis.le) = (0, 0);
                    }
                    fill
                }
                _ => redis.fill(token, v, d, TIMELESS),
            }),
            Request::Release { token } => {
                redis.release(token);
                Answer::Done
            }
            Request::Floor { version, token } => {
                redis.floor(version, token, TIMELESS);
                Answer::Done
            }
            Request::Unfloor { token } => {
                redis.unfloor(token);
                Answer::Done
            }
            Request::Delete => {
                *redis = Entry::default();
                Answer::Done
            }
        }
    }

    /// Every way the request can go: `then` gets the state after it and the answer, `None` if there was none.
    fn send(&self, state: &State, request: Request, mut then: impl FnMut(State, Option<Answer>)) {
        let mut arrived = *state;
        let answer = self.call(&mut arrived.redis, request);
        if state.lost > 0 {
            let lost = State { lost: state.lost - 1, ..*state };
            then(State { redis: arrived.redis, ..lost }, None);
            then(lost, None);
            if state.late_left && state.late.is_none() {
                then(State { late: Some(request), late_left: false, ..lost }, None);
            }
        }
        then(arrived, Some(answer));
    }

    fn node_floor(&self, state: &State, node: usize) -> u8 {
        let mut floor = state.settled[node];
        for (writer, &on) in state.writers.iter().zip(&self.writers_on) {
            if on == node && self.variant != Variant::OneFloorForAllWrites && writer.holds_floor() {
                floor = floor.max(writer.version);
            }
        }
        floor
    }

    fn read(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO_READS[number];
        let token = reader_token(number);
        let node = node_of(number);
        let reader = state.readers[number];
        let with = |state: State, reader: Reader| {
            let mut state = state;
            state.readers[number] = reader;
            state
        };
        match reader.at {
            Reading::Idle => {
                let asking = Reader {
                    at: Reading::Asking,
                    v: self.node_floor(state, node),
                    d: 0,
                    committed: state.version,
                    acked: state.acked[node],
                };
                steps.push(who, "read: begins", with(*state, asking));
            }
            Reading::Asking => {
                let request = Request::Lease { token, min: reader.v };
                self.send(state, request, |after, answer| {
                    let (does, next) = match answer {
                        Some(Answer::Lease(Lease::Hit { v, d })) => {
                            ("lease: hit", Reader { at: Reading::Hit, v, d, ..reader })
                        }
                        Some(Answer::Lease(Lease::Granted)) => {
                            ("lease: granted", Reader { at: Reading::Leased, v: 0, ..reader })
                        }
                        Some(Answer::Lease(Lease::Filling)) => {
                            let again = Reader { v: self.node_floor(&after, node), ..reader };
                            steps.push(who, "lease: another fills, asks again", with(after, again));
                            ("lease: another fills", Reader { at: Reading::Bypass, v: 0, ..reader })
                        }
                        Some(Answer::Lease(Lease::Writing)) => {
                            ("lease: a writer is under way", Reader { at: Reading::Bypass, v: 0, ..reader })
                        }
                        _ => ("lease: no answer", Reader { at: Reading::Bypass, v: 0, ..reader }),
                    };
                    steps.push(who, does, with(after, next));
                });
            }
            Reading::Hit => {
                let floor = self.node_floor(state, node);
                if reader.v >= floor || self.variant == Variant::LeaseBelowNodeFloor {
                    steps.push(
                        who,
                        "read: returns the hit",
                        reader.returns(state, number, reader.v, reader.d),
                    );
                } else {
                    let again = Reader { at: Reading::Asking, v: floor, d: 0, ..reader };
                    steps.push(who, "read: the floor has risen, asks again", with(*state, again));
                }
            }
            Reading::Leased | Reading::Bypass if self.variant == Variant::TwoSelects => {
                let at = if reader.at == Reading::Leased { Reading::HalfLeased } else { Reading::HalfBypass };
                steps.push(who, "select: the body", with(*state, Reader { at, d: state.body, ..reader }));
            }
            Reading::HalfBypass => {
                steps.push(
                    who,
                    "select: the version",
                    reader.returns(state, number, state.version, reader.d),
                );
            }
            Reading::Bypass => {
                steps.push(who, "select: returns", reader.returns(state, number, state.version, state.body));
            }
            Reading::Leased | Reading::HalfLeased => {
                // What the client will get is known now; only the fill is left.
                let d = if reader.at == Reading::Leased { state.body } else { reader.d };
                let mut after = reader.returns(state, number, state.version, d);
                after.readers[number] =
                    Reader { at: Reading::Selected, v: state.version, d, ..Reader::default() };
                steps.push(who, "select", after);
            }
            Reading::Selected => {
                let over = with(*state, Reader::OVER);
                if reader.v < self.node_floor(state, node) {
                    let request = Request::Release { token };
                    self.send(&over, request, |after, _| steps.push(who, "release: below the floor", after));
                } else {
                    let request = Request::Fill { token, v: reader.v, d: reader.d };
                    self.send(&over, request, |after, answer| {
                        let does = match answer {
                            Some(Answer::Fill(Fill::Stored)) => "fill: stored",
                            Some(Answer::Fill(Fill::NotOurs)) => "fill: the lease is not ours any more",
                            Some(Answer::Fill(Fill::TooOld)) => "fill: refused by the floor",
                            _ => "fill: no answer",
                        };
                        steps.push(who, does, after);
                    });
                }
            }
            Reading::Over => {}
        }
    }

    fn write(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO_WRITES[number];
        let token = writer_token(number);
        let node = self.writers_on[number];
        let writer = state.writers[number];
        let with = |state: State, at: Writing| {
            let mut state = state;
            state.writers[number].at = at;
            if at == Writing::Over {
                state.forget(number);
            }
            state
        };
        match writer.at {
            Writing::Idle if !state.locked => {
                let mut next = with(*state, Writing::Begun);
                next.locked = true;
                let version = state.version + 1;
                next.writers[number].version = version;
                if self.variant == Variant::OneFloorForAllWrites {
                    next.writers[number].former = state.settled[node];
                    next.settled[node] = version.max(state.settled[node]);
                }
                steps.push(who, "update, begin_write: raises the node's floor", next);
            }
            Writing::Begun if self.variant == Variant::DeleteAfterCommit => {
                steps.push(who, "begin_write: places no floor", with(*state, Writing::Floored));
            }
            Writing::Begun => {
                let token = if self.many[number] { 0 } else { token };
                let request = Request::Floor { version: writer.version, token };
                self.send(state, request, |after, answer| {
                    let mut next = with(after, Writing::Floored);
                    if answer.is_some() {
                        return steps.push(who, "floor: confirmed", next);
                    }
                    next.writers[number].floor = Floor::Failed;
                    steps.push(who, "floor: fails, unconfirmed", next);
                    next.writers[number].floor = Floor::TimedOut;
                    steps.push(who, "floor: times out, unconfirmed", next);
                });
            }
            Writing::Floored => {
                steps.push(who, "commit", with(self.commit(state, number), Writing::Committed));
                if self.rollbacks {
                    let next = State { locked: false, ..*state };
                    steps.push(who, "rollback", with(next, Writing::RolledBack));
                }
                if state.lost > 0 {
                    let next = State { lost: state.lost - 1, ..*state };
                    steps.push(who, "commit: the connection is lost", with(next, Writing::Unknown));
                }
            }
            Writing::Committed if self.variant == Variant::DeleteAfterCommit => {
                self.send(state, Request::Delete, |after, _| {
                    let over = with(after, Writing::Over);
                    steps.push(who, "del, acknowledged", self.settle(over, number, writer.version, true));
                });
            }
            Writing::Committed if self.many[number] => {
                let next = self.settle(with(*state, Writing::Over), number, writer.version, true);
                steps.push(who, "committed: nothing is written through, acknowledged", next);
            }
            Writing::Committed if writer.floor == Floor::TimedOut => {
                let next = self.settle(with(*state, Writing::Over), number, writer.version, true);
                steps.push(who, "committed: the budget is spent, acknowledged", next);
            }
            Writing::Committed
                if writer.floor == Floor::Failed && self.variant != Variant::FillsUnconfirmed =>
            {
                let next = with(*state, Writing::Refused);
                steps.push(who, "committed: does not fill over a floor that may not be there", next);
            }
            Writing::Committed => {
                let request = Request::Fill { token, v: writer.version, d: body_of(number) };
                self.send(state, request, |after, answer| {
                    let (does, at) = match answer {
                        Some(Answer::Fill(Fill::Stored)) => {
                            ("committed: written through, acknowledged", Writing::Over)
                        }
                        Some(_) => ("committed: the write-through is refused", Writing::Refused),
                        None => ("committed: no answer, acknowledged", Writing::Over),
                    };
                    let mut next = with(after, at);
                    if at == Writing::Over {
                        next = self.settle(next, number, writer.version, true);
                    }
                    steps.push(who, does, next);
                });
            }
            Writing::Refused => {
                let request = Request::Floor { version: writer.version, token: 0 };
                self.send(state, request, |after, _| {
                    let next = self.settle(with(after, Writing::Over), number, writer.version, true);
                    steps.push(who, "committed: floor without a token, acknowledged", next);
                });
            }
            Writing::RolledBack => {
                let mut next = with(*state, Writing::Withdrawn);
                match self.variant {
                    Variant::FloorOutlivesRollback => {
                        next = self.settle(next, number, writer.version, false);
                    }
                    Variant::OneFloorForAllWrites if state.settled[node] == writer.version => {
                        next.settled[node] = writer.former;
                    }
                    _ => {}
                }
                next.writers[number].former = 0;
                steps.push(who, "rolled_back: withdraws the node's floor", next);
            }
            Writing::Withdrawn if self.many[number] => {
                steps.push(who, "rolled_back: the floor in Redis stays", with(*state, Writing::Over));
            }
            Writing::Withdrawn if writer.floor == Floor::TimedOut => {
                steps.push(who, "rolled_back: the budget is spent", with(*state, Writing::Over));
            }
            Writing::Withdrawn => {
                self.send(state, Request::Unfloor { token }, |after, _| {
                    steps.push(who, "rolled_back: unfloor", with(after, Writing::Over));
                });
            }
            Writing::Unknown | Writing::Orphan => {
                let at = if writer.at == Writing::Unknown { Writing::Ended } else { Writing::Over };
                let late = self.commit(state, number);
                steps.push("postgres", "the lost COMMIT happens", with(late, at));
                let never = State { locked: false, ..*state };
                steps.push("postgres", "the lost COMMIT never happens", with(never, at));
            }
            Writing::Ended => {
                let over = with(*state, Writing::Over);
                if !state.locked {
                    let next = self.settle(over, number, state.version, false);
                    steps.push(who, "unknown: settles for the row", next);
                }
                let next = self.settle(over, number, writer.version, false);
                steps.push(who, "unknown: the row cannot be read", next);
            }
            Writing::Idle | Writing::Over => {}
        }
    }

    /// What COMMIT does, in Postgres.
    fn commit(&self, state: &State, number: usize) -> State {
        let writer = state.writers[number];
        let mut next = State { version: writer.version, body: body_of(number), locked: false, ..*state };
        next.history[usize::from(next.body)] = writer.version;
        if self.variant != Variant::NoOutbox {
            next.jobs |= 1 << number;
        }
        next
    }

    /// The node's floor becomes what the write leaves behind; with `ack` the client is told.
    fn settle(&self, mut state: State, number: usize, version: u8, ack: bool) -> State {
        let node = self.writers_on[number];
        state.settled[node] = state.settled[node].max(version);
        if ack {
            state.acked[node] = state.acked[node].max(version);
        }
        state
    }

    fn work(&self, state: &State, steps: &mut Steps<State>) {
        for number in 0..WRITERS {
            let bit = 1 << number;
            if state.jobs & bit == 0 {
                continue;
            }
            let request = match self.variant {
                Variant::DeleteAfterCommit => Request::Delete,
                _ => Request::Floor { version: state.writers[number].version, token: 0 },
            };
            self.send(state, request, |after, answer| {
                if answer.is_none() {
                    return steps.push("worker", "invalidate: no answer, tried again", after);
                }
                if self.kills > 0 {
                    // Without cost: the job is there for the next worker, as if nothing had been.
                    steps.push("worker", "invalidate: dies before it is done", after);
                }
                let mut done = State { jobs: after.jobs & !bit, ..after };
                if done.writers[number].at == Writing::Over {
                    done.forget(number);
                }
                steps.push("worker", "invalidate: done", done);
            });
        }
    }

    fn fail(&self, state: &State, steps: &mut Steps<State>) {
        if state.kills > 0 {
            for (node, who) in WHO_DIES.into_iter().enumerate() {
                steps.push(who, "kill -9, starts again", self.kill(state, node));
            }
        }
        if state.flushes > 0 && state.redis != Entry::default() {
            let next = State { redis: Entry::default(), flushes: state.flushes - 1, ..*state };
            steps.push("redis", "loses the entry", next);
        }
        if state.expiries > 0 && state.redis.le > 0 {
            let redis = Entry { le: 0, ..state.redis };
            steps.push(
                "redis",
                "the lease runs out",
                State { redis, expiries: state.expiries - 1, ..*state },
            );
        }
        if let Some(request) = state.late {
            let mut next = State { late: None, ..*state };
            self.call(&mut next.redis, request);
            steps.push("redis", "a request arrives that was given up", next);
        }
    }

    fn kill(&self, state: &State, node: usize) -> State {
        let mut next = State { kills: state.kills - 1, ..*state };
        next.settled[node] = 0;
        next.acked[node] = 0;
        for (number, reader) in next.readers.iter_mut().enumerate() {
            if node_of(number) == node && reader.at != Reading::Idle {
                *reader = Reader::OVER;
            }
        }
        for (number, &on) in self.writers_on.iter().enumerate() {
            let writer = &mut next.writers[number];
            if on != node || writer.at == Writing::Idle {
                continue;
            }
            writer.at = match writer.at {
                Writing::Begun => {
                    next.locked = false;
                    Writing::Over
                }
                // COMMIT may have been sent.
                Writing::Floored | Writing::Unknown | Writing::Orphan => Writing::Orphan,
                _ => Writing::Over,
            };
            if writer.at == Writing::Over {
                next.forget(number);
            }
        }
        next
    }
}

impl Writer {
    /// Whether `begin` has been called, and neither `settle` nor `withdraw` yet.
    fn holds_floor(self) -> bool {
        !matches!(self.at, Writing::Idle | Writing::Withdrawn | Writing::Orphan | Writing::Over)
    }
}

impl Reader {
    const OVER: Self = Self { at: Reading::Over, v: 0, d: 0, committed: 0, acked: 0 };

    /// The state after the client got `v` and `d`, and what is wrong with them.
    fn returns(self, state: &State, number: usize, v: u8, d: u8) -> State {
        let mut next = *state;
        next.readers[number] = Self::OVER;
        next.broken = if state.history[usize::from(d)] != v {
            Some(0)
        } else if v < self.acked {
            Some(1)
        } else if v < self.committed {
            Some(2)
        } else {
            None
        };
        next
    }
}

impl Model for Run {
    type State = State;

    fn start(&self) -> Vec<State> {
        let version = if self.absent { 0 } else { 1 };
        let mut history = [NEVER; WRITERS + 2];
        history[usize::from(FIRST)] = version;
        let mut state = State {
            redis: Entry::default(),
            version,
            body: FIRST,
            history,
            locked: false,
            jobs: 0,
            settled: [0; NODES],
            acked: [0; NODES],
            writers: [Writer::default(); WRITERS],
            readers: [Reader::default(); READERS],
            late: None,
            late_left: self.late,
            kills: self.kills,
            lost: self.lost,
            flushes: self.flushes,
            expiries: self.expiries,
            broken: None,
        };
        state.readers[self.readers..].fill(Reader::OVER);
        let warm = Entry { v: version, d: FIRST, ttl: TIMELESS.ttl, ..Entry::default() };
        vec![state, State { redis: warm, ..state }]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for number in 0..self.readers {
            self.read(state, steps, number);
        }
        for number in 0..WRITERS {
            self.write(state, steps, number);
        }
        self.work(state, steps);
        // Once nothing is under way, faults change nothing that anyone would see.
        if !steps.is_empty() || state.late.is_some() {
            self.fail(state, steps);
        }
    }

    fn violated(&self, state: &State) -> Option<Invariant> {
        if let Some(broken) = state.broken {
            let invariant = ORDER[usize::from(broken)];
            if invariant != Invariant::NeverStaleFromRedis || self.never_stale() {
                return Some(invariant);
            }
        }
        let redis = &state.redis;
        if redis.d != 0 && state.history[usize::from(redis.d)] != redis.v {
            return Some(Invariant::NeverUncommitted);
        }
        if !state.is_quiet() {
            return None;
        }
        if redis.d != 0 && (redis.v, redis.d) != (state.version, state.body) {
            return Some(Invariant::Converges);
        }
        let floors = state.settled.iter().fold(redis.f, |floor, &settled| floor.max(settled));
        // What a writer that died or a lost `unfloor` leaves behind is for the expiry; see `feed.rs`.
        let stays = self.many.contains(&true) && self.rollbacks;
        let unharmed = self.kills == 0 && self.lost == 0 && self.expiries == 0 && !stays;
        (unharmed && floors > state.version).then_some(Invariant::NoFloorAboveTheRow)
    }

    fn at_rest(&self, state: &State) -> bool {
        state.is_quiet()
    }

    /// The readers on node 1 are alike.
    fn canonical(&self, mut state: State) -> State {
        if state.readers[1] > state.readers[2] && self.readers == READERS {
            state.readers.swap(1, 2);
            swap_readers(&mut state.redis.l);
            if let Some(
                Request::Lease { token, .. } | Request::Fill { token, .. } | Request::Release { token },
            ) = &mut state.late
            {
                swap_readers(token);
            }
        }
        if let Some(broken) = state.broken
            && ORDER[usize::from(broken)] == Invariant::NeverStaleFromRedis
            && !self.never_stale()
        {
            state.broken = None;
        }
        state
    }
}

fn swap_readers(token: &mut Token) {
    *token = match *token {
        2 => 3,
        3 => 2,
        other => other,
    };
}

impl State {
    /// What a writer that is over knew, so that states do not differ in it; the version while its job needs it.
    fn forget(&mut self, number: usize) {
        let writer = &mut self.writers[number];
        (writer.former, writer.floor) = (0, Floor::Confirmed);
        if self.jobs & 1 << number == 0 {
            writer.version = 0;
        }
    }

    fn is_quiet(&self) -> bool {
        self.jobs == 0
            && self.late.is_none()
            && self.readers.iter().all(|reader| matches!(reader.at, Reading::Idle | Reading::Over))
            && self.writers.iter().all(|writer| matches!(writer.at, Writing::Idle | Writing::Over))
    }
}

/// The invalidation job does what a killed writer left undone; nothing is ever stale.
const KILL: Run = Run { name: "1 kill -9", kills: 1, ..CALM };
const LOST: Run = Run { name: "1 lost or late request", lost: 1, late: true, readers: 2, ..CALM };
const REDIS: Run = Run { name: "entry lost, lease expired", flushes: 1, expiries: 1, readers: 2, ..CALM };
const KILL_AND_REDIS: Run = Run { name: "kill -9, entry lost", kills: 1, flushes: 1, readers: 2, ..CALM };
const KILL_AND_LOST: Run = Run { name: "kill -9, 1 lost request", kills: 1, lost: 1, readers: 2, ..CALM };
const OVERTAKEN: Run = Run { name: "entry lost, 1 lost or late request", flushes: 1, readers: 1, ..LOST };
const ALL: Run = Run {
    name: "kill -9, 1 lost or late request, entry lost, lease expired",
    kills: 1,
    lost: 1,
    late: true,
    flushes: 1,
    expiries: 1,
    readers: 2,
    ..CALM
};

fn holds(run: Run, interesting: &[&str]) {
    explore(&run).holds("L2", run.name, interesting);
}

fn catches(run: Run, variant: Variant, invariant: Invariant) {
    let name = format!("{variant:?}; {}", run.name);
    explore(&Run { variant, ..run }).catches(invariant, "L2", &name);
}

#[test]
fn without_faults_nothing_is_stale() {
    let interesting = [
        "lease: hit",
        "lease: another fills",
        "lease: a writer is under way",
        "fill: stored",
        "fill: the lease is not ours any more",
        "release: below the floor",
        "committed: written through, acknowledged",
        "rolled_back: unfloor",
    ];
    holds(CALM, &interesting);
}

#[test]
fn under_kill_nothing_is_stale() {
    holds(KILL, &["the lost COMMIT happens", "invalidate: done"]);
}

#[test]
fn lost_requests_are_made_good() {
    let interesting = [
        "floor: fails, unconfirmed",
        "floor: times out, unconfirmed",
        "commit: the connection is lost",
        "unknown: settles for the row",
        "unknown: the row cannot be read",
        "a request arrives that was given up",
        "read: the floor has risen, asks again",
        "release: below the floor",
    ];
    holds(LOST, &interesting);
    holds(OVERTAKEN, &["committed: does not fill over a floor that may not be there"]);
}

#[test]
fn what_redis_loses_is_made_good() {
    let interesting = [
        "fill: refused by the floor",
        "committed: the write-through is refused",
        "committed: floor without a token, acknowledged",
    ];
    holds(REDIS, &interesting);
}

#[test]
fn kill_and_an_entry_lost_are_made_good() {
    holds(KILL_AND_REDIS, &["loses the entry", "fill: stored"]);
}

#[test]
fn kill_and_a_lost_request_are_made_good() {
    holds(KILL_AND_LOST, &["floor: fails, unconfirmed"]);
}

#[test]
fn all_faults_at_once_are_made_good() {
    if large() {
        holds(ALL, &["fill: refused by the floor"]);
        for run in [LOST, REDIS, KILL_AND_REDIS, KILL_AND_LOST] {
            holds(Run { readers: 3, ..run }, &[]);
        }
        holds(Run { name: "2 kill -9", kills: 2, ..CALM }, &[]);
        holds(Run { name: "2 lost or late requests", lost: 2, ..LOST }, &[]);
    }
}

#[test]
fn planted_bugs_are_caught() {
    use Invariant::{Converges, NeverStaleFromRedis, NeverUncommitted, NoFloorAboveTheRow, ReadYourWrites};
    catches(CALM, Variant::DeleteAfterCommit, NeverStaleFromRedis);
    catches(KILL_AND_LOST, Variant::DeleteAfterCommit, Converges);
    catches(KILL_AND_LOST, Variant::NoOutbox, Converges);
    catches(REDIS, Variant::NoLease, Converges);
    catches(REDIS, Variant::UntokenedWriteThrough, Converges);
    catches(CALM, Variant::TwoSelects, NeverUncommitted);
    catches(CALM, Variant::FloorOutlivesRollback, NoFloorAboveTheRow);
    catches(LOST, Variant::LeaseBelowNodeFloor, ReadYourWrites);
    let same_node = Run {
        name: "both writers on a node, 2 lost requests",
        writers_on: [0, 0],
        readers: 1,
        lost: 2,
        late: false,
        ..LOST
    };
    catches(same_node, Variant::OneFloorForAllWrites, ReadYourWrites);
    catches(OVERTAKEN, Variant::FillsUnconfirmed, Converges);
}

#[test]
fn many_rows_that_are_written_in_one_transaction_are_each_as_one() {
    let many = |name: &'static str, run: Run| Run { name, many: [true; WRITERS], readers: 2, ..run };
    let beside = |name: &'static str, run: Run| Run { name, many: [true, false], readers: 2, ..run };
    let interesting = ["committed: nothing is written through, acknowledged", "fill: refused by the floor"];
    holds(many("many rows", CALM), &interesting);
    holds(many("many rows, no rollback", Run { rollbacks: false, ..CALM }), &interesting);
    holds(many("many rows, none at first", Run { absent: true, ..CALM }), &interesting);
    holds(many("many rows, 1 kill -9", KILL), &["the lost COMMIT happens", "invalidate: done"]);
    holds(many("many rows, 1 lost or late request", LOST), &["floor: fails, unconfirmed"]);
    holds(many("many rows, entry lost, lease expired", REDIS), &["rolled_back: the floor in Redis stays"]);
    holds(many("many rows, kill -9, entry lost", KILL_AND_REDIS), &[]);
    holds(many("many rows, kill -9, 1 lost request", KILL_AND_LOST), &[]);
    holds(
        beside("many rows beside one", CALM),
        &["committed: written through, acknowledged", "rolled_back: unfloor"],
    );
    holds(
        beside("many rows beside one, 1 lost or late request", LOST),
        &["committed: the write-through is refused"],
    );
    holds(beside("many rows beside one, kill -9, entry lost", KILL_AND_REDIS), &[]);
    holds(beside("many rows beside one, entry lost, lease expired", REDIS), &[]);

    use Invariant::{Converges, NeverStaleFromRedis, ReadYourWrites};
    catches(many("many rows", CALM), Variant::DeleteAfterCommit, NeverStaleFromRedis);
    catches(many("many rows, kill -9, 1 lost request", KILL_AND_LOST), Variant::NoOutbox, Converges);
    catches(many("many rows, entry lost, lease expired", REDIS), Variant::NoLease, Converges);
    catches(many("many rows, 1 lost or late request", LOST), Variant::LeaseBelowNodeFloor, ReadYourWrites);
}

#[test]
fn that_there_is_no_row_ends_with_its_creation() {
    holds(Run { name: "no row at first", absent: true, readers: 2, ..CALM }, &["lease: hit", "fill: stored"]);
    holds(
        Run { name: "no row at first, 1 lost request", absent: true, late: false, readers: 1, ..LOST },
        &[],
    );
}
