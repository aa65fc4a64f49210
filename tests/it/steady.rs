//! What a crowd, a dead Redis or somebody with bad intentions may cost: counted by the database and by the processes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use futures_util::{StreamExt, stream};
use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    app::{PASSWORD, eventually},
    cluster_server::ClusterServer,
    node::{Answer, Cluster, Connection},
};

/// How many ask for one user at once.
const CROWD: usize = 5_000;

/// The process itself holds nothing, so that reads show what Redis does.
const FROM_REDIS: [(&str, &str); 1] = [("CACHE_LOCAL_TTL", "1ms")];
/// What is read is known for the rest of the test: a second may be over before a crowd has been answered. And the first of a crowd
/// wait for the last before they ask.
const LASTING: [(&str, &str); 2] = [("CACHE_LOCAL_TTL", "60s"), ("HEADER_TIMEOUT", "60s")];

#[tokio::test]
async fn a_crowd_costs_each_process_two_reads_at_most() {
    let cluster = Cluster::start(3, 2, &LASTING).await;
    let mut crowd = Crowd::gather(&cluster, 1).await;
    let reads = crowd.miss_at_once(&cluster, cluster.users[0]).await;
    assert!((1..=2).contains(&reads), "one process: {reads}");

    let mut crowd = Crowd::gather(&cluster, 3).await;
    let reads = crowd.miss_at_once(&cluster, cluster.users[1]).await;
    assert!((1..=6).contains(&reads), "three processes: {reads}");
}

#[tokio::test]
async fn a_crowd_costs_each_process_two_reads_at_most_without_redis() {
    let mut cluster = Cluster::start(2, 1, &LASTING).await;
    cluster.kill_redis().await;
    let mut crowd = Crowd::gather(&cluster, 2).await;
    let reads = crowd.miss_at_once(&cluster, cluster.users[0]).await;
    assert!((1..=4).contains(&reads), "two processes: {reads}");
}

/// Where a process gets to it in time: who finds another process reading waits 30 ms for what it brings. In a process that
/// has thousands of requests to answer first that may be over before it looks again; so here the crowds are small.
#[tokio::test]
async fn a_crowd_at_many_processes_costs_two_reads_in_all_while_a_read_is_quick() {
    let cluster = Cluster::start(3, 20, &LASTING).await;
    let mut crowd = Crowd::of(60, &cluster, 3).await;
    let mut reads = vec![];
    for user in &cluster.users {
        let before = cluster.reads_by_id().await;
        crowd.ask(*user).await;
        crowd.answers(*user).await;
        reads.push(cluster.reads_by_id().await - before);
    }
    println!("reads for each of {} crowds: {reads:?}", reads.len());
    assert!(reads.iter().all(|reads| (1..=6).contains(reads)), "two each, at worst: {reads:?}");
    // A busy machine may make a read slow.
    assert!(reads.iter().filter(|reads| **reads <= 2).count() > reads.len() / 2, "two in all: {reads:?}");
}

