use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Key, Level, Loaded, Read, ReadError, Settings, Version};

use crate::stage::{Broken, RedisServer, Truth, entry, node};

/// Reads `rows` as one batch, and tells version (0 for none) and level of each, and what was loaded.
async fn read_many(node: &Cache, rows: &[&Truth]) -> (Vec<(Version, Level)>, Option<usize>) {
    let keys: Vec<_> = rows.iter().map(|row| row.key).collect();
    let loaded = Arc::new(Mutex::new(None));
    let load = async |missing: Vec<Key>| {
        assert!(loaded.lock().unwrap().replace(missing.len()).is_none(), "loads once");
        let mut found = Vec::new();
        for row in rows.iter().filter(|row| missing.contains(&row.key)) {
            // What does not exist is left out, as `id = any($2)` does.
            if let Ok(Loaded::Row(entry)) = row.load()().await {
                found.push((row.key, Loaded::Row(entry)));
            }
        }
        Ok::<_, Broken>(found)
    };
    let reads = node.read_many(&keys, load).await.unwrap();
    let version = |read: &Read| read.entry.as_ref().map_or(0, |entry| entry.version);
    let seen = reads.iter().map(|read| (version(read), read.level)).collect();
    let loaded = *loaded.lock().unwrap();
    (seen, loaded)
}

#[tokio::test]
async fn a_batch_asks_each_level_for_what_the_one_before_does_not_have_and_keeps_its_order() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let [local, remote, cold, absent] = [Some(1), Some(2), Some(3), None].map(Truth::new);
    local.read(&here).await.unwrap();
    remote.read(&there).await.unwrap();

    let (seen, loaded) = read_many(&here, &[&cold, &absent, &local, &remote, &cold, &local]).await;

    use Level::{Local, Postgres, Redis};
    let expected = [(3, Postgres), (0, Postgres), (1, Local), (2, Redis), (3, Postgres), (1, Local)];
    assert_eq!((seen, loaded), (expected.to_vec(), Some(2)));

    let (seen, loaded) = read_many(&here, &[&absent, &cold, &remote]).await;
    assert_eq!((seen, loaded), (vec![(0, Local), (3, Local), (2, Local)], None), "held in the process");
}

#[tokio::test]
async fn an_empty_batch_asks_nobody() {
    let redis = RedisServer::start().await;
    assert_eq!(read_many(&redis.node().await, &[]).await, (vec![], None));
}

#[tokio::test]
async fn a_batch_stores_nothing_in_redis_and_takes_no_lease() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let rows = [Truth::new(1), Truth::new(None)];

    read_many(&here, &[&rows[0], &rows[1]]).await;

    let entries: usize = cmd("DBSIZE").query_async(&mut redis.connection().await).await.unwrap();
    assert_eq!(entries, 0);
}

#[tokio::test]
async fn a_hundred_rows_are_read_from_redis_and_nowhere_else() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let rows: Vec<_> = (0..100).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.read(&there).await.unwrap();
    }
    let (seen, loaded) = read_many(&here, &rows.iter().collect::<Vec<_>>()).await;
    assert_eq!((seen, loaded), (vec![(1, Level::Redis); 100], None));
}

#[tokio::test]
async fn a_batch_shows_nothing_below_the_nodes_floors() {
    let redis = RedisServer::start().await;
    for settings in [redis.settings(), Settings { local_ttl: Duration::ZERO, ..redis.settings() }] {
        let (here, there) = (node(settings).await, redis.node().await);
        let row = Truth::new(1);
        row.read(&there).await.unwrap();
        row.read(&here).await.unwrap();
        row.set(2);
        here.raise_floor(&row.key, 2);

        assert_eq!(read_many(&here, &[&row]).await, (vec![(2, Level::Postgres)], Some(1)));
    }
}

#[tokio::test]
async fn a_batch_sees_what_its_node_has_written_and_redis_was_not_told() {
    let mut redis = RedisServer::start().await;
    let here = node(Settings { redis_budget: Duration::from_millis(50), ..redis.settings() }).await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    redis.kill();
    row.write(&here, 2).await;
    assert_eq!(read_many(&here, &[&row]).await.0, [(2, Level::Local)]);
}

#[tokio::test]
async fn a_blind_node_reads_its_batches_from_the_truth() {
    let redis = RedisServer::start().await;
    let here = node(Settings { node_floors: 4, ..redis.settings() }).await;
    let rows: Vec<_> = (0..8).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.write(&here, 2).await;
    }
    assert_eq!(read_many(&here, &[&rows[0], &rows[7]]).await.0, [(2, Level::Postgres); 2]);
}

#[tokio::test]
async fn a_value_in_a_batch_that_is_not_its_own_is_missing() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let [foreign, list, good] = [1, 1, 1].map(Truth::new);
    good.read(&there).await.unwrap();
    let mut connection = redis.connection().await;
    let mut plant = cmd("HSET");
    plant.arg(foreign.redis_key(&redis).await).arg(&["v", "1", "d", "rubbish"]);
    plant.exec_async(&mut connection).await.unwrap();
    cmd("RPUSH").arg(list.redis_key(&redis).await).arg("rubbish").exec_async(&mut connection).await.unwrap();

    let (seen, loaded) = read_many(&here, &[&foreign, &list, &good]).await;

    let expected = vec![(1, Level::Postgres), (1, Level::Postgres), (1, Level::Redis)];
    assert_eq!((seen, loaded), (expected, Some(2)));
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_batch_one_budget() {
    let redis = RedisServer::start().await;
    let here = node(Settings { redis_budget: Duration::from_millis(50), ..redis.settings() }).await;
    redis.signal("-STOP");
    let rows: Vec<_> = (0..100).map(|_| Truth::new(1)).collect();
    let start = Instant::now();
    let (seen, loaded) = read_many(&here, &rows.iter().collect::<Vec<_>>()).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!((seen, loaded), (vec![(1, Level::Postgres); 100], Some(100)));
    redis.signal("-CONT");
}

#[tokio::test]
async fn a_batch_that_cannot_be_loaded_fails_and_rows_that_nobody_asked_for_are_not_shown() {
    let alone = node(Settings::default()).await;
    let (row, other) = (Truth::new(1), Truth::new(1));
    let failed = alone.read_many(&[row.key], |_| async { Err(Broken) }).await;
    assert!(matches!(failed, Err(ReadError::Load(error)) if *error == Broken));

    let stranger = (other.key, Loaded::Row(entry(7)));
    let reads = alone.read_many(&[row.key], |_| async { Ok::<_, Broken>(vec![stranger]) }).await.unwrap();
    assert_eq!(reads, [Read { entry: None, level: Level::Postgres, bypassed: false }]);
    assert_eq!(other.seen(&alone).await, (1, Level::Postgres));
}
