//! The worker as it runs in production.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{Leased, Outcome, RunError, Settings, run};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    database::{Database, always},
    handlers::{ledger_entry, settings},
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

pub(crate) fn start<H>(
    database: &Database,
    settings: Settings,
    handler: H,
) -> (JoinHandle<Result<(), RunError>>, CancellationToken)
where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
{
    let (pool, shutdown) = (database.pool.clone(), CancellationToken::new());
    let token = shutdown.clone();
    (tokio::spawn(async move { run(pool, settings, Kind::ALL, handler, token).await }), shutdown)
}

/// A handler that tells when it starts and then waits to be let go.
pub(crate) fn gated() -> (
    impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
    mpsc::UnboundedReceiver<Leased>,
    CancellationToken,
) {
    let (sender, started) = mpsc::unbounded_channel();
    let gate = CancellationToken::new();
    let open = gate.clone();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        let (sender, open) = (sender.clone(), open.clone());
        async move {
            sender.send(job).unwrap();
            open.cancelled().await;
            Outcome::Done
        }
        .boxed()
    };
    (handler, started, gate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_run_each_job_once() {
    const JOBS: usize = 3000;
    let database = Database::new().await;
    let sql =
        "select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid()), $1)
      from generate_series(1, $2)";
    database.admin.execute(sql, &[&database.tenant, &(JOBS as i32)]).await.unwrap();
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = move |_: Leased| -> BoxFuture<'static, Outcome> {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Outcome::Done }.boxed()
    };

    let relaxed = Settings { poll: Duration::from_millis(10), ..Settings::default() };
    let workers = [start(&database, relaxed.clone(), handler.clone()), start(&database, relaxed, handler)];
    let left = "select 1 from tenantry.jobs where state <> 'done' limit 1";
    while database.admin.query_opt(left, &[]).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (worker, shutdown) in workers {
        shutdown.cancel();
        worker.await.unwrap().unwrap();
    }

    assert_eq!(runs.load(Ordering::Relaxed), JOBS);
    let sql = "select count(distinct leased_by), max(attempts) from tenantry.jobs";
    let row = database.admin.query_one(sql, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i32>(1)),
        (2, 1),
        "both workers took part, under different names"
    );
}

#[tokio::test]
async fn a_heartbeat_keeps_a_long_job() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let (handler, mut started, gate) = gated();
    let (worker, shutdown) = start(&database, settings(), handler);
    started.recv().await.unwrap();
    let (rival, rival_shutdown) = start(&database, settings(), always(Outcome::Dead("stolen".to_owned())));

    database.until(id, "lease_expires_at > started_at + interval '4500 ms'").await;
    rival_shutdown.cancel();
    rival.await.unwrap().unwrap();
    gate.cancel();
    database.until(id, "state = 'done' and attempts = 1 and crashes = 0").await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_job_of_a_worker_that_was_killed_runs_elsewhere() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let mut child = other_process(&database, "hang");
    database.until(id, "state = 'running'").await;
    let killed: String = database.row(id).await.get("leased_by");
    child.kill().unwrap();
    child.wait().unwrap();

    let (worker, shutdown) = start(&database, settings(), always(Outcome::Done));
    database.until(id, "state = 'done'").await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();

    let row = database.row(id).await;
    assert_eq!((row.get::<_, i32>("attempts"), row.get::<_, i32>("crashes")), (2, 1));
    assert_ne!(row.get::<_, &str>("leased_by"), killed);
}

#[tokio::test]
async fn kill_9_loses_no_job_and_no_job_has_two_effects() {
    const JOBS: i64 = 400;
    let database = Database::new().await;
    let ledger = "create table tenantry.ledger (job uuid); grant insert on tenantry.ledger to tenantry_app";
    database.admin.batch_execute(ledger).await.unwrap();
    let sql =
        "select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid()), $1)
      from generate_series(1, $2)";
    database.admin.execute(sql, &[&database.tenant, &i32::try_from(JOBS).unwrap()]).await.unwrap();

    for kills in 1..=2 {
        let mut child = other_process(&database, "ledger");
        count(&database, "select count(*) from tenantry.ledger", kills * 100).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (worker, shutdown) = start(&database, settings(), ledger_entry(database.pool.clone()));
    count(&database, "select count(*) from tenantry.jobs where state = 'done'", JOBS).await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();

    let sql = "select count(*), count(distinct job) from tenantry.ledger";
    let row = database.admin.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (JOBS, JOBS));
}

