//! The history checker: real processes under load while a nemesis kills, stops, cuts off and empties what they need; every
//! answer is recorded, and the history is judged afterwards. With `--planted` the same judge must find bugs that are in the
//! real code on purpose. See docs/chaos.md.
//!
//! Exit code 1 when a rule was broken or a bug was not caught, 2 when the run itself failed.

mod bounds;
mod check;
#[cfg(test)]
mod check_tests;
mod client;
mod cluster;
mod directed;
#[path = "../harness/process.rs"]
#[expect(dead_code, reason = "those who deploy use the rest")]
mod harness;
mod history;
mod load;
mod mail;
mod nemesis;
mod points;
mod process;
#[path = "../harness/program.rs"]
#[expect(dead_code, reason = "the program under test has fail-points, and is an example")]
mod program;
#[path = "../harness/proxy.rs"]
mod proxy;
mod report;
mod scenarios;
#[path = "../harness/servers.rs"]
mod servers;
mod stored;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tenantry_cache::planted::Bug;
use tokio::time::{Instant, sleep};

use crate::{
    cluster::Cluster,
    history::{History, Phase},
    load::Load,
    nemesis::Fault,
    program::{logs, to_exit_code},
    report::Report,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Until a healed cluster shows every row: two seconds are promised; the job and a busy machine take some more.
const HEALED: Duration = Duration::from_secs(4);
/// The same where a worker may have died with a job in its hands: its lease runs out first.
const HEALED_BY_ANOTHER: Duration = Duration::from_secs(14);

#[derive(Parser)]
struct Settings {
    /// How long the load lasts, by chance and in phases; 60 when nothing else is asked for
    #[arg(long)]
    seconds: Option<u64>,
    /// Which faults and requests; by chance when left out
    #[arg(long)]
    seed: Option<u64>,
    /// Where the page goes, and beside it the history (.jsonl); beside the program when left out
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// These faults only, in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    only: Vec<Fault>,
    /// A setting of the program under test that is different: CACHE_LOCAL_TTL=3s is found out at once
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Plants these bugs one after the other, or `all`, and forces what they lead to
    #[arg(long, value_delimiter = ',', value_name = "BUGS")]
    planted: Vec<String>,
    /// How often each bug must be caught
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Judges a history that a run has written, and runs nothing
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    to_exit_code("chaos", run(Settings::parse())).await
}

/// Says how many phases and scenarios came out as they must, and how many did not; returns the latter.
async fn run(settings: Settings) -> Result<usize> {
    let (passed, failed) = all(&settings).await?;
    println!("{passed} passed, {failed} failed");
    Ok(failed)
}

async fn all(settings: &Settings) -> Result<(usize, usize)> {
    let report = match &settings.report {
        Some(file) => file.clone(),
        None => program::folder()?.join("chaos.html"),
    };
    if let Some(file) = &settings.check {
        return judge(&stored::read(file)?, None, &report);
    }
    let logs = logs("chaos-logs")?;
    let folder = servers::new_folder("tenantry-chaos-").await?;
    let (mut passed, mut failed) = (0, 0);
    let mut add = |(p, f)| (passed, failed) = (passed + p, failed + f);
    if !settings.planted.is_empty() {
        add(planted(settings, &folder, &logs).await?);
    }
    if settings.planted.is_empty() || settings.seconds.is_some() {
        let seed = settings.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
        println!("seed {seed}; the processes' logs are in {}", logs.display());
        let history = by_chance(settings, seed, &folder, &logs).await?;
        stored::write(&history, &report.with_extension("jsonl"))?;
        add(judge(&history, Some(seed), &report)?);
    }
    fs::remove_dir_all(&folder)?;
    Ok((passed, failed))
}

fn judge(history: &History, seed: Option<u64>, report: &Path) -> Result<(usize, usize)> {
    let findings = check::check(history);
    let shown = Report { seed, history, findings: &findings };
    fs::write(report, shown.html())?;
    println!("{}; see {}", shown.text(), report.display());
    Ok(shown.counts())
}

/// Every bug in turn, on one cluster with it and on one without.
async fn planted(settings: &Settings, folder: &Path, logs: &Path) -> Result<(usize, usize)> {
    let named = |name: &String| Bug::named(name).ok_or_else(|| format!("there is no bug {name}"));
    let bugs = match &settings.planted[..] {
        [all] if all == "all" => Bug::ALL.to_vec(),
        names => names.iter().map(named).collect::<std::result::Result<_, _>>()?,
    };
    // Every try of every run takes a user of its own.
    let keys = bugs.len() * settings.runs * 6 + 1;
    let start = async |name: &str| -> Result<Arc<Cluster>> {
        let (folder, logs) = (folder.join(name), logs.join(name));
        fs::create_dir_all(&logs)?;
        fs::create_dir(&folder)?;
        Ok(Arc::new(Cluster::start(&folder, &logs, keys, &settings.set).await?))
    };
    let (with, without) = tokio::try_join!(start("planted"), start("control"))?;
    let table = directed::run(&with, &without, &bugs, settings.runs).await?;
    for cluster in [with, without] {
        Arc::into_inner(cluster).ok_or("a client is still running")?.stop().await?;
    }
    println!("\n{}", table.text());
    Ok(table.counts())
}

async fn by_chance(settings: &Settings, seed: u64, folder: &Path, logs: &Path) -> Result<History> {
    let folder = folder.join("by-chance");
    fs::create_dir(&folder)?;
    let keys = load::HOT + load::COLD;
    let cluster = Arc::new(Cluster::start(&folder, logs, keys, &settings.set).await?);
    let history = torment(&cluster, seed, settings.seconds.unwrap_or(60), &settings.only).await?;
    Arc::into_inner(cluster).ok_or("a client is still running")?.stop().await?;
    Ok(history)
}

async fn torment(cluster: &Arc<Cluster>, seed: u64, seconds: u64, only: &[Fault]) -> Result<History> {
    let mut rng = StdRng::seed_from_u64(seed);
    let load = Load::start(cluster, seed)?;
    let mut seen = History::default();
    tokio::select! {
        done = phases(cluster, &load, seconds, only, &mut rng, &mut seen) => done?,
        never = progress(cluster, &load) => never,
    };
    seen.extend(load.finish().await?);
    cluster.confess(&mut seen).await?;
    Ok(seen)
}

/// Rounds of all faults in an order by chance, the quiet phase first and the combination last, until the time is over. After
/// each phase the load pauses, and every node must show every row.
async fn phases(
    cluster: &Arc<Cluster>,
    load: &Load,
    seconds: u64,
    only: &[Fault],
    rng: &mut StdRng,
    seen: &mut History,
) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let faults = if only.is_empty() { &Fault::ALL[..] } else { only };
    let length = Duration::from_secs_f64((seconds as f64 / faults.len() as f64).clamp(3.0, 12.0));
    loop {
        let mut round = faults.to_vec();
        if let (true, [_, middle @ .., _]) = (only.is_empty(), &mut round[..]) {
            middle.shuffle(rng);
        }
        for fault in round {
            // Every fault once; and half of a phase says little.
            if seen.phases.len() >= faults.len() && Instant::now() + length / 2 > end {
                return Ok(());
            }
            println!("{:6.1} s  {}", cluster.clock.now() as f64 / 1e6, fault.name());
            let mut phase: Phase = nemesis::torment(cluster, fault, length, rng).await?;
            load.pause().await;
            let patience = if fault.strikes_workers() { HEALED_BY_ANOTHER } else { HEALED };
            seen.healed.extend(load::read_all(cluster, patience).await?);
            phase.shown = cluster.clock.now();
            seen.phases.push(phase);
            load.resume();
        }
    }
}

async fn progress<T>(cluster: &Cluster, load: &Load) -> T {
    loop {
        sleep(Duration::from_secs(3)).await;
        let (answered, failed) = load.counts();
        println!("{:6.1} s    {answered} answered, {failed} not", cluster.clock.now() as f64 / 1e6);
    }
}
