//! A Redis that comes back as another one, or with what it had long ago.

use std::{path::Path, time::Duration};

use deadpool_redis::redis::{cmd, pipe};
use tenantry_cache::{Cache, Level};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use crate::breaker::returns;
use crate::stage::{RedisServer, Truth};

async fn tell(redis: &RedisServer, words: &[&str]) {
    cmd(words[0]).arg(&words[1..]).exec_async(&mut redis.connection().await).await.unwrap();
}

/// What Redis has of version 1 under the names of a run that is over.
async fn old_value(redis: &RedisServer, old_key: &str) -> Option<String> {
    cmd("HGET").arg(old_key).arg("v").query_async(&mut redis.connection().await).await.unwrap()
}

/// Reads until Redis answers, and never anything older than version 2.
async fn hits_version_2(row: &Truth, node: &Cache) {
    let hit = async {
        while row.seen(node).await != (2, Level::Redis) {
            assert_eq!(row.seen(node).await.0, 2);
            // Or nobody else would have a turn: without Redis, nothing here waits for anything.
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), hit).await.expect("redis is not used");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_from_an_old_snapshot_shows_nothing_of_it() {
    let mut redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    let old_key = row.redis_key(&redis).await;
    tell(&redis, &["SAVE"]).await;
    assert!(row.write(&here, 2).await);
    assert_eq!(row.seen(&there).await, (2, Level::Redis));

    redis.kill();
    redis.start_again().await;
    assert_eq!(old_value(&redis, &old_key).await.as_deref(), Some("1"), "it is there to be shown");
    let fresh = redis.bare_node().await;
    returns(&there).await;
    for node in [&fresh, &there, &here] {
        hits_version_2(&row, node).await;
    }
}

#[tokio::test]
async fn a_redis_that_comes_back_from_an_old_log_shows_nothing_of_it() {
    let append = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut redis = RedisServer::start_with(tempfile::tempdir().unwrap(), &append).await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    let old_key = row.redis_key(&redis).await;
    let (log, backup) = (redis.folder().join("appendonlydir"), redis.folder().join("backup"));
    copy_folder(&log, &backup);
    assert!(row.write(&here, 2).await);

    redis.kill();
    copy_folder(&backup, &log);
    redis.start_again().await;
    assert_eq!(old_value(&redis, &old_key).await.as_deref(), Some("1"), "it is there to be shown");
    let fresh = redis.bare_node().await;
    returns(&there).await;
    for node in [&fresh, &there, &here] {
        hits_version_2(&row, node).await;
    }
}

#[tokio::test]
async fn a_server_that_was_demoted_is_not_used_and_forgets_its_names() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.bare_node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    let old_key = row.redis_key(&redis).await;

    tell(&redis, &["REPLICAOF", "127.0.0.1", "1"]).await;
    for node in [&here, &there] {
        crate::breaker::gives_up(node).await;
        let said = node.ping().await.unwrap_err().to_string();
        assert!(said.contains("is a replica"), "{said}");
        assert_eq!(row.seen(node).await, (1, Level::Postgres));
    }
    row.set(2); // written on nodes that use the new master
    tell(&redis, &["REPLICAOF", "NO", "ONE"]).await;
    for node in [&here, &there] {
        returns(node).await;
    }
    assert_eq!(old_value(&redis, &old_key).await.as_deref(), Some("1"), "it is there to be shown");
    assert_eq!(row.seen(&here).await, (2, Level::Postgres));
    assert_eq!(row.seen(&there).await, (2, Level::Redis));
}

#[tokio::test]
async fn a_server_that_was_demoted_for_a_moment_is_another_run_on_the_same_connection() {
    let redis = RedisServer::start().await;
    let here = redis.bare_node().await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    let old_key = row.redis_key(&redis).await;

    let mut moment = pipe();
    moment.cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).cmd("REPLICAOF").arg(&["NO", "ONE"]);
    moment.exec_async(&mut redis.connection().await).await.unwrap();
    row.set(2); // written on nodes that used another master for that moment
    let noticed = async {
        while row.seen(&here).await.0 != 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), noticed).await.expect("the old value is shown");
    assert_eq!(old_value(&redis, &old_key).await.as_deref(), Some("1"), "it is there to be shown");
    hits_version_2(&row, &here).await;
}

#[tokio::test]
async fn a_node_tells_the_next_run_what_it_has_written() {
    let mut redis = RedisServer::start().await;
    let here = redis.node().await;
    let rows: Vec<_> = (0..200).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.write(&here, 2).await;
    }
    redis.kill();
    redis.start_again().await;

    let told = async {
        for row in &rows {
            while row.field(&redis, "f").await.as_deref() != Some("2") {
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(Duration::from_secs(10), told).await.expect("floors are missing");
}

#[tokio::test]
async fn a_lost_connection_to_the_same_run_costs_no_entry() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.bare_node().await);
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    tell(&redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    for node in [&here, &there] {
        node.ping().await.unwrap();
        returns(node).await;
    }
    assert_eq!(row.seen(&there).await, (1, Level::Redis), "under the same name");
}
