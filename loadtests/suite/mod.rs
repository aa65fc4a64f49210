//! What the service does with requests at a constant rate, one kind after the other: `make load`.
//!
//! A request is due when it is due, and its time counts from then on, whatever became of those before it: nothing is left out
//! because the service was slow (coordinated omission). Each scenario has thresholds; the exit code is 1 when one is passed.

mod k6;
mod page;
mod scenarios;

use std::{
    collections::BTreeMap,
    fmt, fs,
    time::{Duration, Instant},
};

use self::scenarios::Scenario;
use crate::{
    Result, Settings,
    process::{Process, cpu},
    provenance::provenance,
    rate::{Answered, as_fast_as_can_be, ask},
    servers::{Database, Servers},
};

const USERS: u64 = 20_000;
const CONNECTIONS: usize = 128;
/// Of each scenario, before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// What is promised of the p99 of look-ups in memory at half load, in milliseconds.
const HALF_LOAD: f64 = 5.0;

/// What was seen of a scenario.
pub(crate) struct Outcome {
    name: &'static str,
    what: &'static str,
    rate: f64,
    /// In milliseconds, sorted.
    times: Vec<f64>,
    /// Those that were not answered as they should be.
    wrong: usize,
    /// Milliseconds of processor time for each request: the service, Redis, PostgreSQL, this program.
    cpu: [f64; 4],
    /// In milliseconds, that 99 of 100 may take.
    threshold: f64,
    more: String,
}

impl Outcome {
    /// The time within which such a part was answered.
    fn within(&self, part: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        self.times.get(((self.times.len() as f64 * part) as usize).min(last)).copied().unwrap_or(f64::NAN)
    }

    fn holds(&self) -> bool {
        self.wrong == 0 && self.within(0.99) <= self.threshold
    }
}

/// All of it, for people on a terminal.
pub(crate) struct Report {
    outcomes: Vec<Outcome>,
    mixed: k6::Summary,
    head: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.head)?;
        writeln!(
            f,
            "{:14} {:>7} {:>8} {:>6} {:>9} {:>9} {:>9} {:>9}  {:>9} {:>8} {:>10} {:>8}",
            "",
            "1/s",
            "asked",
            "wrong",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "most ms",
            "our CPU",
            "Redis",
            "PostgreSQL",
            "load's"
        )?;
        for outcome in &self.outcomes {
            let [p50, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(|part| outcome.within(part));
            let [ours, redis, postgres, own] = outcome.cpu;
            writeln!(
                f,
                "{:14} {:7.0} {:8} {:6} {p50:9.2} {p90:9.2} {p99:9.2} {most:9.2}  {ours:9.3} {redis:8.3} {postgres:10.3} {own:8.3}  {}{}",
                outcome.name,
                outcome.rate,
                outcome.times.len(),
                outcome.wrong,
                outcome.more,
                if outcome.holds() { "" } else { "  OVER ITS THRESHOLD" },
            )?;
        }
        writeln!(f, "\n{}", self.mixed)
    }
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Report> {
    k6::check()?;
    let users = settings.users.unwrap_or(USERS);
    let database = servers.database("suite", 10, users).await?;
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let head = format!(
        "# requests at a constant rate, one kind after the other\n# {}\n# load {command}: {} s each, on {CONNECTIONS} connections at most\n\
         # {users} users in 10 tenants. Times are from when a request was due. CPU is in milliseconds for each request\n",
        provenance(),
        settings.seconds
    );
    let mut outcomes = vec![half_load(settings, servers, &database).await?];
    for scenario in scenarios::all(&database)? {
        eprintln!("{}: {}", scenario.name, scenario.what);
        outcomes.push(run(settings, servers, &database, scenario).await?);
    }
    let node = start(servers, &database, "api", &[], "k6").await?;
    eprintln!("k6: a mix of everything");
    let mixed = k6::run(settings, servers, &database, &node).await?;
    node.stop().await?;
    let report = Report { outcomes, mixed, head };
    if let Some(file) = &settings.page {
        fs::write(file, page::html(&report))?;
    }
    let over: Vec<_> = report.outcomes.iter().filter(|one| !one.holds()).map(|one| one.name).collect();
    if over.is_empty() && report.mixed.holds() {
        Ok(report)
    } else {
        Err(format!(
            "{report}\nthresholds were passed: {}{}",
            over.join(", "),
            if report.mixed.holds() { "" } else { " k6" }
        )
        .into())
    }
}

