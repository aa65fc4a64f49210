//! The clients: each stays with one node and reads or writes users as fast as it is answered, with short pauses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value as Json, json};
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    Result,
    cluster::{Cluster, value},
    history::{Failure, History, Outcome, Read, Version, Write},
};

/// Users that half of the requests are for.
pub(crate) const HOT: usize = 20;
/// Users that the others are for, the first ones more often.
pub(crate) const COLD: usize = 200;
/// Clients of each node.
const CLIENTS: usize = 10;
/// The service answers within 5 s, or a node is frozen.
const PATIENCE: Duration = Duration::from_secs(8);

/// The load while it runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<History>>,
}

struct Shared {
    cluster: Arc<Cluster>,
    http: reqwest::Client,
    /// By key: the newest version that any client has seen.
    newest: Vec<AtomicI64>,
    next_value: AtomicU32,
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    zipf: Vec<f64>,
}

impl Shared {
    fn new(cluster: &Arc<Cluster>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            cluster: cluster.clone(),
            http: reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?,
            newest: cluster.users.iter().map(|_| AtomicI64::new(0)).collect(),
            next_value: AtomicU32::new(1),
            stop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            zipf: zipf(COLD),
        }))
    }
}

impl Load {
    pub(crate) fn start(cluster: &Arc<Cluster>, seed: u64) -> Result<Self> {
        let shared = Shared::new(cluster)?;
        let clients = (0..cluster.apis.len() * CLIENTS).map(|n| {
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(n as u64));
            let client = Client { shared: shared.clone(), rng, log: History::default() };
            tokio::spawn(client.run(n / CLIENTS))
        });
        let clients = clients.collect();
        Ok(Self { shared, clients })
    }

    /// Requests answered with 200, and others.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.answered.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// Stops the clients and returns all that they saw.
    pub(crate) async fn finish(self) -> Result<History> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = History::default();
        for client in self.clients {
            let log = client.await?;
            all.reads.extend(log.reads);
            all.writes.extend(log.writes);
            all.failures.extend(log.failures);
        }
        Ok(all)
    }
}

/// Reads every key on every node once: what a healed cluster says.
pub(crate) async fn read_all(cluster: &Arc<Cluster>) -> Result<(Vec<Read>, Vec<Failure>)> {
    let shared = Shared::new(cluster)?;
    let mut client = Client { shared, rng: StdRng::seed_from_u64(0), log: History::default() };
    for node in 0..cluster.apis.len() {
        for key in 0..cluster.users.len() {
            client.read(node, key, None, PATIENCE).await;
        }
    }
    Ok((client.log.reads, client.log.failures))
}

struct Client {
    shared: Arc<Shared>,
    rng: StdRng,
    log: History,
}

