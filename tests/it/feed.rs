//! The upkeep of the feed that every process follows.

use std::time::Duration;

use deadpool_redis::redis::{Client, cmd};
use serde_json::json;
use tokio_postgres::NoTls;

use crate::app::{TestApp, eventually, from_stack};

/// As a superuser, past every wall.
async fn database() -> tokio_postgres::Client {
    let config: tokio_postgres::Config = from_stack("TEST_DATABASE_SUPERUSER_URL").parse().unwrap();
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A row of the feed that was written so many seconds ago.
async fn told(client: &tokio_postgres::Client, app: &TestApp, subject: &str, user: &str, seconds: f64) {
    let sql = "insert into tenantry.revocations (tenant_id, subject, subject_id, min_version, created_at)
               values ($1, $2, $3, 2, now() - make_interval(secs => $4))";
    let user: uuid::Uuid = user.parse().unwrap();
    client.execute(sql, &[&app.tenant, &subject, &user, &seconds]).await.unwrap();
}

/// Redis holds an entry for 900 s, and a reader may have had 3 s to store it; counted from COMMIT, which may be two minutes
/// after the row was written.
#[tokio::test]
async fn a_node_that_starts_looks_back_as_far_as_a_stale_entry_can_reach() {
    let app = TestApp::spawn().await;
    let (client, redis) = (database().await, Client::open(from_stack("TEST_REDIS_URL")).unwrap());
    let mut redis = redis.get_multiplexed_async_connection().await.unwrap();
    let mut levels = vec![];
    for (n, seconds) in [890.0, 1_015.0, 1_060.0].into_iter().enumerate() {
        let user = app.create_user(&format!("back{n}@example.org")).await;
        let id = user["id"].as_str().unwrap();
        // Redis has the first version still, and no floor: its writer could not reach it.
        let key = app.redis_name(id);
        // A fill may come too late on a busy machine.
        eventually(Duration::from_secs(2), || async {
            app.look_up(id).await;
            let mut redis = redis.clone();
            cmd("HEXISTS").arg(&key).arg("d").query_async(&mut redis).await.unwrap()
        })
        .await;
        let old: Vec<String> = cmd("HMGET").arg(&key).arg(&["v", "d"]).query_async(&mut redis).await.unwrap();
        app.patch(&format!("/api/v1/users/{id}"), &json!({"name": "Newer"})).await;
        let () = cmd("DEL").arg(&key).query_async(&mut redis).await.unwrap();
        let old = [("v", &old[0]), ("d", &old[1])];
        let () = cmd("HSET").arg(&key).arg(&old).query_async(&mut redis).await.unwrap();
        told(&client, &app, "cached_user", id, seconds).await;
        let node = app.another_node().await;
        levels.push(node.look_up(id).await.0);
    }
    assert_eq!(levels, ["miss", "miss", "redis"], "further back nothing can be stale");
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_pruned() {
    let app = TestApp::spawn().await;
    let client = database().await;
    let user = app.admin["id"].as_str().unwrap();
    const HOUR: f64 = 3_600.0;
    let rows =
        [("cached_user", 26.0), ("cached_user", 24.5), ("cached_user", 0.0), ("user", 26.0), ("user", 24.5)];
    for (subject, age) in rows {
        told(&client, &app, subject, user, age * HOUR).await;
    }
    let left = || async {
        let sql =
            "select subject, (extract(epoch from now() - created_at) / 3600)::int from tenantry.revocations
                   where tenant_id = $1 order by created_at";
        let rows = client.query(sql, &[&app.tenant]).await.unwrap();
        rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, i32>(1))).collect::<Vec<_>>()
    };
    assert_eq!(left().await.len(), 5);

    // Each process prunes when it begins to follow.
    let _node = app.another_node().await;

    eventually(Duration::from_secs(1), || async { left().await.len() == 3 }).await;
    let left = left().await;
    assert!(left.iter().all(|(_, hours)| *hours < 26), "no token is as old, and no entry in Redis: {left:?}");
}