/// Look-ups in the process's memory at half of what can be done at all, which is measured first.
async fn half_load(settings: &Settings, servers: &Servers, database: &Database) -> Result<Outcome> {
    let hot = |rate| scenarios::hot(database, "half load", rate);
    let Scenario { next, settings: different, .. } = hot(0.0)?;
    eprintln!("half load: how many look-ups a second can be done");
    let node = start(servers, database, "api", &different, "capacity").await?;
    let next = std::sync::Arc::new(next);
    let mut rate = 0.0;
    // The first time is to warm up.
    for time in [WARM_UP, Duration::from_secs(settings.seconds)] {
        let next = next.clone();
        let (done, took) = as_fast_as_can_be(node.address, time, CONNECTIONS / 4, move |n| next(n)).await?;
        rate = done as f64 / took.as_secs_f64();
    }
    node.stop().await?;
    eprintln!("half load: half of {rate:.0} a second");
    let scenario = Scenario { threshold: HALF_LOAD, ..hot(rate / 2.0)? };
    let outcome = run(settings, servers, database, scenario).await?;
    Ok(Outcome { more: format!("{}half of {rate:.0} a second", outcome.more), ..outcome })
}

async fn run(
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    scenario: Scenario,
) -> Result<Outcome> {
    let node = start(servers, database, scenario.command, &scenario.settings, scenario.name).await?;
    let Scenario { name, what, rate, expected, threshold, next, before, after, .. } = scenario;
    let shared = std::sync::Arc::new(next);
    let warm = shared.clone();
    ask(node.address, rate, WARM_UP, CONNECTIONS, move |n| warm(n)).await?;
    if let Some(before) = before {
        before(servers, database).await?;
    }
    let costs = || -> Result<[f64; 4]> {
        let [redis, postgres] = servers.cpu()?;
        Ok([node.cpu()?, redis, postgres, cpu(std::process::id())?])
    };
    let (costs_before, begun) = (costs()?, Instant::now());
    let time = Duration::from_secs(settings.seconds);
    // Others than those of the warm-up.
    let first = (rate * WARM_UP.as_secs_f64()) as u64;
    let answers = ask(node.address, rate, time, CONNECTIONS, move |n| shared(first + n)).await?;
    let costs_after = costs()?;
    let more = match after {
        Some(after) => after(servers, database, begun).await?,
        None => String::new(),
    };
    node.stop().await?;
    let wrong = |answer: &&Answered| answer.status.is_none_or(|status| !expected.contains(&status));
    let mut statuses = BTreeMap::new();
    for answer in answers.iter().filter(wrong) {
        *statuses.entry(answer.status.unwrap_or_default()).or_insert(0) += 1;
    }
    let of_them = statuses.iter().map(|(status, count)| format!("{count} x {status}"));
    // 0: no answer.
    let more =
        [more].into_iter().filter(|more| !more.is_empty()).chain(of_them).collect::<Vec<_>>().join(", ");
    let mut times: Vec<_> = answers.iter().map(|answer| answer.after.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let each = |n: usize| (costs_after[n] - costs_before[n]) * 1e3 / answers.len().max(1) as f64;
    Ok(Outcome {
        name,
        what,
        rate,
        times,
        wrong: statuses.values().sum(),
        cpu: [each(0), each(1), each(2), each(3)],
        threshold,
        more,
    })
}

async fn start(
    servers: &Servers,
    database: &Database,
    role: &str,
    different: &[(&str, &str)],
    log: &str,
) -> Result<Process> {
    // Whoever measures comes from one address.
    let settings = [("SMTP_URL", "smtp://127.0.0.1:1"), ("RATE_LIMIT_LOGIN", "off")];
    servers.tenantry(database, role, &[&settings, different].concat(), log).await
}
