//! Redis Cluster: a real one of three masters with a replica each.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tenantry_cache::{Cache, Key, Level, Loaded, Pointer, Settings, Version};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::breaker::gives_up;
use crate::cluster_server::ClusterServer;
use crate::stage::{Truth, entry, node};

fn patient(urls: String) -> Settings {
    let redis_budget = Duration::from_secs(20);
    Settings { redis_url: Some(urls), redis_budget, local_ttl: Duration::ZERO, ..Settings::default() }
}

/// The names in the cluster, without timeline and run; the epochs of these.
async fn epochs(cluster: &ClusterServer) -> HashSet<String> {
    let mut epochs = HashSet::new();
    for master in cluster.masters().await {
        let keys: Vec<String> = cluster.ask(master, &["KEYS", "*"]).await.unwrap();
        epochs.extend(keys.iter().map(|key| key.split(':').nth(1).unwrap().to_owned()));
    }
    epochs
}

#[tokio::test]
async fn rows_batches_and_pointers_lie_on_all_shards() {
    let cluster = ClusterServer::start().await;
    let here = node(patient(cluster.urls())).await;
    let there = node(patient(cluster.url_of(4))).await; // one node's URL is enough, a replica's too
    let rows: Vec<_> = (0..60).map(|_| Truth::new(1)).collect();

    for row in &rows {
        assert_eq!(row.seen(&here).await, (1, Level::Postgres));
        assert_eq!(row.seen(&there).await, (1, Level::Redis));
        assert!(row.write(&there, 2).await);
        assert_eq!(row.seen(&here).await, (2, Level::Redis));
    }
    let keys: Vec<Key> = rows.iter().map(|row| row.key).collect();
    let load = |_: Vec<Key>| async { Ok::<Vec<(Key, Loaded)>, ()>(Vec::new()) };
    let batch = here.read_many(&keys, load).await.unwrap();
    assert!(batch.iter().all(|read| read.level == Level::Redis && read.entry.as_ref().unwrap().version == 2));

    let tenant = Uuid::new_v4();
    for n in 0..20 {
        let (pointer, id) = (Pointer::new("e", tenant, [n; 32]), Uuid::new_v4());
        here.look_up(&pointer).await.leads_to(Some(id)).await;
        assert_eq!(there.look_up(&pointer).await.target(), Some(id));
    }
    for master in cluster.masters().await {
        let keys: usize = cluster.ask(master, &["DBSIZE"]).await.unwrap();
        assert!(keys > 5, "master {master} has {keys} keys");
    }
    assert_eq!(epochs(&cluster).await.len(), 1);

    // The nodes that are found are given the password of the one that named them.
    for n in 0..6 {
        for (setting, value) in [("masterauth", "secret"), ("requirepass", "secret")] {
            let done: String = cluster.ask(n, &["CONFIG", "SET", setting, value]).await.unwrap();
            assert_eq!(done, "OK");
        }
    }
    let url = cluster.url_of(2).replace("redis://", "redis://:secret@");
    let authorised = node(patient(url)).await;
    for row in &rows {
        assert_eq!(row.seen(&authorised).await, (2, Level::Redis));
    }
}

