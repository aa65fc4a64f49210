//! Measures how long a token is let in after it was revoked, by three processes, while Redis is up and down, PostgreSQL
//! crashes and a node is cut off; and judges it. docs/revocation.md says what is promised.
//!
//! For each way of revoking, a new session presents its token to every node every few milliseconds. One node is told to
//! revoke it. On one monotonic clock, what counts is when the last request began that was let in, from the moment on when
//! the acknowledgement arrived.
//!
//! Exit code 1 when something was let in for too long, 2 when the run itself failed.

mod cluster;
#[path = "../harness/connection.rs"]
#[expect(dead_code, reason = "those who flood ask for Retry-After")]
mod connection;
#[path = "../harness/process.rs"]
#[expect(dead_code, reason = "those who kill and freeze processes use the rest")]
mod harness;
mod kinds;
mod phases;
#[path = "../harness/program.rs"]
mod program;
#[path = "../harness/provenance.rs"]
mod provenance;
#[path = "../harness/proxy.rs"]
#[expect(dead_code, reason = "the history checker slows connections as well")]
mod proxy;
mod report;
#[path = "../harness/servers.rs"]
mod servers;
mod watch;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    cluster::Cluster,
    kinds::Kind,
    phases::Phase,
    program::{logs, to_exit_code},
    provenance::provenance,
    report::Report,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
struct Settings {
    /// How often each kind of revocation is measured in each phase
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How many are measured at once
    #[arg(long, default_value_t = 3)]
    at_once: usize,
    /// These phases only
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PHASES")]
    only: Vec<Phase>,
    /// In which order and at which moments; by chance when left out
    #[arg(long)]
    seed: Option<u64>,
    /// A setting of the processes that is different: REVOCATION_MAX_LAG=10s is found out
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Where the table goes, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    to_exit_code("revocations", run(&Settings::parse())).await
}

/// Returns how many checks failed.
async fn run(settings: &Settings) -> Result<usize> {
    let seed = settings.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let logs = logs("revocations-logs")?;
    println!("seed {seed}; the processes' logs are in {}", logs.display());
    let folder = servers::new_folder("tenantry-revocations-").await?;
    // A level down, where the next run looks for what this one may leave behind.
    let own = folder.join("cluster");
    fs::create_dir(&own)?;
    let only = if settings.only.is_empty() { &Phase::ALL[..] } else { &settings.only };
    let people = settings.rounds * only.len() * Kind::ALL.len();
    let cluster = Cluster::start(&own, &logs, people, &settings.set).await?;
    let report = measure(&cluster, settings, only, seed).await?;
    cluster.stop().await?;
    fs::remove_dir_all(&folder)?;

    let page = format!(
        "# how long a token is let in after it was revoked, by the nodes that did not do it\n# {}\n\
         # revocations --rounds {} --at-once {} --seed {seed}; three processes, REVOCATION_MAX_LAG={}s\n\
         # from the acknowledgement to the start of the last request that was let in; \"seen\": as often, by how many nodes;\n\
         # \"own\": by the node that did it, at most; \"step\": between two requests with the token, at most\n\n{}",
        provenance(),
        settings.rounds,
        settings.at_once,
        cluster::MAX_LAG.as_secs(),
        report.table()
    );
    println!("{page}");
    if let Some(file) = &settings.report {
        fs::write(file, &page)?;
    }
    let checks = report.checks();
    for check in &checks {
        println!("{} {}: {}", if check.holds { "ok    " } else { "FAILED" }, check.name, check.found);
    }
    let failed = checks.iter().filter(|check| !check.holds).count();
    println!("{} passed, {failed} failed", checks.len() - failed);
    Ok(failed)
}

async fn measure(cluster: &Cluster, settings: &Settings, only: &[Phase], seed: u64) -> Result<Report> {
    let (mut rng, mut report, begun) = (StdRng::seed_from_u64(seed), Report::default(), Instant::now());
    for phase in only {
        println!("{:6.1} s  {}", begun.elapsed().as_secs_f64(), phase.name());
        if *phase == Phase::RedisDown {
            cluster.servers.kill_redis().await?;
        }
        let mut kinds: Vec<Kind> = (0..settings.rounds).flat_map(|_| Kind::ALL).collect();
        kinds.shuffle(&mut rng);
        for kinds in kinds.chunks(settings.at_once.max(1)) {
            let (rounds, cut) = phases::rounds(cluster, *phase, kinds, &mut rng).await?;
            report.rounds.extend(rounds);
            report.cuts.extend(cut);
        }
        if *phase == Phase::RedisDown {
            cluster.servers.start_redis().await?;
        }
    }
    println!("{:6.1} s  done", begun.elapsed().as_secs_f64());
    Ok(report)
}
