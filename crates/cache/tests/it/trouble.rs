use std::time::{Duration, Instant};

use tenantry_cache::{Cache, Level, Settings};
use tokio::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::stage::{RedisServer, Truth, node};

/// The budget of a request is 50 ms; ten times that is the slack for a busy machine.
const SLACK: Duration = Duration::from_millis(500);

/// Waits until Redis is in use again; every step of it is bounded by the node's own patience.
async fn reconnected(node: &Cache) {
    let up = async {
        while node.ping().await.is_err() || node.has_given_up_redis() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), up).await.expect("the node does not find its redis again");
}

fn hurried(redis: &RedisServer) -> Settings {
    Settings { redis_budget: Duration::from_millis(50), ..redis.settings() }
}

#[tokio::test]
async fn a_node_starts_without_its_redis_and_finds_it_later() {
    let mut redis = RedisServer::start().await;
    redis.kill();
    let here = Cache::new(hurried(&redis)).unwrap();
    let row = Truth::new(1);

    let start = Instant::now();
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    assert!(here.ping().await.is_err());

    redis.start_again().await;
    reconnected(&here).await;
    let other = Truth::new(1);
    let patient = redis.node().await;
    other.read(&patient).await.unwrap();
    assert!(here.ping().await.is_ok());
}

#[tokio::test]
async fn a_write_is_read_at_once_on_its_node_when_redis_is_dead() {
    let mut redis = RedisServer::start().await;
    for local_ttl in [Duration::from_secs(1), Duration::ZERO] {
        let here = node(Settings { local_ttl, ..hurried(&redis) }).await;
        let row = Truth::new(1);
        row.read(&here).await.unwrap();
        redis.kill();

        let start = Instant::now();
        assert!(!row.write(&here, 2).await);
        assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
        assert_eq!(row.seen(&here).await.0, 2);
        assert!(here.invalidate(&row.key, 2).await.is_err());

        redis.start_again().await;
        reconnected(&here).await;
        here.invalidate(&row.key, 2).await.unwrap();
        assert_eq!(row.seen(&here).await.0, 2);
    }
}

#[tokio::test]
async fn a_write_is_read_at_once_on_its_node_when_redis_hangs() {
    let redis = RedisServer::start().await;
    for local_ttl in [Duration::from_secs(1), Duration::ZERO] {
        let here = node(Settings { local_ttl, ..hurried(&redis) }).await;
        let there = redis.bare_node().await;
        let row = Truth::new(1);
        row.read(&here).await.unwrap();
        redis.signal("-STOP");

        let start = Instant::now();
        assert!(!row.write(&here, 2).await);
        assert!(start.elapsed() < SLACK, "the write took {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(row.seen(&here).await.0, 2);
        assert!(start.elapsed() < SLACK, "the read took {:?}", start.elapsed());

        redis.signal("-CONT");
        reconnected(&here).await;
        here.invalidate(&row.key, 2).await.unwrap();
        assert_eq!(row.seen(&there).await.0, 2);
    }
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_request_no_more_than_its_budget() {
    let redis = RedisServer::start().await;
    let here = node(Settings { local_ttl: Duration::ZERO, ..hurried(&redis) }).await;
    redis.signal("-STOP");
    for _ in 0..3 {
        let row = Truth::new(1);
        let start = Instant::now();
        assert_eq!(row.seen(&here).await, (1, Level::Postgres));
        assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    }
    redis.signal("-CONT");
}

#[tokio::test]
async fn a_restarted_redis_is_found_again_without_a_word() {
    let mut redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();

    redis.kill();
    redis.start_again().await;
    reconnected(&here).await;
    reconnected(&there).await;

    assert_eq!(row.seen(&here).await, (1, Level::Postgres), "it came back empty");
    assert_eq!(row.seen(&there).await, (1, Level::Redis));
}

#[tokio::test]
async fn more_writes_than_floors_bypass_both_levels() {
    let redis = RedisServer::start().await;
    let here = node(Settings { node_floors: 4, ..redis.settings() }).await;
    let there = redis.bare_node().await;
    let rows: Vec<_> = (0..8).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.write(&here, 2).await;
    }
    for row in &rows {
        assert_eq!(row.seen(&there).await, (2, Level::Redis));
        assert_eq!(row.seen(&here).await, (2, Level::Postgres));
        assert_eq!(row.seen(&here).await, (2, Level::Postgres));
    }
}

#[tokio::test]
async fn a_bypass_ends_when_the_forgotten_floors_would_have() {
    tokio::time::pause();
    let alone = node(Settings { node_floors: 4, ..Settings::default() }).await;
    let rows: Vec<_> = (0..8).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.write(&alone, 2).await;
    }
    assert_eq!(rows[0].seen(&alone).await, (2, Level::Postgres));
    tokio::time::advance(Settings::default().floor).await;
    assert_eq!(rows[0].seen(&alone).await, (2, Level::Postgres));
    assert_eq!(rows[0].seen(&alone).await, (2, Level::Local));
}

#[tokio::test]
async fn a_connection_whose_peer_has_gone_silent_is_given_up_for_a_new_one() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(&redis);
    let here = node(Settings { redis_url: Some(proxy.url()), ..hurried(&redis) }).await;
    proxy.close();
    assert!(here.ping().await.is_err());
    reconnected(&here).await;
}
