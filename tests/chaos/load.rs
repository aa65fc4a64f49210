//! The load: clients that each stay with one node and ask as fast as they are answered, with short pauses.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    Result,
    client::Client,
    cluster::{APIS, Cluster},
    history::{Change, GONE, Healed, History, Outcome, Read, Value, Version},
};

/// Users that half of the requests are for.
pub(crate) const HOT: usize = 20;
/// Users that the others are for, the first ones more often.
pub(crate) const COLD: usize = 200;
/// Clients of each node. More would only wait for each other: two processors are enough for these.
const CLIENTS: usize = 6;
/// Of these: who only look up, and do not wait for a node that does not answer. The others soon all wait for PostgreSQL
/// where a node is cut off from it; these go on to see what its caches say.
const READERS: usize = 2;
const IMPATIENCE: Duration = Duration::from_millis(150);
/// Of a client between two requests, in microseconds.
const PAUSE: std::ops::Range<u64> = 0..30_000;
/// Users made lately that are read, changed and deleted as well.
const FRESH: usize = 12;
/// At most so many keys: the newest versions have a place each.
const KEYS: usize = 50_000;

/// The load while it runs.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<History>>,
}

struct Shared {
    cluster: Arc<Cluster>,
    /// By key: the newest version that any client has seen, and the last address it was given.
    newest: Vec<AtomicI64>,
    addresses: Vec<AtomicU32>,
    /// Made lately and not deleted yet.
    fresh: Mutex<VecDeque<usize>>,
    /// Deleted lately.
    gone: Mutex<VecDeque<usize>>,
    pause: AtomicBool,
    stop: AtomicBool,
    busy: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    zipf: Vec<f64>,
}

impl Load {
    pub(crate) fn start(cluster: &Arc<Cluster>, seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            cluster: cluster.clone(),
            newest: (0..KEYS).map(|_| AtomicI64::new(0)).collect(),
            addresses: (0..KEYS).map(|_| AtomicU32::new(0)).collect(),
            fresh: Mutex::default(),
            gone: Mutex::default(),
            pause: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            busy: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            zipf: zipf(COLD),
        });
        let http = Client::http()?;
        let clients = (0..APIS * CLIENTS).map(|n| {
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(n as u64));
            let user = User { shared: shared.clone(), client: Client::new(cluster, &http), rng };
            tokio::spawn(user.run(n / CLIENTS, n % CLIENTS < READERS))
        });
        let clients = clients.collect();
        Ok(Self { shared, clients })
    }

    /// Requests that were answered as wished, and others.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.shared.answered.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// Waits until all that was asked is answered; nobody asks until `resume`.
    pub(crate) async fn pause(&self) {
        self.shared.pause.store(true, Ordering::SeqCst);
        while self.shared.busy.load(Ordering::SeqCst) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn resume(&self) {
        self.shared.pause.store(false, Ordering::SeqCst);
    }

    /// Stops the clients and returns all that they saw.
    pub(crate) async fn finish(self) -> Result<History> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = History::default();
        for client in self.clients {
            all.extend(client.await?);
        }
        Ok(all)
    }
}

/// Reads every key on every node until each shows its row, for `patience` at most, and returns the last answers: what a
/// healed and quiet cluster says.
pub(crate) async fn read_all(cluster: &Arc<Cluster>, patience: Duration) -> Result<Vec<Healed>> {
    let (deadline, http) = (Instant::now() + patience, Client::http()?);
    let rows = Arc::new(cluster.rows().await?);
    let nodes = (0..APIS).map(|node| {
        let (cluster, client, rows) = (cluster.clone(), Client::new(cluster, &http), rows.clone());
        async move {
            let mut healed = vec![];
            let mut left: Vec<_> = (0..rows.len()).collect();
            while !left.is_empty() {
                let late = Instant::now() > deadline;
                let mut again = vec![];
                for key in left {
                    let row = Some(&rows[key]).filter(|row| !row.deleted).map(|row| (row.version, row.value));
                    let read = client.get(node, key, None).await;
                    if late || read.as_ref().is_some_and(|read| shows(read, row)) {
                        healed.push(Healed { node, key, at: cluster.clock.now(), read, row });
                    } else {
                        again.push(key);
                    }
                }
                left = again;
                sleep(Duration::from_millis(20)).await;
            }
            healed
        }
    });
    Ok(join_all(nodes).await.concat())
}

/// Whether a look-up shows the row; none: it is deleted.
pub(crate) fn shows(read: &Read, row: Option<(Version, Value)>) -> bool {
    match row {
        Some(row) => row == (read.version, read.value),
        None => read.version == GONE,
    }
}

struct User {
    shared: Arc<Shared>,
    client: Client,
    rng: StdRng,
}

impl User {
    async fn run(mut self, node: usize, reader: bool) -> History {
        let shared = self.shared.clone();
        while !shared.stop.load(Ordering::Relaxed) {
            sleep(Duration::from_micros(self.rng.random_range(PAUSE))).await;
            shared.busy.fetch_add(1, Ordering::SeqCst);
            if !shared.pause.load(Ordering::SeqCst) {
                let answered = match self.rng.random_range(0..100) {
                    _ if reader => {
                        let key = self.pick();
                        let read = self.client.get_within(node, key, None, IMPATIENCE).await;
                        self.saw(read)
                    }
                    0..45 => self.write(node).await,
                    45..52 => self.look_up(node).await,
                    52..56 => self.batch(node).await,
                    _ => self.read(node).await,
                };
                self.count(answered).await;
            }
            shared.busy.fetch_sub(1, Ordering::SeqCst);
        }
        self.client.take()
    }

