use std::time::Duration;

use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Level, ReadError, Settings};

use crate::stage::{Gate, RedisServer, Truth, node};

/// Who says that there is no such row.
async fn missed(row: &Truth, node: &Cache) -> Level {
    let read = row.read(node).await.unwrap();
    assert_eq!(read.entry, None);
    read.level
}

async fn entries(redis: &RedisServer) -> usize {
    cmd("DBSIZE").query_async(&mut redis.connection().await).await.unwrap()
}

#[tokio::test]
async fn that_there_is_no_row_is_asked_once() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(None);

    assert_eq!(missed(&row, &here).await, Level::Postgres);
    assert_eq!(missed(&row, &here).await, Level::Local);
    assert_eq!(missed(&row, &there).await, Level::Redis);
    assert_eq!(missed(&row, &there).await, Level::Local);
    assert_eq!(row.loads(), 1);
    assert_eq!(row.field(&redis, "l").await, None, "the lease is over");
    let left = row.left(&redis).await;
    assert!((1..=5_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn the_process_remembers_it_no_longer_than_an_entry() {
    tokio::time::pause();
    for (local_ttl, absent_ttl) in [(1, 5), (5, 1)] {
        let [local_ttl, absent_ttl] = [local_ttl, absent_ttl].map(Duration::from_secs);
        let alone = node(Settings { local_ttl, absent_ttl, ..Settings::default() }).await;
        let row = Truth::new(None);
        row.read(&alone).await.unwrap();
        tokio::time::advance(Duration::from_millis(999)).await;
        assert_eq!(missed(&row, &alone).await, Level::Local);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(missed(&row, &alone).await, Level::Postgres);
    }
}

#[tokio::test]
async fn a_row_that_is_created_after_a_miss_is_there_at_once() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let row = Truth::new(None);
    row.read(&here).await.unwrap();
    assert_eq!(missed(&row, &there).await, Level::Redis);

    assert!(row.write(&here, 1).await);

    assert_eq!(row.seen(&here).await, (1, Level::Local));
    assert_eq!(row.seen(&there).await, (1, Level::Redis));
}

#[tokio::test]
async fn a_row_that_is_created_while_redis_is_dead_is_there_at_once_on_its_node() {
    let mut redis = RedisServer::start().await;
    let here = node(Settings { redis_budget: Duration::from_millis(50), ..redis.settings() }).await;
    let row = Truth::new(None);
    row.read(&here).await.unwrap();
    redis.kill();

    assert!(!row.write(&here, 1).await);

    assert_eq!(row.seen(&here).await, (1, Level::Local));
}

#[tokio::test]
async fn a_row_that_redis_says_is_not_there_is_found_by_the_node_that_created_it() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(None);
    row.write(&here, 1).await;
    // As if floor and write-through had been lost on their way.
    let mut connection = redis.connection().await;
    cmd("DEL").arg(row.redis_key(&redis).await).exec_async(&mut connection).await.unwrap();
    let absent = format!("1 {} 0 absent 0\n", row.key);
    let mut plant = cmd("HSET");
    plant.arg(row.redis_key(&redis).await).arg(&["v", "0", "d", &absent]);
    plant.exec_async(&mut connection).await.unwrap();
    assert_eq!(missed(&row, &there).await, Level::Redis);

    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&there).await, (1, Level::Redis));

    plant.exec_async(&mut connection).await.unwrap();
    there.invalidate(&row.key, 1).await.unwrap();
    assert_eq!(row.seen(&there).await, (1, Level::Postgres), "the job drops it too");
}

#[tokio::test]
async fn a_slow_reader_cannot_say_that_a_row_is_not_there_after_it_was_created() {
    let redis = RedisServer::start().await;
    let (slow, writer, third) = (redis.bare_node().await, redis.node().await, redis.node().await);
    let (row, gate) = (Truth::new(None), Gate::new());

    let reading = slow.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        row.write(&writer, 1).await;
        gate.open();
    };
    let (read, ()) = tokio::join!(reading, meanwhile);

    assert_eq!(read.unwrap().entry, None, "it began before");
    assert_eq!(row.seen(&third).await, (1, Level::Redis));
}

#[tokio::test]
async fn a_minimum_version_passes_by_what_says_that_there_is_no_row() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(None);
    row.read(&here).await.unwrap();
    row.set(1); // as if the write's floor had been lost

    for node in [&here, &there] {
        let early = node.read_through(&row.key, Some(2), row.load()).await;
        assert!(matches!(early, Err(ReadError::VersionNotReached)));
        let read = node.read_through(&row.key, Some(1), row.load()).await.unwrap();
        assert_eq!(read.entry.unwrap().version, 1);
    }
}

#[tokio::test]
async fn an_unknown_id_for_which_there_is_no_room_leaves_nothing_behind() {
    let redis = RedisServer::start().await;
    for settings in [
        Settings { absent_per_second: 0, ..redis.settings() },
        Settings { absent_ttl: Duration::ZERO, ..redis.settings() },
    ] {
        let here = node(settings).await;
        let row = Truth::new(None);
        assert_eq!(missed(&row, &here).await, Level::Postgres);
        assert_eq!(missed(&row, &here).await, Level::Postgres, "nor in the process");
    }
    assert_eq!(entries(&redis).await, 0, "not even a lease");
}

#[tokio::test]
async fn a_flood_of_unknown_ids_leaves_no_more_behind_than_a_second_admits() {
    tokio::time::pause();
    let alone = node(Settings { absent_per_second: 10, ..Settings::default() }).await;
    let rows: Vec<_> = (0..50).map(|_| Truth::new(None)).collect();
    for row in &rows {
        row.read(&alone).await.unwrap();
    }
    let mut held = 0;
    for row in &rows {
        held += usize::from(missed(row, &alone).await == Level::Local);
    }
    assert_eq!(held, 10);
}
