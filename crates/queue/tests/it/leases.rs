//! Who may finish a job.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::VerifyEmail;
use tenantry_queue::{CompleteError, Leased, Outcome, complete};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::database::{Database, always, enter};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

/// Leases the one due job as a worker does that then says nothing more.
pub(crate) async fn lease_and_vanish(database: &Database) -> Leased {
    let (sender, mut leased) = mpsc::unbounded_channel();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        sender.send(job).unwrap();
        std::future::pending().boxed()
    };
    let (pool, tenant) = (database.pool.clone(), database.tenant);
    let worker = tokio::spawn(async move { tenantry_queue::run_due(&pool, Some(tenant), handler).await });
    let job = leased.recv().await.unwrap();
    worker.abort();
    job
}

/// Renames the tenant and completes the job in one transaction; commits even if it may not.
async fn effect_and_end(database: &Database, job: &Leased, name: &str) -> Result<(), CompleteError> {
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    tx.execute("update tenantry.tenants set name = $1", &[&name]).await.unwrap();
    let completed = complete(&tx, job).await;
    let _ = tx.commit().await;
    completed
}

async fn effect(database: &Database) -> String {
    let sql = "select name from tenantry.tenants where id = $1";
    database.admin.query_one(sql, &[&database.tenant]).await.unwrap().get(0)
}

#[tokio::test]
async fn effect_and_completion_are_one_transaction() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let job = lease_and_vanish(&database).await;

    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    complete(&tx, &job).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(database.state(id).await, "running");

    effect_and_end(&database, &job, "first").await.unwrap();
    assert_eq!((effect(&database).await, database.state(id).await), ("first".to_owned(), "done".to_owned()));
    assert!(matches!(effect_and_end(&database, &job, "twice").await, Err(CompleteError::LeaseLost)));
    assert_eq!(effect(&database).await, "first");
}

#[tokio::test]
async fn a_job_that_was_completed_stays_done_whatever_the_handler_says_then() {
    let database = Database::new().await;
    for outcome in
        [Outcome::Done, Outcome::Retry("after the commit".to_owned()), Outcome::Dead("likewise".to_owned())]
    {
        let id = database.enqueue(&verify()).await;
        let (pool, tenant) = (database.pool.clone(), database.tenant);
        let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
            let (pool, outcome) = (pool.clone(), outcome.clone());
            async move {
                let mut client = pool.get().await.unwrap();
                let tx = client.transaction().await.unwrap();
                enter(&tx, tenant).await;
                complete(&tx, &job).await.unwrap();
                tx.commit().await.unwrap();
                outcome
            }
            .boxed()
        };

        assert_eq!(database.run_due(handler).await, 1);
        assert_eq!(database.state(id).await, "done");
        database.let_time_pass().await;
        assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    }
}

#[tokio::test]
async fn a_worker_that_was_thought_dead_can_change_nothing() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let first = lease_and_vanish(&database).await;
    assert_eq!(database.run_due(always(Outcome::Done)).await, 0, "the lease still holds");
    database.let_time_pass().await;
    let second = lease_and_vanish(&database).await;

    assert_eq!((second.id, second.attempt), (id, 2));
    assert_ne!(first.lease, second.lease);
    assert!(matches!(effect_and_end(&database, &first, "first").await, Err(CompleteError::LeaseLost)));
    assert_eq!(effect(&database).await, "Test", "rolled back, although it was committed");
    effect_and_end(&database, &second, "second").await.unwrap();
    assert_eq!((effect(&database).await, database.state(id).await), ("second".to_owned(), "done".to_owned()));

    let functions = [
        "tenantry.finish_job($1, $2, $3, 'dead', 'x')",
        "tenantry.retry_job($1, $2, $3, 'x', '0', '1 s', '1 s')",
        "tenantry.defer_job($1, $2, $3, '0')",
    ];
    for function in functions {
        let sql = format!("select {function}");
        let client = database.client().await;
        let row = client.query_one(&sql, &[&first.tenant, &first.id.0, &first.lease]).await.unwrap();
        assert_eq!(row.get::<_, Option<&str>>(0), None, "{function}");
    }
    assert_eq!(database.state(id).await, "done");
}

#[tokio::test]
async fn the_third_crash_of_a_job_that_ran_alone_parks_it() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    for crash in 0..=3 {
        assert_eq!(lease_and_vanish(&database).await.suspect, crash > 0);
        database.let_time_pass().await;
    }

    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    database
        .until(
            id,
            "state = 'dead' and crashes = 4 and lone_crashes = 3
             and last_error like 'parked: its worker died or hung each of the 3 times it ran alone, last %'
             and jsonb_path_query_array(history, '$[*].outcome') = '[\"crashed\", \"crashed\", \"crashed\", \"crashed\"]'",
        )
        .await;
}

#[tokio::test]
async fn a_suspect_that_ends_an_attempt_is_none_any_more() {
    for outcome in [Outcome::Retry("away".to_owned()), Outcome::Snooze(Duration::ZERO)] {
        let database = Database::new().await;
        let id = database.enqueue(&verify()).await;
        for _ in 0..3 {
            lease_and_vanish(&database).await;
            database.let_time_pass().await;
        }
        database.run_due(always(outcome)).await;
        database.until(id, "not suspect and not alone and lone_crashes = 0 and crashes = 3").await;

        database.let_time_pass().await;
        assert!(!lease_and_vanish(&database).await.suspect);
    }
}

#[tokio::test]
async fn a_slow_commit_costs_the_other_jobs_no_lease() {
    let database = Database::new().await;
    let (slow, other) = (database.enqueue(&verify()).await, database.enqueue(&verify()).await);
    let first = lease_and_vanish(&database).await;
    let second = lease_and_vanish(&database).await;
    assert_eq!([first.id, second.id], [slow, other]);
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    complete(&tx, &first).await.unwrap();

    let sql = "select * from tenantry.heartbeat_jobs($1, $2, $3, '1 hour')";
    let (tenants, ids) = (vec![database.tenant; 3], vec![slow.0, other.0, other.0]);
    let leases = vec![first.lease, second.lease, Uuid::nil()];
    let lost = database.client().await.query(sql, &[&tenants, &ids, &leases]).await.unwrap();

    assert_eq!(lost.iter().map(|row| row.get(0)).collect::<Vec<Uuid>>(), [Uuid::nil()]);
    database.until(other, "lease_expires_at > now() + interval '59 min'").await;
    tx.commit().await.unwrap();
    assert_eq!(database.state(slow).await, "done");
}
