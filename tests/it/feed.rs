//! The upkeep of the feed that every process follows.

use std::{collections::BTreeSet, time::Duration};

use deadpool_redis::redis::{Client, cmd};
use reqwest::{Method, StatusCode};
use serde_json::json;
use tenantry::dev::{Home, postgres, signal};
use tokio_postgres::NoTls;

use crate::app::{TestApp, eventually, from_stack};

/// As a superuser, past every wall.
async fn database() -> tokio_postgres::Client {
    connect(&from_stack("TEST_DATABASE_SUPERUSER_URL")).await
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let config: tokio_postgres::Config = url.parse().unwrap();
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
    // In one transaction: nodes of other tests prune as well.
    client.batch_execute("begin").await.unwrap();
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
    client.batch_execute("commit").await.unwrap();

    // Each process prunes when it begins to follow.
    let _node = app.another_node().await;

    eventually(Duration::from_secs(1), || async { left().await.len() == 3 }).await;
    let left = left().await;
    assert!(left.iter().all(|(_, hours)| *hours < 26), "no token is as old, and no entry in Redis: {left:?}");
}

/// Ids of transactions that rolled back are not on the disk until others' commits bring them there. After a crash the
/// server hands them out again: to a change that a node takes for seen, if it goes by ids alone. (The process that brings them
/// there all the time is held up here.)
#[tokio::test]
async fn what_is_revoked_after_a_crash_is_heard_of_though_ids_of_transactions_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).await.unwrap();
    let superuser = postgres::superuser_url(&home);
    let server = postgres::start(&home, postgres::Use::Dev).await.unwrap();
    tenantry::migrate::run(&postgres::owner_url(&home), &postgres::app_url(&home)).await.unwrap();
    let app = TestApp::spawn_with(&[
        &format!("--database-url={}", postgres::app_url(&home)),
        "--cache-local-ttl=1ms",
    ])
    .await;
    let node = app.another_node().await;
    let user = app.create_user("u@example.org").await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    assert_eq!(node.get(&path).await.0, StatusCode::OK);

    let client = connect(&superuser).await;
    let writer = "select pid from pg_stat_activity where backend_type = 'walwriter'";
    let writer: i32 = client.query_one(writer, &[]).await.unwrap().get(0);
    let writer = u32::try_from(writer).unwrap();
    signal(writer, "STOP");
    let rolled_back = "begin; select pg_current_xact_id(); rollback;".repeat(500);
    client.batch_execute(&rolled_back).await.unwrap();
    let id = "select pg_current_xact_id()::text::bigint";
    client.batch_execute("begin").await.unwrap();
    let highest: i64 = client.query_one(id, &[]).await.unwrap().get(0);
    client.batch_execute("rollback").await.unwrap();
    both_have_looked(&client).await;
    signal(server.pid().unwrap(), "QUIT");
    // Let go, it would do its work before it hears of this.
    signal(writer, "KILL");
    server.stop().await;
    let server = postgres::start(&home, postgres::Use::Dev).await.unwrap();
    let client = connect(&superuser).await;
    let now: i64 = client.query_one(id, &[]).await.unwrap().get(0);
    assert!(now < highest - 100, "{now} is past {highest}: nothing comes again");

    eventually(Duration::from_secs(1), || async {
        let answer = app.request(Method::POST, "/api/v1/auth/logout").json(&json!({})).send().await.unwrap();
        answer.status() == StatusCode::NO_CONTENT
    })
    .await;
    let last: i64 = client.query_one(id, &[]).await.unwrap().get(0);
    assert!(last < highest, "the session has ended with an id that had not been there before");

    eventually(Duration::from_secs(1), || async { node.get(&path).await.0 == StatusCode::UNAUTHORIZED })
        .await;
    server.stop().await;
    home.remove().unwrap();
}

/// Waits until so many looks have begun from now on that neither of two nodes can have made none.
async fn both_have_looked(client: &tokio_postgres::Client) {
    let sql = "select pid, query_start::text from pg_stat_activity
               where query like '%tenantry.follow_revocations(%' and query_start > $1::text::timestamptz";
    let from: String = client.query_one("select clock_timestamp()::text", &[]).await.unwrap().get(0);
    let mut looks = BTreeSet::new();
    while looks.len() < 6 {
        for row in client.query(sql, &[&from]).await.unwrap() {
            looks.insert((row.get::<_, i32>("pid"), row.get::<_, String>("query_start")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
