use deadpool_redis::redis::cmd;
use futures_util::future::poll_immediate;
use tenantry_cache::{Level, Pointer, Settings};
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::stage::{Gate, RedisServer, Truth, entry, node};

const NEXT: &str = "00000002";

async fn field(redis: &RedisServer, row: &Truth, epoch: &str, name: &str) -> Option<String> {
    let mut connection = redis.connection().await;
    cmd("HGET")
        .arg(row.redis_key_in(redis, epoch).await)
        .arg(name)
        .query_async(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn nothing_of_the_old_epoch_is_shown_in_the_next() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let row = Truth::new(7);
    row.read(&here).await.unwrap();
    row.set(5); // what the new primary has of it

    here.set_epoch(NEXT);
    assert_eq!(row.seen(&here).await, (5, Level::Postgres));
    assert_eq!(row.seen(&here).await, (5, Level::Local));
    there.set_epoch(NEXT);
    assert_eq!(row.seen(&there).await, (5, Level::Redis));
}

#[tokio::test]
async fn the_same_epoch_again_changes_nothing() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    here.set_epoch("0");
    assert_eq!(row.seen(&here).await, (1, Level::Local));

    here.set_epoch(NEXT);
    row.read(&here).await.unwrap();
    here.set_epoch(NEXT);
    assert_eq!(row.seen(&here).await, (1, Level::Local));
}

#[tokio::test]
async fn a_flight_of_the_old_epoch_is_not_joined_and_leaves_nothing_in_the_next() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (row, gate) = (Truth::new(7), Gate::new());

    let reading = here.read_through(&row.key, None, row.slow_load(&gate));
    let meanwhile = async {
        gate.sent().await;
        row.set(5);
        here.set_epoch(NEXT);
        let redis = redis.bare_node().await;
        redis.set_epoch(NEXT);
        assert_eq!(row.seen(&redis).await, (5, Level::Postgres));
        assert_eq!(row.seen(&here).await, (5, Level::Redis), "without waiting for the old flight");
        gate.open();
    };
    let (old, ()) = tokio::join!(reading, meanwhile);

    assert_eq!(old.unwrap().entry.unwrap().version, 7, "it began before");
    assert_eq!(row.seen(&here).await, (5, Level::Local));
    assert_eq!(field(&redis, &row, "0", "v").await.as_deref(), Some("7"));
    assert_eq!(field(&redis, &row, NEXT, "v").await.as_deref(), Some("5"));
}

#[tokio::test]
async fn a_hit_of_the_old_epoch_that_is_under_way_is_not_joined_and_not_held() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(&redis);
    let here = node(Settings { redis_url: Some(proxy.url()), ..redis.settings() }).await;
    let row = Truth::new(7);
    row.read(&redis.node().await).await.unwrap();

    proxy.close();
    let mut early = Box::pin(row.seen(&here));
    assert!(poll_immediate(&mut early).await.is_none());
    proxy.kept_back().await; // Redis has said "version 7", or has answered a ping just before it says so
    row.set(5);
    here.set_epoch(NEXT);
    let mut late = Box::pin(row.seen(&here));
    assert!(poll_immediate(&mut late).await.is_none());
    proxy.open();

    assert_eq!(early.await, (7, Level::Redis), "it began before");
    assert_eq!(late.await, (5, Level::Postgres));
    assert_eq!(row.seen(&here).await, (5, Level::Local));
}

#[tokio::test]
async fn a_write_that_ends_in_the_next_epoch_places_its_floor_there() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    let write = here.begin_write(&row.key, 2).await;
    for node in [&here, &there] {
        node.set_epoch(NEXT);
    }
    assert_eq!(row.seen(&there).await, (1, Level::Postgres)); // and fills it: no floor forbids that here
    assert_eq!(row.seen(&here).await, (1, Level::Postgres), "but this node knows of the write");
    row.set(2);
    write.committed(entry(2)).await;

    assert_eq!(field(&redis, &row, NEXT, "v").await, None);
    assert_eq!(field(&redis, &row, NEXT, "f").await.as_deref(), Some("2"));
    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
    assert_eq!(row.seen(&here).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_write_that_is_rolled_back_in_the_next_epoch_leaves_no_floor() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);
    let write = here.begin_write(&row.key, 2).await;
    here.set_epoch(NEXT);
    write.rolled_back().await;

    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&here).await, (1, Level::Local));
    for epoch in ["0", NEXT] {
        assert_eq!(field(&redis, &row, epoch, "f").await, None);
    }
}

#[tokio::test]
async fn a_write_that_was_acknowledged_is_seen_on_its_node_in_the_next_epoch() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    there.set_epoch(NEXT);
    row.read(&there).await.unwrap(); // it knew of the epoch first, and was first to read
    row.write(&here, 2).await;
    here.set_epoch(NEXT);

    assert_eq!(row.seen(&here).await, (2, Level::Postgres));
}

#[tokio::test]
async fn the_job_places_its_floor_in_the_epoch_there_is() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let row = Truth::new(1);
    here.set_epoch(NEXT);
    here.invalidate(&row.key, 2).await.unwrap();
    assert_eq!(field(&redis, &row, NEXT, "f").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn a_pointer_of_the_old_epoch_leads_nowhere_in_the_next() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (pointer, id) = (Pointer::new("e", Uuid::new_v4(), [1; 32]), Uuid::new_v4());
    here.look_up(&pointer).await.leads_to(Some(id)).await;
    assert_eq!(here.look_up(&pointer).await.target(), Some(id));

    here.set_epoch(NEXT);

    assert_eq!(here.look_up(&pointer).await.target(), None);
}