    async fn read(&mut self, node: usize) -> bool {
        let key = self.pick_any();
        let min = if self.rng.random_bool(0.15) { self.newest(key) } else { None };
        let read = self.client.get(node, key, min).await;
        self.saw(read)
    }

    async fn look_up(&mut self, node: usize) -> bool {
        let key = self.pick_any();
        match self.shared.addresses.get(key).map(|address| address.load(Ordering::SeqCst)) {
            // Not that of whoever has it now: nobody's since, mostly.
            Some(address) if address > 20 && self.rng.random_bool(0.2) => {
                let address = self.rng.random_range(address - 20..address);
                self.client.look_up(node, address).await.is_some()
            }
            Some(address @ 1..) => {
                let read = self.client.look_up(node, address).await;
                self.saw(read)
            }
            _ => {
                let read = self.client.get(node, key, None).await;
                self.saw(read)
            }
        }
    }

    async fn batch(&mut self, node: usize) -> bool {
        let keys: Vec<_> = (0..8).map(|_| self.pick_any()).collect();
        self.client.batch(node, &keys).await
    }

    async fn write(&mut self, node: usize) -> bool {
        let (key, outcome) = match self.rng.random_range(0..100) {
            0..2 => return self.create(node).await,
            2..4 => return self.delete(node).await,
            4..12 => {
                let key = self.pick();
                let (value, outcome) = self.client.change(node, key, Change::Address, None).await;
                if let (Outcome::Acknowledged(_), Some(address)) = (outcome, self.shared.addresses.get(key)) {
                    address.store(value, Ordering::SeqCst);
                }
                (key, outcome)
            }
            12..25 => {
                let key = self.pick();
                let stale = i64::from(self.rng.random_bool(0.3));
                let version = self.newest(key).map(|version| (version - stale).max(1));
                (key, self.client.change(node, key, Change::Name, version).await.1)
            }
            _ => {
                let key = self.pick();
                (key, self.client.rename(node, key).await)
            }
        };
        let Outcome::Acknowledged(version) = outcome else { return matches!(outcome, Outcome::Refused(412)) };
        self.newer(key, version);
        // Somebody else is told of it, and asks another node.
        if self.rng.random_bool(0.3) {
            let other = (node + self.rng.random_range(1..APIS)) % APIS;
            let read = self.client.get_within(other, key, self.newest(key), Duration::from_secs(1)).await;
            self.saw(read);
        }
        true
    }

    /// Makes a user and looks for it elsewhere at once; its address was nobody's before.
    async fn create(&mut self, node: usize) -> bool {
        if self.shared.cluster.keys() >= KEYS {
            return true;
        }
        let Some((key, value)) = self.client.create(node).await else { return false };
        if let Some(address) = self.shared.addresses.get(key) {
            address.store(value, Ordering::SeqCst);
        }
        self.newer(key, 1);
        let other = self.rng.random_range(0..APIS);
        let read = match self.rng.random_bool(0.5) {
            true => self.client.get(other, key, None).await,
            false => self.client.look_up(other, value).await,
        };
        if let Ok(mut fresh) = self.shared.fresh.lock() {
            fresh.push_back(key);
        }
        read.is_some()
    }

    async fn delete(&mut self, node: usize) -> bool {
        let oldest = self
            .shared
            .fresh
            .lock()
            .ok()
            .and_then(|mut fresh| if fresh.len() < FRESH / 2 { None } else { fresh.pop_front() });
        let Some(key) = oldest else { return true };
        let outcome = self.client.delete(node, key).await;
        if let Ok(mut gone) = self.shared.gone.lock() {
            gone.push_back(key);
            if gone.len() > FRESH {
                gone.pop_front();
            }
        }
        matches!(outcome, Outcome::Acknowledged(_))
    }

    fn pick(&mut self) -> usize {
        if self.rng.random_bool(0.5) {
            return self.rng.random_range(0..HOT);
        }
        let place = self.rng.random::<f64>();
        HOT + self.shared.zipf.partition_point(|&below| below < place).min(COLD - 1)
    }

    /// One that was made or deleted lately, too.
    fn pick_any(&mut self) -> usize {
        let lately = match self.rng.random_range(0..100) {
            0..5 => &self.shared.fresh,
            5..8 => &self.shared.gone,
            _ => return self.pick(),
        };
        let key = lately.lock().ok().and_then(|keys| keys.iter().copied().choose(&mut self.rng));
        key.unwrap_or_else(|| self.pick())
    }

    fn newest(&self, key: usize) -> Option<Version> {
        let newest = self.shared.newest.get(key)?.load(Ordering::SeqCst);
        Some(newest).filter(|&version| version > 0)
    }

    fn newer(&self, key: usize, version: Version) {
        if let Some(newest) = self.shared.newest.get(key) {
            newest.fetch_max(version, Ordering::SeqCst);
        }
    }

    fn saw(&self, read: Option<Read>) -> bool {
        if let Some(read) = &read {
            self.newer(read.key, read.version);
        }
        read.is_some()
    }

    async fn count(&mut self, answered: bool) {
        if answered {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(20)).await;
        }
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
