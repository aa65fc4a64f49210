//! Visits every state a model can get into, breadth first, so that the way to a violation is a shortest one.

use std::{
    collections::BTreeSet,
    fmt::{self, Debug, Write},
    hash::{Hash, Hasher},
    time::Instant,
};

/// What a model promises. Which of them a run promises depends on the faults that happen in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Invariant {
    /// G6: once all is quiet Redis holds nothing that differs from the row.
    Converges,
    /// G1: a read that began after a write was acknowledged by the same process returns that write or a newer one.
    ReadYourWrites,
    /// G2 without the local level: a read from Redis or Postgres returns at least what was committed when it began.
    NeverStaleFromRedis,
    /// G5: what is returned or stored is a row, version and body, that was committed.
    NeverUncommitted,
    /// G2, G2b, G3: a read is stale for no longer than the bound of its run.
    StaleWithinBound,
    /// Once all is quiet no floor stands above the row, so that what is read can be cached.
    NoFloorAboveTheRow,
    /// G4: never less than the minimum version, and never a refusal where the row has reached it.
    MinVersion,
    /// A client's minimum version changes nothing for others.
    MinVersionStaysOutside,
    /// At most one `select` under way for a row and node, and one flight that waits.
    TwoFlights,
    /// Something can always happen until all is at rest: nobody waits for ever.
    NobodyIsStuck,
}

/// A step of one actor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) who: &'static str,
    pub(crate) does: &'static str,
}

/// What can happen next.
pub(crate) struct Steps<S> {
    next: Vec<(Step, S)>,
}

impl<S> Steps<S> {
    pub(crate) fn push(&mut self, who: &'static str, does: &'static str, state: S) {
        self.next.push((Step { who, does }, state));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_empty()
    }
}

pub(crate) trait Model {
    type State: Copy + Eq + Hash + Debug;

    fn start(&self) -> Vec<Self::State>;
    /// Every step that can be taken in `state`.
    fn steps(&self, state: &Self::State, steps: &mut Steps<Self::State>);
    /// What `state` violates.
    fn violated(&self, state: &Self::State) -> Option<Invariant>;
    /// Whether nothing more needs to happen.
    fn at_rest(&self, state: &Self::State) -> bool;
    /// Of states that differ in nothing but names, one.
    fn canonical(&self, state: Self::State) -> Self::State {
        state
    }
}

/// What came out.
pub(crate) struct Explored {
    pub(crate) states: usize,
    pub(crate) violation: Option<Violation>,
    steps: usize,
    seconds: f64,
    seen: BTreeSet<&'static str>,
}

pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    /// A shortest way there.
    trace: Vec<Step>,
    state: String,
}

/// Whether the long form was asked for.
pub(crate) fn large() -> bool {
    std::env::var("MODEL").is_ok_and(|form| form == "large")
}

/// Explores until a violation or the end.
pub(crate) fn explore<M: Model>(model: &M) -> Explored {
    let begun = Instant::now();
    let mut known = Known::new();
    let mut seen = Seen::default();
    let (mut taken, mut at) = (0, 0);
    let mut violation = None;
    for state in model.start() {
        known.add(model.canonical(state), 0);
    }
    let mut steps = Steps { next: Vec::with_capacity(64) };
    'all: while at < known.states.len() {
        let state = known.states[at];
        model.steps(&state, &mut steps);
        if let Some(invariant) = model.violated(&state) {
            violation = Some((invariant, at));
            break 'all;
        }
        if steps.next.is_empty() && !model.at_rest(&state) {
            violation = Some((Invariant::NobodyIsStuck, at));
            break 'all;
        }
        for &(step, next) in &steps.next {
            taken += 1;
            seen.add(step.does);
            known.add(model.canonical(next), at);
        }
        steps.next.clear();
        at += 1;
    }
    let violation = violation.map(|(invariant, at)| Violation {
        invariant,
        trace: known.way_to(model, at),
        state: format!("{:?}", known.states[at]),
    });
    let seconds = begun.elapsed().as_secs_f64();
    Explored { states: known.states.len(), violation, steps: taken, seconds, seen: seen.all }
}

impl Explored {
    /// Prints a line of the table and fails unless every invariant was kept and each of `interesting` happened: a model
    /// in which nothing happens keeps every invariant.
    pub(crate) fn holds(self, model: &str, run: &str, interesting: &[&str]) {
        self.print(model, run);
        if let Some(violation) = &self.violation {
            panic!("{model}, {run}: {violation}");
        }
        for step in interesting {
            assert!(self.seen.contains(step), "{model}, {run}: it never happened: {step}\n{:#?}", self.seen);
        }
    }

