//! What a run found: a table for the terminal, and a page with every detail.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    check::{Findings, Rule, Violation},
    history::{History, Level, Micros, Outcome, Phase, Version},
    load::HOT,
};

/// Violations of one rule that are shown in full.
const SHOWN: usize = 10;

/// What happened in one phase.
#[derive(Debug, Default)]
struct Row {
    name: String,
    seconds: f64,
    reads: usize,
    levels: BTreeMap<Level, usize>,
    acknowledged: usize,
    /// Of these: without a floor in Redis, and so told by the feed.
    by_feed: usize,
    unknown: usize,
    refused: usize,
    statuses: BTreeMap<u16, usize>,
    staleness: Micros,
    excused: BTreeMap<String, usize>,
    /// Of the reads of hot users once the last fault was over, in percent.
    hits: f64,
    /// From the last fault to the moment when every node has shown every row; the load went on for a while of it.
    shown: Micros,
    violations: usize,
}

pub(crate) struct Report<'a> {
    /// None: a stored history.
    pub(crate) seed: Option<u64>,
    pub(crate) history: &'a History,
    pub(crate) findings: &'a Findings,
}

const COLUMNS: [&str; 16] = [
    "phase",
    "s",
    "reads",
    "local",
    "redis",
    "miss",
    "other",
    "writes",
    "by feed",
    "unknown",
    "refused",
    "stale ms",
    "excused",
    "hits %",
    "healed ms",
    "viol.",
];

impl Row {
    fn cells(&self) -> [String; 16] {
        let level = |level| self.levels.get(&level).copied().unwrap_or(0).to_string();
        [
            self.name.clone(),
            format!("{:.1}", self.seconds),
            self.reads.to_string(),
            level(Level::Local),
            level(Level::Redis),
            level(Level::Miss),
            level(Level::Any),
            self.acknowledged.to_string(),
            self.by_feed.to_string(),
            self.unknown.to_string(),
            self.refused.to_string(),
            format!("{:.0}", self.staleness as f64 / 1000.0),
            self.excused.values().sum::<usize>().to_string(),
            format!("{:.0}", self.hits),
            (self.shown / 1000).to_string(),
            self.violations.to_string(),
        ]
    }
}

