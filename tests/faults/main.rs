//! Whether the service keeps standing while what it runs on falls: deployments, kills, PostgreSQL that restarts, throws its
//! sessions out, is locked or has no room, clocks that step, crowds of idle connections. docs/faults.md says what is promised.
//!
//! Each fault happens to a cluster of its own, and all but steps of clocks under a load at a constant rate: a request is due when it is due, however slow the
//! answers before it are, and its time counts from then on.
//!
//! Exit code 1 when a promise was broken, 2 when the run itself failed.

mod balancer;
mod cluster;
mod faults;
#[path = "../harness/process.rs"]
#[expect(dead_code, reason = "those who freeze processes use the rest")]
mod harness;
mod load;
#[path = "../harness/program.rs"]
mod program;
#[path = "../harness/provenance.rs"]
mod provenance;
mod report;
#[path = "../harness/servers.rs"]
#[expect(dead_code, reason = "those who take Redis away use the rest")]
mod servers;

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use clap::Parser;

use crate::{
    faults::Fault,
    program::{logs, to_exit_code},
    provenance::provenance,
    report::Report,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
struct Settings {
    /// These faults only
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    only: Vec<Fault>,
    /// How many times a process is told to stop, one after the other
    #[arg(long, default_value_t = 20)]
    restarts: usize,
    /// Requests a second
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Connections that do nothing
    #[arg(long, default_value_t = 10_000)]
    idle: usize,
    /// The program that is upgraded from, for `upgrade`: scripts/upgrade builds it
    #[arg(long, value_name = "PROGRAM")]
    old: Option<PathBuf>,
    /// A setting of the processes that is different: SHUTDOWN_DELAY=0s is found out
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Where the table goes, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    to_exit_code("faults", run(&Settings::parse())).await
}

/// Returns how many promises were broken.
async fn run(settings: &Settings) -> Result<usize> {
    let logs = logs("faults-logs")?;
    println!("the processes' logs are in {}", logs.display());
    let folder = servers::new_folder("tenantry-faults-").await?;
    let only = if settings.only.is_empty() { &Fault::ALL[..] } else { &settings.only };
    let (mut report, begun) = (Report::default(), Instant::now());
    for fault in only {
        println!("{:6.1} s  {}", begun.elapsed().as_secs_f64(), fault.name());
        let own = folder.join(fault.name());
        fs::create_dir(&own)?;
        fault
            .happen(settings, &own, &logs, &mut report)
            .await
            .map_err(|error| format!("{}: {error}", fault.name()))?;
    }
    println!("{:6.1} s  done\n", begun.elapsed().as_secs_f64());
    fs::remove_dir_all(&folder)?;

    let page = format!("# what was promised, and what was seen\n# {}\n\n{}", provenance(), report.table());
    println!("{page}");
    if let Some(file) = &settings.report {
        fs::write(file, &page)?;
    }
    let broken = report.broken();
    println!("{} passed, {broken} failed", report.len() - broken);
    Ok(broken)
}
