//! What look-ups cost as users become more, and as processes do: `make load-growth`.

use std::{collections::BTreeMap, fmt, fs, sync::Arc, time::Duration};

use deadpool_redis::redis::cmd;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    Result, Settings,
    auth::{Person, people},
    connection::Connection,
    plot::{Curve, Panel, svg},
    process::{Process, free_address},
    provenance::provenance,
    rate::{Ask, as_fast_as_can_be, ask, percentile},
    servers::{Database, Servers},
};

/// How many users there are, at most, and how many of them a tenant has.
const USERS: u64 = 1_000_000;
const IN_A_TENANT: u64 = 1_000;
const PROCESSES: [usize; 3] = [1, 2, 4];
/// Of the load generator, over all processes.
const CONNECTIONS: usize = 32;
/// Of so many requests one is a change, where some are.
const CHANGES: u64 = 20;
/// After this every process has heard of a change, and of so many users it is looked whether they have.
const HEARD: Duration = Duration::from_millis(1_300);
const AGREED: usize = 50;
const LEVELS: [&str; 3] = ["local", "redis", "postgres"];
const MIB: f64 = 1024.0 * 1024.0;

/// What is measured of a row, in this order.
const COLUMNS: [&str; 11] = [
    "1/s",
    "ours s",
    "Redis s",
    "PG s",
    "local %",
    "redis %",
    "pg %",
    "p50 ms",
    "p99 ms",
    "MiB least",
    "MiB most",
];
const OURS: usize = 1;
const P99: usize = 8;

/// What was measured of a row, by round.
type Rounds = Vec<[f64; COLUMNS.len()]>;

