use std::time::Duration;

use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{Outcome, discard, oldest_waiting};
use uuid::Uuid;

use crate::database::{Database, always};

#[tokio::test]
async fn the_oldest_due_job_of_each_kind_is_known() {
    let database = Database::new().await;
    database.enqueue(&VerifyEmail { user_id: Uuid::now_v7() }).await;
    let later = database.enqueue(&InvalidateUser { users: vec![] }).await;
    let moved =
        "update tenantry.jobs set run_at = now() + interval '1 h' * case id when $1 then 1 else -1 end";
    database.admin.execute(moved, &[&later.0]).await.unwrap();

    let ages = oldest_waiting(&database.pool).await.unwrap();

    assert!(ages[&Kind::VerifyEmail] >= Duration::from_secs(3600));
    assert_eq!(ages[&Kind::InvalidateUser], Duration::ZERO);
}

#[tokio::test]
async fn a_moot_job_is_discarded_unless_it_has_run() {
    let database = Database::new().await;
    let done = database.enqueue(&InvalidateUser { users: vec![] }).await;
    database.run_due(always(Outcome::Done)).await;
    let waiting = database.enqueue(&InvalidateUser { users: vec![] }).await;

    let jobs = [(database.tenant, done), (database.tenant, waiting), (Uuid::nil(), waiting)];
    assert_eq!(discard(&database.pool, &jobs).await.unwrap(), 1);
    assert_eq!(database.states().await, ["done"]);
}

#[tokio::test]
async fn only_old_jobs_that_went_well_are_removed() {
    let database = Database::new().await;
    for outcome in [Outcome::Done, Outcome::Cancel("gone".to_owned()), Outcome::Dead("hopeless".to_owned())] {
        database.enqueue(&InvalidateUser { users: vec![] }).await;
        database.run_due(always(outcome)).await;
    }
    let sql = "update tenantry.jobs set finished_at = now() - interval '1 day' where state <> 'done'";
    database.admin.execute(sql, &[]).await.unwrap();

    let client = database.client().await;
    let removed = client.query_one("select tenantry.prune_jobs('1 h', 10)", &[]).await.unwrap();

    assert_eq!(removed.get::<_, i64>(0), 1);
    assert_eq!(database.states().await, ["dead", "done"]);
}

#[test]
fn outcomes_are_counted_by_kind() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let database = Database::new().await;
            for outcome in [
                Outcome::Done,
                Outcome::Done,
                Outcome::Retry("away".to_owned()),
                Outcome::Cancel("gone".to_owned()),
                Outcome::Snooze(Duration::from_secs(60)),
                Outcome::Dead("hopeless".to_owned()),
            ] {
                database.enqueue(&VerifyEmail { user_id: Uuid::now_v7() }).await;
                database.run_due(always(outcome)).await;
                let all = "delete from tenantry.jobs";
                database.admin.execute(all, &[]).await.unwrap();
            }
        });
    });

    let rendered = recorder.handle().render();
    for (outcome, count) in [("done", 2), ("failed", 1), ("cancelled", 1), ("snoozed", 1), ("dead", 1)] {
        let line = format!("tenantry_jobs_total{{kind=\"verify_email\",outcome=\"{outcome}\"}} {count}\n");
        assert!(rendered.contains(&line), "{line} in {rendered}");
    }
}
