//! What came of it: a table of how long tokens were let in, and what must be true of them.

use std::{fmt::Write as _, time::Duration};

use crate::{
    cluster::MAX_LAG,
    kinds::Kind,
    phases::{Cut, Phase, Round},
};

/// What is promised for every other node.
const PROMISED: Duration = Duration::from_secs(1);
/// What a thread may be late that reads a clock.
const LATE: Duration = Duration::from_millis(20);
/// How far a node may be behind at any time: it looks every 250 ms, and a look takes its time on a busy machine.
const BEHIND: Duration = Duration::from_secs(1);
/// Until a node that is no longer cut off has a new connection and has looked.
const BACK: Duration = Duration::from_secs(5);

/// One of the times of a cut.
type Of = fn(&Cut) -> Duration;

#[derive(Default)]
pub(crate) struct Report {
    pub(crate) rounds: Vec<Round>,
    pub(crate) cuts: Vec<Cut>,
}

pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) holds: bool,
    pub(crate) found: String,
}

impl Report {
    /// How long other nodes let tokens in, in milliseconds.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:20} {:25} {:>6} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8}\n",
            "", "", "seen", "p50 ms", "p90 ms", "p99 ms", "max ms", "own ms", "step ms"
        );
        for phase in self.phases() {
            for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
                let rounds: Vec<_> = self.of(phase, kind).collect();
                let mut times: Vec<_> =
                    rounds.iter().flat_map(|round| &round.others).map(|other| other.accepted).collect();
                times.sort();
                let own = rounds.iter().filter_map(|round| round.own).max().unwrap_or_default();
                let step = rounds.iter().map(|round| round.step).max().unwrap_or_default();
                let _ = writeln!(
                    table,
                    "{:20} {:25} {:6} {:7.0} {:7.0} {:7.0} {:7.0} {:8.1} {:8.1}",
                    phase.name(),
                    kind.map_or("all", Kind::name),
                    times.len(),
                    millis(part(&times, 0.5)),
                    millis(part(&times, 0.9)),
                    millis(part(&times, 0.99)),
                    millis(part(&times, 1.0)),
                    millis(own),
                    millis(step),
                );
            }
        }
        if !self.cuts.is_empty() {
            let _ = writeln!(
                table,
                "\nof a node that is cut off from PostgreSQL {} times, in ms from the cut on, least and most",
                self.cuts.len()
            );
            for (name, of) in CUT {
                let (least, most) = self.extremes(of);
                let _ = writeln!(table, "{name:46} {:8.0} {:8.0}", millis(least), millis(most));
            }
        }
        table
    }

    pub(crate) fn checks(&self) -> Vec<Check> {
        let mut checks = vec![];
        for phase in self.phases() {
            for kind in Kind::ALL {
                checks.push(self.check(phase, kind));
            }
        }
        if !self.cuts.is_empty() {
            let within = |name: &str, of: Of, bounds: [Duration; 2]| {
                let (least, most) = self.extremes(of);
                let [from, to] = bounds.map(millis);
                let found = format!(
                    "{:.0} to {:.0} ms, where {from:.0} to {to:.0} are allowed",
                    millis(least),
                    millis(most)
                );
                Check { name: name.into(), holds: bounds[0] <= least && most <= bounds[1], found }
            };
            let zero = Duration::ZERO;
            checks.push(within(CUT[0].0, CUT[0].1, [MAX_LAG - BEHIND, MAX_LAG + LATE]));
            checks.push(within(CUT[1].0, CUT[1].1, [MAX_LAG - BEHIND, MAX_LAG + BEHIND]));
            checks.push(within(CUT[2].0, CUT[2].1, [zero, MAX_LAG + LATE]));
            checks.push(within(CUT[3].0, CUT[3].1, [zero, BACK]));
        }
        checks
    }

    fn check(&self, phase: Phase, kind: Kind) -> Check {
        let rounds: Vec<_> = self.of(phase, Some(kind)).collect();
        let others = || rounds.iter().flat_map(|round| &round.others);
        let own = rounds.iter().filter_map(|round| round.own).max().unwrap_or_default();
        let longest = others().map(|other| other.accepted).max().unwrap_or_default();
        let in_reach = others().map(|other| other.accepted_in_reach).max().unwrap_or_default();
        let odd = rounds.iter().find_map(|round| round.odd);
        let mut found = format!(
            "{} rounds; not at all where it was done{}, for {:.0} ms at most elsewhere",
            rounds.len(),
            if own.is_zero() { "".into() } else { format!(", but for {:.1} ms", millis(own)) },
            millis(longest)
        );
        if in_reach != longest {
            let _ = write!(found, ", {:.0} ms of them after PostgreSQL was back", millis(in_reach));
        }
        if let Some(status) = odd {
            let _ = write!(found, "; and {status} was answered");
        }
        Check {
            name: format!("{}: {}", phase.name(), kind.name()),
            holds: !rounds.is_empty()
                && own.is_zero()
                && in_reach <= PROMISED
                && longest <= MAX_LAG + LATE
                && odd.is_none(),
            found,
        }
    }

    fn phases(&self) -> impl Iterator<Item = Phase> {
        Phase::ALL.into_iter().filter(|phase| self.rounds.iter().any(|round| round.phase == *phase))
    }

    fn of(&self, phase: Phase, kind: Option<Kind>) -> impl Iterator<Item = &Round> {
        self.rounds
            .iter()
            .filter(move |round| round.phase == phase && kind.is_none_or(|kind| round.kind == kind))
    }

    fn extremes(&self, of: Of) -> (Duration, Duration) {
        let times = || self.cuts.iter().map(of);
        (times().min().unwrap_or_default(), times().max().unwrap_or_default())
    }
}

const CUT: [(&str, Of); 4] = [
    ("it lets in a token that stands", |cut| cut.accepted),
    ("it says that it cannot tell (503)", |cut| cut.unknown),
    ("it lets in one revoked elsewhere (from then on)", |cut| cut.revoked_accepted),
    ("it serves again (from the end of the cut on)", |cut| cut.back),
];

/// The value below which that part of the sorted values lies.
fn part(sorted: &[Duration], part: f64) -> Duration {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
