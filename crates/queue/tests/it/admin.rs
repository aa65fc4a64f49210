//! What operators see and change.

use std::time::Duration;

use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{
    CompleteError, JobId, Outcome,
    admin::{self, Change, Filter, State},
    complete,
};
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::{
    database::{Database, always, enter, enter_system},
    leases::lease_and_vanish,
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

#[tokio::test]
async fn a_job_shows_its_attempts_with_times_and_errors() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    database.run_due(always(Outcome::Retry("the mail server is away".to_owned()))).await;
    database.let_time_pass().await;
    database.run_due(always(Outcome::Snooze(Duration::ZERO))).await;
    lease_and_vanish(&database).await;
    database.let_time_pass().await;
    database.run_due(always(Outcome::Dead("hopeless".to_owned()))).await;

    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let job = admin::show(&tx, id).await.unwrap().unwrap();

    assert_eq!((job.id, job.tenant_id, job.state), (id, database.tenant, State::Dead));
    assert_eq!((job.kind.as_str(), job.attempts, job.crashes), ("verify_email", 3, 1));
    let attempts: Vec<_> =
        job.history.iter().map(|a| (a.attempt, a.outcome.as_str(), a.error.as_deref())).collect();
    assert_eq!(
        attempts,
        [
            (1, "failed", Some("the mail server is away")),
            (2, "snoozed", None),
            (2, "crashed", None),
            (3, "dead", Some("hopeless"))
        ]
    );
    for attempt in &job.history {
        assert!(attempt.started_at.unwrap() <= attempt.ended_at, "{attempt:?}");
        assert!(attempt.worker.is_some());
    }
}

#[tokio::test]
async fn the_last_twenty_attempts_are_kept() {
    let database = Database::new().await;
    let id = database.enqueue(&InvalidateUser { users: vec![] }).await;
    for _ in 0..22 {
        database.run_due(always(Outcome::Retry("away".to_owned()))).await;
        database.let_time_pass().await;
    }
    database.until(id, "jsonb_array_length(history) = 20 and history -> 0 ->> 'attempt' = '3'").await;
}

#[tokio::test]
async fn lists_have_pages_and_show_what_was_asked_for() {
    let database = Database::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(database.enqueue(&verify()).await);
    }
    database.run_due(always(Outcome::Dead("hopeless".to_owned()))).await;
    let waiting = database.enqueue(&InvalidateUser { users: vec![] }).await;
    let theirs = database.add_tenant().await;
    let mut client = database.client().await;

    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let mut filter = Filter { state: Some(State::Dead), ..Filter::default() };
    let mut seen = Vec::new();
    loop {
        let page = admin::list(&tx, &filter, 2).await.unwrap();
        seen.extend(page.iter().map(|job| job.id));
        filter.before = page.last().map(|job| job.id);
        if page.len() < 2 {
            break;
        }
    }
    ids.sort();
    ids.reverse();
    assert_eq!(seen, ids);
    let only = Filter { kind: Some("invalidate_user"), tenant: Some(database.tenant), ..Filter::default() };
    assert_eq!(admin::list(&tx, &only, 9).await.unwrap()[0].id, waiting);
    tx.commit().await.unwrap();

    let tx = client.transaction().await.unwrap();
    enter(&tx, theirs).await;
    for tenant in [None, Some(database.tenant)] {
        let all = Filter { tenant, ..Filter::default() };
        assert!(admin::list(&tx, &all, 9).await.unwrap().is_empty());
    }
    assert_eq!(admin::show(&tx, waiting).await.unwrap(), None);
    tx.commit().await.unwrap();

    let tx = client.transaction().await.unwrap();
    enter_system(&tx).await;
    assert_eq!(admin::list(&tx, &Filter::default(), 9).await.unwrap().len(), 6);
}

async fn retry(database: &Database, id: JobId) -> Change {
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let change = admin::retry(&tx, database.tenant, id).await.unwrap();
    tx.commit().await.unwrap();
    change
}

async fn cancel(database: &Database, id: JobId) -> Change {
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let change = admin::cancel(&tx, database.tenant, id, "by an operator").await.unwrap();
    tx.commit().await.unwrap();
    change
}

#[tokio::test]
async fn what_ended_badly_is_tried_again_and_nothing_else() {
    let database = Database::new().await;
    for (outcome, state) in [
        (Outcome::Dead("hopeless".to_owned()), State::Dead),
        (Outcome::Cancel("gone".to_owned()), State::Cancelled),
        (Outcome::Retry("away".to_owned()), State::Failed),
    ] {
        let id = database.enqueue(&verify()).await;
        database.run_due(always(outcome)).await;
        assert_eq!(retry(&database, id).await, Change::Made(state));
        assert_eq!(retry(&database, id).await, Change::Refused(State::Pending));
        assert_eq!(database.run_due(always(Outcome::Done)).await, 1);
        assert_eq!(retry(&database, id).await, Change::Refused(State::Done));
        assert_eq!(database.state(id).await, "done");
    }
    assert_eq!(retry(&database, JobId(Uuid::now_v7())).await, Change::NoJob);
}