impl Report<'_> {
    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let line = |cells: &[String]| {
            let cells = cells.iter().enumerate();
            let cells =
                cells.map(|(n, cell)| if n == 0 { format!("{cell:<15}") } else { format!("{cell:>9}") });
            cells.collect::<String>()
        };
        let mut text = format!("{}  errors\n", line(&COLUMNS.map(String::from)));
        for row in self.rows() {
            let _ = writeln!(text, "{}  {}", line(&row.cells()), statuses(&row.statuses));
        }
        for (rule, of_rule) in self.by_rule() {
            let _ = writeln!(text, "\n{rule}: {}", of_rule.len());
            for violation in of_rule.iter().take(3) {
                let at = (seconds(violation.at), self.phase(violation.at));
                let _ = writeln!(text, "  at {} in {}: {}", at.0, at.1, violation.detail);
            }
        }
        let reads = self.history.reads.len() + self.history.nobodies.len() + self.history.healed.len();
        let acknowledged = |write: &&crate::history::Write| matches!(write.outcome, Outcome::Acknowledged(_));
        let writes = self.history.writes.iter().filter(acknowledged).count();
        let seed = self.seed.map_or("stored".into(), |seed| format!("seed {seed}"));
        let violations = self.findings.violations.len();
        let _ = write!(
            text,
            "\n{seed}: {violations} violations in {reads} reads and {writes} acknowledged writes"
        );
        text
    }

    /// A page.
    pub(crate) fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>Tenantry: history</title><style>\
             body{{font:14px sans-serif;margin:2em}}td,th{{padding:.2em .6em;text-align:right}}\
             td:first-child,th:first-child{{text-align:left}}tr:nth-child(even){{background:#eee}}\
             li,pre{{font:12px monospace;white-space:pre-wrap}}</style>\
             <h1>{} violations</h1><p>Seed {:?}; {} reads and {} writes; {} reads of the healed cluster.</p>\
             <table><tr><th>{}<th>excused<th>errors</tr>",
            self.findings.violations.len(),
            self.seed,
            self.history.reads.len(),
            self.history.writes.len(),
            self.history.healed.len(),
            COLUMNS.join("<th>")
        );
        for row in self.rows() {
            let excused: Vec<_> = row.excused.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            let (cells, errors) = (row.cells().join("<td>"), statuses(&row.statuses));
            let _ = write!(page, "<tr><td>{cells}<td>{}<td>{errors}</tr>", excused.join(", "));
        }
        page.push_str("</table>");
        for (rule, of_rule) in self.by_rule() {
            let _ = write!(page, "<h2>{rule}: {}</h2><ol>", of_rule.len());
            for violation in of_rule.iter().take(SHOWN) {
                let detail = escaped(&violation.detail);
                let _ = write!(
                    page,
                    "<li>at {} in {}: {detail}",
                    seconds(violation.at),
                    self.phase(violation.at)
                );
            }
            page.push_str("</ol>");
        }
        page.push_str("<h2>What the nemesis did</h2><pre>");
        for event in &self.history.events {
            let (from, to) = (seconds(event.from), seconds(event.to));
            let _ = writeln!(page, "{from} to {to}  {}", escaped(&event.what));
        }
        page.push_str("</pre>");
        page
    }

    /// How many phases broke no rule, and how many did; what belongs to none counts as one more.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let rows = self.rows();
        let clean = rows.iter().filter(|row| row.violations == 0).count();
        let others = rows.iter().map(|row| row.violations).sum::<usize>() < self.findings.violations.len();
        (clean, rows.len() - clean + usize::from(others))
    }

    fn rows(&self) -> Vec<Row> {
        let (history, findings) = (self.history, self.findings);
        let within = |phase: &Phase, at| phase.from <= at && at < phase.shown;
        let row = |phase: &Phase| {
            let mut row = Row { name: phase.name.clone(), ..Row::default() };
            row.seconds = (phase.to - phase.from) as f64 / 1e6;
            row.shown = phase.shown - phase.healed;
            let (mut hot, mut hits) = (0, 0);
            for (read, staleness) in history.reads.iter().zip(&findings.staleness) {
                if within(phase, read.start) {
                    row.reads += 1;
                    *row.levels.entry(read.level).or_default() += 1;
                    row.staleness = row.staleness.max(*staleness);
                    if read.start >= phase.healed && read.key < HOT && read.level != Level::Any {
                        hot += 1;
                        hits += usize::from(read.level != Level::Miss);
                    }
                }
            }
            row.hits = 100.0 * f64::from(hits as u32) / f64::from((hot as u32).max(1));
            for write in history.writes.iter().filter(|write| within(phase, write.start)) {
                let status = match write.outcome {
                    Outcome::Acknowledged(version) => {
                        row.acknowledged += 1;
                        row.by_feed += usize::from(by_feed(history, write.key, version));
                        continue;
                    }
                    Outcome::Unknown(status) => {
                        row.unknown += 1;
                        status
                    }
                    Outcome::Refused(status) => {
                        row.refused += 1;
                        status
                    }
                };
                *row.statuses.entry(status).or_default() += 1;
            }
            for failure in history.failures.iter().filter(|failure| within(phase, failure.start)) {
                *row.statuses.entry(failure.status).or_default() += 1;
            }
            for (place, reason) in &findings.excused {
                if within(phase, history.reads[*place].start) {
                    *row.excused.entry(format!("{reason:?}")).or_default() += 1;
                }
            }
            row.violations = findings.violations.iter().filter(|one| within(phase, one.at)).count();
            row
        };
        history.phases.iter().map(row).collect()
    }

    fn by_rule(&self) -> BTreeMap<Rule, Vec<&Violation>> {
        let mut rules: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for violation in &self.findings.violations {
            rules.entry(violation.rule).or_default().push(violation);
        }
        rules
    }

    fn phase(&self, at: Micros) -> &str {
        let phase = self.history.phases.iter().find(|phase| phase.from <= at && at < phase.shown);
        phase.map_or("the end", |phase| &phase.name)
    }
}

fn by_feed(history: &History, key: usize, version: Version) -> bool {
    let Some(versions) = history.ledger.get(key) else { return false };
    let found = versions.binary_search_by_key(&version, |one| one.version);
    found.is_ok_and(|place| versions[place].by_feed)
}

fn statuses(statuses: &BTreeMap<u16, usize>) -> String {
    let each = statuses.iter().map(|(status, n)| match status {
        0 => format!("{n} x no answer"),
        status => format!("{n} x {status}"),
    });
    each.collect::<Vec<_>>().join(", ")
}

fn seconds(at: Micros) -> String {
    format!("{:.3} s", at as f64 / 1e6)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
