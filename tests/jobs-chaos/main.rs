//! Runs tens of thousands of jobs on workers that are killed and frozen, on a PostgreSQL that crashes, and judges what
//! came of each job. docs/jobs.md says what is promised.

mod check;
mod cluster;
#[path = "../harness/process.rs"]
#[expect(dead_code, reason = "API processes use the rest")]
mod process;
#[path = "../harness/program.rs"]
#[expect(dead_code, reason = "its workers are this program itself")]
mod program;
mod worker;

use std::{fs, process::ExitCode, sync::Arc, time::Duration};

use clap::{Parser, Subcommand};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    cluster::Cluster,
    program::{logs, to_exit_code},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Torments the queue and judges it.
#[derive(Parser)]
#[command(name = "jobs-chaos")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many jobs of mixed kinds
    #[arg(long, default_value_t = 50_000)]
    jobs: usize,
    /// How many of them kill their worker
    #[arg(long, default_value_t = 10)]
    poison: usize,
    /// How many jobs fall due in one second
    #[arg(long, default_value_t = 20_000)]
    at_once: usize,
    /// Seconds between two kills of a worker
    #[arg(long, default_value_t = 2.0)]
    kill_every: f64,
    /// Crashes of PostgreSQL
    #[arg(long, default_value_t = 3)]
    restarts: usize,
    /// Seconds that a worker is frozen; longer than a lease
    #[arg(long, default_value_t = 20.0)]
    freeze: f64,
    /// Seconds of a lease; a heartbeat is a quarter of it
    #[arg(long, default_value_t = 12.0)]
    lease: f64,
    /// Seconds of torment, at least; it lasts as long as most jobs have not run
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Seconds that all may take in the end
    #[arg(long, default_value_t = 600.0)]
    patience: f64,
    /// Of the faults; by chance when left out
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Subcommand)]
enum Command {
    /// A worker of the harness; it starts them itself
    Worker,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Command::Worker) = arguments.command {
        return match worker::run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    to_exit_code("jobs-chaos", run(&arguments)).await
}

/// Returns how many checks failed.
async fn run(arguments: &Arguments) -> Result<usize> {
    let seed = arguments.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let logs = logs("jobs-chaos-logs")?;
    println!("seed {seed}; the workers' logs are in {}", logs.display());

    let folder = cluster::new_folder().await?;
    let cluster = Arc::new(Cluster::start(&folder, &logs, arguments.lease).await?);
    cluster.enqueue(arguments.jobs, arguments.poison, arguments.at_once).await?;
    println!("{} jobs are enqueued", arguments.jobs + arguments.at_once);
    let begun = Instant::now();
    for worker in &cluster.workers {
        worker.start().await?;
    }
    let quiet_tenant = AbortOnDropHandle::new(tokio::spawn(probe(cluster.clone())));
    let revived = revive(&cluster);
    torment(&cluster, arguments, seed, begun).await?;
    println!("{:6.1} s  no more faults", begun.elapsed().as_secs_f64());
    drop(quiet_tenant);
    let end = begun + Duration::from_secs_f64(arguments.patience);
    while cluster.open().await? > 0 && Instant::now() < end {
        sleep(Duration::from_millis(200)).await;
    }
    println!("{:6.1} s  {} jobs are open", begun.elapsed().as_secs_f64(), cluster.open().await?);
    drop(revived);
    let checks = check::check(&cluster).await?;
    let cluster = Arc::into_inner(cluster).ok_or("somebody still works on the cluster")?;
    cluster.stop().await?;
    fs::remove_dir_all(&folder)?;
    let failed = checks.iter().filter(|check| !check.holds).count();
    for check in &checks {
        println!("{} {}: {}", if check.holds { "ok    " } else { "FAILED" }, check.name, check.found);
    }
    println!("{} passed, {failed} failed", checks.len() - failed);
    Ok(failed)
}

/// Kills, freezes and crashes, until the time is over and most of the jobs have run.
async fn torment(cluster: &Arc<Cluster>, arguments: &Arguments, seed: u64, begun: Instant) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(seed);
    let least = Duration::from_secs_f64(arguments.seconds);
    let most = Duration::from_secs_f64(arguments.patience / 2.0);
    let mut kills = interval(Duration::from_secs_f64(arguments.kill_every));
    kills.tick().await;
    let mut restarts = 0;
    let mut frozen = None::<(usize, AbortOnDropHandle<()>)>;
    loop {
        kills.tick().await;
        let passed = begun.elapsed();
        if passed > least && (cluster.open().await? < 100 || passed > most) {
            break;
        }
        frozen = frozen.filter(|(_, thaw)| !thaw.is_finished());
        let mut victim = rng.random_range(0..cluster.workers.len());
        if frozen.as_ref().is_some_and(|(frozen, _)| *frozen == victim) {
            // It would be killed when it thaws, and the time of its kill be wrong.
            victim = (victim + 1) % cluster.workers.len();
        }
        let due = least.mul_f64((restarts as f64 + 1.0) / (arguments.restarts as f64 + 1.0));
        if restarts < arguments.restarts && passed > due {
            restarts += 1;
            println!("{:6.1} s  PostgreSQL crashes", passed.as_secs_f64());
            cluster.crash_postgres(Duration::from_millis(rng.random_range(200..1500))).await?;
        } else if frozen.is_none() && rng.random_bool(0.2) {
            println!("{:6.1} s  worker {victim} freezes", passed.as_secs_f64());
            let (cluster, time) = (cluster.clone(), Duration::from_secs_f64(arguments.freeze));
            let thaw = tokio::spawn(async move {
                if let Err(error) = cluster.workers[victim].freeze(time).await {
                    eprintln!("jobs-chaos: {error}");
                }
            });
            frozen = Some((victim, AbortOnDropHandle::new(thaw)));
        } else {
            let cluster = cluster.clone();
            let dead = Duration::from_millis(rng.random_range(0..300));
            tokio::spawn(async move {
                if let Err(error) = cluster.kill(victim, dead).await {
                    eprintln!("jobs-chaos: {error}");
                }
            });
        }
    }
    if let Some((_, thaw)) = frozen {
        thaw.await?;
    }
    Ok(())
}

/// Starts again what a poison job ended.
fn revive(cluster: &Arc<Cluster>) -> Vec<AbortOnDropHandle<()>> {
    let revive = |n: usize| {
        let cluster = cluster.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(100)).await;
                match cluster.workers[n].revive().await {
                    Ok(None) => {}
                    Ok(Some(end)) => println!("          {end}"),
                    Err(error) => eprintln!("jobs-chaos: {error}"),
                }
            }
        }))
    };
    (0..cluster.workers.len()).map(revive).collect()
}

/// A quiet tenant's mail, now and then: how long does it wait?
async fn probe(cluster: Arc<Cluster>) {
    let mut tick = interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        // The database may be away just now.
        let _ = cluster.enqueue_probe().await;
    }
}
