use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::cmd;
use futures_util::{
    FutureExt,
    future::{join, join_all, poll_immediate},
};
use tenantry_cache::{Level, Loaded, ReadError, Settings};
use tokio::{sync::Semaphore, task::yield_now};

use crate::proxy::Proxy;
use crate::stage::{Broken, Gate, RedisServer, Truth, node};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_readers_at_once_are_at_most_two_loads() {
    const READERS: usize = 5_000;
    let alone = node(Settings { local_ttl: Duration::ZERO, ..Settings::default() }).await;
    let (row, begun, gate) = (Truth::new(1), Arc::new(Semaphore::new(0)), Gate::new());
    gate.open();
    let readers = (0..READERS).map(|_| {
        let (alone, row, begun, gate) = (alone.clone(), row.clone(), begun.clone(), gate.clone());
        tokio::spawn(async move {
            let load = row.slow_load(&gate);
            let (all, begun_too) = (begun.clone(), begun.clone());
            let load = move || async move {
                let _ = all.acquire_many(READERS as u32).await.unwrap();
                load().await
            };
            let mut reading = Box::pin(alone.read_through(&row.key, None, load));
            // Polled once, it is on board; only then does it count as begun.
            let first = poll_immediate(&mut reading).await;
            begun_too.add_permits(1);
            gate.open();
            match first {
                Some(read) => read,
                None => reading.await,
            }
        })
    });
    for read in join_all(readers).await {
        assert_eq!(read.unwrap().unwrap().entry.unwrap().version, 1);
    }
    assert!((1..=2).contains(&row.loads()), "{} loads", row.loads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_many_nodes_share_one_load_through_the_lease() {
    let redis = RedisServer::start().await;
    let row = Truth::new(1);
    let nodes = join_all((0..4).map(|_| redis.node())).await;
    let sure = Arc::new(AtomicUsize::new(0));

    let gate = Gate::new();
    let filling = nodes[0].read_through(&row.key, None, row.slow_load(&gate));
    let others = async {
        gate.sent().await;
        // A reader waits 30 ms for the one who fills, by this machine's clock; so only its answer is sure, not its level.
        let reads = nodes[1..].iter().map(|node| row.seen(node));
        let opened = async { gate.open() };
        for (version, level) in join(join_all(reads), opened).await.0 {
            assert_eq!(version, 1);
            sure.fetch_add((level == Level::Redis) as usize, Ordering::Relaxed);
        }
    };
    let (first, ()) = join(filling, others).await;
    assert_eq!(first.unwrap().level, Level::Postgres);
    assert_eq!(row.loads() + sure.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn who_comes_after_the_select_was_sent_gets_a_later_one() {
    let alone = node(Settings::default()).await;
    let (row, gate) = (Truth::new(1), Gate::new());
    let first = alone.read_through(&row.key, None, row.slow_load(&gate));
    let late = async {
        gate.sent().await;
        row.set(2); // elsewhere; this node knows nothing of it
        // Two latecomers share the next flight; the first to come is its leader.
        let mut reads = Box::pin(join(row.seen(&alone), row.seen(&alone)));
        assert!(poll_immediate(&mut reads).await.is_none());
        yield_now().await;
        assert_eq!(row.loads(), 1, "it waits for its turn");
        gate.open();
        reads.await
    };
    let (first, (second, third)) = join(first, late).await;

    assert_eq!(first.unwrap().entry.unwrap().version, 1);
    assert_eq!((second.0, third.0), (2, 2));
    assert_eq!(row.loads(), 2);
}

#[tokio::test]
async fn a_client_who_goes_away_strands_nobody() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    for is_sent in [false, true] {
        let (row, gate) = (Truth::new(1), Gate::new());

        let mut leader = Box::pin(here.read_through(&row.key, None, row.slow_load(&gate)));
        assert!(poll_immediate(&mut leader).await.is_none());
        let mut joiner = Box::pin(row.read(&here));
        assert!(poll_immediate(&mut joiner).await.is_none());
        if is_sent {
            tokio::select! {
                _ = &mut leader => panic!("the gate is shut"),
                () = gate.sent() => {}
            }
        }
        drop(leader);
        gate.open();

        assert_eq!(joiner.await.unwrap().level, Level::Postgres);
        assert_eq!(row.loads(), 1);
        assert_eq!(row.seen(&there).await, (1, Level::Redis), "and its lease is not lost");
    }
}

#[tokio::test]
async fn a_load_that_panics_is_told_to_everyone_and_the_next_read_is_a_new_one() {
    let redis = RedisServer::start().await;
    let (here, row) = (redis.node().await, Truth::new(1));
    let panics = || async { panic!("as planned") as Result<Loaded, Broken> };

    // They are on board when Redis is asked.
    let leader = AssertUnwindSafe(here.read_through(&row.key, None, panics)).catch_unwind();
    let (leader, joiner) = join(leader, row.read(&here)).await;

    assert!(leader.is_err(), "it flies itself");
    assert!(matches!(joiner, Err(ReadError::Gone)));
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
}

#[tokio::test]
async fn an_error_is_shared_and_not_kept() {
    let redis = RedisServer::start().await;
    let (here, row) = (redis.node().await, Truth::new(1));
    let fails = || async { Err(Broken) };

    let (leader, joiner) = join(here.read_through(&row.key, None, fails), row.read(&here)).await;

    let (Err(ReadError::Load(one)), Err(ReadError::Load(other))) = (leader, joiner) else {
        panic!("no error")
    };
    assert!(Arc::ptr_eq(&one, &other));
    assert_eq!(row.seen(&here).await, (1, Level::Postgres));
}

#[tokio::test]
async fn who_joins_a_hit_after_a_write_does_not_get_the_value_from_before_it() {
    let redis = RedisServer::start().await;
    let proxy = Proxy::before(&redis);
    let settings = redis.settings();
    let here = node(Settings { redis_url: Some(proxy.url()), ..settings }).await;
    let row = Truth::new(1);
    row.read(&redis.node().await).await.unwrap();

    proxy.close();
    let mut early = Box::pin(row.seen(&here));
    assert!(poll_immediate(&mut early).await.is_none());
    proxy.kept_back().await; // Redis has said "version 1", and the node has not heard it yet
    row.set(2);
    here.raise_floor(&row.key, 2);
    let mut late = Box::pin(row.seen(&here));
    assert!(poll_immediate(&mut late).await.is_none());
    proxy.open();

    assert_eq!(join(early, late).await, ((2, Level::Postgres), (2, Level::Postgres)));
    assert_eq!(row.loads(), 2, "the late one has joined");
}

#[tokio::test]
async fn nobody_waits_for_a_writer() {
    let redis = RedisServer::start().await;
    let (writer, reader) = (redis.node().await, redis.node().await);
    let row = Truth::new(1);
    let write = writer.begin_write(&row.key, 2).await;
    Truth::new(1).read(&reader).await.unwrap(); // so that Redis knows the scripts
    let mut connection = redis.connection().await;
    cmd("CONFIG").arg("RESETSTAT").exec_async(&mut connection).await.unwrap();

    assert_eq!(row.seen(&reader).await, (1, Level::Postgres));

    let stats: String = cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    assert!(stats.contains("cmdstat_evalsha:calls=1,"), "asked more than once: {stats}");
    write.rolled_back().await;
}
