//! How attempts end.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::{InvalidateUser, VerifyEmail};
use tenantry_queue::{JobId, Leased, Outcome};
use uuid::Uuid;

use crate::database::{Database, always};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

fn failure() -> Outcome {
    Outcome::Retry("the mail server is away".to_owned())
}

/// Seconds that each waiting job has to wait, as counted from the end of its attempt at the earliest.
async fn delays(database: &Database) -> Vec<f64> {
    let sql =
        "select extract(epoch from run_at - started_at)::float8 from tenantry.jobs where state = 'failed'";
    database.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn back_off_doubles_its_ceiling_and_draws_evenly_below_it() {
    let database = Database::new().await;
    for _ in 0..60 {
        database.enqueue(&verify()).await;
    }
    for ceiling in [2.0, 4.0, 8.0, 16.0] {
        assert_eq!(database.run_due(always(failure())).await, 60);

        let delays = delays(&database).await;
        // Each delay counts from the lease on, so it includes the attempt itself.
        let longest = delays.iter().copied().fold(0.0, f64::max);
        let shortest = delays.iter().copied().fold(f64::MAX, f64::min);
        assert!(longest <= ceiling + 1.0 && longest > ceiling * 0.75, "{longest} of {ceiling}");
        assert!(shortest < ceiling * 0.25 + 1.0, "{shortest} of {ceiling}");
        assert!(delays.iter().map(|delay| delay.to_bits()).collect::<BTreeSet<_>>().len() > 50);
        database.let_time_pass().await;
    }
}

#[tokio::test]
async fn an_invalidation_is_tried_each_second() {
    let database = Database::new().await;
    database.enqueue(&InvalidateUser { users: vec![] }).await;
    for _ in 0..5 {
        assert_eq!(database.run_due(always(failure())).await, 1);
        let delay = delays(&database).await[0];
        assert!((1.0..2.0).contains(&delay), "{delay}");
        database.let_time_pass().await;
    }
}

#[tokio::test]
async fn a_job_is_dead_after_its_last_attempt() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;
    for attempt in 1..=25 {
        assert_eq!(database.run_due(always(failure())).await, 1);
        let expected = if attempt < 25 { "failed" } else { "dead" };
        assert_eq!(database.state(id).await, expected);
        database.let_time_pass().await;
    }

    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    let row = database.row(id).await;
    assert_eq!(row.get::<_, &str>("last_error"), "the mail server is away");
    assert!(row.get::<_, Option<chrono::DateTime<chrono::Utc>>>("finished_at").is_some());
}

#[tokio::test]
async fn a_panic_fails_its_job_and_harms_no_other() {
    let database = Database::new().await;
    let (bad, good) = (database.enqueue(&verify()).await, database.enqueue(&verify()).await);

    let handler = move |leased: Leased| -> BoxFuture<'static, Outcome> {
        async move { if leased.id == bad { panic!("out of \0 luck") } else { Outcome::Done } }.boxed()
    };

    assert_eq!(database.run_due(handler).await, 2);
    assert_eq!((database.state(bad).await.as_str(), database.state(good).await.as_str()), ("failed", "done"));
    assert_eq!(database.row(bad).await.get::<_, &str>("last_error"), "panicked: out of  luck");
}

#[tokio::test]
async fn payloads_nobody_can_read_are_dead_letters_and_harm_nobody() {
    let database = Database::new().await;
    let nested = format!("{{\"user_id\": {}{}}}", "[".repeat(1000), "]".repeat(1000));
    let mut bad = Vec::new();
    for payload in ["{\"user_id\": 5}", "{\"user_id\": 1e999}", &nested] {
        let sql = "insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, priority)
          values ($1, 'verify_email', $2::text::jsonb, 25, 1) returning id";
        bad.push(JobId(database.admin.query_one(sql, &[&database.tenant, &payload]).await.unwrap().get(0)));
    }
    let good = database.enqueue(&verify()).await;

    let handler = |leased: Leased| -> BoxFuture<'static, Outcome> {
        async move { leased.decode::<VerifyEmail>().map_or_else(|outcome| outcome, |_| Outcome::Done) }
            .boxed()
    };

    assert_eq!(database.run_due(handler).await, 4);
    assert_eq!(database.state(good).await, "done");
    for id in bad {
        assert_eq!(database.state(id).await, "dead");
        assert!(database.row(id).await.get::<_, &str>("last_error").starts_with("payload "));
    }
}

#[tokio::test]
async fn a_snoozed_job_waits_and_the_attempt_does_not_count() {
    let database = Database::new().await;
    let id = database.enqueue(&verify()).await;

    database.run_due(always(Outcome::Snooze(Duration::from_secs(3600)))).await;

    database.until(id, "state = 'pending' and attempts = 0 and run_at > now() + interval '59 min'").await;
    assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    database.let_time_pass().await;
    assert_eq!(database.run_due(always(Outcome::Done)).await, 1);
}

#[tokio::test]
async fn a_job_that_is_due_again_at_once_does_not_hold_up_the_step() {
    let database = Database::new().await;
    database.enqueue(&verify()).await;

    assert_eq!(database.run_due(always(Outcome::Snooze(Duration::ZERO))).await, 1);
}

#[tokio::test]
async fn cancelled_and_dead_jobs_say_why_and_never_run_again() {
    let database = Database::new().await;
    for (outcome, state) in [
        (Outcome::Cancel("user is gone".to_owned()), "cancelled"),
        (Outcome::Dead("no such plan".to_owned()), "dead"),
    ] {
        let id = database.enqueue(&verify()).await;
        assert_eq!(database.run_due(always(outcome)).await, 1);
        assert_eq!(database.state(id).await, state);
        assert!(database.row(id).await.get::<_, Option<&str>>("last_error").is_some());
        database.let_time_pass().await;
        assert_eq!(database.run_due(always(Outcome::Done)).await, 0);
    }
}