/// Medians of rounds, by row.
pub(crate) struct Report {
    head: String,
    sections: Vec<(&'static str, BTreeMap<u64, Rounds>)>,
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Report> {
    let most = settings.users.unwrap_or(USERS);
    let sizes: Vec<_> =
        [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|size| *size < most).chain([most]).collect();
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let head = format!(
        "# look-ups as users become more, and as processes do\n# {}\n\
         # load {command}: {} s a measurement after as much to warm up, {} rounds, medians\n\
         # {IN_A_TENANT} users a tenant; the rarer the less wanted (Zipf, exponent 1); default settings, but for limits: memory forgets after a second.\n\
         # {CONNECTIONS} connections that ask again at once, on the same processors: 1/s, and processor time of 1,000 requests, all processes\n\
         # together; by which level look-ups were answered; p50 and p99 at half of that rate, from when a request was due; resident memory of\n\
         # the smallest and of the largest process\n",
        provenance(),
        settings.seconds,
        settings.rounds
    );
    let names = [
        "users, one process",
        "processes, all users, look-ups",
        "processes, all users, one of twenty requests a change",
    ];
    let mut report = Report { head, sections: names.map(|name| (name, BTreeMap::new())).into() };
    let mut largest = None;
    for size in sizes {
        let database = servers.database(&format!("growth{size}"), size.div_ceil(IN_A_TENANT), size).await?;
        let people = Arc::new(people(&database)?);
        for round in 1..=settings.rounds {
            eprintln!("round {round} of {}: {size} users", settings.rounds);
            report.add(0, size, one(settings, servers, &database, &people, 1, false).await?);
        }
        largest = Some((database, people));
    }
    let (database, people) = largest.ok_or("no users")?;
    for round in 1..=settings.rounds {
        for processes in PROCESSES {
            for changes in [false, true] {
                eprintln!("round {round} of {}: {processes} processes, changes: {changes}", settings.rounds);
                let measured = one(settings, servers, &database, &people, processes, changes).await?;
                report.add(1 + usize::from(changes), processes as u64, measured);
            }
        }
    }
    if let Some(folder) = &settings.plots {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("growth.svg"), report.growth())?;
        fs::write(folder.join("processes.svg"), report.processes())?;
    }
    Ok(report)
}

/// Starts so many processes, measures them, and stops them.
async fn one(
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    people: &Arc<Vec<Person>>,
    processes: usize,
    changes: bool,
) -> Result<[f64; COLUMNS.len()]> {
    cmd("FLUSHALL").exec_async(&mut servers.redis().await?).await?;
    let mut nodes = vec![];
    for n in 0..processes {
        let metrics = free_address()?;
        let listen = metrics.to_string();
        let node =
            servers.tenantry(database, "api", &[("METRICS_LISTEN", &listen)], &format!("growth-{n}")).await?;
        nodes.push((node, metrics));
    }
    let time = Duration::from_secs(settings.seconds);
    // Others in each phase, the same in each round.
    let next = |phase: u64| {
        let people = people.clone();
        move |n: u64| request(&people, phase << 32 | n, changes)
    };
    full(&nodes, time, next(1)).await?;
    let costs = || -> Result<[f64; 3]> {
        let [redis, postgres] = servers.cpu()?;
        Ok([nodes.iter().map(|(node, _)| node.cpu()).sum::<Result<f64>>()?, redis, postgres])
    };
    let (cpu, reads) = (costs()?, reads(&nodes).await?);
    let (done, rate) = full(&nodes, time, next(2)).await?;
    let (cpu_after, reads_after) = (costs()?, self::reads(&nodes).await?);
    let reads: [f64; 3] = std::array::from_fn(|n| reads_after[n] - reads[n]);
    let [p50, p99] = half(&nodes, rate / 2.0, time, next(3)).await?;
    if changes {
        all_agree(&nodes, people).await?;
    }
    let memory = nodes.iter().map(|(node, _)| node.memory()).collect::<Result<Vec<_>>>()?;
    for (node, _) in nodes {
        node.stop().await?;
    }
    let cost = |n: usize| (cpu_after[n] - cpu[n]) * 1e3 / done;
    let share = |n: usize| reads[n] * 100.0 / reads.iter().sum::<f64>();
    let (least, most) = memory.iter().fold((f64::INFINITY, 0.0), |(least, most), memory| {
        (f64::min(least, *memory), f64::max(most, *memory))
    });
    Ok([rate, cost(0), cost(1), cost(2), share(0), share(1), share(2), p50, p99, least / MIB, most / MIB])
}

/// A look-up, or now and then a change, of somebody by chance.
fn request(people: &[Person], n: u64, changes: bool) -> Ask {
    // Log-uniform ranks: Zipf's law with exponent 1.
    let mut chance = SmallRng::seed_from_u64(n);
    let rank = (people.len() as f64).powf(chance.random::<f64>());
    let who = &people[(rank as usize - 1).min(people.len() - 1)];
    let path = format!("/api/v1/users/{}", who.id);
    // By chance and not by number, which tells the process as well.
    match changes && chance.random_range(0..CHANGES) == 0 {
        true => Ask::send("PATCH", &path, &who.token, &json!({"name": format!("Name {n}")})),
        false => Ask::get(path, &who.token),
    }
}

type Nodes = [(Process, std::net::SocketAddr)];

/// As fast as can be at all nodes at once; how many were answered, and how many in a second.
async fn full(
    nodes: &Nodes,
    time: Duration,
    next: impl Fn(u64) -> Ask + Clone + Send + Sync + 'static,
) -> Result<(f64, f64)> {
    let mut all = JoinSet::new();
    for (n, (node, _)) in nodes.iter().enumerate() {
        let (next, address, nodes) = (next.clone(), node.address, nodes.len());
        // By turns: none asks for what another one does.
        let next = move |ticket: u64| next(ticket * nodes as u64 + n as u64);
        all.spawn(async move { as_fast_as_can_be(address, time, CONNECTIONS / nodes, next).await });
    }
    let (mut done, mut rate) = (0.0, 0.0);
    while let Some(ended) = all.join_next().await {
        let (answered, took) = ended??;
        done += answered as f64;
        rate += answered as f64 / took.as_secs_f64();
    }
    if done == 0.0 { Err("nothing was answered as it should be".into()) } else { Ok((done, rate)) }
}

/// At so many a second over all nodes; p50 and p99. One wrong answer is too many.
async fn half(
    nodes: &Nodes,
    rate: f64,
    time: Duration,
    next: impl Fn(u64) -> Ask + Clone + Send + Sync + 'static,
) -> Result<[f64; 2]> {
    let mut all = JoinSet::new();
    for (n, (node, _)) in nodes.iter().enumerate() {
        let (next, address, nodes) = (next.clone(), node.address, nodes.len());
        let next = move |ticket: u64| next(ticket * nodes as u64 + n as u64);
        all.spawn(
            async move { ask(address, rate / nodes as f64, time, CONNECTIONS * 4 / nodes, next).await },
        );
    }
    let mut answers = vec![];
    while let Some(ended) = all.join_next().await {
        answers.extend(ended??);
    }
    let wrong = answers.iter().filter(|answer| answer.status != Some(200)).count();
    if wrong > 0 {
        return Err(
            format!("{wrong} of {} requests were not answered as they should be", answers.len()).into()
        );
    }
    Ok([percentile(&answers, 0.5), percentile(&answers, 0.99)])
}

/// A while after the last change every process says the same of those who are changed most.
async fn all_agree(nodes: &Nodes, people: &[Person]) -> Result<()> {
    tokio::time::sleep(HEARD).await;
    for who in people.iter().take(AGREED) {
        let mut said = vec![];
        for (node, _) in nodes {
            let path = format!("/api/v1/users/{}", who.id);
            let answer = Connection::new(node.address).ask("GET", &path, &who.token, "").await?;
            said.push(answer.json()?["data"].clone());
        }
        if said.iter().any(|other| *other != said[0] || other["version"].is_null()) {
            return Err(format!("processes say different things of one user: {said:?}").into());
        }
    }
    Ok(())
}

/// How many look-ups each level has answered so far.
async fn reads(nodes: &Nodes) -> Result<[f64; 3]> {
    let mut counts = [0.0; 3];
    for (_, metrics) in nodes {
        let page = reqwest::get(format!("http://{metrics}/metrics")).await?.text().await?;
        for line in page.lines().filter(|line| line.starts_with("tenantry_cache_reads_total{")) {
            let level = LEVELS.iter().position(|level| line.contains(&format!("level=\"{level}\"")));
            if let (Some(level), Some((_, count))) = (level, line.rsplit_once(' ')) {
                counts[level] += count.parse::<f64>()?;
            }
        }
    }
    Ok(counts)
}

impl Report {
    fn add(&mut self, section: usize, row: u64, measured: [f64; COLUMNS.len()]) {
        self.sections[section].1.entry(row).or_default().push(measured);
    }

