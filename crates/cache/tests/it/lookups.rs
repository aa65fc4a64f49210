use std::time::{Duration, Instant};

use bytes::Bytes;
use deadpool_redis::redis::cmd;
use tenantry_cache::{Cache, Level, Pointer, Settings};
use uuid::Uuid;

use crate::stage::{RedisServer, Truth, entry, node};

/// An address, which nobody has yet, in a tenant of its own.
struct Address(Uuid);

impl Address {
    fn new() -> Self {
        Self(Uuid::new_v4())
    }

    fn pointer(&self) -> Pointer {
        Pointer::new("e", self.0, [0xab; 32])
    }

    async fn redis_key(&self, redis: &RedisServer) -> String {
        format!("e:0-{}:{}:{}", redis.tag().await, self.0, "ab".repeat(32))
    }

    async fn target(&self, node: &Cache) -> Option<Uuid> {
        node.look_up(&self.pointer()).await.target()
    }

    /// What a reader does who has found the user in the truth.
    async fn found(&self, node: &Cache, id: Option<Uuid>) {
        node.look_up(&self.pointer()).await.leads_to(id).await;
    }

    async fn stored(&self, redis: &RedisServer) -> bool {
        cmd("EXISTS")
            .arg(self.redis_key(redis).await)
            .query_async(&mut redis.connection().await)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_pointer_that_one_node_has_stored_leads_all_to_the_row() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let (address, id) = (Address::new(), Uuid::new_v4());
    assert_eq!(address.target(&here).await, None);

    address.found(&here, Some(id)).await;

    assert_eq!(address.target(&there).await, Some(id));
    let mut connection = redis.connection().await;
    let left: i64 =
        cmd("PTTL").arg(address.redis_key(&redis).await).query_async(&mut connection).await.unwrap();
    assert!((700_000..=900_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn an_address_that_nobody_has_is_not_stored_and_a_pointer_from_before_goes() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let address = Address::new();
    address.found(&here, None).await;
    assert!(!address.stored(&redis).await);

    address.found(&here, Some(Uuid::new_v4())).await;
    address.found(&here, None).await;
    assert!(!address.stored(&redis).await);
}

#[tokio::test]
async fn the_row_is_read_past_the_process() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let (row, address) = (Truth::new(1), Address::new());
    row.read(&here).await.unwrap();
    row.write(&there, 2).await;

    let mut lookup = here.look_up(&address.pointer()).await;
    let read = lookup.read(&row.key, row.load()).await.unwrap();

    assert_eq!((read.entry.unwrap().version, read.level), (2, Level::Redis));
}

#[tokio::test]
async fn a_write_removes_its_pointers_before_commit_and_after() {
    let redis = RedisServer::start().await;
    let (here, there) = (redis.node().await, redis.node().await);
    let (row, old, new) = (Truth::new(1), Address::new(), Address::new());
    old.found(&there, Some(Uuid::new_v4())).await;

    let mut write = here.begin_write(&row.key, 2).await;
    write.unlink(&[old.pointer(), new.pointer()]).await;
    assert!(!old.stored(&redis).await);
    old.found(&there, Some(Uuid::new_v4())).await;
    row.set(2);
    write.committed(entry(2)).await;

    assert!(!old.stored(&redis).await);
}

#[tokio::test]
async fn a_write_whose_outcome_is_unknown_removes_its_pointers_too() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (row, address) = (Truth::new(1), Address::new());
    let mut write = here.begin_write(&row.key, 2).await;
    write.unlink(&[address.pointer()]).await;
    address.found(&here, Some(Uuid::new_v4())).await;
    write.unknown(None).await;
    assert!(!address.stored(&redis).await);
}

#[tokio::test]
async fn a_pointer_that_a_slow_reader_stores_after_the_write_leads_to_a_row_that_says_otherwise() {
    let redis = RedisServer::start().await;
    let (slow, writer, third) = (redis.node().await, redis.node().await, redis.node().await);
    let (row, address, id) = (Truth::new(1), Address::new(), Uuid::new_v4());
    row.read(&third).await.unwrap();
    let late = slow.look_up(&address.pointer()).await; // and it finds version 1 by this address

    let mut write = writer.begin_write(&row.key, 2).await;
    write.unlink(&[address.pointer()]).await;
    row.set(2); // which has another address
    write.committed(entry(2)).await;
    late.leads_to(Some(id)).await;

    let mut lookup = third.look_up(&address.pointer()).await;
    assert_eq!(lookup.target(), Some(id));
    let read = lookup.read(&row.key, row.load()).await.unwrap();
    assert_eq!(read.entry.unwrap().body, Bytes::from("{\"version\":2}"), "not that of the pointer's time");
    lookup.leads_to(None).await;
    assert_eq!(address.target(&third).await, None);
}

#[tokio::test]
async fn what_is_no_id_leads_nowhere_and_is_replaced() {
    let redis = RedisServer::start().await;
    let here = redis.node().await;
    let (address, id) = (Address::new(), Uuid::new_v4());
    let mut connection = redis.connection().await;
    for plant in ["SET", "RPUSH"] {
        cmd("DEL").arg(address.redis_key(&redis).await).exec_async(&mut connection).await.unwrap();
        cmd(plant)
            .arg(address.redis_key(&redis).await)
            .arg("rubbish")
            .exec_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(address.target(&here).await, None);
        address.found(&here, Some(id)).await;
        assert_eq!(address.target(&here).await, Some(id));
    }
}

#[tokio::test]
async fn without_redis_a_pointer_leads_nowhere() {
    let alone = node(Settings::default()).await;
    let address = Address::new();
    address.found(&alone, Some(Uuid::new_v4())).await;
    assert_eq!(address.target(&alone).await, None);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_look_up_one_budget() {
    const BUDGET: Duration = Duration::from_millis(600);
    let redis = RedisServer::start().await;
    let here = node(Settings { redis_budget: BUDGET, ..redis.settings() }).await;
    let (row, address) = (Truth::new(1), Address::new());
    redis.signal("-STOP");

    let start = Instant::now();
    let mut lookup = here.look_up(&address.pointer()).await;
    let read = lookup.read(&row.key, row.load()).await.unwrap();
    lookup.leads_to(Some(Uuid::new_v4())).await;

    assert_eq!(read.level, Level::Postgres);
    assert!(start.elapsed() < BUDGET * 2 - Duration::from_millis(100), "{:?}", start.elapsed());
    redis.signal("-CONT");
}
