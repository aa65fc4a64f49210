//! Passwords and users.

use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Level, Settings};

use crate::breaker::returns;
use crate::cluster_server::free_ports;
use crate::stage::{RedisServer, Truth, node};

/// A Redis on the network with more settings; and its address, for URLs.
async fn listening(more: &[&str]) -> (RedisServer, String) {
    let port = free_ports(1)[0].to_string();
    let more = [&["--port", &port, "--bind", "127.0.0.1"], more].concat();
    (RedisServer::start_with(tempfile::tempdir().unwrap(), &more).await, format!("127.0.0.1:{port}"))
}

fn at(redis: &RedisServer, url: String) -> Settings {
    Settings { redis_url: Some(url), local_ttl: std::time::Duration::ZERO, ..redis.settings() }
}

/// What is said of a Redis that cannot be used.
async fn problem(cache: &Cache) -> String {
    cache.ping().await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_password_and_a_user_are_taken_from_the_url() {
    // Exactly what docs/operations.md tells a user of ours needs.
    let acl = "user tenantry on >p,w@rd ~u:* ~e:* ~l:* &* -@all +@hash +@string +@keyspace +@scripting +@connection +info +time \
               +cluster|info +cluster|slots";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("redis.conf"), format!("{acl}\nrequirepass secret\n")).unwrap();
    let port = free_ports(1)[0].to_string();
    let redis = RedisServer::start_with(folder, &["--include", "redis.conf", "--port", &port]).await;

    let urls = ["redis://:secret@", "redis://default:secret@", "redis://tenantry:p%2Cw%40rd@"];
    for url in urls.map(|url| format!("{url}127.0.0.1:{port}")) {
        let (here, there) = (node(at(&redis, url.clone())).await, node(at(&redis, url.clone())).await);
        let row = Truth::new(1);
        assert_eq!(row.seen(&here).await, (1, Level::Postgres));
        assert_eq!(row.seen(&there).await, (1, Level::Redis), "{url}");
        assert!(row.write(&here, 2).await, "{url}");
        assert_eq!(row.seen(&there).await, (2, Level::Redis));
    }
}

#[tokio::test]
async fn a_wrong_password_is_said_and_the_right_one_is_found_later() {
    let (redis, address) = listening(&["--requirepass", "first"]).await;
    let here = Cache::new(at(&redis, format!("redis://:second@{address}"))).unwrap();
    let said = problem(&here).await;
    assert!(said.contains("refuses the user or the password"), "{said}");
    assert!(!said.contains("second"), "{said}");
    let without = problem(&Cache::new(at(&redis, format!("redis://{address}"))).unwrap()).await;
    assert!(without.contains("wants a password"), "{without}");

    let row = Truth::new(1);
    assert!(here.has_given_up_redis());
    assert_eq!(row.seen(&here).await, (1, Level::Postgres), "it goes on without");
    let mut connection = redis.connection().await;
    cmd("AUTH").arg("first").exec_async(&mut connection).await.unwrap();
    cmd("CONFIG").arg(&["SET", "requirepass", "second"]).exec_async(&mut connection).await.unwrap();
    returns(&here).await;

    row.read(&here).await.unwrap();
    assert_eq!(row.seen(&here).await, (1, Level::Redis));
}

#[tokio::test]
async fn a_server_that_hides_its_run_is_used_all_the_same() {
    let (redis, address) = listening(&["--rename-command", "INFO", ""]).await;
    let here = node(at(&redis, format!("redis://{address}"))).await;
    let row = Truth::new(1);
    row.read(&here).await.unwrap();
    assert_eq!(row.seen(&here).await, (1, Level::Redis));
}

#[tokio::test]
async fn several_urls_are_refused_when_they_lead_to_no_cluster() {
    let (redis, address) = listening(&[]).await;
    let here = Cache::new(at(&redis, format!("redis://{address},redis://{address}"))).unwrap();
    let said = problem(&here).await;
    assert!(said.contains("is no cluster") && said.contains("URL of one server"), "{said}");
}
