//! The faults. A phase strikes with one kind of fault, again and again, and ends healed.

use std::time::{Duration, Instant};

use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use tokio::time::sleep;

use crate::{
    Result,
    cluster::Cluster,
    history::{Effect, Event, Phase},
    points::Action,
    process::Process,
    proxy::{Flow, Link, Proxy},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Fault {
    None,
    KillApi,
    KillWorker,
    FreezeApi,
    KillAtPoint,
    StopAtPoint,
    CutRedis,
    CutBoth,
    SlowRedis,
    RestartRedis,
    FlushRedis,
    EvictRedis,
    PauseRedis,
    FreezeRedis,
    CutPostgres,
    EndConnections,
    CrashPostgres,
    Combination,
}

/// The steps of a process at which it is stopped or killed.
const API_POINTS: [&str; 10] = [
    "after-update",
    "after-floor",
    "after-commit",
    "before-ack",
    "after-lease",
    "after-select",
    "before-fill",
    "before-insert",
    "before-pointer",
    "after-join",
];
const WORKER_POINT: &str = "after-job";

impl Fault {
    pub(crate) const ALL: [Self; 18] = [
        Self::None,
        Self::KillApi,
        Self::KillWorker,
        Self::FreezeApi,
        Self::KillAtPoint,
        Self::StopAtPoint,
        Self::CutRedis,
        Self::CutBoth,
        Self::SlowRedis,
        Self::RestartRedis,
        Self::FlushRedis,
        Self::EvictRedis,
        Self::PauseRedis,
        Self::FreezeRedis,
        Self::CutPostgres,
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
            Self::KillAtPoint => "kill-at-point",
            Self::StopAtPoint => "stop-at-point",
            Self::CutRedis => "cut-redis",
            Self::CutBoth => "cut-both",
            Self::SlowRedis => "slow-redis",
            Self::RestartRedis => "restart-redis",
            Self::FlushRedis => "flush-redis",
            Self::EvictRedis => "evict-redis",
            Self::PauseRedis => "pause-redis",
            Self::FreezeRedis => "freeze-redis",
            Self::CutPostgres => "cut-postgres",
            Self::EndConnections => "end-connections",
            Self::CrashPostgres => "crash-postgres",
            Self::Combination => "combination",
        }
    }

    /// Workers may die with jobs in their hands.
    pub(crate) fn strikes_workers(self) -> bool {
        matches!(self, Self::KillWorker | Self::KillAtPoint | Self::StopAtPoint | Self::Combination)
    }

    /// PostgreSQL and the nodes stand, so every request can be answered.
    fn always_answers(self) -> bool {
        use Fault::{
            CutRedis, EvictRedis, FlushRedis, FreezeRedis, KillWorker, None, PauseRedis, RestartRedis,
            SlowRedis,
        };
        matches!(
            self,
            None | KillWorker
                | CutRedis
                | SlowRedis
                | RestartRedis
                | FlushRedis
                | EvictRedis
                | PauseRedis
                | FreezeRedis
        )
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
    let healed = cluster.clock.now();
    sleep(QUIET).await;
    let (name, always_answers) = (fault.name().to_owned(), fault.always_answers());
    let to = cluster.clock.now();
    Ok(Phase { name, always_answers, from, healed, to, shown: to })
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
    StdRng::seed_from_u64(rng.random())
}

async fn strike(cluster: &Cluster, fault: Fault, rng: &mut StdRng) -> Result<()> {
    match fault {
        Fault::None | Fault::Combination => {
            sleep(Duration::from_millis(200)).await;
            Ok(())
        }
        Fault::KillApi => {
            let dead = millis(rng, 0, 800);
            let node = rng.random_range(0..cluster.apis.len());
            let process = &cluster.apis[node];
            let what = format!("kill -9 {}, dead for {dead:?}", process.name);
            cluster.during(what, Effect::Nothing, process.replace(dead)).await
        }
        Fault::KillWorker => {
            let dead = millis(rng, 0, 800);
            let process = &cluster.workers[rng.random_range(0..cluster.workers.len())];
            let what = format!("kill -9 {}, dead for {dead:?}", process.name);
            cluster.during(what, Effect::WorkerAway, process.replace(dead)).await
        }
        Fault::KillAtPoint => {
            let (process, effect, point) = somebody(cluster, rng);
            at_point(cluster, process, effect, point, Action::Kill, millis(rng, 0, 800)).await
        }
        Fault::StopAtPoint => {
            let (process, effect, point) = somebody(cluster, rng);
            at_point(cluster, process, effect, point, Action::Stop, millis(rng, 200, 4000)).await
        }
        Fault::CutRedis => cut_redis(cluster, rng).await,
        Fault::CutBoth => cut_both(cluster, rng).await,
        Fault::SlowRedis => {
            let (time, slow) = (millis(rng, 300, 2000), Flow::Slow(Duration::from_millis(45)));
            let part = if rng.random_bool(0.5) { cluster.apis.len() } else { 1 };
            let slowed = cluster.apis.iter().choose_multiple(rng, part);
            let what = format!("answers of Redis to {part} nodes 45 ms late, for {time:?}");
            let link = Link { answers: slow, ..Link::OPEN };
            let links = slowed.into_iter().map(|process| &process.redis).collect();
            cluster.during(what, Effect::Nothing, bend(links, link, time)).await
        }
        Fault::EvictRedis => {
            let time = millis(rng, 200, 700);
            let what = format!("Redis has 2 MB, for {time:?}");
            cluster.during(what, Effect::RedisForgets, evict(cluster, time)).await
        }
        Fault::CutPostgres => {
            let (time, node) = (millis(rng, 100, 1500), rng.random_range(0..cluster.apis.len()));
            let (link, how) = one_way(rng, Flow::Held);
            let process = &cluster.apis[node];
            let what = format!("{} cut off from PostgreSQL ({how}) for {time:?}", process.name);
            cluster.during(what, Effect::NodeAway(node), bend(vec![&process.postgres], link, time)).await
        }
        Fault::FreezeApi => {
            let time = millis(rng, 1000, 5000);
            let node = rng.random_range(0..cluster.apis.len());
            let process = &cluster.apis[node];
            let what = format!("SIGSTOP {} for {time:?}", process.name);
            cluster.during(what, Effect::NodeAway(node), process.freeze(time)).await
        }
        Fault::RestartRedis => {
            let dead = millis(rng, 0, 1500);
            let what = format!("kill -9 Redis, dead for {dead:?}, empty after");
            cluster.during(what, Effect::RedisForgets, cluster.replace_redis(dead)).await
        }
        Fault::FlushRedis => {
            cluster.during("FLUSHALL".into(), Effect::RedisForgets, cluster.tell_redis("FLUSHALL")).await
        }
        Fault::PauseRedis => {
            let time = millis(rng, 20, 1500);
            let what = format!("CLIENT PAUSE {}", time.as_millis());
            let pause = async {
                cluster.tell_redis(&format!("CLIENT PAUSE {} ALL", time.as_millis())).await?;
                sleep(time).await;
                Ok(())
            };
            cluster.during(what, Effect::Nothing, pause).await
        }
        Fault::FreezeRedis => {
            let time = millis(rng, 50, 3000);
            let what = format!("SIGSTOP Redis for {time:?}");
            cluster.during(what, Effect::Nothing, cluster.freeze_redis(time)).await
        }
        Fault::EndConnections => {
            let part = if rng.random_bool(0.3) { 1.0 } else { rng.random_range(0.1..0.6) };
            let what = format!("pg_terminate_backend of {:.0} %", part * 100.0);
            cluster.during(what, Effect::FeedAway, cluster.end_connections(part)).await
        }
        Fault::CrashPostgres => {
            let dead = millis(rng, 0, 1000);
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

fn millis(rng: &mut StdRng, least: u64, most: u64) -> Duration {
    Duration::from_millis(rng.random_range(least..=most))
}

/// A process, what it means for others when it is away, and a step of its own.
fn somebody<'a>(cluster: &'a Cluster, rng: &mut StdRng) -> (&'a Process, Effect, &'static str) {
    if rng.random_bool(0.15) {
        return (
            &cluster.workers[rng.random_range(0..cluster.workers.len())],
            Effect::WorkerAway,
            WORKER_POINT,
        );
    }
    let node = rng.random_range(0..cluster.apis.len());
    (&cluster.apis[node], Effect::NodeAway(node), API_POINTS[rng.random_range(0..API_POINTS.len())])
}

/// The process kills or stops itself at the point, if it gets there soon.
async fn at_point(
    cluster: &Cluster,
    process: &Process,
    effect: Effect,
    point: &'static str,
    action: Action,
    time: Duration,
) -> Result<()> {
    let from = cluster.clock.now();
    process.points.arm(point, action)?;
    // Withdrawn in vain, somebody got there in the last moment.
    if !process.points.reached_within(point, Duration::from_millis(1500)).await
        && process.points.withdraw(point)?
    {
        return Ok(());
    }
    match action {
        Action::Kill => {
            process.died().await?;
            sleep(time).await;
            process.start().await?;
        }
        _ => {
            sleep(time).await;
            process.thaw().await?;
        }
    }
    process.points.release(point)?;
    let what =
        format!("{} at {point} in {}, for {time:?}", format!("{action:?}").to_lowercase(), process.name);
    cluster.note(Event { what, effect, from, to: cluster.clock.now() })
}

/// One direction or both.
fn one_way(rng: &mut StdRng, flow: Flow) -> (Link, &'static str) {
    match rng.random_range(0..3) {
        0 => (Link { requests: flow, ..Link::OPEN }, "requests"),
        1 => (Link { answers: flow, ..Link::OPEN }, "answers"),
        _ => (Link { requests: flow, answers: flow }, "both ways"),
    }
}

/// A node is cut off from Redis, mostly with all workers: then nobody can tell Redis what it wrote, while others read there.
async fn cut_redis(cluster: &Cluster, rng: &mut StdRng) -> Result<()> {
    let (time, node) = (millis(rng, 100, 2500), rng.random_range(0..cluster.apis.len()));
    let flow = if rng.random_bool(0.5) { Flow::Held } else { Flow::Lost };
    let (link, how) = one_way(rng, flow);
    let mut cut = vec![&cluster.apis[node]];
    if rng.random_bool(0.7) {
        cut.extend(&cluster.workers);
    }
    let names: Vec<_> = cut.iter().map(|process| process.name.as_str()).collect();
    let what = format!("{} cut off from Redis ({how}, {flow:?}) for {time:?}", names.join(", "));
    let links = cut.iter().map(|process| &process.redis).collect();
    cluster.during(what, Effect::Nothing, bend(links, link, time)).await
}

/// One node and the workers are cut off from Redis, another node from PostgreSQL: it cannot follow the feed, and still
/// reads in Redis what nobody could remove.
async fn cut_both(cluster: &Cluster, rng: &mut StdRng) -> Result<()> {
    let (time, writer) = (millis(rng, 500, 3000), rng.random_range(0..cluster.apis.len()));
    let reader = (writer + rng.random_range(1..cluster.apis.len())) % cluster.apis.len();
    let (writes, reads) = (&cluster.apis[writer], &cluster.apis[reader]);
    let what = format!(
        "{} and the workers cut off from Redis, {} from PostgreSQL, for {time:?}",
        writes.name, reads.name
    );
    let redis = cluster.workers.iter().chain([writes]).map(|process| &process.redis).collect();
    let both = async {
        let held = Link { requests: Flow::Held, answers: Flow::Held };
        let (one, other) = (bend(redis, Link::LOST, time), bend(vec![&reads.postgres], held, time));
        tokio::try_join!(one, other).map(drop)
    };
    cluster.during(what, Effect::NodeAway(reader), both).await
}

async fn bend(proxies: Vec<&Proxy>, link: Link, time: Duration) -> Result<()> {
    for proxy in &proxies {
        proxy.set(link);
    }
    sleep(time).await;
    for proxy in proxies {
        proxy.set(Link::OPEN);
    }
    Ok(())
}

/// What is stored beside the users' entries makes Redis forget those that are asked for least, and floors as well.
async fn evict(cluster: &Cluster, time: Duration) -> Result<()> {
    cluster.tell_redis("CONFIG SET maxmemory 2mb").await?;
    // In one script, since each line that Redis is told takes a connection.
    let junk =
        "EVAL \"for n = 1, 3000 do redis.call('SET', 'junk:' .. n, string.rep('x', 1000), 'PX', 500) end\" 0";
    cluster.tell_redis(junk).await?;
    sleep(time).await;
    cluster.tell_redis("CONFIG SET maxmemory 256mb").await
}