#[tokio::test]
async fn what_was_parked_for_its_crashes_is_tried_again_alone() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    for _ in 0..4 {
        lease_and_vanish(&database).await;
        database.let_time_pass().await;
    }
    database.run_due(always(Outcome::Done)).await;
    database.until(id, "state = 'dead'").await;

    assert_eq!(retry(&database, id).await, Change::Made(State::Dead));
    assert!(lease_and_vanish(&database).await.suspect);
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_runs_has_no_effect() {
    let database = Database::new().await;
    let waiting = database.enqueue(&verify()).await;
    assert_eq!(cancel(&database, waiting).await, Change::Made(State::Pending));
    assert_eq!(cancel(&database, waiting).await, Change::Refused(State::Cancelled));
    let id = database.enqueue(&verify()).await;
    let job = lease_and_vanish(&database).await;
    assert_eq!(job.id, id);

    assert_eq!(cancel(&database, id).await, Change::Made(State::Running));

    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    assert!(matches!(complete(&tx, &job).await, Err(CompleteError::LeaseLost)));
    drop(tx);
    database.until(id, "state = 'cancelled' and last_error = 'by an operator'").await;
    database.let_time_pass().await;
    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
}

#[tokio::test]
async fn a_retried_job_takes_no_unique_key() {
    let database = Database::new().await;
    let keyed = |key: &'static str| {
        let payload = format!("{{\"user_id\": \"{}\"}}", Uuid::now_v7());
        format!(
            "select tenantry.enqueue_job('verify_email', '{payload}', '{}', unique_key => '{key}')",
            database.tenant
        )
    };
    let first = JobId(database.admin.query_one(&keyed("k"), &[]).await.unwrap().get(0));
    cancel(&database, first).await;
    let second = JobId(database.admin.query_one(&keyed("k"), &[]).await.unwrap().get(0));
    assert_ne!(first, second);

    assert_eq!(retry(&database, first).await, Change::Made(State::Cancelled));
    assert_eq!(JobId(database.admin.query_one(&keyed("k"), &[]).await.unwrap().get(0)), second);
    assert_eq!(database.run_due(always(Outcome::Done)).await, 2);
}

#[tokio::test]
async fn dead_jobs_are_driven_again_and_old_ones_removed_in_batches() {
    let database = Database::new().await;
    for _ in 0..5 {
        database.enqueue(&verify()).await;
    }
    database.run_due(always(Outcome::Dead("hopeless".to_owned()))).await;
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter_system(&tx).await;
    assert_eq!(admin::redrive(&tx, Kind::InvalidateUser, None, 9).await.unwrap(), 0);
    assert_eq!(admin::redrive(&tx, Kind::VerifyEmail, None, 3).await.unwrap(), 3);
    assert_eq!(admin::redrive(&tx, Kind::VerifyEmail, Some(database.tenant), 3).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert_eq!(database.run_due(always(Outcome::Done)).await, 5);

    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let finished = [State::Done, State::Running];
    let purge = async |keep, batch| {
        admin::purge(&tx, &finished, Duration::from_secs(keep), Some(database.tenant), batch).await.unwrap()
    };
    assert_eq!(purge(3600, 9).await, 0);
    assert_eq!((purge(0, 3).await, purge(0, 3).await, purge(0, 3).await), (3, 2, 0));
}

#[tokio::test]
async fn another_tenants_jobs_are_changed_by_nobody() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    let theirs = database.add_tenant().await;
    let mut client = database.client().await;
    for call in [
        format!("select tenantry.requeue_job('{}', '{id}')", database.tenant),
        format!("select tenantry.cancel_job('{}', '{id}', 'x')", database.tenant),
        format!("select tenantry.redrive_jobs('verify_email', '{}', 9)", database.tenant),
        "select tenantry.redrive_jobs('verify_email', null, 9)".to_owned(),
        "select tenantry.purge_jobs('{done}', '0', null, 9)".to_owned(),
    ] {
        for tenant in [Some(theirs), None] {
            let tx = client.transaction().await.unwrap();
            match tenant {
                Some(tenant) => enter(&tx, tenant).await,
                None => tx.batch_execute("set local role tenantry_app").await.unwrap(),
            }
            let refused = tx.batch_execute(&call).await.unwrap_err();
            assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{call}");
        }
    }
    assert_eq!(database.state(id).await, "pending");
}
