use std::time::Duration;

use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Level, Settings};

use crate::stage::{Gate, RedisServer, Truth, entry, node};

#[tokio::test]
async fn a_write_is_seen_on_another_node_from_redis() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);

    assert!(row.write(&here, 2).await);

    assert_eq!(row.seen(&there).await, (2, Level::Redis));
    assert_eq!(row.seen(&here).await, (2, Level::Local));
    assert_eq!(row.loads(), 0);
}

#[tokio::test]
async fn a_slow_reader_cannot_fill_over_a_newer_write() {
    let redis = RedisServer::start().await;
    let (slow, writer, third) = (redis.node().await, redis.node().await, redis.node().await);
    let (row, gate) = (Truth::new(1), Gate::new());

    let reading = slow.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        row.write(&writer, 2).await;
        gate.open();
    };
    let (read, ()) = tokio::join!(reading, meanwhile);

    assert_eq!(read.unwrap().entry.unwrap().version, 1, "it began before the write");
    assert_eq!(row.seen(&third).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_slow_reader_cannot_fill_over_a_write_whose_write_through_was_lost() {
    let redis = RedisServer::start().await;
    let (slow, writer, third) = (redis.node().await, redis.node().await, redis.node().await);
    let (row, gate) = (Truth::new(1), Gate::new());

    let reading = slow.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        let write = writer.begin_write(&row.key, 2).await;
        row.set(2);
        drop(write); // killed between COMMIT and write-through
        gate.open();
    };
    let _ = tokio::join!(reading, meanwhile);

    assert_eq!(row.seen(&third).await, (2, Level::Postgres));
    assert_eq!(row.field(&redis, "v").await, None);
}

#[tokio::test]
async fn a_slow_reader_on_the_writers_node_is_not_held_in_the_process() {
    let alone = node(Settings::default()).await;
    let (row, gate) = (Truth::new(1), Gate::new());

    let reading = alone.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        row.write(&alone, 2).await;
        gate.open();
    };
    let (read, ()) = tokio::join!(reading, meanwhile);

    assert_eq!(read.unwrap().entry.unwrap().version, 1);
    assert_eq!(row.seen(&alone).await, (2, Level::Local));
}

#[tokio::test]
async fn while_a_write_is_under_way_readers_see_the_row_as_it_is_and_nobody_stores_it() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();

    let write = here.begin_write(&row.key, 2).await;
    for node in [&here, &here, &there, &there] {
        assert_eq!(row.seen(node).await, (1, Level::Postgres));
    }
    row.set(2);
    write.committed(entry(2)).await;
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_node_does_not_store_what_its_own_write_is_about_to_replace() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);

    let write = here.begin_write(&row.key, 2).await;
    cmd("FLUSHALL").exec_async(&mut redis.connection().await).await.unwrap(); // the floor is lost
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.field(&redis, "v").await, None);
    write.rolled_back().await;
}

#[tokio::test]
async fn a_writer_slower_than_its_lease_is_still_safe_from_fills() {
    let redis = RedisServer::start().await;
    let writer = node(Settings { lease: Duration::ZERO, ..redis.settings() }).await;
    let (reader, third) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);

    let write = writer.begin_write(&row.key, 2).await;
    assert_eq!(row.seen(&reader).await, (1, Level::Postgres));
    assert_eq!(
        row.field(&redis, "v").await,
        None,
        "the reader got the lease, but its version is below the floor"
    );
    assert_eq!(row.field(&redis, "l").await, None, "and the lease is free for the next one");
    row.set(2);
    write.committed(entry(2)).await;

    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
    assert_eq!(row.seen(&reader).await, (2, Level::Postgres));
    assert_eq!(row.seen(&third).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_rolled_back_write_leaves_everything_as_it_was() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);

    let write = here.begin_write(&row.key, 2).await;
    write.rolled_back().await;

    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&here).await, (1, Level::Local));
    assert_eq!(row.seen(&there).await, (1, Level::Redis));
}

#[tokio::test]
async fn a_rollback_does_not_take_away_the_next_writers_floor() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    for next in [&here, &there] {
        let first = here.begin_write(&row.key, 2).await;
        // The database rolled the first one back and gave the lock away before we could say so.
        let second = next.begin_write(&row.key, 2).await;
        first.rolled_back().await;
        assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
        assert_eq!(row.seen(next).await, (1, Level::Postgres));
        assert_eq!(row.seen(next).await, (1, Level::Postgres), "not held in the process");
        second.rolled_back().await;
    }
    assert_eq!(row.field(&redis, "f").await, None);
}

#[tokio::test]
async fn an_unknown_outcome_leaves_the_floor_and_takes_the_version_that_was_read() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);

    here.begin_write(&row.key, 2).await.unknown(Some(1)).await;
    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&here).await, (1, Level::Local));
}

#[tokio::test]
async fn an_outcome_nobody_could_learn_or_told_leaves_both_floors() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);

    here.begin_write(&row.key, 2).await.unknown(None).await;
    drop(here.begin_write(&row.key, 3).await);
    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("3"));
    for version in [1, 2] {
        row.set(version);
        assert_eq!(row.seen(&here).await, (version, Level::Postgres));
        assert_eq!(row.seen(&here).await, (version, Level::Postgres), "below the node's floor");
    }
    row.set(3);
    assert_eq!(row.seen(&here).await.0, 3);
    assert_eq!(row.seen(&here).await, (3, Level::Local));
}