#[tokio::test]
async fn a_redis_that_dies_costs_no_request_and_is_used_again_at_once() {
    let mut cluster = Cluster::start(2, 300, &FROM_REDIS).await;
    let load = Load::start(&cluster, 4).await;
    eventually(Duration::from_millis(500), || load.has_hit(9, 10)).await;

    cluster.kill_redis().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!load.has_hit(1, 10).await, "there is nothing to hit");
    cluster.start_redis().await;
    let back = Instant::now();

    // Usually half a second.
    while !load.has_hit(9, 10).await {
        assert!(back.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("nine of ten reads are hits {:?} after the return of Redis", back.elapsed());
    let reads = load.end().await;
    println!("{} reads", reads.len());
    assert_eq!(reads.iter().find(|(_, answer)| answer.status != 200), None);
}

#[tokio::test]
async fn a_master_of_a_redis_cluster_that_dies_costs_no_request() {
    let mut redis = ClusterServer::start().await;
    let urls = redis.urls();
    let cluster = Cluster::start(2, 300, &[FROM_REDIS[0], ("REDIS_URL", &urls)]).await;
    let load = Load::start(&cluster, 4).await;
    eventually(Duration::from_secs(1), || load.has_hit(9, 10)).await;

    let killed = redis.masters().await[0];
    redis.kill(killed);
    let dead = Instant::now();
    let (mut writer, mut reader) = (cluster.client(0).await, cluster.client(1).await);
    let mut written = 0;
    // Usually three seconds, which is what the servers take to promote a replica.
    while written < 20 || !load.has_hit(9, 10).await {
        assert!(dead.elapsed() < Duration::from_secs(30));
        let user = cluster.users[written % cluster.users.len()];
        let name = json!({"name": format!("Name {written}")}).to_string();
        let answer = writer.ask(Method::PATCH, &format!("/api/v1/users/{user}"), &name).await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        written += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "nine of ten reads are hits {:?} after a master died; {written} changes meanwhile",
        dead.elapsed()
    );
    let reads = load.end().await;
    println!("{} reads", reads.len());
    assert_eq!(reads.iter().find(|(_, answer)| answer.status != 200), None);
    // What was lost with the master is made good by the floors placed anew and by the jobs, of which none run here.
    for user in &cluster.users[..written.min(cluster.users.len())] {
        let (own, others) = (writer.look_up(*user).await, reader.look_up(*user).await);
        assert_eq!(own.json()["data"], others.json()["data"]);
    }
}

#[tokio::test]
async fn a_redis_that_hangs_holds_no_request_for_longer_than_its_budget() {
    let cluster = Cluster::start(1, 300, &FROM_REDIS).await;
    let node = &cluster.nodes[0];
    let load = Load::start(&cluster, 4).await;
    eventually(Duration::from_millis(500), || load.has_hit(9, 10)).await;
    cluster.signal_redis("STOP");
    let hung = Instant::now();
    let mut client = cluster.client(0).await;
    // All that asks Redis more than once: by address, many, a change.
    let user = cluster.users[0];
    let answers = [
        client.get("/api/v1/users/lookup?email=user1@example.org").await,
        client
            .ask(Method::POST, "/api/v1/users/batch-get", &json!({"ids": cluster.users[..100]}).to_string())
            .await,
        client.ask(Method::PATCH, &format!("/api/v1/users/{user}"), r#"{"name": "Grace"}"#).await,
        client.look_up(user).await,
    ];
    assert_eq!(answers.each_ref().map(|answer| answer.status), [200; 4]);
    assert!(answers[3].contains("Grace"));
    while node.metric("tenantry_cache_breaker_open", "").await == 0.0 {
        // Usually a tenth of it.
        assert!(hung.elapsed() < Duration::from_secs(3));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the breaker opened {:?} after Redis had been stopped", hung.elapsed());
    // Longer than the breaker needs to try a few times.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(node.metric("tenantry_cache_breaker_open", "").await, 1.0);

    cluster.signal_redis("CONT");
    eventually(Duration::from_secs(1), || load.has_hit(9, 10)).await;
    assert_eq!(node.metric("tenantry_cache_breaker_open", "").await, 0.0);
    let reads = load.end().await;
    assert_eq!(reads.iter().find(|(_, answer)| answer.status != 200), None);
    let waits = |within: &'static str| node.metric("tenantry_cache_redis_wait_seconds_bucket", within);
    let (all, short) = (waits("\"+Inf\"").await, waits("\"0.025\"").await);
    let (punctual, late) = (waits("\"0.055\"").await, all - waits("\"0.1\"").await);
    println!("of {all} waits {} took longer than 25 ms, {} longer than 55 ms", all - short, all - punctual);
    // A timer of 50 ms may be late on a busy machine.
    assert!(all > short && late == 0.0, "{late} waits of more than 100 ms");
}

#[tokio::test]
async fn a_flood_of_unknown_ids_leaves_no_trace_of_itself() {
    let cluster = Cluster::start(2, 1, &[]).await;
    let (mut here, mut elsewhere) = (cluster.client(0).await, cluster.client(1).await);
    let mut redis = cluster.redis().await;
    // Warm: pools, caches of statements, the memory that hashing a password takes.
    flood(&cluster, 4_000).await;
    let person = |name: &str| {
        json!({"email": format!("{name}@example.org"), "name": "New", "password": PASSWORD}).to_string()
    };
    assert_eq!(here.ask(Method::POST, "/api/v1/users", &person("first")).await.status, 201);
    let unknown = Uuid::now_v7();
    let by_email = "/api/v1/users/lookup?email=new@example.org";
    for client in [&mut here, &mut elsewhere] {
        assert_eq!((client.look_up(unknown).await.status, client.get(by_email).await.status), (404, 404));
    }
    let (node, start, mut most_keys) = (&cluster.nodes[0], Instant::now(), 0);
    let memory = node.memory();

    let flood = flood(&cluster, 20_000);
    tokio::pin!(flood);
    // Whom both nodes have just not found comes to be: by a request, and by somebody who does not tell the cache.
    let new = person("new");
    let created = tokio::select! {
        created = here.ask(Method::POST, "/api/v1/users", &new) => created,
        () = &mut flood => panic!("nobody is served during a flood"),
    };
    assert_eq!(created.status, 201);
    for client in [&mut here, &mut elsewhere] {
        let found = client.get(by_email).await;
        assert_eq!((found.status, &found.json()["data"]), (200, &created.json()["data"]));
    }
    let sql = "insert into tenantry.users (tenant_id, id, email, name, role) values ($1, $2, 'told@nobody', 'X', 'user')";
    cluster.database.execute(sql, &[&cluster.tenant, &unknown]).await.unwrap();
    let inserted = Instant::now();
    loop {
        tokio::select! {
            () = &mut flood => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                most_keys = most_keys.max(cmd("DBSIZE").query_async::<usize>(&mut redis).await.unwrap());
            }
        }
    }

    let took = start.elapsed();
    let grown = node.memory().saturating_sub(memory) / 1024;
    let entries = node.metric("tenantry_cache_local_entries", "").await;
    println!("20,000 unknown ids in {took:?}: {most_keys} keys at most, {entries} entries, {grown} KiB more");
    // A hundred a second, each of which lives for five in Redis; and what is being asked. Two passwords may be hashed at
    // once, in 19 MiB each.
    assert!(most_keys < 1_000, "{most_keys} keys");
    assert!(entries < 100.0 * (took.as_secs_f64() + 5.0), "{entries} entries");
    assert!(grown < 48 * 1024, "{grown} KiB");
    assert!(node.metric("tenantry_cache_absent_total", "too_many").await > 15_000.0);
    for client in [&mut here, &mut elsewhere] {
        while client.look_up(unknown).await.status == 404 {
            assert!(inserted.elapsed() < Duration::from_secs(60), "usually six seconds");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Asks the first node for so many ids that nobody has: for a quarter of them one by one, for the others by the hundred.
async fn flood(cluster: &Cluster, size: usize) {
    let clients = 10;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let mut client = cluster.client(0).await;
        tasks.spawn(async move {
            let (alone, batches) = (size / clients / 4, size / clients * 3 / 4 / 100);
            for n in 0..alone {
                assert_eq!(client.look_up(Uuid::new_v4()).await.status, 404);
                if n * batches % alone < batches {
                    let ids = [(); 100].map(|()| Uuid::new_v4()).to_vec();
                    let ids = json!({"ids": ids});
                    let batch = client.ask(Method::POST, "/api/v1/users/batch-get", &ids.to_string()).await;
                    assert_eq!((batch.status, batch.contains("\"users\":[]")), (200, true));
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn foreign_bytes_in_redis_are_repaired_and_never_served() {
    let cluster = Cluster::start(1, 2, &FROM_REDIS).await;
    let (mut client, mut redis) = (cluster.client(0).await, cluster.redis().await);
    let (user, other) = (cluster.users[0], cluster.users[1]);
    let right = client.look_up(user).await.json()["data"].clone();
    for user in [user, other] {
        while past_local(&mut client, user).await.level != "redis" {}
    }
    let (key, other_key) = (cluster.redis_key(user).await, cluster.redis_key(other).await);
    let own: Vec<u8> = cmd("HGET").arg(&key).arg("d").query_async(&mut redis).await.unwrap();
    let others: Vec<u8> = cmd("HGET").arg(&other_key).arg("d").query_async(&mut redis).await.unwrap();
    let own_text = String::from_utf8(own.clone()).unwrap();
    let elsewhere = own_text.replace(&cluster.tenant.to_string(), &Uuid::nil().to_string());
    let cut = own[..own.len() - 1].to_vec();

    let values: [(&str, Vec<u8>, &str); 8] = [
        ("garbage", b"\xff\x00\r\n$-1\r\n".to_vec(), "1"),
        ("nothing but JSON", br#"{"id": "x"}"#.to_vec(), "1"),
        ("another user's value", others, "1"),
        ("a value of another tenant", elsewhere.into_bytes(), "1"),
        ("an older schema", own_text.replacen("user-2 ", "user-1 ", 1).into_bytes(), "1"),
        ("a value that was cut", cut, "1"),
        ("a version that is not the value's", own.clone(), "7"),
        ("a version that is no number", own, "newest"),
    ];
    for (what, data, version) in values {
        let before = cluster.nodes[0].metric("tenantry_cache_mismatch_total", "").await;
        let fields = [("v", version.as_bytes()), ("d", &data)];
        cmd("HSET").arg(&key).arg(&fields).exec_async(&mut redis).await.unwrap();
        is_repaired(&mut client, user, &right, what).await;
        let counted = cluster.nodes[0].metric("tenantry_cache_mismatch_total", "").await - before;
        // The script itself drops what has no number.
        assert!(if version == "newest" { counted == 0.0 } else { counted >= 1.0 }, "{what}: {counted}");
    }
    for (command, arguments) in [("RPUSH", vec!["a", "b"]), ("SET", vec!["a"]), ("SADD", vec!["a"])] {
        cmd("DEL").arg(&key).exec_async(&mut redis).await.unwrap();
        cmd(command).arg(&key).arg(arguments).exec_async(&mut redis).await.unwrap();
        is_repaired(&mut client, user, &right, command).await;
    }
}

/// What was planted is passed by at once, and after that Redis has the right value again.
async fn is_repaired(client: &mut Connection, user: Uuid, right: &Value, what: &str) {
    let found = past_local(client, user).await;
    assert_eq!((found.level.as_str(), &found.json()["data"]), ("miss", right), "{what}");
    let start = Instant::now();
    loop {
        let again = past_local(client, user).await;
        assert_eq!(&again.json()["data"], right, "{what}");
        if again.level == "redis" {
            return;
        }
        // The answer of a busy Redis may come too late for the repair.
        assert!(start.elapsed() < Duration::from_secs(5), "{what} is not repaired");
    }
}

/// A look-up that the process does not answer from memory, which lasts a millisecond.
async fn past_local(client: &mut Connection, user: Uuid) -> Answer {
    loop {
        let answer = client.look_up(user).await;
        if answer.level != "local" {
            return answer;
        }
    }
}

#[tokio::test]
async fn a_process_holds_no_more_than_it_is_told() {
    let cluster =
        Cluster::start(1, 1_000, &[("CACHE_LOCAL_ENTRIES", "100"), ("CACHE_LOCAL_TTL", "60s")]).await;
    let (node, mut client) = (&cluster.nodes[0], cluster.client(0).await);
    for user in &cluster.users {
        assert_eq!(client.look_up(*user).await.status, 200);
    }
    let entries = node.metric("tenantry_cache_local_entries", "").await;
    assert!((50.0..=100.0).contains(&entries), "{entries} entries");

    assert_eq!(node.metric("tenantry_cache_node_floors", "").await, 0.0);
    for (n, user) in cluster.users[..20].iter().enumerate() {
        let body = format!(r#"{{"name": "Name {n}"}}"#);
        assert_eq!(client.ask(Method::PATCH, &format!("/api/v1/users/{user}"), &body).await.status, 200);
    }
    assert_eq!(node.metric("tenantry_cache_node_floors", "").await, 20.0, "one a row, not one a write");
}

/// Clients who look users up at random, spread over all nodes.
struct Load {
    reads: Arc<Mutex<Vec<(Instant, Answer)>>>,
    stopped: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    async fn start(cluster: &Cluster, clients: usize) -> Self {
        let mut load = Self { reads: Arc::default(), stopped: Arc::default(), clients: JoinSet::new() };
        for n in 0..clients {
            let mut client = cluster.client(n % cluster.nodes.len()).await;
            let (reads, stopped, users) = (load.reads.clone(), load.stopped.clone(), cluster.users.clone());
            load.clients.spawn(async move {
                while !stopped.load(Ordering::SeqCst) {
                    let user = users[rand::rng().random_range(..users.len())];
                    let start = Instant::now();
                    let answer = client.look_up(user).await;
                    reads.lock().unwrap().push((start, answer));
                }
            });
        }
        load
    }

    /// Whether so many of the reads that began in the last tenth of a second were hits.
    async fn has_hit(&self, hits: usize, of: usize) -> bool {
        let reads = self.reads.lock().unwrap();
        let late = reads.iter().rev().take_while(|(start, _)| start.elapsed() < Duration::from_millis(100));
        let (all, found) =
            late.fold((0, 0), |(all, found), (_, answer)| (all + 1, found + usize::from(answer.is_hit())));
        all >= 10 && found * of >= all * hits
    }

    async fn end(mut self) -> Vec<(Instant, Answer)> {
        self.stopped.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        Arc::into_inner(self.reads).unwrap().into_inner().unwrap()
    }
}

/// Many clients, each with a connection of its own as far as this process may open so many; the others share.
struct Crowd {
    clients: Vec<(Connection, usize)>,
}

impl Crowd {
    async fn gather(cluster: &Cluster, nodes: usize) -> Self {
        Self::of(CROWD, cluster, nodes).await
    }

    /// So many, spread over the first `nodes` nodes.
    async fn of(size: usize, cluster: &Cluster, nodes: usize) -> Self {
        let limit = std::process::Command::new("/bin/sh").args(["-c", "ulimit -n"]).output().unwrap();
        // Everything else of this process, and of a server, needs fewer than this.
        let limit = String::from_utf8(limit.stdout).unwrap().trim().parse().unwrap_or(usize::MAX) - 150;
        let connections = limit.min(size);
        let client =
            |n: usize| async move { (cluster.client(n % nodes).await, (size - n).div_ceil(connections)) };
        // Many at a time: one after the other they would take seconds.
        Self { clients: stream::iter((0..connections).map(client)).buffered(64).collect().await }
    }

    /// All ask for `user` before anybody is answered: the table is locked for so long. Returns how often it was read.
    async fn miss_at_once(&mut self, cluster: &Cluster, user: Uuid) -> i64 {
        let before = cluster.reads_by_id().await;
        let mut locker = cluster.another_client().await;
        let lock = locker.transaction().await.unwrap();
        lock.batch_execute("lock table tenantry.users in access exclusive mode").await.unwrap();
        let start = Instant::now();
        self.ask(user).await;
        for node in &cluster.nodes {
            node.is_idle().await;
        }
        let held = start.elapsed();
        lock.rollback().await.unwrap();
        let levels = self.answers(user).await;
        let reads = cluster.reads_by_id().await - before;
        println!("{reads} reads; locked for {held:?}, answered after {:?}: {levels:?}", start.elapsed());
        reads
    }

    async fn ask(&mut self, user: Uuid) {
        let path = format!("/api/v1/users/{user}");
        for (client, share) in &mut self.clients {
            for _ in 0..*share {
                client.send(Method::GET, &path, "").await;
            }
        }
    }

    /// How many were answered with which status by which level.
    async fn answers(&mut self, user: Uuid) -> BTreeMap<String, usize> {
        let (id, mut levels) = (format!("\"id\":\"{user}\""), BTreeMap::new());
        for (client, share) in &mut self.clients {
            for _ in 0..*share {
                let answer = client.answer().await;
                // A busy machine may take longer over so many than a request may take: 503.
                let is_right = answer.status == 503 || answer.status == 200 && answer.contains(&id);
                assert!(is_right, "{answer:?}");
                *levels.entry(format!("{} {}", answer.status, answer.level)).or_default() += 1;
            }
        }
        levels
    }
}
