//! `make chaos`: real processes under load while a nemesis kills, freezes and empties what they need; every answer is
//! recorded, and the history is judged afterwards.
//!
//! ```text
//! cargo build && cargo run --example chaos -- --seconds 60
//! ```
//!
//! Exit code 1 when a rule was broken, 2 when the run itself failed. The seed repeats the faults and the requests, not
//! the scheduling.

mod check;
#[cfg(test)]
mod check_tests;
mod cluster;
mod history;
mod load;
mod nemesis;
mod process;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use crate::{
    cluster::Cluster,
    history::{History, Phase},
    load::Load,
    nemesis::Fault,
    report::Report,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The promise is two seconds; the job and a busy machine take some of the third.
const HEALED: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Settings {
    /// How long the load lasts
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Which faults and requests; by chance when left out
    #[arg(long)]
    seed: Option<u64>,
    /// Where the page goes; beside the program when left out
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// These faults only, in this order
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    only: Vec<Fault>,
    /// A setting of the program under test that is different: CACHE_LOCAL_TTL=3s is found out at once
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    let (mut terminate, run) = match signal(SignalKind::terminate()) {
        Ok(terminate) => (terminate, run(settings)),
        Err(error) => {
            eprintln!("chaos: {error}");
            return ExitCode::from(2);
        }
    };
    // What was started is stopped when it is dropped.
    let result = tokio::select! {
        result = run => result,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

/// Returns how many violations there were.
async fn run(settings: Settings) -> Result<usize> {
    let seed = settings.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let beside =
        std::env::current_exe()?.parent().and_then(Path::parent).map(Path::to_owned).unwrap_or_default();
    let logs = beside.join("chaos-logs");
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    let report = settings.report.unwrap_or_else(|| beside.join("chaos.html"));
    println!("seed {seed}; the processes' logs are in {}", logs.display());

    let folder = cluster::new_folder().await?;
    let cluster = Cluster::start(&folder, &logs, load::HOT + load::COLD, &settings.set).await?;
    let cluster = Arc::new(cluster);
    let history = torment(&cluster, seed, settings.seconds, &settings.only).await?;
    let cluster = Arc::into_inner(cluster).ok_or("a client is still running")?;
    cluster.stop().await?;
    fs::remove_dir_all(&folder)?;

    let findings = check::check(&history);
    let shown = Report { seed, history: &history, findings: &findings };
    fs::write(&report, shown.html())?;
    println!("{}; see {}", shown.text(), report.display());
    Ok(findings.violations.len())
}

async fn torment(cluster: &Arc<Cluster>, seed: u64, seconds: u64, only: &[Fault]) -> Result<History> {
    let mut rng = StdRng::seed_from_u64(seed);
    let load = Load::start(cluster, seed)?;
    let phases = tokio::select! {
        phases = phases(cluster, seconds, only, &mut rng) => phases?,
        never = progress(cluster, &load) => never,
    };
    let mut history = load.finish().await?;
    cluster.revive().await?;
    sleep(HEALED).await;
    let (finals, failures) = load::read_all(cluster).await?;
    history.phases = phases;
    history.finals = finals;
    history.failures.extend(failures);
    cluster.confess(&mut history).await?;
    Ok(history)
}

/// Rounds of all faults in an order by chance, the quiet phase first and the combination last, until the time is over.
async fn phases(cluster: &Cluster, seconds: u64, only: &[Fault], rng: &mut StdRng) -> Result<Vec<Phase>> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let faults = if only.is_empty() { &Fault::ALL[..] } else { only };
    let length = Duration::from_secs_f64((seconds as f64 / faults.len() as f64).clamp(4.0, 12.0));
    let mut phases = vec![];
    loop {
        let mut round = faults.to_vec();
        if let (true, [_, middle @ .., _]) = (only.is_empty(), &mut round[..]) {
            middle.shuffle(rng);
        }
        for fault in round {
            // Every fault once; and half of a phase says little.
            if phases.len() >= faults.len() && Instant::now() + length / 2 > end {
                return Ok(phases);
            }
            println!("{:6.1} s  {}", cluster.clock.now() as f64 / 1e6, fault.name());
            phases.push(nemesis::torment(cluster, fault, length, rng).await?);
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
