use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tenantry_cache::{Cache, Level, Settings};
use tokio::time::{sleep, timeout};

use crate::proxy::Proxy;
use crate::stage::{RedisServer, Truth, entry, node};

/// How long a node may take to give a silent Redis up, and a busy machine's slack.
const OPENS: Duration = Duration::from_millis(1_000 + 500);
/// How long it may take to use one that has returned.
const CLOSES: Duration = Duration::from_secs(10);
/// What "at once" is on a busy machine. A request that waited for Redis would take the 20 s of the tests' budget.
const AT_ONCE: Duration = Duration::from_millis(500);

pub(crate) async fn gives_up(node: &Cache) {
    until(node, true, OPENS).await;
}

pub(crate) async fn returns(node: &Cache) {
    until(node, false, CLOSES).await;
}

async fn until(node: &Cache, given_up: bool, at_most: Duration) {
    let waiting = async {
        while node.has_given_up_redis() != given_up {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(at_most, waiting).await.expect("the breaker does not move");
}

async fn at_once<T>(work: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let done = work.await;
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    done
}

#[tokio::test]
async fn nobody_waits_for_a_redis_that_hangs_and_it_is_used_again_when_it_answers() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    redis.signal("-STOP");
    gives_up(&here).await;
    gives_up(&there).await;

    assert_eq!(at_once(row.seen(&here)).await, (1, Level::Postgres));
    assert!(!at_once(row.write(&here, 2)).await, "unconfirmed");
    assert_eq!(at_once(row.seen(&here)).await, (2, Level::Postgres));
    assert!(at_once(here.invalidate(&row.key, 2)).await.is_err());

    redis.signal("-CONT");
    returns(&here).await;
    returns(&there).await;
    assert_eq!(
        row.seen(&here).await,
        (2, Level::Postgres),
        "redis has version 1, and this node knows better"
    );
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn nobody_waits_for_a_redis_that_is_dead_and_a_new_one_is_found() {
    let mut redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    redis.kill();
    gives_up(&here).await;
    assert_eq!(at_once(row.seen(&here)).await, (1, Level::Postgres));

    redis.start_again().await;
    returns(&here).await;
    returns(&there).await;
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
    assert_eq!(row.seen(&there).await, (1, Level::Redis));
}

#[tokio::test]
async fn what_a_write_could_not_tell_redis_the_job_does() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    redis.signal("-STOP");
    gives_up(&here).await;
    row.write(&here, 2).await;
    redis.signal("-CONT");
    returns(&here).await;
    returns(&there).await;

    assert_eq!(row.field(&redis, "v").await.as_deref(), Some("1"));
    here.invalidate(&row.key, 2).await.unwrap();
    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_write_whose_floor_was_skipped_places_it_once_redis_is_back_and_fills_nothing() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&there).await.unwrap();
    redis.signal("-STOP");
    gives_up(&here).await;
    let write = here.begin_write(&row.key, 2).await;
    assert!(!write.confirmed());
    redis.signal("-CONT");
    returns(&here).await;
    row.set(2);
    write.committed(entry(2)).await;

    assert_eq!(row.field(&redis, "v").await, None);
    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
    returns(&there).await;
    assert_eq!(row.seen(&there).await, (2, Level::Postgres));
}

#[tokio::test]
async fn a_write_that_loses_redis_after_its_floor_leaves_the_floor() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    let write = here.begin_write(&row.key, 2).await;
    redis.signal("-STOP");
    gives_up(&here).await;
    row.set(2);
    at_once(write.committed(entry(2))).await;
    redis.signal("-CONT");
    returns(&here).await;
    returns(&there).await;

    assert_eq!(row.field(&redis, "f").await.as_deref(), Some("2"));
    for node in [&here, &there] {
        assert_eq!(row.seen(node).await, (2, Level::Postgres));
    }
}

#[tokio::test]
async fn a_floor_that_arrived_and_was_not_confirmed_is_not_filled_over() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(&redis);
    let here = node(Settings { redis_url: Some(proxy.url()), ..redis.settings() }).await;
    let row = Truth::new(1);
    Truth::new(1).write(&redis.node().await, 2).await; // so that Redis knows the scripts

    proxy.close();
    let arrived = async {
        while row.field(&redis, "f").await.is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        proxy.cut();
    };
    let (write, ()) = tokio::join!(here.begin_write(&row.key, 2), arrived);
    assert!(!write.confirmed());
    returns(&here).await;
    here.ping().await.unwrap();
    row.set(2);
    write.committed(entry(2)).await;

    assert_eq!(row.field(&redis, "v").await, None);
    assert_eq!(row.field(&redis, "l").await, None, "the floor was placed once more, without a token");
}

fn gauge(counts: &Snapshotter) -> Option<f64> {
    counts.snapshot().into_vec().into_iter().find_map(|(key, _, _, value)| match value {
        DebugValue::Gauge(value) if key.key().name() == "tenantry_cache_breaker_open" => Some(value.0),
        _ => None,
    })
}

#[test]
fn the_gauge_tells_whether_it_is_open() {
    let recorder = DebuggingRecorder::new();
    let counts = recorder.snapshotter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let redis = RedisServer::start().await;
            let here = redis.node().await;
            assert_eq!(gauge(&counts), Some(0.0));
            redis.signal("-STOP");
            gives_up(&here).await;
            assert_eq!(gauge(&counts), Some(1.0));
            redis.signal("-CONT");
            returns(&here).await;
            assert_eq!(gauge(&counts), Some(0.0));
        });
    });
}
