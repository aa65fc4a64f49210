//! How soon workers learn of new jobs, and of the time.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, future::BoxFuture};
use tenantry_jobs::{Kind, VerifyEmail};
use tenantry_queue::{Leased, Nudge, Outcome, Settings};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    database::{Database, always, login},
    workers::{gated, start},
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

fn listening(database: &Database, poll: Duration) -> Settings {
    Settings { poll, listen: Some(login("TEST_DATABASE_URL", &database.name)), ..Settings::default() }
}

#[tokio::test]
async fn a_nudge_starts_a_job_long_before_the_next_poll() {
    let database = Database::new().await;
    let (sender, mut started) = mpsc::unbounded_channel();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        sender.send((job.id, Instant::now())).unwrap();
        std::future::ready(Outcome::Done).boxed()
    };
    let (worker, shutdown) = start(&database, listening(&database, Duration::from_secs(3600)), handler);
    let nudge = Nudge::start(database.pool.clone());
    let mut waits = Vec::new();
    for _ in 0..50 {
        let id = database.enqueue(&verify()).await;
        let committed = Instant::now();
        nudge.nudge();
        let (ran, at) = started.recv().await.unwrap();
        assert_eq!(ran, id);
        waits.push(at - committed);
    }

    waits.sort();
    println!("from COMMIT to start: p50 {:?}, p98 {:?}", waits[25], waits[49]);
    // At most 50 ms for the notification before, and ten times the usual rest.
    assert!(waits[25] < Duration::from_millis(150), "{waits:?}");
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_process_notifies_twenty_times_a_second_at_most() {
    let database = Database::new().await;
    let (listener, mut connection) =
        login("TEST_DATABASE_URL", &database.name).connect(tokio_postgres::NoTls).await.unwrap();
    let (sender, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        while let Some(Ok(message)) = messages.next().await {
            if matches!(message, tokio_postgres::AsyncMessage::Notification(_)) {
                sender.send(()).unwrap();
            }
        }
    });
    listener.batch_execute("listen tenantry_jobs").await.unwrap();
    let nudge = Nudge::start(database.pool.clone());
    let begun = Instant::now();

    for _ in 0..200 {
        database.enqueue(&verify()).await;
        nudge.nudge();
    }
    heard.recv().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), heard.recv()).await.unwrap().unwrap();
    let most = 2 + begun.elapsed().as_millis() / 50;
    let mut count = 2;
    while heard.try_recv().is_ok() {
        count += 1;
    }
    assert!(count <= most, "{count} in {:?}", begun.elapsed());
}

#[tokio::test]
async fn the_poll_finds_jobs_of_producers_that_say_nothing() {
    let database = Database::new().await;
    let (worker, shutdown) =
        start(&database, Settings { listen: None, ..Settings::default() }, always(Outcome::Done));
    // The first fetch is over.
    let first = database.enqueue(&verify()).await;
    database.until(first, "state = 'done'").await;
    let second = database.enqueue(&verify()).await;
    let committed = Instant::now();
    database.until(second, "state = 'done'").await;
    assert!(committed.elapsed() < Duration::from_secs(5));
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_listener_comes_back_when_its_connection_was_cut() {
    let database = Database::new().await;
    let (handler, mut started, gate) = gated();
    gate.cancel();
    let (worker, shutdown) = start(&database, listening(&database, Duration::from_secs(3600)), handler);
    let nudge = Nudge::start(database.pool.clone());
    let id = database.enqueue(&verify()).await;
    nudge.nudge();
    assert_eq!(started.recv().await.unwrap().id, id);

    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
      where datname = $1 and usename <> current_user and query = 'listen tenantry_jobs'";
    while database.admin.query(cut, &[&database.name]).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    // Heard by the new connection, or made good by its first fetch.
    let id = database.enqueue(&verify()).await;
    nudge.nudge();
    assert_eq!(started.recv().await.unwrap().id, id);
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn scheduled_work_comes_once_per_period_over_all_workers() {
    let database = Database::new().await;
    let sql = "insert into tenantry.schedules values ('prune_jobs', '1 hour', now() - interval '10 hours 30 minutes')";
    database.admin.batch_execute(sql).await.unwrap();

    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(start(&database, Settings::default(), always(Outcome::Done)));
    }
    let done = "select count(*) from tenantry.jobs where kind = $1 and state = 'done'";
    while database.admin.query_one(done, &[&Kind::PruneJobs.as_str()]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // All four have looked when they have all stopped: each looks first of all.
    for (worker, shutdown) in workers {
        shutdown.cancel();
        worker.await.unwrap().unwrap();
    }

    assert_eq!(database.states().await, ["done"], "one for all that were missed");
    let sql = "select next_at between now() + interval '29 minutes' and now() + interval '31 minutes' from tenantry.schedules";
    assert!(database.admin.query_one(sql, &[]).await.unwrap().get::<_, bool>(0), "and the period is kept");
    let again = database.client().await.query_one("select tenantry.enqueue_scheduled()", &[]).await.unwrap();
    assert_eq!(again.get::<_, i64>(0), 0);
}
