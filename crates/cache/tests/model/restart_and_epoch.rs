//! Redis that comes back with an old snapshot, and a Postgres that fails over to a standby which has not seen the last
//! COMMIT: why the key in Redis names the timeline of Postgres and the run of Redis. The old primary goes on answering and
//! committing for those who have a connection to it. One row, a writer on each node, a reader on each node that may read for
//! ever. As in `feed.rs` each state is asked what a read would show.

use crate::{
    explorer::{Invariant, Model, Steps, explore, large},
    redis::{Entry, Fill, Lease, TIMELESS, Token, WRITER},
};

const NODES: usize = 2;
const TIMELINES: usize = 2;
const RUNS: usize = 2;
const BODIES: usize = NODES + 2;
const FIRST: u8 = 1;
const WHO: [&str; NODES] = ["node 0", "node 1"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    AsSpecified,
    /// The setting is the same for ever.
    EpochFixed,
    /// The timeline is named, the run of Redis is not.
    RunNotNamed,
    /// The run of Redis is named, the timeline is not.
    TimelineNotNamed,
    /// A node that knows the new timeline selects on a connection to the old primary.
    OldPrimaryIsRead,
    /// A write that began on the old primary is committed there by a node that has learned of the new timeline.
    OldPrimaryIsWritten,
    /// Such a write is rolled back, but only once it has placed its floor under the new timeline.
    OldPrimaryIsFloored,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    name: &'static str,
    variant: Variant,
    restarts: u8,
    /// Redis comes back with what it had saved, not empty.
    snapshots: bool,
    failovers: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Row {
    version: u8,
    body: u8,
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
    /// Floored, on a connection from before the timeline that the node knows.
    Overtaken,
    Committed,
    /// COMMIT or its effect was lost with the primary.
    Unknown,
    Over,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Node {
    timeline: u8,
    run: u8,
    /// To Redis; whoever connects asks for its run first.
    connected: bool,
    /// The timeline of the server that its open connection to Postgres leads to.
    primary: u8,
    flight: Flight,
    /// Where the lease was taken.
    leased: u8,
    read: Row,
    writing: Writing,
    /// The timeline of the server that it writes on.
    on: u8,
    version: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    timeline: u8,
    run: u8,
    row: Row,
    /// What the standby has.
    standby: Row,
    /// The row on the old primary.
    abandoned: Row,
    /// Which version each body has on the timeline; 0 if none.
    history: [u8; BODIES],
    entries: [Entry; TIMELINES * RUNS],
    snapshot: [Entry; TIMELINES * RUNS],
    nodes: [Node; NODES],
    /// Nodes whose writes wait for their invalidation job.
    jobs: [u8; NODES],
    locked: bool,
    /// On the old primary.
    abandoned_locked: bool,
    restarts: u8,
    failovers: u8,
}

fn reader_token(node: usize) -> Token {
    u8::try_from(node).unwrap() + 1
}

fn writer_token(node: usize) -> Token {
    u8::try_from(node).unwrap() + WRITER
}

fn body_of(node: usize) -> u8 {
    u8::try_from(node).unwrap() + 2
}

impl Run {
    /// The number of the key under which a node that knows these looks.
    fn key(&self, timeline: u8, run: u8) -> usize {
        let (timeline, run) = match self.variant {
            Variant::EpochFixed => (0, 0),
            Variant::RunNotNamed => (timeline, 0),
            Variant::TimelineNotNamed => (0, run),
            _ => (timeline, run),
        };
        usize::from(timeline) * RUNS + usize::from(run)
    }

    /// What a select sees. A connection from before the timeline that the node knows is not used again, and a new one
    /// leads to the new primary; the old one would be found out.
    fn select(&self, state: &State, node: &mut Node) -> Row {
        if node.primary < node.timeline && self.variant != Variant::OldPrimaryIsRead {
            (node.primary, node.timeline) = (state.timeline, state.timeline);
        }
        if node.primary == state.timeline { state.row } else { state.abandoned }
    }

    fn read(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO[number];
        let token = reader_token(number);
        let mut next = *state;
        let node = &mut next.nodes[number];
        // A flight ends in the era it began in.
        let timeline = if node.flight == Flight::None { node.timeline } else { node.leased };
        let key = self.key(timeline, node.run);
        match node.flight {
            Flight::None if node.connected => {
                if next.entries[key].lease(token, 0, TIMELESS) == Lease::Granted {
                    (node.flight, node.leased) = (Flight::Leased, node.timeline);
                    steps.push(who, "lease: granted", next);
                }
            }
            Flight::None => {}
            Flight::Leased => {
                node.read = self.select(state, node);
                node.flight = Flight::Selected;
                let server =
                    if node.primary == state.timeline { "select" } else { "select on the old primary" };
                steps.push(who, server, next);
            }
            Flight::Selected => {
                let fills = node.connected;
                let Row { version, body } = node.read;
                (node.flight, node.leased, node.read) = (Flight::None, 0, Row::default());
                if fills {
                    next.entries[key].fill(token, version, body, TIMELESS);
                    steps.push(who, "fill", next);
                } else {
                    next.entries[key].release(token);
                    steps.push(who, "fill: given up", next);
                }
            }
        }
    }

    fn write(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let who = WHO[number];
        if matches!(state.nodes[number].writing, Writing::Begun | Writing::Floored)
            && state.nodes[number].on != state.timeline
        {
            let mut next = State { abandoned_locked: false, ..*state };
            next.nodes[number].writing = Writing::Unknown;
            steps.push(who, "the connection to the old primary is lost", next);
        }
        let token = writer_token(number);
        let mut next = *state;
        let node = &mut next.nodes[number];
        let version = node.version;
        match node.writing {
            Writing::Idle => {
                let old = node.primary != state.timeline;
                let (row, locked) = match old {
                    true => (state.abandoned, &mut next.abandoned_locked),
                    false => (state.row, &mut next.locked),
                };
                // As for a select; there the new connection is opened.
                if !*locked && node.primary >= node.timeline {
                    (node.writing, node.on, node.version) = (Writing::Begun, node.primary, row.version + 1);
                    *locked = true;
                    steps.push(who, if old { "update on the old primary" } else { "update" }, next);
                }
            }
            Writing::Begun => {
                let overtaken = node.on < node.timeline && self.variant != Variant::OldPrimaryIsWritten;
                if overtaken && self.variant != Variant::OldPrimaryIsFloored {
                    (node.writing, node.version) = (Writing::Over, 0);
                    next.abandoned_locked = false;
                    steps.push(who, "rolled back: the connection is overtaken", next);
                    return;
                }
                node.writing = if overtaken { Writing::Overtaken } else { Writing::Floored };
                if node.connected {
                    let key = self.key(node.timeline, node.run);
                    next.entries[key].floor(version, token, TIMELESS);
                    steps.push(who, "floor: confirmed", next);
                } else {
                    steps.push(who, "floor: unconfirmed", next);
                }
            }
            Writing::Overtaken => {
                (node.writing, node.version) = (Writing::Over, 0);
                if node.connected {
                    next.entries[self.key(node.timeline, node.run)].unfloor(token);
                }
                next.abandoned_locked = false;
                steps.push(who, "rolled back: the floor is taken back", next);
            }
            Writing::Floored => {
                node.writing = Writing::Committed;
                let body = body_of(number);
                if node.on == state.timeline {
                    next.row = Row { version, body };
                    next.history[usize::from(body)] = version;
                    next.jobs[number] = version;
                    next.locked = false;
                    steps.push(who, "commit", next);
                } else {
                    // Nothing that counts.
                    next.abandoned = Row { version, body };
                    next.abandoned_locked = false;
                    steps.push(who, "commit on the old primary", next);
                }
            }
            Writing::Committed => {
                (node.writing, node.version) = (Writing::Over, 0);
                if node.connected {
                    let key = self.key(node.timeline, node.run);
                    let entry = &mut next.entries[key];
                    if entry.fill(token, version, body_of(number), TIMELESS) != Fill::Stored {
                        entry.floor(version, 0, TIMELESS);
                    }
                    steps.push(who, "committed", next);
                } else {
                    steps.push(who, "committed: cannot tell Redis", next);
                }
            }
            Writing::Unknown => {
                (node.writing, node.version) = (Writing::Over, 0);
                steps.push(who, "unknown", next);
            }
            Writing::Over => {}
        }
    }

    fn notice(&self, state: &State, steps: &mut Steps<State>, number: usize) {
        let node = state.nodes[number];
        let with = |node: Node| {
            let mut next = *state;
            next.nodes[number] = node;
            next
        };
        if !node.connected {
            let node = Node { connected: true, run: state.run, ..node };
            steps.push(WHO[number], "connects to Redis, asks for its run", with(node));
        }
        if node.timeline != state.timeline {
            let node = Node { timeline: state.timeline, ..node };
            steps.push(WHO[number], "poll: a new timeline", with(node));
        }
        if node.primary != state.timeline {
            let node = Node { timeline: state.timeline, primary: state.timeline, ..node };
            steps.push(WHO[number], "opens a new connection to Postgres", with(node));
        }
    }

    fn work(&self, state: &State, steps: &mut Steps<State>) {
        for number in 0..NODES {
            if state.jobs[number] != 0 {
                let mut next = *state;
                let key = self.key(state.timeline, state.run);
                next.entries[key].floor(state.jobs[number], 0, TIMELESS);
                next.jobs[number] = 0;
                steps.push("worker", "invalidate", next);
            }
        }
    }

    fn fail(&self, state: &State, steps: &mut Steps<State>) {
        if self.snapshots && state.entries != state.snapshot && state.run == 0 {
            steps.push("redis", "saves a snapshot", State { snapshot: state.entries, ..*state });
        }
        if state.restarts > 0 {
            let mut next = State { restarts: state.restarts - 1, run: 1, entries: state.snapshot, ..*state };
            next.nodes.iter_mut().for_each(|node| node.connected = false);
            steps.push("redis", "restarts with what it had saved", next);
        }
        if state.standby != state.row {
            steps.push("postgres", "the standby catches up", State { standby: state.row, ..*state });
        }
        if state.failovers > 0 {
            let mut next =
                State { failovers: 0, timeline: 1, row: state.standby, abandoned: state.row, ..*state };
            (next.locked, next.abandoned_locked) = (false, state.locked);
            for (body, version) in next.history.iter_mut().enumerate() {
                if *version > state.standby.version {
                    *version = 0;
                    // Its job was in the same transaction.
                    if body >= 2 {
                        next.jobs[body - 2] = 0;
                    }
                }
            }
            steps.push("postgres", "fails over to the standby", next);
        }
    }
}

impl Model for Run {
    type State = State;

    fn start(&self) -> Vec<State> {
        let row = Row { version: 1, body: FIRST };
        let mut history = [0; BODIES];
        history[usize::from(FIRST)] = 1;
        vec![State {
            timeline: 0,
            run: 0,
            row,
            standby: row,
            abandoned: Row::default(),
            history,
            entries: [Entry::default(); TIMELINES * RUNS],
            snapshot: [Entry::default(); TIMELINES * RUNS],
            nodes: [Node { connected: true, ..Node::default() }; NODES],
            jobs: [0; NODES],
            locked: false,
            abandoned_locked: false,
            restarts: self.restarts,
            failovers: self.failovers,
        }]
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for number in 0..NODES {
            self.read(state, steps, number);
            self.write(state, steps, number);
            self.notice(state, steps, number);
        }
        self.work(state, steps);
        self.fail(state, steps);
    }

    fn violated(&self, state: &State) -> Option<Invariant> {
        let quiet = state.jobs == [0; NODES]
            && state.nodes.iter().all(|node| {
                node.flight == Flight::None && matches!(node.writing, Writing::Idle | Writing::Over)
            });
        for node in &state.nodes {
            // A node that has not noticed does so with the next poll.
            if !node.connected || node.timeline != state.timeline {
                continue;
            }
            let entry = &state.entries[self.key(node.timeline, node.run)];
            if entry.v == 0 {
                continue;
            }
            if state.history[usize::from(entry.d)] != entry.v {
                return Some(Invariant::NeverUncommitted);
            }
            let old = entry.v < state.row.version;
            if old && quiet {
                return Some(Invariant::Converges);
            }
            if old && self.restarts == 0 {
                return Some(Invariant::NeverStaleFromRedis);
            }
        }
        None
    }

    fn at_rest(&self, _: &State) -> bool {
        true
    }
}

const RESTART: Run = Run {
    name: "Redis restarts with a snapshot",
    variant: Variant::AsSpecified,
    restarts: 1,
    snapshots: true,
    failovers: 0,
};
const FAILOVER: Run =
    Run { name: "Postgres fails over", restarts: 0, snapshots: false, failovers: 1, ..RESTART };
const BOTH: Run = Run { name: "restart and fail-over", failovers: 1, ..RESTART };

fn holds(run: Run, interesting: &[&str]) {
    explore(&run).holds("restart and epoch", run.name, interesting);
}

fn catches(run: Run, variant: Variant, invariant: Invariant) {
    let name = format!("{variant:?}; {}", run.name);
    explore(&Run { variant, ..run }).catches(invariant, "restart and epoch", &name);
}

#[test]
fn an_old_snapshot_is_out_of_reach() {
    holds(
        RESTART,
        &["restarts with what it had saved", "connects to Redis, asks for its run", "saves a snapshot"],
    );
}

/// As operators are asked to run it. Then its run need not be named.
#[test]
fn a_redis_without_snapshots_needs_no_name_for_its_run() {
    let run = Run {
        name: "RunNotNamed; Redis restarts empty",
        variant: Variant::RunNotNamed,
        snapshots: false,
        ..RESTART
    };
    holds(run, &["restarts with what it had saved", "committed"]);
}

#[test]
fn an_abandoned_timeline_is_out_of_reach() {
    holds(
        FAILOVER,
        &[
            "fails over to the standby",
            "poll: a new timeline",
            "the standby catches up",
            "select on the old primary",
            "commit on the old primary",
            "rolled back: the connection is overtaken",
        ],
    );
    if large() {
        holds(BOTH, &[]);
    }
}

#[test]
fn planted_bugs_are_caught() {
    use Invariant::{Converges, NeverUncommitted};
    catches(RESTART, Variant::EpochFixed, Converges);
    catches(RESTART, Variant::RunNotNamed, Converges);
    catches(FAILOVER, Variant::EpochFixed, NeverUncommitted);
    catches(FAILOVER, Variant::TimelineNotNamed, NeverUncommitted);
}

/// The epoch a node knows by the feed may be newer than the connection it works on.
#[test]
fn what_the_old_primary_says_is_not_stored_for_the_new_timeline() {
    catches(FAILOVER, Variant::OldPrimaryIsRead, Invariant::NeverUncommitted);
    catches(FAILOVER, Variant::OldPrimaryIsWritten, Invariant::NeverUncommitted);
    catches(FAILOVER, Variant::OldPrimaryIsFloored, Invariant::NeverStaleFromRedis);
}