impl Client {
    async fn run(mut self, node: usize) -> History {
        let nodes = self.shared.cluster.apis.len();
        while !self.shared.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_micros(self.rng.random_range(0..20_000))).await;
            let key = self.pick();
            if self.rng.random_bool(0.3) {
                let acknowledged = self.write(node, key).await;
                // Somebody else is told of it, and asks another node.
                if acknowledged && self.rng.random_bool(0.3) {
                    let other = (node + self.rng.random_range(1..nodes)) % nodes;
                    self.read(other, key, self.newest(key), Duration::from_secs(1)).await;
                }
            } else {
                let min = if self.rng.random_bool(0.15) { self.newest(key) } else { None };
                self.read(node, key, min, PATIENCE).await;
            }
        }
        self.log
    }

    fn pick(&mut self) -> usize {
        if self.rng.random_bool(0.5) {
            return self.rng.random_range(0..HOT);
        }
        let place = self.rng.random::<f64>();
        HOT + self.shared.zipf.partition_point(|&below| below < place).min(COLD - 1)
    }

    fn newest(&self, key: usize) -> Option<Version> {
        Some(self.shared.newest[key].load(Ordering::SeqCst)).filter(|&version| version > 0)
    }

    async fn write(&mut self, node: usize, key: usize) -> bool {
        let shared = self.shared.clone();
        let (clock, process) = (shared.cluster.clock, &shared.cluster.apis[node]);
        let value = shared.next_value.fetch_add(1, Ordering::SeqCst);
        let request = self.request(reqwest::Method::PATCH, node, key);
        let (run, start) = (process.run(), clock.now());
        let answer = request.json(&json!({"name": format!("w{value}")})).send().await;
        let outcome = match answer {
            Ok(response) => match (response.status(), version(&response)) {
                (StatusCode::OK, Some(version)) => Outcome::Acknowledged(version),
                (status, _) if status.is_client_error() => Outcome::Refused(status.as_u16()),
                (status, _) => Outcome::Unknown(status.as_u16()),
            },
            Err(error) if error.is_connect() => Outcome::Refused(0),
            Err(_) => Outcome::Unknown(0),
        };
        let end = clock.now();
        let run = run.filter(|_| run == process.run());
        self.log.writes.push(Write { key, value, node, run, start, end, outcome });
        match outcome {
            Outcome::Acknowledged(version) => {
                self.shared.newest[key].fetch_max(version, Ordering::SeqCst);
                self.shared.answered.fetch_add(1, Ordering::Relaxed);
                true
            }
            _ => {
                self.fail().await;
                false
            }
        }
    }

    async fn read(&mut self, node: usize, key: usize, min: Option<Version>, patience: Duration) {
        let shared = self.shared.clone();
        let (clock, process) = (shared.cluster.clock, &shared.cluster.apis[node]);
        let mut request = self.request(reqwest::Method::GET, node, key).timeout(patience);
        if let Some(min) = min {
            request = request.header("x-min-version", min.to_string());
        }
        let (run, start) = (process.run(), clock.now());
        let (status, seen) = look(request).await;
        let end = clock.now();
        let Some(Seen { version, body_version, value, level }) = seen else {
            self.log.failures.push(Failure { key, node, start, end, status });
            return self.fail().await;
        };
        let run = run.filter(|_| run == process.run());
        self.log.reads.push(Read { key, node, run, min, start, end, version, body_version, value, level });
        self.shared.newest[key].fetch_max(version, Ordering::SeqCst);
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
    }

    fn request(&self, method: reqwest::Method, node: usize, key: usize) -> RequestBuilder {
        let cluster = &self.shared.cluster;
        let address = cluster.apis[node].address.map(|address| address.to_string()).unwrap_or_default();
        let url = format!("http://{address}/api/v1/users/{}", cluster.users[key]);
        self.shared.http.request(method, url).bearer_auth(&cluster.token)
    }

    async fn fail(&mut self) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(20)).await;
    }
}

struct Seen {
    version: Version,
    body_version: Version,
    value: crate::history::Value,
    level: &'static str,
}

async fn look(request: RequestBuilder) -> (u16, Option<Seen>) {
    let Ok(response) = request.send().await else { return (0, None) };
    let status = response.status().as_u16();
    let (version, level) = (version(&response), level(&response));
    let (Some(version), 200) = (version, status) else { return (status, None) };
    // Cut off in the middle: no answer.
    let Ok(body) = response.json::<Json>().await else { return (0, None) };
    let data = &body["data"];
    let value = data["name"].as_str().map_or(crate::history::FOREIGN, value);
    (status, Some(Seen { version, body_version: data["version"].as_i64().unwrap_or(-1), value, level }))
}

fn version(response: &Response) -> Option<Version> {
    response.headers().get("etag")?.to_str().ok()?.trim_matches('"').parse().ok()
}

fn level(response: &Response) -> &'static str {
    match response.headers().get("x-cache").map(|level| level.as_bytes()) {
        Some(b"local") => "local",
        Some(b"redis") => "redis",
        Some(b"miss") => "miss",
        _ => "?",
    }
}

/// For each place how often it or one before it is asked for.
fn zipf(places: usize) -> Vec<f64> {
    let weights = (1..=places).map(|place| 1.0 / place as f64);
    let total: f64 = weights.clone().sum();
    let sums = weights.scan(0.0, |sum, weight| {
        *sum += weight / total;
        Some(*sum)
    });
    sums.collect()
}
