use std::time::Duration;

use chrono::Utc;
use tenantry_jobs::{InvalidateUser, Job, Kind, Stale, VerifyEmail};
use tenantry_queue::{JobId, Leased, Options, Outcome, enqueue, enqueue_with};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    database::{Database, always, enter},
    leases::lease_and_vanish,
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

async fn enqueue_as(database: &Database, job: &impl Job, options: Options<'_>) -> JobId {
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let id = enqueue_with(&tx, database.tenant, job, options).await.unwrap();
    tx.commit().await.unwrap();
    id
}

#[tokio::test]
async fn a_job_of_a_rolled_back_transaction_never_exists() {
    let database = Database::new().await;
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    enqueue(&tx, database.tenant, &verify()).await.unwrap();
    tx.rollback().await.unwrap();

    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    assert!(database.states().await.is_empty());
}

#[tokio::test]
async fn a_job_runs_once_and_not_before_its_transaction_commits() {
    let database = Database::new().await;
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let id = enqueue(&tx, database.tenant, &verify()).await.unwrap();

    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(database.run_due(always(Outcome::Done)).await, 1);
    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    assert_eq!(database.state(id).await, "done");
    assert_eq!(id.0.get_version_num(), 7);
}

#[tokio::test]
async fn the_handler_gets_what_was_enqueued() {
    let database = Database::new().await;
    let job = InvalidateUser { users: vec![Stale { id: Uuid::now_v7(), version: i64::MAX }] };
    let id = database.enqueue(&job).await;
    let (sender, mut received) = mpsc::unbounded_channel::<Leased>();

    database
        .run_due(move |leased| {
            sender.send(leased).unwrap();
            Box::pin(async { Outcome::Done })
        })
        .await;

    let leased = received.recv().await.unwrap();
    assert_eq!(leased.decode::<InvalidateUser>(), Ok(job));
    assert_eq!((leased.id, leased.tenant, leased.kind), (id, database.tenant, Kind::InvalidateUser));
    assert_eq!((leased.attempt, leased.max_attempts), (1, Kind::InvalidateUser.policy().max_attempts));
}

#[tokio::test]
async fn a_delayed_job_waits_and_a_higher_priority_goes_first() {
    let database = Database::new().await;
    let later =
        enqueue_as(&database, &verify(), Options { delay: Duration::from_secs(60), ..Options::default() })
            .await;
    let tomorrow = Utc::now() + chrono::TimeDelta::days(1);
    enqueue_as(&database, &verify(), Options { run_at: Some(tomorrow), ..Options::default() }).await;
    let low = enqueue_as(&database, &verify(), Options::default()).await;
    let high = enqueue_as(&database, &verify(), Options { priority: 5, ..Options::default() }).await;
    let (sender, mut order) = mpsc::unbounded_channel();

    let handler = move |leased: Leased| {
        sender.send(leased.id).unwrap();
        std::future::ready(Outcome::Done)
    };
    let handler =
        move |leased| -> futures_util::future::BoxFuture<'static, Outcome> { Box::pin(handler(leased)) };

    assert_eq!(database.run_due(handler).await, 2);
    assert_eq!((order.recv().await, order.recv().await), (Some(high), Some(low)));
    database.until(later, "run_at - created_at = interval '60 s'").await;
}

#[tokio::test]
async fn while_a_job_waits_its_unique_key_is_taken() {
    let database = Database::new().await;
    let keyed = Options { unique_key: Some("k"), ..Options::default() };

    let first = enqueue_as(&database, &verify(), keyed).await;
    let again = enqueue_as(&database, &verify(), keyed).await;
    let other_key = enqueue_as(&database, &verify(), Options { unique_key: Some("l"), ..keyed }).await;
    let other_kind = enqueue_as(&database, &InvalidateUser { users: vec![] }, keyed).await;

    assert_eq!(first, again);
    assert_eq!(database.states().await.len(), 3);
    assert!(first != other_key && first != other_kind);
    database.run_due(always(Outcome::Done)).await;
    assert_ne!(enqueue_as(&database, &verify(), keyed).await, first, "a finished job frees its key");
}

#[tokio::test]
async fn a_running_job_never_blocks_its_unique_key_even_when_it_is_put_back() {
    let keyed = Options { unique_key: Some("k"), ..Options::default() };
    for outcome in [Outcome::Snooze(Duration::ZERO), Outcome::Retry("not yet".to_owned()), Outcome::Done] {
        let database = Database::new().await;
        let first = enqueue_as(&database, &verify(), keyed).await;
        let (pool, tenant) = (database.pool.clone(), database.tenant);
        let (sender, mut second) = mpsc::unbounded_channel();
        let handler = move |leased: Leased| -> futures_util::future::BoxFuture<'static, Outcome> {
            let (pool, sender, outcome) = (pool.clone(), sender.clone(), outcome.clone());
            Box::pin(async move {
                if leased.id != first {
                    return Outcome::Done;
                }
                let mut client = pool.get().await.unwrap();
                let tx = client.transaction().await.unwrap();
                enter(&tx, tenant).await;
                sender.send(enqueue_with(&tx, tenant, &verify(), keyed).await.unwrap()).unwrap();
                tx.commit().await.unwrap();
                outcome
            })
        };

        assert_eq!(database.run_due(handler).await, 2);

        let second = second.recv().await.unwrap();
        assert_ne!(second, first, "what happened during the run is not swallowed");
        assert_eq!(database.state(second).await, "done");
    }
}

#[tokio::test]
async fn a_waiting_job_that_was_asked_for_again_does_not_start_before_the_second_commit() {
    let database = Database::new().await;
    let keyed = Options { unique_key: Some("k"), ..Options::default() };
    let waiting = enqueue_as(&database, &verify(), keyed).await;
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    assert_eq!(enqueue_with(&tx, database.tenant, &verify(), keyed).await.unwrap(), waiting);

    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    tx.commit().await.unwrap();
    assert_eq!(database.run_due(always(Outcome::Done)).await, 1);
}

#[tokio::test]
async fn a_failed_job_with_a_waiting_successor_is_superseded() {
    let database = Database::new().await;
    let keyed = Options { unique_key: Some("k"), ..Options::default() };
    let first = enqueue_as(&database, &verify(), keyed).await;
    let job = lease_and_vanish(&database).await;
    let second = enqueue_as(&database, &verify(), keyed).await;
    assert_ne!(first, second);

    let sql = "select tenantry.retry_job($1, $2, $3, 'away', '0', '1 s', '1 s')";
    let client = database.client().await;
    let row = client.query_one(sql, &[&job.tenant, &job.id.0, &job.lease]).await.unwrap();

    assert_eq!(row.get::<_, &str>(0), "cancelled");
    let row = database.row(first).await;
    assert_eq!(row.get::<_, String>("last_error"), format!("superseded by {second}"));
    assert_eq!(row.get::<_, serde_json::Value>("history")[0]["error"], "away");
    assert_eq!(database.run_due(always(Outcome::Done)).await, 1);
    assert_eq!(database.state(second).await, "done");
}
