//! A private Redis Cluster on 127.0.0.1: three masters with a replica each. It dies with the value.
//!
//! This file needs nothing else of these tests, so that others can include it.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use deadpool_redis::redis::{self, Client, FromRedisValue, aio::MultiplexedConnection, cmd};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// After so long a silent node counts as failed.
const NODE_TIMEOUT_MS: &str = "1000";

pub(crate) struct ClusterServer {
    nodes: Vec<Node>,
    folder: TempDir,
}

struct Node {
    port: u16,
    bus: u16,
    child: Option<Child>,
}

impl ClusterServer {
    /// Starts six nodes that know each other from the start, and waits until each master has its replica.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(4 * MASTERS);
        let nodes =
            ports.chunks(2).map(|ports| Node { port: ports[0], bus: ports[1], child: None }).collect();
        let mut cluster = Self { nodes, folder };
        for n in 0..2 * MASTERS {
            fs::create_dir(cluster.folder_of(n)).unwrap();
            fs::write(cluster.folder_of(n).join("nodes.conf"), cluster.configuration(n)).unwrap();
            cluster.start_node(n);
        }
        cluster.settled().await;
        cluster
    }

    /// What node `n` would have written down had it been in this cluster before: this is how they meet at once.
    fn configuration(&self, n: usize) -> String {
        let lines = self.nodes.iter().enumerate().map(|(i, node)| {
            let (myself, shard) = (if i == n { "myself," } else { "" }, i % MASTERS);
            let (id, master, epoch) = (id(i), id(shard), shard + 1);
            let address = format!("127.0.0.1:{}@{}", node.port, node.bus);
            if i < MASTERS {
                let (first, last) = (shard * SLOTS / MASTERS, (shard + 1) * SLOTS / MASTERS - 1);
                format!("{id} {address} {myself}master - 0 0 {epoch} connected {first}-{last}\n")
            } else {
                format!("{id} {address} {myself}slave {master} 0 0 {epoch} connected\n")
            }
        });
        lines.collect::<String>() + &format!("vars currentEpoch {MASTERS} lastVoteEpoch 0\n")
    }

    fn folder_of(&self, n: usize) -> std::path::PathBuf {
        self.folder.path().join(n.to_string())
    }

    fn start_node(&mut self, n: usize) {
        let (port, bus) = (self.nodes[n].port.to_string(), self.nodes[n].bus.to_string());
        let child = Command::new("redis-server")
            .current_dir(self.folder_of(n))
            .args(["--port", &port, "--bind", "127.0.0.1", "--cluster-port", &bus])
            .args(["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"])
            .args(["--cluster-node-timeout", NODE_TIMEOUT_MS, "--cluster-replica-validity-factor", "0"])
            .args(["--repl-diskless-sync-delay", "0", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the tests need `redis-server` (7.0 or later) in the path: apt-get install redis-server");
        self.nodes[n].child = Some(child);
    }

    pub(crate) fn url_of(&self, n: usize) -> String {
        format!("redis://127.0.0.1:{}", self.nodes[n].port)
    }

    /// Of some nodes, as one writes them for a client.
    pub(crate) fn urls(&self) -> String {
        (0..MASTERS).map(|n| self.url_of(n)).collect::<Vec<_>>().join(",")
    }

    pub(crate) async fn connection(&self, n: usize) -> redis::RedisResult<MultiplexedConnection> {
        Client::open(self.url_of(n))?.get_multiplexed_async_connection().await
    }

    pub(crate) async fn ask<T: FromRedisValue>(&self, n: usize, words: &[&str]) -> redis::RedisResult<T> {
        cmd(words[0]).arg(&words[1..]).query_async(&mut self.connection(n).await?).await
    }

    /// The nodes that run and are masters.
    pub(crate) async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for n in (0..self.nodes.len()).filter(|&n| self.nodes[n].child.is_some()) {
            if self.replication_of(n).await.contains("role:master") {
                masters.push(n);
            }
        }
        masters
    }

    async fn replication_of(&self, n: usize) -> String {
        self.ask(n, &["INFO", "replication"]).await.unwrap_or_default()
    }

    /// Waits until the cluster is well and every node that runs and is no master is linked to one.
    pub(crate) async fn settled(&mut self) {
        let well = async {
            for n in 0..self.nodes.len() {
                while let Some(child) = &mut self.nodes[n].child {
                    let ended = child.try_wait().unwrap();
                    assert!(ended.is_none(), "node {n} of the redis cluster has ended: {ended:?}");
                    let state: String = self.ask(n, &["CLUSTER", "INFO"]).await.unwrap_or_default();
                    let role = self.replication_of(n).await;
                    let linked = role.contains("role:master") || role.contains("master_link_status:up");
                    if state.contains("cluster_state:ok") && linked {
                        break;
                    }
                    sleep(Duration::from_millis(10)).await;
                }
            }
        };
        timeout(Duration::from_secs(60), well).await.expect("the redis cluster does not come up");
    }

    /// Makes the replica `n` the master of its shard, with the help of the one there is.
    pub(crate) async fn promote(&self, n: usize) {
        let promoted = async {
            while !self.masters().await.contains(&n) {
                // Refused while a replica is not linked yet.
                let _ = self.ask::<()>(n, &["CLUSTER", "FAILOVER"]).await;
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), promoted).await.expect("the replica is not promoted");
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.nodes[n].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, n: usize, signal: &str) {
        if let Some(child) = &self.nodes[n].child {
            let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
            assert!(sent.unwrap().success());
        }
    }

    pub(crate) fn start_again(&mut self, n: usize) {
        self.start_node(n);
    }
}

/// Ports of 127.0.0.1 that nobody listens on. They are not among those that the system gives to clients (from 32768 on),
/// who might take the port of a server that is to be started again.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    const PORTS: std::ops::Range<u16> = 20_000..32_000;
    // Tests that run side by side begin at different places.
    let begin = usize::try_from(std::process::id()).unwrap() * 101 % PORTS.len();
    let mut held: Vec<TcpListener> = Vec::new();
    for port in PORTS.cycle().skip(begin).take(PORTS.len()) {
        // All are held until the last is found, so that no two are the same.
        held.extend(TcpListener::bind(("127.0.0.1", port)));
        if held.len() == count {
            return held.iter().map(|port| port.local_addr().unwrap().port()).collect();
        }
    }
    panic!("fewer than {count} ports of 127.0.0.1 are free");
}

fn id(n: usize) -> String {
    format!("{:040x}", n + 1)
}

impl Drop for ClusterServer {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
