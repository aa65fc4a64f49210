//! Our queue beside apalis-postgres and apalis-redis, in one run on one machine: enqueue one by one, enqueue many at
//! once, and run jobs that do nothing with one worker and with two. Only the ratios mean anything.
//!
//! `make bench-jobs` starts a PostgreSQL (fsync on) and a Redis for it and prints the table.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_postgres::PostgresStorage;
use apalis_redis::RedisStorage;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::{FutureExt, future::BoxFuture};
use serde::{Deserialize, Serialize};
use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{Leased, Nudge, Outcome, Settings, enqueue, enqueue_many};
use tokio::{sync::Notify, time::timeout};
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Enqueued one by one.
const SINGLE: usize = 1000;
/// Enqueued at once, in batches, and run.
const BULK: usize = 20_000;
/// More than some 8,000 due jobs end apalis-redis for good: its script unpacks all of them.
const BULK_REDIS: usize = 7000;
const BATCH: usize = 1000;
const CONCURRENCY: usize = 64;

#[tokio::main]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(3), |n| n.parse())?;
    let (mut ours, mut postgres, mut redis) = (vec![], vec![], vec![]);
    // By turns, so that whatever else the machine does meets all three.
    for round in 0..rounds {
        ours.push(tenantry(round).await?);
        postgres.push(apalis_postgres(round).await?);
        redis.push(apalis_redis(round).await?);
    }
    let waits = latency().await?;
    println!(
        "| jobs a second (median of {rounds}) | enqueue one | enqueue {BATCH} at once | run, 1 worker | run, 2 workers |"
    );
    println!("|---|---|---|---|---|");
    for (name, results) in
        [("tenantry", &ours), ("apalis-postgres 1.0", &postgres), ("apalis-redis 1.0", &redis)]
    {
        let median = |n: usize| {
            let mut values: Vec<f64> = results.iter().map(|result| result[n]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!("| {name} | {:.0} | {:.0} | {:.0} | {:.0} |", median(0), median(1), median(2), median(3));
    }
    println!();
    println!("From COMMIT to start on an idle worker: p50 {:.1} ms, p99 {:.1} ms.", waits.0, waits.1);
    Ok(())
}

fn variable(name: &str) -> Result<String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: run make bench-jobs").into())
}

fn per_second(jobs: usize, since: Instant) -> f64 {
    jobs as f64 / since.elapsed().as_secs_f64()
}

/// Counts the jobs that ran.
#[derive(Clone, Default)]
struct Ran(Arc<(AtomicUsize, Notify)>);

impl Ran {
    fn one(&self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
        self.0.1.notify_one();
    }

    async fn until(&self, jobs: usize) -> Result<()> {
        let all = async {
            while self.0.0.load(Ordering::Relaxed) < jobs {
                self.0.1.notified().await;
            }
        };
        Ok(timeout(Duration::from_secs(300), all).await.map_err(|_| "the jobs do not end")?)
    }
}

// ---- ours

fn pool(url: &str) -> Result<Pool> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Ok(Pool::builder(Manager::from_config(url.parse()?, NoTls, recycling)).max_size(5).build()?)
}

/// A database without jobs, with its tenants.
async fn emptied() -> Result<Vec<Uuid>> {
    let (client, connection) =
        tokio_postgres::connect(&variable("TEST_DATABASE_SUPERUSER_URL")?, NoTls).await?;
    tokio::spawn(connection);
    for sql in [
        "truncate tenantry.jobs cascade",
        "delete from tenantry.schedules",
        "vacuum analyze tenantry.jobs",
        "checkpoint",
    ] {
        client.batch_execute(sql).await?;
    }
    let mut tenants = vec![];
    for _ in 0..4 {
        let id = Uuid::now_v7();
        let sql = "insert into tenantry.tenants (id, name, slug) values ($1, 'Bench', $2)";
        client.execute(sql, &[&id, &format!("b{}", id.simple())]).await?;
        tenants.push(id);
    }
    Ok(tenants)
}

/// One transaction as a producer has it: role and tenant, the job, COMMIT.
async fn enter(tx: &deadpool_postgres::Transaction<'_>, tenant: Uuid) -> Result<()> {
    let sql = "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1, true)";
    tx.query_one(&tx.prepare_cached(sql).await?, &[&tenant.to_string()]).await?;
    Ok(())
}