    /// Prints a line of the table and fails unless `invariant` was the first to be violated.
    pub(crate) fn catches(self, invariant: Invariant, model: &str, run: &str) {
        self.print(model, run);
        match &self.violation {
            Some(violation) if violation.invariant == invariant => {
                if std::env::var_os("MODEL_TRACES").is_some() {
                    println!("{model}, {run}: {violation}");
                }
            }
            Some(violation) => panic!("{model}, {run}: not {invariant:?} but {violation}"),
            None => panic!("{model}, {run}: not caught; {invariant:?} was to be violated"),
        }
    }

    fn print(&self, model: &str, run: &str) {
        let Self { states, steps, seconds, .. } = self;
        let verdict = match &self.violation {
            None => "holds".to_owned(),
            Some(Violation { invariant, trace, .. }) => {
                format!("caught: {invariant:?} after {} steps", trace.len())
            }
        };
        println!("| {model} | {run} | {states} | {steps} | {seconds:.2} | {verdict} |");
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{:?} is violated:\n", self.invariant);
        for (number, Step { who, does }) in self.trace.iter().enumerate() {
            writeln!(text, "{:4}. {who:<9} {does}", number + 1)?;
        }
        write!(f, "{text}      {}", self.state)
    }
}

/// The states found so far, in the order they were found, and how.
struct Known<S> {
    states: Vec<S>,
    parents: Vec<u32>,
    /// At the place of a hash, or the next that was free: the hash, and below it the number of the state plus one.
    places: Vec<u64>,
}

impl<S: Copy + Eq + Hash> Known<S> {
    fn new() -> Self {
        Self { states: Vec::new(), parents: Vec::new(), places: vec![0; 1 << 16] }
    }

    fn add(&mut self, state: S, parent: usize) {
        let hash = hash(&state);
        let mask = self.places.len() - 1;
        let mut place = (hash >> 32) as usize & mask;
        while self.places[place] != 0 {
            let found = self.places[place];
            if found >> 32 == hash >> 32 && self.states[(found & NUMBER) as usize - 1] == state {
                return;
            }
            place = (place + 1) & mask;
        }
        self.states.push(state);
        self.parents.push(parent as u32);
        self.places[place] = hash & !NUMBER | self.states.len() as u64;
        if self.states.len() * 2 > self.places.len() {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let mask = self.places.len() * 2 - 1;
        let old = std::mem::replace(&mut self.places, vec![0; mask + 1]);
        for found in old {
            if found != 0 {
                let mut place = (found >> 32) as usize & mask;
                while self.places[place] != 0 {
                    place = (place + 1) & mask;
                }
                self.places[place] = found;
            }
        }
    }

    /// Steps are not stored; those on the way are found again.
    fn way_to<M: Model<State = S>>(&self, model: &M, mut at: usize) -> Vec<Step> {
        let starts = model.start().len();
        let mut way = Vec::new();
        while at >= starts {
            let parent = self.parents[at] as usize;
            let mut steps = Steps { next: Vec::new() };
            model.steps(&self.states[parent], &mut steps);
            let step = steps.next.iter().find(|(_, next)| model.canonical(*next) == self.states[at]);
            way.push(step.unwrap().0);
            at = parent;
        }
        way.reverse();
        way
    }
}

const NUMBER: u64 = 0xffff_ffff;

/// The standard hasher is made against attackers; without optimisation it would cost most of the time.
struct Fnv(u64);

fn hash<S: Hash>(state: &S) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    state.hash(&mut hasher);
    hasher.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u8(byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0 ^ byte as u64).wrapping_mul(0x0100_0000_01b3);
    }

    /// The length of an array, which is the same for all.
    fn write_usize(&mut self, _: usize) {}

    /// Which variant of an enum.
    fn write_isize(&mut self, variant: isize) {
        self.write_u8(variant as u8);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The names of the steps that were taken, with a small memory in front: nearly all have been seen before.
struct Seen {
    all: BTreeSet<&'static str>,
    lately: [usize; 256],
}

impl Default for Seen {
    fn default() -> Self {
        Self { all: BTreeSet::new(), lately: [0; 256] }
    }
}

impl Seen {
    fn add(&mut self, name: &'static str) {
        let address = name.as_ptr() as usize;
        let lately = &mut self.lately[address % 251];
        if *lately != address {
            *lately = address;
            self.all.insert(name);
        }
    }
}
