//! `X-Min-Version`: two nodes whose caches may be as stale as they like, and two clients, each of which reads here and
//! there and says what it has seen. No floors and no time, since nothing here may depend on them.

use crate::explorer::{Invariant, Model, Steps, explore};

const NODES: usize = 2;
const CLIENTS: usize = 2;
/// What a client may make up.
const MADE_UP: u8 = 9;
const WHO_READS: [[&str; CLIENTS]; NODES] =
    [["client 1, node 0", "client 2, node 0"], ["client 1, node 1", "client 2, node 1"]];
const WHO_FLIES: [&str; NODES] = ["flight, node 0", "flight, node 1"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    AsIs,
    /// By everyone.
    MinIgnored,
    /// By hits of the local level.
    MinIgnoredLocally,
    /// By readers who wait for a flight.
    MinIgnoredOnLanding,
    /// It is handed to Redis as if it were a floor of the node.
    MinReachesRedis,
    JoinAnyFlight,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Reading {
    #[default]
    Idle,
    Aboard(u8),
    /// What the flight has brought is too old: its own `select`.
    Bypasses,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    at: Reading,
    seen: u8,
    min: u8,
    /// The row's version when the read began.
    row: u8,
    left: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Flying {
    #[default]
    Nowhere,
    Asks {
        min: u8,
    },
    Hit(u8),
    Closed,
    Selected(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    row: u8,
    redis: u8,
    l1: [u8; NODES],
    flights: [Flying; NODES],
    clients: [Client; CLIENTS],
    broken: Option<Invariant>,
}

struct Run {
    variant: Variant,
    reads: u8,
    newest: u8,
}

impl Run {
    fn begin(&self, state: &State, steps: &mut Steps<State>, number: usize, node: usize, min: u8) {
        let who = WHO_READS[node][number];
        let mut next = *state;
        let client = &mut next.clients[number];
        (client.min, client.row) = (min, state.row);
        client.left -= 1;
        let l1 = state.l1[node];
        let ignored = matches!(self.variant, Variant::MinIgnored | Variant::MinIgnoredLocally);
        if l1 != 0 && (l1 >= min || ignored) {
            client.returns(l1, &mut next.broken);
            return steps.push(who, "read: a local hit", next);
        }
        match state.flights[node] {
            Flying::Nowhere => {
                let min = if self.variant == Variant::MinReachesRedis { min } else { 0 };
                next.flights[node] = Flying::Asks { min };
            }
            Flying::Asks { .. } | Flying::Hit(_) => {}
            // It would form the next flight, which is as if it came a little later.
            Flying::Closed | Flying::Selected(_) if self.variant == Variant::JoinAnyFlight => {}
            Flying::Closed | Flying::Selected(_) => return,
        }
        next.clients[number].at = Reading::Aboard(u8::try_from(node).unwrap());
        let does = if l1 == 0 { "read: forms or joins a flight" } else { "read: passes the local level by" };
        steps.push(who, does, next);
    }

    fn fly(&self, state: &State, steps: &mut Steps<State>, node: usize) {
        let who = WHO_FLIES[node];
        let mut next = *state;
        match state.flights[node] {
            Flying::Nowhere => {}
            Flying::Asks { min } if state.redis != 0 && state.redis >= min => {
                next.flights[node] = Flying::Hit(state.redis);
                steps.push(who, "lease: hit", next);
            }
            Flying::Asks { .. } => {
                if state.redis != 0 {
                    next.redis = 0;
                    next.broken = Some(Invariant::MinVersionStaysOutside);
                }
                next.flights[node] = Flying::Closed;
                steps.push(who, "lease: no value; close", next);
            }
            Flying::Hit(version) => {
                next.l1[node] = next.l1[node].max(version);
                self.land(&mut next, node, version, false);
                steps.push(who, "close, insert, lands with a hit", next);
            }
            Flying::Closed => {
                next.flights[node] = Flying::Selected(state.row);
                steps.push(who, "select sees the row", next);
            }
            Flying::Selected(version) => {
                next.l1[node] = next.l1[node].max(version);
                if next.redis == 0 {
                    next.redis = version;
                }
                self.land(&mut next, node, version, true);
                steps.push(who, "insert, fill, lands with the row", next);
            }
        }
    }

    fn land(&self, state: &mut State, node: usize, version: u8, truth: bool) {
        state.flights[node] = Flying::Nowhere;
        let ignored = matches!(self.variant, Variant::MinIgnored | Variant::MinIgnoredOnLanding);
        for client in &mut state.clients {
            if client.at != Reading::Aboard(u8::try_from(node).unwrap()) {
                continue;
            }
            if version >= client.min || ignored {
                client.returns(version, &mut state.broken);
            } else if truth {
                client.refused(&mut state.broken);
            } else {
                client.at = Reading::Bypasses;
            }
        }
    }
}

impl Client {
    fn returns(&mut self, version: u8, broken: &mut Option<Invariant>) {
        if version < self.min {
            *broken = Some(Invariant::MinVersion);
        }
        *self = Self { seen: self.seen.max(version), left: self.left, ..Self::default() };
    }

    /// 412 `version_not_reached`.
    fn refused(&mut self, broken: &mut Option<Invariant>) {
        if self.row >= self.min {
            *broken = Some(Invariant::MinVersion);
        }
        *self = Self { seen: self.seen, left: self.left, ..Self::default() };
    }
}

impl Model for Run {
    type State = State;

    /// Caches may hold anything that was once the row.
    fn start(&self) -> Vec<State> {
        let client = Client { left: self.reads, ..Client::default() };
        let mut start = Vec::new();
        for row in 1..=2 {
            for redis in 0..=row {
                for l1 in (0..=row).flat_map(|here| (0..=row).map(move |there| [here, there])) {
                    let flights = [Flying::Nowhere; NODES];
                    let clients = [client; CLIENTS];
                    start.push(State { row, redis, l1, flights, clients, broken: None });
                }
            }
        }
        start
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        if state.row < self.newest {
            steps.push("writer", "commit", State { row: state.row + 1, ..*state });
        }
        if state.l1 != [0; NODES] {
            steps.push("time", "ends the entries of the local levels", State { l1: [0; NODES], ..*state });
        }
        for node in 0..NODES {
            self.fly(state, steps, node);
        }
        for (number, client) in state.clients.iter().enumerate() {
            match client.at {
                Reading::Idle if client.left > 0 => {
                    for node in 0..NODES {
                        self.begin(state, steps, number, node, client.seen);
                        self.begin(state, steps, number, node, MADE_UP);
                    }
                }
                Reading::Bypasses => {
                    let mut next = *state;
                    let client = &mut next.clients[number];
                    let does = if state.row >= client.min {
                        client.returns(state.row, &mut next.broken);
                        "select, past all caches"
                    } else {
                        client.refused(&mut next.broken);
                        "select: version not reached"
                    };
                    steps.push(WHO_READS[0][number], does, next);
                }
                Reading::Idle | Reading::Aboard(_) => {}
            }
        }
    }

    fn violated(&self, state: &State) -> Option<Invariant> {
        state.broken
    }

    fn at_rest(&self, state: &State) -> bool {
        state.clients.iter().all(|client| client.at == Reading::Idle && client.left == 0)
    }
}

fn run(variant: Variant) -> Run {
    Run { variant, reads: 2, newest: 3 }
}

#[test]
fn no_client_gets_less_than_it_asks_for() {
    let interesting = [
        "read: passes the local level by",
        "select, past all caches",
        "select: version not reached",
        "lease: hit",
    ];
    explore(&run(Variant::AsIs)).holds("min-version", "caches stale at will", &interesting);
}

#[test]
fn planted_bugs_are_caught() {
    use Invariant::{MinVersion, MinVersionStaysOutside};
    for (variant, invariant) in [
        (Variant::MinIgnored, MinVersion),
        (Variant::MinIgnoredLocally, MinVersion),
        (Variant::MinIgnoredOnLanding, MinVersion),
        (Variant::MinReachesRedis, MinVersionStaysOutside),
        (Variant::JoinAnyFlight, MinVersion),
    ] {
        let name = format!("{variant:?}; caches stale at will");
        explore(&run(variant)).catches(invariant, "min-version", &name);
    }
}