/// Waits until the query counts as many.
async fn count(database: &Database, sql: &str, enough: i64) {
    while database.admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) < enough {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A worker in a process of its own (examples/queue-worker.rs), which can be killed.
pub(crate) fn other_process(database: &Database, handler: &str) -> Child {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().and_then(Path::parent).unwrap().join("examples/queue-worker");
    let child = Command::new(&program).args([handler, &database.name]).stdout(Stdio::null()).spawn();
    child.unwrap_or_else(|error| panic!("{}: {error}: run cargo build --examples", program.display()))
}

#[tokio::test]
async fn a_handler_whose_lease_is_lost_is_stopped() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let (sender, mut dropped) = mpsc::channel::<()>(1);
    let (started, mut running) = mpsc::unbounded_channel();
    let sender = Arc::new(std::sync::Mutex::new(Some(sender)));
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        let held_while_it_runs = sender.lock().unwrap().take();
        started.send(job).unwrap();
        async move {
            std::future::pending::<()>().await;
            drop(held_while_it_runs);
            Outcome::Done
        }
        .boxed()
    };
    let (worker, shutdown) = start(&database, settings(), handler);
    running.recv().await.unwrap();

    let stolen =
        "update tenantry.jobs set lease = gen_random_uuid(), lease_expires_at = now() + interval '1 h'";
    database.admin.batch_execute(stolen).await.unwrap();

    assert_eq!(dropped.recv().await, None);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!(database.state(id).await, "running", "and it leaves the thief's job alone");
}

#[tokio::test]
async fn a_shutdown_lets_jobs_finish_and_fetches_no_more() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let (handler, mut started, gate) = gated();
    let (worker, shutdown) = start(&database, settings(), handler);
    started.recv().await.unwrap();

    shutdown.cancel();
    let late = database.enqueue(&verify()).await;
    gate.cancel();
    worker.await.unwrap().unwrap();

    assert_eq!((database.state(id).await.as_str(), database.state(late).await.as_str()), ("done", "pending"));
}

#[tokio::test]
async fn jobs_that_do_not_finish_in_time_are_handed_back() {
    let database = Database::new().await;
    let ids = [database.enqueue(&verify()).await, database.enqueue(&InvalidateUser { users: vec![] }).await];
    let (handler, mut started, _gate) = gated();
    let long = Settings { drain: Duration::from_millis(50), lease: Duration::from_secs(3600), ..settings() };
    let (worker, shutdown) = start(&database, long, handler);
    started.recv().await.unwrap();
    started.recv().await.unwrap();

    shutdown.cancel();
    worker.await.unwrap().unwrap();

    for id in ids {
        database.until(id, "state = 'pending' and attempts = 0 and run_at <= now() and crashes = 0").await;
    }
    assert_eq!(database.run_due(always(Outcome::Done)).await, 2, "at once, without waiting for a lease");
}

#[tokio::test]
async fn a_worker_survives_its_connections() {
    let database = Database::new().await;
    let first = database.enqueue(&verify()).await;
    let (handler, mut started, gate) = gated();
    let (worker, shutdown) =
        start(&database, Settings { lease: Duration::from_secs(60), ..settings() }, handler);
    started.recv().await.unwrap();

    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename <> current_user and datname = $1";
    let mut ended = 0;
    for _ in 0..5 {
        ended += database.admin.query(cut, &[&database.name]).await.unwrap().len();
        tokio::task::yield_now().await;
    }
    assert!(ended > 0);
    gate.cancel();
    database.until(first, "state = 'done' and attempts = 1").await;
    // A pool finds out that a connection is gone when it hands it out: enqueue as another.
    let sql =
        "select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid()), $1)";
    let second = database.admin.query_one(sql, &[&database.tenant]).await.unwrap().get(0);
    database.until(tenantry_queue::JobId(second), "state = 'done'").await;

    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn no_more_jobs_are_leased_than_run_and_one_tenant_leaves_places_for_others() {
    let database = Database::new().await;
    for _ in 0..10 {
        database.enqueue(&verify()).await;
    }
    let (handler, mut started, gate) = gated();
    let (worker, shutdown) = start(&database, Settings { concurrency: 3, ..settings() }, handler);
    // Three shared places and four of the mails' own, of which a tenant has three quarters at most.
    for _ in 0..5 {
        started.recv().await.unwrap();
    }
    let leased = "select count(*) from tenantry.jobs where state = 'running'";
    assert_eq!(database.admin.query_one(leased, &[]).await.unwrap().get::<_, i64>(0), 5);
    let other = Database { tenant: database.add_tenant().await, ..Database::on(&database.name).await };
    for _ in 0..10 {
        other.enqueue(&verify()).await;
    }
    for _ in 0..2 {
        assert_eq!(started.recv().await.unwrap().tenant, other.tenant);
    }
    assert_eq!(database.admin.query_one(leased, &[]).await.unwrap().get::<_, i64>(0), 7);

    gate.cancel();
    for _ in 0..13 {
        started.recv().await.unwrap();
    }
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    assert!(database.states().await.iter().all(|state| state == "done"));
}

#[tokio::test]
async fn a_worker_takes_only_its_kinds() {
    let database = Database::new().await;
    let theirs = database.enqueue(&verify()).await;
    let ours = database.enqueue(&InvalidateUser { users: vec![] }).await;
    let (pool, shutdown) = (database.pool.clone(), CancellationToken::new());
    let token = shutdown.clone();
    let worker = tokio::spawn(async move {
        run(pool, settings(), &[Kind::InvalidateUser], always(Outcome::Done), token).await
    });

    database.until(ours, "state = 'done'").await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!(database.state(theirs).await, "pending");
}
