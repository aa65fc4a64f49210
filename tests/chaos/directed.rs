//! `--planted`: each bug in the real code, caught or not, and the same steps without it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use tenantry_cache::planted::Bug;
use tokio::time::sleep;

use crate::{
    Result,
    check::{Rule, Violation, check},
    cluster::Cluster,
    scenarios,
};

/// How often a scenario is tried in one run.
const TRIES: usize = 6;

/// What the runs of one scenario found.
pub(crate) struct Found {
    pub(crate) bug: Bug,
    /// By run: how often which rule was broken.
    runs: Vec<BTreeMap<Rule, usize>>,
    tries: usize,
    /// Of the first violation.
    example: String,
}

impl Found {
    fn broken(&self) -> usize {
        self.runs.iter().filter(|rules| !rules.is_empty()).count()
    }
}

/// What was planted, and the same steps without it.
pub(crate) struct Table {
    pub(crate) planted: Vec<Found>,
    pub(crate) control: Vec<Found>,
}

/// Plays each bug's scenario `runs` times on each of two clusters, one with the bug.
pub(crate) async fn run(
    planted: &Arc<Cluster>,
    control: &Arc<Cluster>,
    bugs: &[Bug],
    runs: usize,
) -> Result<Table> {
    let (planted, control) =
        tokio::try_join!(play_all(planted, bugs, runs, true), play_all(control, bugs, runs, false))?;
    Ok(Table { planted, control })
}

async fn play_all(cluster: &Arc<Cluster>, bugs: &[Bug], runs: usize, plant: bool) -> Result<Vec<Found>> {
    let (mut all, mut key) = (vec![], 0);
    for &bug in bugs {
        if plant {
            for process in cluster.processes() {
                process.plant(Some(bug))?;
            }
            cluster.replace(cluster.processes()).await?;
        }
        let mut found = Found { bug, runs: vec![], tries: 0, example: String::new() };
        for _ in 0..runs {
            let (findings, tries) = play(cluster, bug, plant, &mut key).await?;
            found.tries += tries;
            let mut rules: BTreeMap<Rule, usize> = BTreeMap::new();
            for violation in &findings {
                *rules.entry(violation.rule).or_default() += 1;
            }
            if let (true, Some(first)) = (found.example.is_empty(), findings.first()) {
                found.example = format!("{}: {}", first.rule, first.detail);
            }
            found.runs.push(rules);
        }
        let what = if plant { "planted" } else { "without" };
        println!(
            "{:6.1} s  {bug:?} {what}: {} of {runs} runs broke a rule",
            cluster.clock.now() as f64 / 1e6,
            found.broken()
        );
        all.push(found);
    }
    Ok(all)
}

/// Plays until the steps came about and, where the bug is planted, until it was caught, `TRIES` times at most: a machine that
/// was busy elsewhere may have kept Redis from answering in its 50 ms. Returns what was found, and in how many tries.
async fn play(
    cluster: &Arc<Cluster>,
    bug: Bug,
    plant: bool,
    key: &mut usize,
) -> Result<(Vec<Violation>, usize)> {
    let mut tries = 0;
    loop {
        (*key, tries) = (*key + 1, tries + 1);
        match scenarios::play(cluster, bug, *key).await {
            Ok(history) => {
                let violations = check(&history).violations;
                // Without the bug Redis may still be cold where it was not told of the rollback in time; not every time.
                let cold = violations.iter().all(|violation| violation.rule == Rule::Cold);
                let again = if plant { violations.is_empty() } else { cold && !violations.is_empty() };
                if tries == TRIES || !again {
                    return Ok((violations, tries));
                }
            }
            Err(error) if tries == TRIES => return Err(format!("{bug:?}: {error}").into()),
            Err(error) => {
                println!("          {bug:?} did not come about: {error}");
                // Until every node uses Redis again, or the machine has time.
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

impl Table {
    /// How many bugs were caught in every run and how many scenarios were clean without them, and how many were not.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let caught = self.planted.iter().map(|found| found.broken() == found.runs.len());
        let clean = self.control.iter().map(|found| found.broken() == 0);
        let passed = caught.chain(clean).filter(|ok| *ok).count();
        (passed, self.planted.len() + self.control.len() - passed)
    }

    pub(crate) fn text(&self) -> String {
        let mut text = "| bug | caught | tries | by | without it |\n|---|---:|---:|---|---:|\n".to_owned();
        for (planted, control) in self.planted.iter().zip(&self.control) {
            let rules: BTreeSet<_> =
                planted.runs.iter().flat_map(BTreeMap::keys).map(Rule::to_string).collect();
            let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "| {:?} | {} of {} | {} | {rules} | {} of {} |",
                planted.bug,
                planted.broken(),
                planted.runs.len(),
                planted.tries,
                control.broken(),
                control.runs.len()
            );
        }
        for found in self.control.iter().filter(|found| found.broken() > 0) {
            let _ = writeln!(text, "\nwithout {:?}: {}", found.bug, found.example);
        }
        text
    }
}
