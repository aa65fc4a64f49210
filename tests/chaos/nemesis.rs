//! The faults. A phase strikes with one kind of fault, again and again, and ends healed.

use std::time::{Duration, Instant};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use crate::{Result, cluster::Cluster, history::Effect, history::Phase};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    None,
    KillApi,
    KillWorker,
    FreezeApi,
    RestartRedis,
    FlushRedis,
    PauseRedis,
    FreezeRedis,
    EndConnections,
    CrashPostgres,
    Combination,
}

impl Fault {
    pub(crate) const ALL: [Self; 11] = [
        Self::None,
        Self::KillApi,
        Self::KillWorker,
        Self::FreezeApi,
        Self::RestartRedis,
        Self::FlushRedis,
        Self::PauseRedis,
        Self::FreezeRedis,
        Self::EndConnections,
        Self::CrashPostgres,
        Self::Combination,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::KillApi => "kill-api",
            Self::KillWorker => "kill-worker",
            Self::FreezeApi => "freeze-api",
            Self::RestartRedis => "restart-redis",
            Self::FlushRedis => "flush-redis",
            Self::PauseRedis => "pause-redis",
            Self::FreezeRedis => "freeze-redis",
            Self::EndConnections => "end-connections",
            Self::CrashPostgres => "crash-postgres",
            Self::Combination => "combination",
        }
    }

    /// PostgreSQL and the nodes stand, so every request can be answered.
    fn always_answers(self) -> bool {
        use Fault::{FlushRedis, FreezeRedis, KillWorker, None, PauseRedis, RestartRedis};
        matches!(self, None | KillWorker | RestartRedis | FlushRedis | PauseRedis | FreezeRedis)
    }
}

/// After the last strike of a phase.
const QUIET: Duration = Duration::from_millis(1200);

/// One phase of about `length`.
pub(crate) async fn torment(
    cluster: &Cluster,
    fault: Fault,
    length: Duration,
    rng: &mut StdRng,
) -> Result<Phase> {
    let (from, start) = (cluster.clock.now(), Instant::now());
    while start.elapsed() + QUIET < length {
        sleep(Duration::from_millis(rng.random_range(50..500))).await;
        match fault {
            Fault::Combination => combine(cluster, rng).await?,
            fault => strike(cluster, fault, rng).await?,
        }
    }
    cluster.revive().await?;
    sleep(QUIET).await;
    Ok(Phase { name: fault.name(), always_answers: fault.always_answers(), from, to: cluster.clock.now() })
}

/// Two different faults that overlap.
async fn combine(cluster: &Cluster, rng: &mut StdRng) -> Result<()> {
    let singles = &Fault::ALL[1..Fault::ALL.len() - 1];
    let mut chosen = singles.choose_multiple(rng, 2).copied();
    let (Some(one), Some(other)) = (chosen.next(), chosen.next()) else { return Ok(()) };
    let (mut first, mut second) = (seeded(rng), seeded(rng));
    let lag = Duration::from_millis(rng.random_range(0..400));
    let later = async {
        sleep(lag).await;
        strike(cluster, other, &mut second).await
    };
    tokio::try_join!(strike(cluster, one, &mut first), later)?;
    Ok(())
}

fn seeded(rng: &mut StdRng) -> StdRng {
    use rand::SeedableRng;
    StdRng::seed_from_u64(rng.random())
}

async fn strike(cluster: &Cluster, fault: Fault, rng: &mut StdRng) -> Result<()> {
    let mut millis = |least: u64, most: u64| Duration::from_millis(rng.random_range(least..=most));
    match fault {
        Fault::None | Fault::Combination => {
            sleep(Duration::from_millis(200)).await;
            Ok(())
        }
        Fault::KillApi => {
            let dead = millis(0, 800);
            let node = rng.random_range(0..cluster.apis.len());
            let process = &cluster.apis[node];
            let what = format!("kill -9 {}, dead for {dead:?}", process.name);
            cluster.during(what, Effect::Nothing, process.replace(dead)).await
        }
        Fault::KillWorker => {
            let dead = millis(0, 800);
            let process = &cluster.workers[rng.random_range(0..cluster.workers.len())];
            let what = format!("kill -9 {}, dead for {dead:?}", process.name);
            cluster.during(what, Effect::Nothing, process.replace(dead)).await
        }
        Fault::FreezeApi => {
            let time = millis(1000, 5000);
            let node = rng.random_range(0..cluster.apis.len());
            let process = &cluster.apis[node];
            let what = format!("SIGSTOP {} for {time:?}", process.name);
            cluster.during(what, Effect::NodeAway(node), process.freeze(time)).await
        }
        Fault::RestartRedis => {
            let dead = millis(0, 1500);
            let what = format!("kill -9 Redis, dead for {dead:?}, empty after");
            cluster.during(what, Effect::RedisForgets, cluster.replace_redis(dead)).await
        }
        Fault::FlushRedis => {
            cluster.during("FLUSHALL".into(), Effect::RedisForgets, cluster.tell_redis("FLUSHALL")).await
        }
        Fault::PauseRedis => {
            let time = millis(20, 1500);
            let what = format!("CLIENT PAUSE {}", time.as_millis());
            let pause = async {
                cluster.tell_redis(&format!("CLIENT PAUSE {} ALL", time.as_millis())).await?;
                sleep(time).await;
                Ok(())
            };
            cluster.during(what, Effect::Nothing, pause).await
        }
        Fault::FreezeRedis => {
            let time = millis(50, 3000);
            let what = format!("SIGSTOP Redis for {time:?}");
            cluster.during(what, Effect::Nothing, cluster.freeze_redis(time)).await
        }
        Fault::EndConnections => {
            let part = if rng.random_bool(0.3) { 1.0 } else { rng.random_range(0.1..0.6) };
            let what = format!("pg_terminate_backend of {:.0} %", part * 100.0);
            cluster.during(what, Effect::FeedAway, cluster.end_connections(part)).await
        }
        Fault::CrashPostgres => {
            let dead = millis(0, 1000);
            match rng.random_range(0..3) {
                0 => {
                    let what = format!("immediate shutdown of PostgreSQL, dead for {dead:?}");
                    cluster.during(what, Effect::FeedAway, cluster.crash_postgres("QUIT", dead)).await
                }
                1 => {
                    let what = format!("kill -9 postmaster, dead for {dead:?}");
                    cluster.during(what, Effect::FeedAway, cluster.crash_postgres("KILL", dead)).await
                }
                _ => {
                    let what = "kill -9 of a server process of PostgreSQL".into();
                    cluster.during(what, Effect::FeedAway, cluster.crash_backend()).await
                }
            }
        }
    }
}
