use std::time::Duration;

use deadpool_redis::redis::cmd;
use tenantry_cache::{Held, Level, Loaded, Mismatch};

use crate::stage::{Gate, RedisServer, Truth, entry};

async fn held(node: &tenantry_cache::Cache, row: &Truth) -> Held {
    node.inspect(&[row.key]).await.unwrap().remove(0)
}

async fn set(redis: &RedisServer, row: &Truth, field: &str, value: &str) {
    let mut connection = redis.connection().await;
    let () = cmd("HSET")
        .arg(row.redis_key(redis).await)
        .arg(field)
        .arg(value)
        .query_async(&mut connection)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_redis_holds_is_told_as_it_is() {
    let redis = RedisServer::start().await;
    let node = redis.node().await;
    let row = Truth::new(1);
    let nothing = held(&node, &row).await;
    assert_eq!(nothing.name, row.redis_key(&redis).await);
    assert!(nothing.value.is_none() && nothing.floor.is_none() && nothing.lease.is_none());
    assert_eq!(nothing.left, None);

    row.write(&node, 2).await;
    let value = held(&node, &row).await;
    assert_eq!(value.floor, Some(2));
    assert!(value.left.is_some_and(|left| left > Duration::from_secs(700)));
    let value = value.value.unwrap();
    assert_eq!(value.decoded, Some(Loaded::Row(entry(2))));
    assert!(value.line.starts_with("1 u:") && value.line.ends_with(" 2 live 13"), "{}", value.line);

    let write = node.begin_write(&row.key, 3).await;
    let floored = held(&node, &row).await;
    assert!(floored.value.is_none());
    assert_eq!(floored.floor, Some(3));
    let lease = floored.lease.unwrap();
    assert!(
        lease.token.starts_with('w') && lease.left > Duration::ZERO && lease.left <= Duration::from_secs(3)
    );
    write.rolled_back().await;

    let mut connection = redis.connection().await;
    let () = cmd("SET").arg(row.redis_key(&redis).await).arg("x").query_async(&mut connection).await.unwrap();
    let foreign = held(&node, &row).await;
    assert_eq!(foreign.mismatch(None, &Loaded::Row(entry(2))), Some(Mismatch::Foreign));
    assert!(node.repair(&row.key, &foreign, 2).await.unwrap());
    assert_eq!(held(&node, &row).await.floor, Some(2));
}

#[tokio::test]
async fn a_value_is_older_for_certain_only_if_the_newer_was_seen_before() {
    let redis = RedisServer::start().await;
    let node = redis.node().await;
    let row = Truth::new(1);
    row.write(&node, 5).await;
    let held = held(&node, &row).await;
    let compare = |before, after| held.mismatch(before, &Loaded::Row(entry(after)));

    assert_eq!(compare(None, 5), None);
    assert_eq!(compare(None, 6), Some(Mismatch::Stale), "a suspicion");
    assert_eq!(compare(Some(5), 6), None, "written after Redis was read");
    assert_eq!(compare(Some(6), 6), Some(Mismatch::Stale));
    assert_eq!(compare(Some(4), 4), Some(Mismatch::Ahead), "the row was read later");
    assert_eq!(held.mismatch(Some(5), &Loaded::Absent), Some(Mismatch::Ahead));
    let mut other = entry(5);
    other.body = "{\"version\":6}".into();
    assert_eq!(held.mismatch(Some(5), &Loaded::Row(other)), Some(Mismatch::Differs));
}

#[tokio::test]
async fn a_drop_leaves_a_floor_and_no_lease_from_before() {
    let redis = RedisServer::start().await;
    let (slow, node) = (redis.bare_node().await, redis.bare_node().await);
    let (row, gate) = (Truth::new(1), Gate::new());

    let reading = slow.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        // A writer that Redis knows nothing of; the operator drops what he sees is wrong.
        row.set(2);
        node.drop_entries(&[(row.key, 2)]).await.unwrap();
        gate.open();
    };
    let (read, ()) = tokio::join!(reading, meanwhile);
    assert_eq!(read.unwrap().entry.unwrap().version, 1, "it began before the drop");

    let dropped = held(&node, &row).await;
    assert!(dropped.value.is_none(), "the slow reader stored nothing");
    assert_eq!(dropped.floor, Some(2));
    assert!(dropped.left.is_some_and(|left| left <= Duration::from_secs(30)));
    assert_eq!(row.seen(&node).await, (2, Level::Postgres));
    assert_eq!(row.seen(&node).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_drop_leaves_a_writer_under_way_alone() {
    let redis = RedisServer::start().await;
    let (writer, node) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    let write = writer.begin_write(&row.key, 2).await;

    node.drop_entries(&[(row.key, 1)]).await.unwrap();

    assert_eq!(held(&node, &row).await.floor, Some(2));
    row.set(2);
    write.committed(entry(2)).await;
    assert_eq!(row.seen(&node).await, (2, Level::Redis), "its token still counted");
}

#[tokio::test]
async fn a_repair_drops_what_was_found_and_nothing_else() {
    let redis = RedisServer::start().await;
    let node = redis.bare_node().await;
    let row = Truth::new(1);
    row.write(&node, 2).await;
    set(&redis, &row, "d", "of somebody else").await;
    let found = held(&node, &row).await;
    assert_eq!(found.mismatch(None, &Loaded::Row(entry(2))), Some(Mismatch::Foreign));

    row.write(&node, 3).await;
    assert!(!node.repair(&row.key, &found, 3).await.unwrap(), "somebody has written since");
    assert_eq!(row.seen(&node).await, (3, Level::Redis));

    set(&redis, &row, "d", "of somebody else").await;
    let found = held(&node, &row).await;
    assert!(node.repair(&row.key, &found, 3).await.unwrap());
    assert_eq!(row.seen(&node).await, (3, Level::Postgres));
}

#[tokio::test]
async fn without_redis_there_is_nothing_and_a_redis_that_is_gone_is_said() {
    let alone = crate::stage::node(tenantry_cache::Settings::default()).await;
    let row = Truth::new(1);
    assert!(held(&alone, &row).await.value.is_none());
    alone.drop_entries(&[(row.key, 1)]).await.unwrap();

    let mut redis = RedisServer::start().await;
    let node = redis.node().await;
    redis.kill();
    node.inspect(&[row.key]).await.unwrap_err();
    node.drop_entries(&[(row.key, 1)]).await.unwrap_err();
}
