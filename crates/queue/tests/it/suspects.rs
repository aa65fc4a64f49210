//! Jobs that kill their worker.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{JobId, Leased, Outcome};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    database::Database,
    handlers::{POISON, settings},
    workers::{other_process, start},
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

/// Jobs that have started, each with the way to end it.
type Started = mpsc::UnboundedReceiver<(Leased, oneshot::Sender<Outcome>)>;

/// A handler that tells when it starts and ends when it is told to.
fn steered() -> (impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static, Started) {
    let (sender, started) = mpsc::unbounded_channel();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        let (end, ended) = oneshot::channel();
        sender.send((job, end)).unwrap();
        async { ended.await.unwrap() }.boxed()
    };
    (handler, started)
}

async fn suspect(database: &Database, id: JobId) {
    let sql = "update tenantry.jobs set suspect = true, ready = false where id = $1";
    database.admin.execute(sql, &[&id.0]).await.unwrap();
}

#[tokio::test]
async fn a_suspect_runs_alone_and_then_it_is_the_others_turn() {
    let database = Database::new().await;
    let before = database.enqueue(&verify()).await;
    let (handler, mut started) = steered();
    let (worker, shutdown) = start(&database, settings(), handler);
    let (job, end_before) = started.recv().await.unwrap();
    assert_eq!(job.id, before);
    let suspected = database.enqueue(&VerifyEmail { user_id: Uuid::nil() }).await;
    // It may have started before it became a suspect.
    let early = tokio::time::timeout(Duration::from_secs(5), started.recv()).await;
    drop(early.unwrap().unwrap().1.send(Outcome::Snooze(Duration::from_secs(60))));
    database.until(suspected, "state = 'pending'").await;
    suspect(&database, suspected).await;
    let now = "update tenantry.jobs set run_at = now() where id = $1";
    database.admin.execute(now, &[&suspected.0]).await.unwrap();
    database.until(suspected, "state = 'running' and not alone").await;

    // The worker waits for the first mail to end; a second one waits with it, an invalidation does not.
    let after = database.enqueue(&verify()).await;
    database.enqueue(&InvalidateUser { users: vec![] }).await;
    let (job, end) = started.recv().await.unwrap();
    assert_eq!(job.kind, Kind::InvalidateUser);
    end.send(Outcome::Done).unwrap();
    end_before.send(Outcome::Done).unwrap();

    let (job, end_suspected) = started.recv().await.unwrap();
    assert_eq!((job.id, job.suspect), (suspected, true));
    database.until(suspected, "alone").await;
    let meanwhile = database.enqueue(&InvalidateUser { users: vec![] }).await;
    assert_eq!(
        (database.state(meanwhile).await.as_str(), database.state(after).await.as_str()),
        ("pending", "pending")
    );
    let second = database.enqueue(&verify()).await;
    suspect(&database, second).await;
    end_suspected.send(Outcome::Done).unwrap();

    let mut rest = Vec::new();
    for _ in 0..3 {
        let (job, end) = started.recv().await.unwrap();
        if job.suspect {
            database.until(job.id, "alone").await;
        }
        rest.push(job.id);
        end.send(Outcome::Done).unwrap();
    }
    rest.sort();
    let mut expected = [after, meanwhile, second];
    expected.sort();
    assert_eq!(rest, expected);
    database.until(suspected, "state = 'done' and not suspect").await;
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_suspect_that_was_not_begun_is_handed_back_as_one() {
    let database = Database::new().await;
    let mail = database.enqueue(&verify()).await;
    let (handler, mut started) = steered();
    let (worker, shutdown) = start(
        &database,
        tenantry_queue::Settings { drain: Duration::from_millis(50), ..settings() },
        handler,
    );
    let _running = started.recv().await.unwrap();
    let suspected = database.enqueue(&verify()).await;
    let _early = started.recv().await.unwrap();
    // As if its worker had died.
    let crash =
        "update tenantry.jobs set lease = null, lease_expires_at = now() - interval '1 s' where id = $1";
    database.admin.execute(crash, &[&suspected.0]).await.unwrap();
    database.until(suspected, "state = 'running' and suspect and crashes = 1 and lease is not null").await;

    shutdown.cancel();
    worker.await.unwrap().unwrap();

    database
        .until(suspected, "state = 'pending' and suspect and not alone and attempts = 1 and crashes = 1")
        .await;
    database.until(mail, "state = 'pending' and not suspect and attempts = 0").await;
}

#[tokio::test]
async fn a_poison_job_is_parked_and_harms_nobody() {
    const JOBS: i64 = 200;
    let database = Database::new().await;
    let ledger = "create table tenantry.ledger (job uuid); grant insert on tenantry.ledger to tenantry_app";
    database.admin.batch_execute(ledger).await.unwrap();
    let poison = database.enqueue(&VerifyEmail { user_id: POISON }).await;
    let sql =
        "select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid()), $1)
      from generate_series(1, $2)";
    database.admin.execute(sql, &[&database.tenant, &i32::try_from(JOBS).unwrap()]).await.unwrap();

    let mut deaths = 0;
    let mut child = other_process(&database, "ledger");
    let open = "select count(*) from tenantry.jobs where state not in ('done', 'dead')";
    while database.admin.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        if child.try_wait().unwrap().is_some() {
            deaths += 1;
            child = other_process(&database, "ledger");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(deaths, 4, "once in company, three times alone");
    database.until(poison, "state = 'dead' and lone_crashes = 3 and last_error like 'parked: %'").await;
    let sql = "select count(*), count(distinct job) from tenantry.ledger";
    let row = database.admin.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (JOBS, JOBS));
    let sql = "select count(*), max(crashes) from tenantry.jobs where state = 'done'";
    let row = database.admin.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), JOBS);
    assert!(row.get::<_, i32>(1) <= 1, "innocents were in its company once at most");
}
