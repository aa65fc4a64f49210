//! What a run found: a table for the terminal, and a page with every detail.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    check::{Findings, Rule, Violation},
    history::{History, Micros, Outcome, Phase, Version},
};

/// Violations of one rule that are shown in full.
const SHOWN: usize = 10;

/// What happened in one phase.
#[derive(Debug, Default)]
struct Row {
    name: &'static str,
    seconds: f64,
    reads: usize,
    levels: BTreeMap<&'static str, usize>,
    acknowledged: usize,
    /// Of these: without a floor in Redis, and so told by the feed.
    by_feed: usize,
    unknown: usize,
    refused: usize,
    statuses: BTreeMap<u16, usize>,
    staleness: Micros,
    excused: BTreeMap<String, usize>,
    violations: usize,
}

pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) history: &'a History,
    pub(crate) findings: &'a Findings,
}

impl Report<'_> {
    /// For the terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{:<16} {:>5} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>9} {:>7} {:>6}  errors\n",
            "phase",
            "s",
            "reads",
            "local",
            "redis",
            "miss",
            "writes",
            "by feed",
            "unknown",
            "stale ms",
            "excused",
            "viol."
        );
        for row in self.rows() {
            let level = |name| row.levels.get(name).copied().unwrap_or(0);
            let _ = writeln!(
                text,
                "{:<16} {:>5.1} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>9.1} {:>7} {:>6}  {}",
                row.name,
                row.seconds,
                row.reads,
                level("local"),
                level("redis"),
                level("miss"),
                row.acknowledged,
                row.by_feed,
                row.unknown,
                row.staleness as f64 / 1000.0,
                row.excused.values().sum::<usize>(),
                row.violations,
                statuses(&row.statuses),
            );
        }
        for (rule, of_rule) in self.by_rule() {
            let _ = writeln!(text, "\n{rule}: {}", of_rule.len());
            for violation in of_rule.iter().take(3) {
                let _ = writeln!(text, "  at {} {}", seconds(violation.at), violation.detail);
            }
        }
        let _ = write!(text, "\nseed {}: {} violations", self.seed, self.findings.violations.len());
        text
    }

    /// A page.
    pub(crate) fn html(&self) -> String {
        let mut page = format!(
            "<!doctype html><meta charset=utf-8><title>Tenantry: history</title><style>\
             body{{font:14px sans-serif;margin:2em}}td,th{{padding:.2em .6em;text-align:right}}\
             td:first-child,th:first-child{{text-align:left}}tr:nth-child(even){{background:#eee}}\
             li,pre{{font:12px monospace;white-space:pre-wrap}}</style>\
             <h1>{} violations</h1><p>Seed {}; {} reads and {} writes; {} reads of the healed cluster.</p>\
             <table><tr><th>phase<th>seconds<th>reads<th>local<th>redis<th>miss<th>writes<th>by feed<th>unknown<th>refused\
             <th>worst staleness, ms<th>excused<th>errors<th>violations</tr>",
            self.findings.violations.len(),
            self.seed,
            self.history.reads.len(),
            self.history.writes.len(),
            self.history.finals.len(),
        );
        for row in self.rows() {
            let level = |name| row.levels.get(name).copied().unwrap_or(0);
            let excused: Vec<_> = row.excused.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            let _ = write!(
                page,
                "<tr><td>{}<td>{:.1}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{}<td>{:.1}<td>{}<td>{}<td>{}</tr>",
                row.name,
                row.seconds,
                row.reads,
                level("local"),
                level("redis"),
                level("miss"),
                row.acknowledged,
                row.by_feed,
                row.unknown,
                row.refused,
                row.staleness as f64 / 1000.0,
                excused.join(", "),
                statuses(&row.statuses),
                row.violations,
            );
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

    fn rows(&self) -> Vec<Row> {
        let (history, findings) = (self.history, self.findings);
        let within = |phase: &Phase, at| phase.from <= at && at < phase.to;
        let row = |phase: &Phase| {
            let mut row = Row { name: phase.name, ..Row::default() };
            row.seconds = (phase.to - phase.from) as f64 / 1e6;
            for (read, staleness) in history.reads.iter().zip(&findings.staleness) {
                if within(phase, read.start) {
                    row.reads += 1;
                    *row.levels.entry(read.level).or_default() += 1;
                    row.staleness = row.staleness.max(*staleness);
                }
            }
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

    fn phase(&self, at: Micros) -> &'static str {
        let phase = self.history.phases.iter().find(|phase| phase.from <= at && at < phase.to);
        phase.map_or("the end", |phase| phase.name)
    }
}

fn by_feed(history: &History, key: usize, version: Version) -> bool {
    let versions = &history.ledger[key];
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