async fn tenantry(round: usize) -> Result<[f64; 4]> {
    let tenants = emptied().await?;
    let pool = pool(&variable("TEST_DATABASE_URL")?)?;
    let mut client = pool.get().await?;
    let since = Instant::now();
    for n in 0..SINGLE {
        let tenant = tenants[n % tenants.len()];
        let tx = client.transaction().await?;
        enter(&tx, tenant).await?;
        enqueue(&tx, tenant, &VerifyEmail { user_id: Uuid::now_v7() }).await?;
        tx.commit().await?;
    }
    let single = per_second(SINGLE, since);
    drain(&pool, SINGLE, 1).await?;
    let mut results = [single, 0.0, 0.0, 0.0];
    for workers in [1, 2] {
        let since = Instant::now();
        for batch in 0..BULK / BATCH {
            let tenant = tenants[batch % tenants.len()];
            let tx = client.transaction().await?;
            enter(&tx, tenant).await?;
            let jobs: Vec<_> = (0..BATCH).map(|_| InvalidateUser { users: vec![] }).collect();
            enqueue_many(&tx, tenant, &jobs, None, 0).await?;
            tx.commit().await?;
        }
        results[1] = f64::max(results[1], per_second(BULK, since));
        results[1 + workers] = drain(&pool, BULK, workers).await?;
    }
    eprintln!("round {round}: tenantry {results:.0?}");
    Ok(results)
}

/// Runs what waits and returns how many a second.
async fn drain(pool: &Pool, jobs: usize, workers: usize) -> Result<f64> {
    let (ran, stop) = (Ran::default(), CancellationToken::new());
    let since = Instant::now();
    let mut running = vec![];
    for _ in 0..workers {
        let (ran, stop, pool) = (ran.clone(), stop.clone(), self::pool(&variable("TEST_DATABASE_URL")?)?);
        let settings = Settings { concurrency: CONCURRENCY, ..Settings::default() };
        let handler = move |_: Leased| -> BoxFuture<'static, Outcome> {
            ran.one();
            std::future::ready(Outcome::Done).boxed()
        };
        running.push(tokio::spawn(async move {
            tenantry_queue::run(pool, settings, Kind::ALL, handler, stop).await
        }));
    }
    ran.until(jobs).await?;
    let rate = per_second(jobs, since);
    stop.cancel();
    for worker in running {
        worker.await??;
    }
    let client = pool.get().await?;
    client.batch_execute("begin; set local role tenantry_system").await?;
    let open: i64 = client
        .query_one("select count(*) from tenantry.jobs where state <> 'done'", &[])
        .await?
        .try_get(0)?;
    client.batch_execute("commit").await?;
    if open == 0 { Ok(rate) } else { Err(format!("{open} jobs are not done").into()) }
}

/// Milliseconds from COMMIT to start, p50 and p99, of jobs that come one at a time.
async fn latency() -> Result<(f64, f64)> {
    let tenants = emptied().await?;
    let url = variable("TEST_DATABASE_URL")?;
    let (pool, stop) = (pool(&url)?, CancellationToken::new());
    let nudge = Nudge::start(pool.clone());
    let (sender, mut started) = tokio::sync::mpsc::unbounded_channel();
    let handler = move |_: Leased| -> BoxFuture<'static, Outcome> {
        let _ = sender.send(Instant::now());
        std::future::ready(Outcome::Done).boxed()
    };
    let settings = Settings { listen: Some(url.parse()?), ..Settings::default() };
    let (worker, token) = (self::pool(&url)?, stop.clone());
    let worker =
        tokio::spawn(async move { tenantry_queue::run(worker, settings, Kind::ALL, handler, token).await });
    let mut client = pool.get().await?;
    let mut waits = vec![];
    for _ in 0..300 {
        // Longer than the least time between two notifications.
        tokio::time::sleep(Duration::from_millis(70)).await;
        let tx = client.transaction().await?;
        enter(&tx, tenants[0]).await?;
        enqueue(&tx, tenants[0], &VerifyEmail { user_id: Uuid::now_v7() }).await?;
        tx.commit().await?;
        let committed = Instant::now();
        nudge.nudge();
        let at = started.recv().await.ok_or("the worker has ended")?;
        waits.push(at.saturating_duration_since(committed).as_secs_f64() * 1000.0);
    }
    stop.cancel();
    worker.await??;
    waits.sort_by(f64::total_cmp);
    // The first has the worker's start in it.
    Ok((waits[waits.len() / 2], waits[waits.len() * 99 / 100]))
}

