//! What a crowd, a dead Redis or somebody with bad intentions may cost: counted by the database and by the processes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use rand::Rng;
use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    app::eventually,
    node::{Answer, Cluster, Connection},
};

/// How many ask for one user at once.
const CROWD: usize = 5_000;

/// What is read is known for the rest of the test: a second may be over before a crowd has been answered.
const LASTING: [(&str, &str); 1] = [("CACHE_LOCAL_TTL", "60s")];

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
        let mut clients = vec![];
        for n in 0..connections {
            let share = (size - n).div_ceil(connections);
            clients.push((cluster.client(n % nodes).await, share));
        }
        Self { clients }
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
