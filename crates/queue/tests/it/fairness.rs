//! Whose turn it is.

use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::{InvalidateUser, Kind, VerifyEmail};
use tenantry_queue::{Leased, Outcome, Settings, enqueue_many};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    database::{Database, always, enter},
    handlers::settings,
    workers::{gated, start},
};

fn verify() -> VerifyEmail {
    VerifyEmail { user_id: Uuid::now_v7() }
}

/// A database where one tenant has very many mails waiting, and the same with another tenant.
async fn flooded(many: i32, ready: bool) -> (Database, Database) {
    let database = Database::new().await;
    let other = Database { tenant: database.add_tenant().await, ..Database::on(&database.name).await };
    let sql = "insert into tenantry.jobs (tenant_id, kind, payload, max_attempts, ready)
      select $1, 'verify_email', jsonb_build_object('user_id', gen_random_uuid()), 25, $3
      from generate_series(1, $2)";
    database.admin.execute(sql, &[&database.tenant, &many, &ready]).await.unwrap();
    (database, other)
}

/// Pages that a fetch looks at while all that waits.
async fn pages_of_a_fetch(database: &Database) -> i64 {
    let mut client = database.client().await;
    // Rolled back: nobody would run what it leases.
    let tx = client.transaction().await.unwrap();
    let fetch = "explain (analyze, buffers, timing off, format json) select * from tenantry.lease_jobs(
      'w', '12 s', '{verify_email,invalidate_user}', '{16,20}', '{4,4}', '{12,15}', null, 16, '{}', '{}', true)";
    // The first fetch of a connection reads the catalogue as well.
    tx.query_one(fetch, &[]).await.unwrap();

    let plan: serde_json::Value = tx.query_one(fetch, &[]).await.unwrap().get(0);

    let plan = &plan[0]["Plan"];
    let pages = plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap();
    assert!(plan["Actual Rows"].as_i64().unwrap() >= 8, "{plan}");
    pages
}

/// Runs a worker with slow mails and returns how long after its COMMIT the other tenant's only mail started.
async fn wait_of_the_other(database: &Database, other: &Database) -> Duration {
    let (sender, mut started) = mpsc::unbounded_channel();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        sender.send(job.tenant).unwrap();
        async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Outcome::Done
        }
        .boxed()
    };
    let (worker, shutdown) = start(database, Settings { concurrency: 12, ..Settings::default() }, handler);
    // Until the flood has taken all it may have.
    for _ in 0..12 {
        assert_eq!(started.recv().await, Some(database.tenant));
    }
    other.enqueue(&verify()).await;
    let committed = Instant::now();
    while started.recv().await != Some(other.tenant) {}
    let waited = committed.elapsed();
    shutdown.cancel();
    worker.await.unwrap().unwrap();
    waited
}

#[tokio::test]
async fn a_tenants_flood_delays_nobody_elses_mail() {
    let (database, other) = flooded(100_000, true).await;
    other.enqueue(&verify()).await;
    // Measured: 185. Reading all that wait would be 6,000.
    let pages = pages_of_a_fetch(&database).await;
    assert!(pages < 1000, "{pages} pages");
    other.run_due(always(Outcome::Done)).await;

    let waited = wait_of_the_other(&database, &other).await;
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}

#[tokio::test]
async fn a_flood_that_falls_due_at_once_delays_nobody_elses_mail() {
    let (database, other) = flooded(20_000, false).await;
    let waited = wait_of_the_other(&database, &other).await;
    assert!(waited < Duration::from_secs(2), "{waited:?}");
}

#[tokio::test]
async fn tenants_take_turns() {
    let database = Database::new().await;
    let mut tenants = vec![database.tenant];
    for _ in 0..4 {
        tenants.push(database.add_tenant().await);
    }
    for tenant in &tenants {
        let mut client = database.client().await;
        let tx = client.transaction().await.unwrap();
        enter(&tx, *tenant).await;
        let jobs: Vec<_> = (0..6).map(|_| verify()).collect();
        assert_eq!(enqueue_many(&tx, *tenant, &jobs, None, 0).await.unwrap().len(), 6);
        tx.commit().await.unwrap();
    }
    let (sender, mut served) = mpsc::unbounded_channel();
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        sender.send(job.tenant).unwrap();
        std::future::ready(Outcome::Done).boxed()
    };

    // One place: each fetch goes on after the tenant that was served last.
    assert_eq!(tenantry_queue::run_due(&database.pool, None, handler).await.unwrap(), 30);

    let mut order = Vec::new();
    while let Some(tenant) = served.recv().await {
        order.push(tenant);
    }
    for round in order.chunks(5) {
        let mut round = round.to_vec();
        round.sort();
        assert_eq!(round, tenants, "each of them once in a round");
    }
}

#[tokio::test]
async fn what_waits_in_places_of_its_own_does_not_wait_for_other_kinds() {
    let database = Database::new().await;
    for _ in 0..3 {
        let other = Database { tenant: database.add_tenant().await, ..Database::on(&database.name).await };
        for _ in 0..20 {
            other.enqueue(&verify()).await;
        }
    }
    let (handler, mut started, gate) = gated();
    let (worker, shutdown) = start(&database, Settings { concurrency: 2, ..settings() }, handler);
    for _ in 0..2 + Kind::VerifyEmail.policy().reserved {
        assert_eq!(started.recv().await.unwrap().kind, Kind::VerifyEmail);
    }

    database.enqueue(&InvalidateUser { users: vec![] }).await;
    assert_eq!(started.recv().await.unwrap().kind, Kind::InvalidateUser);

    gate.cancel();
    shutdown.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn many_jobs_are_enqueued_at_once_or_none() {
    let database = Database::new().await;
    let mut client = database.client().await;
    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let jobs: Vec<_> = (0..100).map(|_| verify()).collect();
    let ids = enqueue_many(&tx, database.tenant, &jobs, None, 0).await.unwrap();
    for (id, job) in ids.iter().zip(&jobs) {
        let sql = "select payload ->> 'user_id' from tenantry.jobs where id = $1";
        let user: String = tx.query_one(sql, &[&id.0]).await.unwrap().get(0);
        assert_eq!(user, job.user_id.to_string());
    }
    tx.commit().await.unwrap();

    let tx = client.transaction().await.unwrap();
    enter(&tx, database.tenant).await;
    let sql = "select tenantry.enqueue_jobs('verify_email', array['{\"user_id\": \"x\"}'::jsonb], $1)";
    let refused = tx.query(sql, &[&database.tenant]).await.unwrap_err();
    assert_eq!(
        refused.as_db_error().unwrap().message(),
        "payload of a verify_email job: payloads[0].user_id must be of type uuid"
    );
    drop(tx);
    assert_eq!(database.run_due(always(Outcome::Done)).await, 100);
}