// ---- the others

/// As much as ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Mail {
    user_id: Uuid,
}

fn mail() -> Mail {
    Mail { user_id: Uuid::now_v7() }
}

async fn nothing(_: Mail, ran: Data<Ran>) -> std::result::Result<(), BoxDynError> {
    ran.one();
    Ok(())
}

/// sqlx reads no URL without a host.
fn superuser() -> Result<sqlx::postgres::PgConnectOptions> {
    let config: tokio_postgres::Config = variable("TEST_DATABASE_SUPERUSER_URL")?.parse()?;
    let Some(tokio_postgres::config::Host::Unix(socket)) = config.get_hosts().first() else {
        return Err("TEST_DATABASE_SUPERUSER_URL names no socket".into());
    };
    let options = sqlx::postgres::PgConnectOptions::new().socket(socket);
    let user = config.get_user().ok_or("no user")?;
    Ok(options.username(user).database(config.get_dbname().ok_or("no database")?))
}

async fn apalis_postgres(round: usize) -> Result<[f64; 4]> {
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(10).connect_with(superuser()?).await?;
    PostgresStorage::<()>::setup(&pool).await?;
    let queue = format!("bench-{round}");
    let storage = || {
        let config = apalis_postgres::Config::default().queue(&queue).batch_size(100);
        PostgresStorage::new(&pool).with_config(config)
    };
    let mut sink = storage();
    let since = Instant::now();
    for _ in 0..SINGLE {
        sink.push(mail()).await?;
    }
    let mut results = [per_second(SINGLE, since), 0.0, 0.0, 0.0];
    let mut waiting = SINGLE;
    for workers in [1, 2] {
        let since = Instant::now();
        for _ in 0..BULK / BATCH {
            sink.push_bulk((0..BATCH).map(|_| mail()).collect()).await?;
        }
        results[1] = f64::max(results[1], per_second(BULK, since));
        waiting += BULK;
        let ran = Ran::default();
        let since = Instant::now();
        let mut running = vec![];
        for n in 0..workers {
            let backend = storage().with_pubsub().poll_with_interval(Duration::from_millis(100));
            let worker = WorkerBuilder::new(format!("bench-{round}-{workers}-{n}"))
                .backend(backend)
                .data(ran.clone())
                .concurrency(CONCURRENCY)
                .build(nothing);
            running.push(tokio::spawn(worker.run()));
        }
        ran.until(waiting).await?;
        results[1 + workers] = per_second(waiting, since);
        waiting = 0;
        running.iter().for_each(|worker| worker.abort());
    }
    pool.close().await;
    eprintln!("round {round}: apalis-postgres {results:.0?}");
    Ok(results)
}

async fn apalis_redis(round: usize) -> Result<[f64; 4]> {
    let connection = apalis_redis::connect(variable("TEST_REDIS_URL")?).await?;
    let mut results = [0.0; 4];
    for workers in [1, 2] {
        let queue = format!("bench-{round}-{workers}");
        let storage = || {
            let config = apalis_redis::Config::default().queue(&queue).batch_size(100);
            RedisStorage::new(connection.clone()).with_config(config)
        };
        let mut sink = storage();
        let since = Instant::now();
        for _ in 0..SINGLE {
            sink.push(mail()).await?;
        }
        results[0] = f64::max(results[0], per_second(SINGLE, since));
        let since = Instant::now();
        for _ in 0..(BULK_REDIS - SINGLE) / BATCH {
            sink.push_bulk((0..BATCH).map(|_| mail()).collect()).await?;
        }
        results[1] = f64::max(results[1], per_second(BULK_REDIS - SINGLE, since));
        let ran = Ran::default();
        let since = Instant::now();
        let mut running = vec![];
        for n in 0..workers {
            let backend = storage().poll_with_interval(Duration::from_millis(100));
            let worker = WorkerBuilder::new(format!("bench-{round}-{workers}-{n}"))
                .backend(backend)
                .data(ran.clone())
                .concurrency(CONCURRENCY)
                .build(nothing);
            running.push(tokio::spawn(worker.run()));
        }
        ran.until(BULK_REDIS).await?;
        results[1 + workers] = per_second(BULK_REDIS, since);
        running.iter().for_each(|worker| worker.abort());
    }
    eprintln!("round {round}: apalis-redis {results:.0?}");
    Ok(results)
}
