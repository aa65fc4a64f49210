//! What the service does with requests at a constant rate, one kind after the other: `make load`.
//!
//! A request is due when it is due, and its time counts from then on, whatever became of those before it: nothing is left out
//! because the service was slow (coordinated omission). Each scenario has thresholds; the exit code is 1 when one is passed.

mod k6;
mod oha;
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
    process::{Process, cpu, cpu_of_ended_children},
    provenance::provenance,
    rate::{Answered, Ask, as_fast_as_can_be, ask},
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
    seen: Seen,
    /// The same by a load generator of others.
    by_oha: Option<Seen>,
    /// All that were seen by ours, in milliseconds.
    times: Vec<f64>,
    /// In milliseconds, that 99 of 100 may take.
    threshold: f64,
    more: String,
}

/// What a load generator has seen.
struct Seen {
    asked: usize,
    /// Those that were not answered as they should be.
    wrong: usize,
    /// In milliseconds: p50, p90, p99 and the longest.
    times: [f64; 4],
    /// Milliseconds of processor time for each request: the service, Redis, PostgreSQL, whoever asked.
    cpu: [f64; 4],
}

impl Seen {
    /// With what it cost, in seconds.
    fn costing(self, cpu: [f64; 4]) -> Self {
        let cpu = cpu.map(|seconds| seconds * 1e3 / self.asked.max(1) as f64);
        Self { cpu, ..self }
    }
}

impl Outcome {
    /// By each that asked, with what it is called in a table.
    fn rows(&self) -> impl Iterator<Item = (&str, &Seen)> {
        [(self.name, &self.seen)].into_iter().chain(self.by_oha.iter().map(|seen| ("  by oha", seen)))
    }

    fn holds(&self) -> bool {
        self.rows().all(|(_, seen)| seen.wrong == 0 && seen.times[2] <= self.threshold)
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
            for (name, Seen { asked, wrong, times, cpu }) in outcome.rows() {
                let ([p50, p90, p99, most], [ours, redis, postgres, load]) = (times, cpu);
                let (is_first, rate) = (name == outcome.name, outcome.rate);
                let more = if is_first { &outcome.more } else { "" };
                let over = if is_first && !outcome.holds() { "  OVER ITS THRESHOLD" } else { "" };
                let line = format!(
                    "{name:14} {rate:7.0} {asked:8} {wrong:6} {p50:9.2} {p90:9.2} {p99:9.2} {most:9.2}  {ours:9.3} {redis:8.3} {postgres:10.3} {load:8.3}  {more}{over}"
                );
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        writeln!(f, "\n{}", self.mixed)
    }
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Report> {
    k6::check()?;
    oha::check()?;
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
    let mut rate = 0.0;
    // The first time is to warm up.
    for time in [WARM_UP, Duration::from_secs(settings.seconds)] {
        let next = next.clone();
        let (done, took) = as_fast_as_can_be(node.address, time, CONNECTIONS / 4, move |n| next(n)).await?;
        rate = done as f64 / took.as_secs_f64();
    }
    node.stop().await?;
    eprintln!("half load: half of {rate:.0} a second");
    let scenario = Scenario { threshold: HALF_LOAD, by_oha: false, ..hot(rate / 2.0)? };
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
    let Scenario { name, what, rate, expected, threshold, next, by_oha, .. } = &scenario;
    let seconds = settings.seconds;
    let warm = next.clone();
    ask(node.address, *rate, WARM_UP, CONNECTIONS, move |n| warm(n)).await?;
    // Others than those of the warm-up.
    let (asked, first) = (next.clone(), (rate * WARM_UP.as_secs_f64()) as u64);
    let time = Duration::from_secs(seconds);
    let asking = ask(node.address, *rate, time, CONNECTIONS, move |n| asked(first + n));
    let (answers, costs, more) = around(servers, database, &node, &scenario, asking).await?;
    let by_oha = if *by_oha {
        let (asks, counts) = (of_one_caller(next), [*rate as u64, *rate as u64 * seconds]);
        let asking = oha::ask(&servers.folder, node.address, counts, CONNECTIONS, &asks, expected);
        let (seen, costs, _) = around(servers, database, &node, &scenario, asking).await?;
        Some(seen.costing(costs))
    } else {
        None
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
    let within = |part: f64| {
        let last = times.len().saturating_sub(1);
        times.get(((times.len() as f64 * part) as usize).min(last)).copied().unwrap_or(f64::NAN)
    };
    let seen = Seen {
        asked: times.len(),
        wrong: statuses.values().sum(),
        times: [0.5, 0.9, 0.99, 1.0].map(within),
        cpu: [0.0; 4],
    };
    let (seen, rate, threshold) = (seen.costing(costs), *rate, *threshold);
    Ok(Outcome { name, what, rate, seen, by_oha, times, threshold, more })
}

/// Asks, with what the scenario wants before and after it. Seconds of processor time meanwhile: of the service, Redis, PostgreSQL, whoever
/// asked. And what there is to be told.
async fn around<T>(
    servers: &Servers,
    database: &Database,
    node: &Process,
    scenario: &Scenario,
    asking: impl Future<Output = Result<T>>,
) -> Result<(T, [f64; 4], String)> {
    if let Some(before) = scenario.before {
        before(servers, database).await?;
    }
    let costs = || -> Result<[f64; 4]> {
        let [redis, postgres] = servers.cpu()?;
        Ok([node.cpu()?, redis, postgres, cpu(std::process::id())? + cpu_of_ended_children()?])
    };
    let (before, begun) = (costs()?, Instant::now());
    let seen = asking.await?;
    let after = costs()?;
    let more = match scenario.after {
        Some(after) => after(servers, database, begun).await?,
        None => String::new(),
    };
    Ok((seen, std::array::from_fn(|n| after[n] - before[n]), more))
}

/// What the caller of the first request asks for.
fn of_one_caller(next: &scenarios::Next) -> Vec<Ask> {
    let first = next(0);
    (0..USERS).map(|n| next(n)).filter(|ask| ask.token == first.token).collect()
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