#[tokio::test]
async fn a_shard_that_changes_masters_and_back_shows_nothing_of_before() {
    let cluster = ClusterServer::start().await;
    let here = node(patient(cluster.urls())).await;
    let rows: Vec<_> = (0..20).map(|_| Truth::new(1)).collect();
    for row in &rows {
        row.read(&here).await.unwrap();
    }
    let at_first = epochs(&cluster).await;

    cluster.promote(3).await;
    let begun = |known: HashSet<String>| {
        let (here, cluster, probe) = (&here, &cluster, Truth::new(1));
        let begins = async move {
            while epochs(cluster).await.is_subset(&known) {
                probe.read(here).await.unwrap();
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(30), begins)
    };
    begun(at_first.clone()).await.expect("no new names after the fail-over");
    for row in &rows {
        row.set(2); // by others, who have told the names that there are now
    }
    let then = epochs(&cluster).await;
    cluster.promote(0).await;
    begun(then).await.expect("no new names after the return");

    for row in &rows {
        assert_eq!(row.seen(&here).await.0, 2);
    }
    assert!(epochs(&cluster).await.is_superset(&at_first), "the old values are there to be shown");
}

#[tokio::test]
async fn slots_that_move_are_followed() {
    let cluster = ClusterServer::start().await;
    let here = node(patient(cluster.urls())).await;
    let (from, to) = (0, 1);
    let ids = [format!("{:040x}", from + 1), format!("{:040x}", to + 1)];
    for slot in (0..200).map(|slot: u16| slot.to_string()) {
        for n in [to, from, 2] {
            cluster.ask::<()>(n, &["CLUSTER", "SETSLOT", &slot, "NODE", &ids[1]]).await.unwrap();
        }
    }
    let row = || async {
        let row = Truth::new(1);
        row.read(&here).await.unwrap();
        row.seen(&here).await.1
    };
    let all_hit = async {
        // Some of a thousand rows are in the slots that have moved.
        while !join_all((0..1_000).map(|_| row())).await.iter().all(|level| *level == Level::Redis) {}
    };
    timeout(Duration::from_secs(30), all_hit).await.expect("some rows are not found");
    assert!(!here.has_given_up_redis());
}

/// A row of the load: its versions go up by one under a lock, as in the database, and it is known when each was acknowledged.
struct Row {
    key: Key,
    lock: tokio::sync::Mutex<()>,
    version: Mutex<Version>,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

#[derive(Clone, Copy)]
struct Acknowledged {
    version: Version,
    at: Instant,
    by: usize,
}

/// What is written by two nodes and read by both, with the job and the feed that the database would give them.
struct Load {
    nodes: [Cache; 2],
    rows: Vec<Arc<Row>>,
    over: AtomicBool,
    reads: AtomicUsize,
    /// Reads of each node that Redis has answered.
    hits: [AtomicUsize; 2],
    writes: AtomicUsize,
    unconfirmed: AtomicUsize,
    /// The longest that a newer version had been acknowledged before a read began.
    stalest: Mutex<Duration>,
    slowest: Mutex<Duration>,
}

const READERS: usize = 4;
/// What a read of another node may be behind: the process, the feed where the floor could not be placed, or the moment in
/// which two nodes use two runs; and a busy machine's slack.
const STALE: Duration = Duration::from_millis(1_000 + 250 + 250);
/// The budget of a request is 50 ms, and a read takes as long or up to 200 ms on a busy machine; this is ten times that.
const SLOW: Duration = Duration::from_secs(2);

impl Load {
    async fn new(urls: String) -> Arc<Self> {
        let row = || {
            let (lock, version, acknowledged) =
                (tokio::sync::Mutex::default(), Mutex::new(1), Mutex::default());
            Arc::new(Row { key: Truth::new(1).key, lock, version, acknowledged })
        };
        let settings = Settings { redis_url: Some(urls), ..Settings::default() };
        Arc::new(Self {
            nodes: [node(settings.clone()).await, node(settings).await],
            rows: (0..60).map(|_| row()).collect(),
            over: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            hits: Default::default(),
            writes: AtomicUsize::new(0),
            unconfirmed: AtomicUsize::new(0),
            stalest: Mutex::default(),
            slowest: Mutex::default(),
        })
    }

    fn run(self: &Arc<Self>) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        for on in 0..2 {
            for n in 0..=READERS {
                let load = self.clone();
                tasks.push(tokio::spawn(async move {
                    while !load.over.load(Ordering::Relaxed) {
                        let row = &load.rows[rand::random_range(0..load.rows.len())];
                        if n < READERS {
                            load.read(on, row).await
                        } else {
                            load.write(on, row).await
                        }
                        sleep(Duration::from_millis(rand::random_range(1..4))).await;
                    }
                }));
            }
        }
        tasks
    }

    async fn read(&self, on: usize, row: &Arc<Row>) {
        let start = Instant::now();
        let before = row.acknowledged.lock().unwrap().clone();
        let truth = row.clone();
        let select = move || async move {
            let version = *truth.version.lock().unwrap();
            sleep(Duration::from_millis(1)).await;
            Ok::<_, ()>(Loaded::Row(entry(version)))
        };
        let read = self.nodes[on].read_through(&row.key, None, select).await.expect("a read failed");
        let found = read.entry.unwrap().version;

        self.reads.fetch_add(1, Ordering::Relaxed);
        if read.level == Level::Redis {
            self.hits[on].fetch_add(1, Ordering::Relaxed);
        }
        raise(&self.slowest, start.elapsed());
        for newer in before.iter().filter(|newer| newer.version > found) {
            assert!(newer.by != on, "{on} wrote {} and then read {found}", newer.version);
            raise(&self.stalest, start - newer.at);
        }
    }

    async fn write(&self, on: usize, row: &Arc<Row>) {
        let locked = row.lock.lock().await;
        let version = *row.version.lock().unwrap() + 1;
        let write = self.nodes[on].begin_write(&row.key, version).await;
        let confirmed = write.confirmed();
        *row.version.lock().unwrap() = version; // COMMIT
        drop(locked);
        self.feed_and_job(on, row.key, version, confirmed);
        write.committed(entry(version)).await;
        let done = Acknowledged { version, at: Instant::now(), by: on };
        row.acknowledged.lock().unwrap().push(done);
        self.writes.fetch_add(1, Ordering::Relaxed);
    }

    fn feed_and_job(&self, on: usize, key: Key, version: Version, confirmed: bool) {
        let [here, there] = [self.nodes[on].clone(), self.nodes[1 - on].clone()];
        if !confirmed {
            self.unconfirmed.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                sleep(Duration::from_millis(rand::random_range(0..250))).await;
                there.raise_floor(&key, version);
            });
        }
        tokio::spawn(async move {
            sleep(Duration::from_secs(if confirmed { 2 } else { 0 })).await;
            while here.invalidate(&key, version).await.is_err() {
                sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// Waits until Redis has answered readers of both nodes anew.
    async fn hits(&self) {
        let seen = [0, 1].map(|on: usize| self.hits[on].load(Ordering::Relaxed));
        while (0..2).any(|on| self.hits[on].load(Ordering::Relaxed) == seen[on]) {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn raise(most: &Mutex<Duration>, found: Duration) {
    let mut most = most.lock().unwrap();
    *most = most.max(found);
}

#[tokio::test]
async fn a_master_that_is_killed_under_load_costs_neither_an_answer_nor_its_freshness() {
    fails_over(|cluster| cluster.kill(1), |cluster| cluster.start_again(1)).await;
}

#[tokio::test]
async fn a_master_that_hangs_under_load_and_awakes_costs_neither_an_answer_nor_its_freshness() {
    fails_over(|cluster| cluster.signal(1, "-STOP"), |cluster| cluster.signal(1, "-CONT")).await;
}

async fn fails_over(fault: fn(&mut ClusterServer), heal: fn(&mut ClusterServer)) {
    let mut cluster = ClusterServer::start().await;
    let load = Load::new(cluster.urls()).await;
    let tasks = load.run();
    load.hits().await;

    fault(&mut cluster);
    let killed = Instant::now();
    join_all(load.nodes.iter().map(gives_up)).await;
    let given_up = killed.elapsed();
    timeout(Duration::from_secs(15), async {
        for node in &load.nodes {
            while node.has_given_up_redis() {
                sleep(Duration::from_millis(1)).await;
            }
        }
        load.hits().await;
    })
    .await
    .expect("redis does not answer again");
    let back = killed.elapsed();

    // It comes back and becomes a replica, which changes nothing.
    heal(&mut cluster);
    cluster.settled().await;
    sleep(STALE).await;
    load.hits().await;
    load.over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let (stalest, slowest) = (*load.stalest.lock().unwrap(), *load.slowest.lock().unwrap());
    println!(
        "{} reads, {} writes of which {} unconfirmed; given up after {given_up:?}, redis hits again after {back:?}, stalest \
         read {stalest:?}, slowest read {slowest:?}",
        load.reads.load(Ordering::Relaxed),
        load.writes.load(Ordering::Relaxed),
        load.unconfirmed.load(Ordering::Relaxed),
    );
    assert!(stalest <= STALE, "{stalest:?}");
    assert!(slowest <= SLOW, "{slowest:?}");
}