#[tokio::test]
async fn a_write_through_that_is_refused_leaves_a_floor() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);

    let write = here.begin_write(&row.key, 2).await;
    cmd("FLUSHALL").exec_async(&mut redis.connection().await).await.unwrap();
    row.read(&there).await.unwrap(); // fills version 1, since nothing forbids it any more
    row.set(2);
    write.committed(entry(2)).await;

    assert_eq!(row.field(&redis, "v").await, None);
    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn an_older_value_that_redis_still_has_is_dropped_by_the_node_that_knows_better() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.write(&here, 2).await;
    // As if floor and write-through had been lost on their way.
    let mut connection = redis.connection().await;
    cmd("DEL").arg(row.redis_key(&redis).await).exec_async(&mut connection).await.unwrap();
    let old = format!("1 {} 1 live 2\n{{}}", row.key);
    cmd("HSET")
        .arg(row.redis_key(&redis).await)
        .arg(&["v", "1", "d", &old])
        .exec_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(row.seen(&there).await, (1, Level::Redis));

    assert_eq!(row.seen(&here).await, (2, Level::Postgres));
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_floor_from_the_feed_is_a_floor() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    row.set(2);

    here.raise_floor(&row.key, 2);

    assert_eq!(row.seen(&here).await, (2, Level::Postgres));
}

#[tokio::test]
async fn the_worker_removes_what_is_older_and_leaves_what_is_as_new() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    row.set(2);

    here.invalidate(&row.key, 2).await.unwrap();
    here.invalidate(&row.key, 2).await.unwrap();
    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
    here.invalidate(&row.key, 2).await.unwrap();
    here.invalidate(&row.key, 1).await.unwrap();
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn the_worker_frees_the_readers_of_a_writer_that_died() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let row = Truth::new(1);
    drop(here.begin_write(&row.key, 2).await);
    row.set(2);

    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
    assert_eq!(row.seen(&there).await, (2, Level::Postgres), "nobody may fill under the writer's token");
    there.invalidate(&row.key, 2).await.unwrap();
    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_floor_does_not_replace_a_newer_one() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    let write = here.begin_write(&row.key, 3).await;

    there.invalidate(&row.key, 2).await.unwrap();

    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("3"));
    row.set(3);
    write.committed(entry(3)).await;
    assert_eq!(row.seen(&there).await, (3, Level::Redis), "the writer's token is untouched");
}

#[tokio::test]
async fn a_floor_lives_as_long_as_a_floor_and_a_lease_does_not_shorten_it() {
    let redis = RedisServer::start().await;
    let writer = node(Settings { lease: Duration::ZERO, ..redis.settings() }).await;
    let reader = redis.node().await;
    let (row, gate) = (Truth::new(1), Gate::new());
    row.read(&reader).await.unwrap();

    let write = writer.begin_write(&row.key, 2).await;
    let floor = row.left(&redis).await;
    assert!((20_000..=30_000).contains(&floor), "{floor} ms");

    let reading = redis.bare_node().await;
    let reading = reading.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        let leased = row.left(&redis).await;
        assert!((20_000..=30_000).contains(&leased), "{leased} ms");
        gate.open();
    };
    let _ = tokio::join!(reading, meanwhile);
    write.rolled_back().await;
}

#[tokio::test]
async fn an_entry_that_is_only_a_lease_goes_with_it() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (row, gate) = (Truth::new(1), Gate::new());

    let reading = here.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        let left = row.left(&redis).await;
        assert!((1..=3_000).contains(&left), "{left} ms");
        gate.open();
    };
    let _ = tokio::join!(reading, meanwhile);
}

#[tokio::test]
async fn a_write_that_nobody_ended_is_forgotten_in_time() {
    tokio::time::pause();
    let alone = node(Settings::default()).await;
    let row = Truth::new(1);
    drop(alone.begin_write(&row.key, 2).await); // rolled back, in truth

    row.read(&alone).await.unwrap();
    assert_eq!(row.seen(&alone).await, (1, Level::Postgres));
    tokio::time::advance(Settings::default().floor).await;
    row.read(&alone).await.unwrap();
    assert_eq!(row.seen(&alone).await, (1, Level::Local));
}

#[tokio::test]
async fn what_redis_was_not_told_the_node_remembers_until_redis_has_forgotten_it() {
    tokio::time::pause();
    let away = Some("redis+unix:///nowhere/redis.sock".into());
    let settings = Settings { redis_url: away, ..Settings::default() };
    let longest = settings.ttl + settings.lease;
    let here = Cache::new(settings).unwrap();
    let row = Truth::new(1);
    assert!(!row.write(&here, 2).await);

    row.set(1); // plays an old value from elsewhere
    tokio::time::advance(longest - Duration::from_secs(2)).await;
    row.read(&here).await.unwrap();
    assert_eq!(row.seen(&here).await, (1, Level::Postgres), "not held: below the floor");
    tokio::time::advance(Duration::from_secs(3)).await;
    row.read(&here).await.unwrap();
    assert_eq!(row.seen(&here).await, (1, Level::Local));
}
