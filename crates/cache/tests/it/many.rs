//! Many rows that one transaction writes.

use std::time::{Duration, Instant};

use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Level, Settings, Version, Writes};

use crate::stage::{Gate, RedisServer, Truth, node};

/// Begins to write all of `rows`, on a connection of today.
async fn begin(node: &Cache, rows: &[Truth], version: Version) -> Writes {
    let rows: Vec<_> = rows.iter().map(|row| (row.key, version)).collect();
    node.begin_writes_on(Instant::now(), &rows).await.unwrap()
}

/// A whole write of `version` on `node`; tells whether all floors were confirmed.
async fn write(node: &Cache, rows: &[Truth], version: Version) -> bool {
    let writes = begin(node, rows, version).await;
    let confirmed = writes.confirmed();
    rows.iter().for_each(|row| row.set(version));
    writes.committed().await;
    confirmed
}

fn rows(n: usize, version: impl Into<Option<Version>>) -> Vec<Truth> {
    let version = version.into();
    (0..n).map(|_| Truth::new(version)).collect()
}

#[tokio::test]
async fn a_thousand_rows_are_seen_at_once_here_and_elsewhere() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let rows = rows(1000, 1);
    for row in &rows {
        row.read(&there).await.unwrap();
    }
    for row in &rows[..10] {
        row.read(&here).await.unwrap();
    }

    assert!(write(&here, &rows, 2).await);

    for row in rows.iter().step_by(100) {
        assert_eq!(row.seen(&there).await, (2, Level::Postgres), "nothing was written through");
        assert_eq!(row.seen(&there).await, (2, Level::Redis), "and whoever reads fills");
        assert_eq!(row.seen(&here).await, (2, Level::Redis));
    }
}

#[tokio::test]
async fn rows_that_were_missed_are_there_at_once() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let rows = rows(3, None);
    for row in &rows {
        assert_eq!(row.read(&here).await.unwrap().entry, None);
        assert_eq!(row.read(&there).await.unwrap().level, Level::Redis);
    }
    assert!(write(&here, &rows, 1).await);
    for row in &rows {
        assert_eq!(row.seen(&here).await.0, 1);
        assert_eq!(row.seen(&there).await.0, 1);
    }
}

#[tokio::test]
async fn who_has_read_before_the_commit_fills_nothing() {
    let redis = RedisServer::start().await;
    let (slow, writer) = (redis.node().await, redis.node().await);
    let (rows, [early, late]) = (rows(2, 1), [Gate::new(), Gate::new()]);
    // One has its lease from before the floor, the other from after it.
    let first = slow.read_through(&rows[0].key, None, rows[0].slow_load(&early));
    let second = async {
        early.sent().await;
        let writes = begin(&writer, &rows, 2).await;
        let read = slow.read_through(&rows[1].key, None, rows[1].slow_load(&late));
        let rest = async {
            late.sent().await;
            rows.iter().for_each(|row| row.set(2));
            writes.committed().await;
            early.open();
            late.open();
        };
        tokio::join!(read, rest).0
    };
    let (first, second) = tokio::join!(first, second);
    for (read, row) in [first, second].into_iter().zip(&rows) {
        assert_eq!(read.unwrap().entry.unwrap().version, 1, "it began before");
        assert_eq!(row.field(&redis, "v").await, None);
        assert_eq!(row.seen(&redis.node().await).await, (2, Level::Postgres));
    }
}

#[tokio::test]
async fn a_rollback_leaves_nothing_in_the_process_and_a_floor_in_redis_that_ends() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let rows = rows(2, 1);
    begin(&here, &rows, 2).await.rolled_back();
    for row in &rows {
        assert_eq!(row.seen(&here).await, (1, Level::Postgres));
        assert_eq!(row.seen(&here).await, (1, Level::Local), "the process holds it");
        assert_eq!(row.field(&redis, "v").await, None, "redis does not");
        let left = row.left(&redis).await;
        assert!((1..=30_000).contains(&left), "{left} ms");
    }
    // Who writes next is held up by nothing.
    for row in &rows {
        assert!(row.write(&here, 2).await);
        assert_eq!(row.seen(&redis.node().await).await, (2, Level::Redis));
    }
}

#[tokio::test]
async fn writes_whose_end_is_not_known_are_never_stale_here() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let rows = rows(2, 1);
    for row in &rows {
        row.read(&here).await.unwrap();
    }
    let writes = begin(&here, &rows, 2).await;
    rows.iter().for_each(|row| row.set(2));
    drop(writes);
    assert_eq!(rows[0].seen(&here).await, (2, Level::Postgres));
    let writes = begin(&here, &rows, 3).await;
    rows.iter().for_each(|row| row.set(3));
    writes.unknown().await;
    assert_eq!(rows[1].seen(&here).await, (3, Level::Postgres));
}

#[tokio::test]
async fn a_redis_that_hangs_costs_one_budget_and_nothing_is_confirmed() {
    let redis = RedisServer::start().await;
    let here = node(Settings { redis_budget: Duration::from_millis(50), ..redis.settings() }).await;
    let rows = rows(1000, 1);
    for row in &rows[..10] {
        row.read(&here).await.unwrap();
    }
    redis.signal("-STOP");
    let start = Instant::now();
    assert!(!write(&here, &rows, 2).await);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    for row in &rows[..10] {
        assert_eq!(row.seen(&here).await, (2, Level::Postgres));
    }
    redis.signal("-CONT");
}

#[tokio::test]
async fn pointers_are_removed_before_and_after_the_commit() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (row, tenant) = (Truth::new(1), uuid::Uuid::new_v4());
    let pointers: Vec<_> = (0..250u8).map(|n| tenantry_cache::Pointer::new("e", tenant, [n; 32])).collect();
    let point = async || {
        for pointer in &pointers {
            let mut set = cmd("SET");
            set.arg(here.name_of_pointer(pointer)).arg(uuid::Uuid::new_v4().to_string());
            set.exec_async(&mut redis.connection().await).await.unwrap();
        }
    };
    let left = async || {
        let keys: Vec<String> =
            cmd("KEYS").arg("e:*").query_async(&mut redis.connection().await).await.unwrap();
        keys.len()
    };
    point().await;
    let mut writes = begin(&here, &[row], 2).await;
    writes.unlink(pointers.clone()).await;
    assert_eq!(left().await, 0);
    point().await;
    writes.committed().await;
    assert_eq!(left().await, 0);
}

#[tokio::test]
async fn on_a_connection_from_before_the_timeline_nothing_is_announced() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (row, opened) = (Truth::new(1), Instant::now());
    here.set_epoch("00000002");
    assert!(here.begin_writes_on(opened, &[(row.key, 2)]).await.is_none());
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&here).await, (1, Level::Local));
    let none = begin(&here, &[], 1).await;
    assert!(none.confirmed());
    none.committed().await;
}