    fn median(runs: &[[f64; COLUMNS.len()]], column: usize) -> f64 {
        crate::lists::median(&runs.iter().map(|run| run[column]).collect::<Vec<_>>())
    }

    /// A column as a curve over the rows of a section.
    fn curve(&self, section: usize, column: usize, name: &str) -> Curve {
        let points =
            self.sections[section].1.iter().map(|(row, runs)| (*row as f64, Self::median(runs, column)));
        Curve { name: name.into(), points: points.collect() }
    }

    fn panel(&self, title: &str, x: &'static str, y: &'static str, curves: Vec<Curve>) -> Panel {
        Panel { title: title.into(), x, y, logarithmic: true, curves }
    }

    fn growth(&self) -> String {
        let cpu = [(OURS, "ours"), (2, "Redis"), (3, "PostgreSQL")];
        let cpu = cpu.map(|(column, name)| self.curve(0, column, name)).into();
        let levels = [(4, "process"), (5, "Redis"), (6, "PostgreSQL")];
        let levels = levels.map(|(column, name)| self.curve(0, column, name)).into();
        let p99 = vec![self.curve(0, P99, "p99"), self.curve(0, 7, "p50")];
        let panels = [
            self.panel("Processor time of 1,000 look-ups", "users", "seconds", cpu),
            self.panel("Time of answers at half load", "users", "milliseconds", p99),
            self.panel("Who answers", "users", "% of look-ups", levels),
        ];
        svg(&panels, &format!("loadtests/growth.txt; {}", provenance()))
    }

    fn processes(&self) -> String {
        let both =
            |column| vec![self.curve(1, column, "look-ups"), self.curve(2, column, "one of twenty a change")];
        let panels = [
            self.panel("Requests a second, all processes", "processes", "1/s", both(0)),
            self.panel("Our processor time of 1,000 requests", "processes", "seconds", both(OURS)),
            self.panel("Time of 99 of 100 answers at half load", "processes", "milliseconds", both(P99)),
        ];
        svg(&panels, &format!("loadtests/growth.txt; {}", provenance()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.head)?;
        for (name, rows) in &self.sections {
            writeln!(f, "\n## {name}")?;
            let heads: String = COLUMNS.iter().map(|head| format!(" {head:>9}")).collect();
            writeln!(f, "{:>10}{heads}", "")?;
            for (row, runs) in rows {
                write!(f, "{row:10}")?;
                for column in 0..COLUMNS.len() {
                    let value = Self::median(runs, column);
                    let digits = if value >= 1_000.0 {
                        0
                    } else if column <= 3 {
                        4
                    } else {
                        2
                    };
                    write!(f, " {value:9.digits$}")?;
                }
                writeln!(f)?;
            }
        }
        Ok(())
    }
}
