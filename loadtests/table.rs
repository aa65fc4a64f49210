//! The table: medians of all rounds, and how far the runs were apart.

use std::{fmt, time::Duration};

use crate::{Settings, provenance::provenance};

/// What one run has cost.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) requests: f64,
    pub(crate) time: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Seconds of the server, Redis and PostgreSQL.
    pub(crate) cpu: [f64; 3],
    pub(crate) redis_calls: f64,
    /// The part of the look-ups that the level in question answered.
    pub(crate) share: Option<f64>,
}

impl Run {
    fn cpu_of(&self, server: usize) -> f64 {
        self.cpu[server] * 1000.0 / self.requests
    }
}

pub(crate) struct Table {
    head: String,
    notes: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Default, Clone)]
struct Row {
    name: String,
    runs: Vec<Run>,
    baseline: Option<usize>,
}

impl Table {
    pub(crate) fn new(title: &str, settings: &Settings, rows: usize) -> Self {
        let (connections, seconds, rounds) = (settings.connections, settings.seconds, settings.rounds);
        let head = head(title, &format!("wrk -t1 -c{connections} -d{seconds}s, {rounds} rounds, medians"));
        Self { head, notes: vec![], rows: vec![Row::default(); rows] }
    }

    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// A row is shown as a multiple of another.
    pub(crate) fn compare(&mut self, row: usize, baseline: usize) {
        self.rows[row].baseline = Some(baseline);
    }

    pub(crate) fn add(&mut self, row: usize, name: &str, run: Run) {
        name.clone_into(&mut self.rows[row].name);
        self.rows[row].runs.push(run);
    }

    pub(crate) fn last(&self, row: usize) -> Option<&Run> {
        self.rows[row].runs.last()
    }
}

impl Row {
    fn sorted(&self, of: impl Fn(&Run) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        let values = self.sorted(of);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.head)?;
        for note in &self.notes {
            writeln!(f, "# {note}")?;
        }
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        writeln!(
            f,
            "#\n# CPU is in seconds for 1,000 requests; behind ours are the least and the most of all rounds.\n\
             # \"of it\" is the part of the look-ups that the level in question answered.\n\n\
             {:width$}  requests/s   p50 ms   p99 ms  our CPU  (spread)         Redis  PostgreSQL  ratio   of it  Redis calls",
            ""
        )?;
        for row in self.rows.iter().filter(|row| !row.runs.is_empty()) {
            let ours = row.sorted(|run| run.cpu_of(0));
            let (least, most) = (ours.first().unwrap_or(&f64::NAN), ours.last().unwrap_or(&f64::NAN));
            let median = row.median(|run| run.cpu_of(0));
            let ratio = row.baseline.map(|baseline| median / self.rows[baseline].median(|run| run.cpu_of(0)));
            let share = row.runs.iter().filter_map(|run| run.share).min_by(f64::total_cmp);
            writeln!(
                f,
                "{:width$}  {:10.0} {:8.2} {:8.2} {median:8.4}  ({least:.4}-{most:.4}) {:8.4} {:11.4}  {:>5}  {:>6}  {:11.2}",
                row.name,
                row.median(|run| run.requests / run.time.as_secs_f64()),
                row.median(|run| run.p50.as_secs_f64() * 1e3),
                row.median(|run| run.p99.as_secs_f64() * 1e3),
                row.median(|run| run.cpu_of(1)),
                row.median(|run| run.cpu_of(2)),
                ratio.map_or("-".into(), |ratio| format!("{ratio:.2}")),
                share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0)),
                row.median(|run| run.redis_calls / run.requests),
            )?;
        }
        Ok(())
    }
}

/// The first lines of a report: what, when, of which commit, where, and how.
pub(crate) fn head(title: &str, how: &str) -> String {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    format!("# {title}\n# {}\n# load {command}: {how}\n", provenance())
}
