use std::{sync::Arc, time::Duration};

use apalis::prelude::{Monitor, WorkerBuilder};
use deadpool_postgres::Pool;
use futures_util::future::{BoxFuture, join_all};
use tenantry_jobs::Kind;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    JobId, Leased, Outcome,
    attempt::{attempt, count, settle},
    registry::{Held, Registry},
    source::Source,
    store::{Fetched, Store, StoreError, Wanted},
};

/// How a worker works. The default reruns the jobs of a killed worker within fifteen seconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many jobs run at once.
    pub concurrency: usize,
    /// How long a job stays with a worker that says nothing.
    pub lease: Duration,
    /// How often a worker says that it lives; several times per lease.
    pub heartbeat: Duration,
    /// How long to wait before looking again when nothing was due.
    pub poll: Duration,
    /// How long running jobs may take to finish after a shutdown; those that take longer are handed back.
    pub drain: Duration,
    /// How long jobs that are done or cancelled are kept.
    pub keep: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 32,
            lease: Duration::from_secs(10),
            heartbeat: Duration::from_secs(3),
            poll: Duration::from_millis(200),
            drain: Duration::from_secs(20),
            keep: Duration::from_secs(24 * 3600),
        }
    }
}

/// The worker stopped although nobody told it to. Its jobs were handed back.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime of the worker ended.
    #[error("the worker stopped by itself: start it again")]
    Stopped,
}

/// Runs the due jobs of `kinds` until `shutdown`; then fetches no more, lets those that run finish for as long as
/// [`Settings::drain`], hands the others back, and returns.
///
/// Give it a pool of its own, which handlers cannot exhaust: a heartbeat that waits for a connection lets leases
/// run out. Five connections serve. While the database is away it keeps trying.
pub async fn run<H>(
    pool: Pool,
    settings: Settings,
    kinds: &[Kind],
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), RunError>
where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
{
    let worker = Arc::new(Worker {
        name: worker_name(),
        store: Store::new(pool, settings.lease),
        kinds: kinds.to_vec(),
        registry: Registry::default(),
        handlers: TaskTracker::new(),
        settings,
    });
    info!(worker.name = worker.name, "worker {} starts", worker.name);
    let (sender, receiver) = mpsc::channel(worker.settings.concurrency.max(1));
    let stop_fetching = shutdown.child_token();
    // Whoever drops this future must not leave a task behind that leases jobs for nobody.
    let _stop = stop_fetching.clone().drop_guard();
    let fetching = tokio::spawn(worker.clone().fetch(sender, stop_fetching.clone()));
    let _heart = AbortOnDropHandle::new(tokio::spawn(worker.clone().beat()));
    let _broom = AbortOnDropHandle::new(tokio::spawn(worker.clone().sweep()));

    tokio::select! {
        _ = monitor(&worker, Source::new(receiver), handler).run_with_signal(signal(shutdown.clone())) => {}
        () = drained(&worker, &shutdown) => warn!("jobs that still run are handed back"),
    }

    stop_fetching.cancel();
    // What the last fetch brings after the shutdown has a lease, too: wait for it, then hand all of it back.
    let _ = fetching.await;
    // Handlers that were stopped end at their next await; another worker shall not overtake them.
    worker.handlers.close();
    let _ = timeout(Duration::from_secs(1), worker.handlers.wait()).await;
    worker.hand_back(worker.registry.all()).await;
    info!(worker.name = worker.name, "worker {} has stopped", worker.name);
    if shutdown.is_cancelled() { Ok(()) } else { Err(RunError::Stopped) }
}

/// Unique per process and per start: no two workers are ever taken for each other.
pub(crate) fn worker_name() -> String {
    let host = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .unwrap_or_default();
    format!("{}-{}-{}", host.trim(), std::process::id(), Uuid::now_v7().simple())
}

fn monitor<H>(worker: &Arc<Worker>, source: Source, handler: H) -> Monitor
where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
{
    let worker = worker.clone();
    Monitor::new()
        .register(move |restarts| {
            let (worker, handler) = (worker.clone(), handler.clone());
            WorkerBuilder::new(format!("{}-{restarts}", worker.name)).backend(source.clone()).build(
                move |job: Leased| {
                    let (worker, handler) = (worker.clone(), handler.clone());
                    async move { worker.work(&handler, job).await }
                },
            )
        })
        .should_restart(|_, cause| {
            error!(error = ?cause, "the worker ended and is started again");
            true
        })
}

async fn signal(shutdown: CancellationToken) -> std::io::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}

async fn drained(worker: &Worker, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(worker.settings.drain).await;
}

struct Worker {
    name: String,
    store: Store,
    kinds: Vec<Kind>,
    registry: Registry,
    handlers: TaskTracker,
    settings: Settings,
}

impl Worker {
    /// Leases as many jobs as there are free places, so that a leased job is a job that runs.
    async fn fetch(self: Arc<Self>, jobs: mpsc::Sender<Leased>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let room = self.room();
            if room.kinds.is_empty() {
                tokio::select! { () = self.registry.freed() => {} () = stop.cancelled() => {} }
                continue;
            }
            // Never dropped half way: what it leased would be ours without our knowing.
            let pause = match self.fetch_once(&jobs, &room).await {
                Ok(More::Likely) => continue,
                Ok(More::Unlikely) => self.settings.poll,
                Err(cause) => {
                    warn!(error = ?cause, "fetching jobs failed, trying again");
                    self.settings.poll.max(Duration::from_secs(1))
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // A kind that had no room may have jobs waiting.
                () = self.registry.freed(), if room.some_kind_is_full => {}
                () = stop.cancelled() => {}
            }
        }
    }

    fn room(&self) -> Room {
        let total = self.settings.concurrency.max(1).saturating_sub(self.registry.len());
        let rooms = self.kinds.iter().map(|kind| {
            let room = kind.policy().concurrency.saturating_sub(self.registry.count(*kind));
            (*kind, room.min(total))
        });
        let kinds: Vec<_> = rooms.filter(|(_, room)| *room > 0).collect();
        Room { total, some_kind_is_full: kinds.len() < self.kinds.len(), kinds }
    }

    async fn fetch_once(&self, jobs: &mpsc::Sender<Leased>, room: &Room) -> Result<More, StoreError> {
        let wanted =
            Wanted { worker: &self.name, total: room.total, rooms: &room.kinds, tenant: None, except: &[] };
        let fetched = self.store.fetch(wanted).await?;
        report_crashes(&fetched.crashed);
        let more = room.used_up_by(&fetched);
        for job in fetched.leased {
            self.registry.insert(&job);
            // There is room for all places. When the receiver is gone the job is in the registry, to be handed back.
            let _ = jobs.send(job).await;
        }
        for job in &fetched.unreadable {
            bury(&self.store, job).await;
        }
        Ok(more)
    }

    async fn work<H>(&self, handler: &H, job: Leased)
    where
        H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
    {
        let lease = job.lease;
        let place = Place { registry: &self.registry, lease };
        attempt(&self.store, &self.handlers, handler, job, self.registry.signal(lease)).await;
        place.leave();
    }

    async fn beat(self: Arc<Self>) {
        loop {
            sleep(self.settings.heartbeat).await;
            self.hand_back(self.registry.abandoned()).await;
            let held = self.registry.all();
            if held.is_empty() {
                continue;
            }
            match self.store.heartbeat(&held).await {
                Ok(lost) => lost.into_iter().for_each(|lease| self.registry.lost(lease)),
                Err(cause) => warn!(error = ?cause, "the heartbeat failed, trying again"),
            }
        }
    }

    async fn sweep(self: Arc<Self>) {
        const BATCH: i32 = 1000;
        loop {
            match self.store.prune(self.settings.keep, BATCH).await {
                Ok(removed) if removed >= i64::from(BATCH) => continue,
                Ok(_) => {}
                Err(cause) => warn!(error = ?cause, "removing old jobs failed, trying again later"),
            }
            sleep(Duration::from_secs(600)).await;
        }
    }

    async fn hand_back(&self, held: Vec<Held>) {
        join_all(held.iter().map(|held| async {
            match self.store.defer(held.tenant, held.id, held.lease, Duration::ZERO).await {
                Ok(_) => count(held.kind, "released"),
                Err(cause) => {
                    warn!(job.id = %held.id, error = ?cause, "handing back failed; the lease will run out")
                }
            }
            self.registry.remove(held.lease);
        }))
        .await;
    }
}

/// How many jobs may be leased now.
struct Room {
    total: usize,
    /// Kinds that have any room.
    kinds: Vec<(Kind, usize)>,
    some_kind_is_full: bool,
}

/// Whether the next fetch is likely to find jobs.
enum More {
    Likely,
    Unlikely,
}

impl Room {
    fn used_up_by(&self, fetched: &Fetched) -> More {
        let found =
            |kind| fetched.leased.iter().chain(&fetched.unreadable).filter(|job| job.kind == kind).count();
        let all: usize = self.kinds.iter().map(|(kind, _)| found(*kind)).sum();
        let used_up = all >= self.total || self.kinds.iter().any(|(kind, room)| found(*kind) >= *room);
        if used_up { More::Likely } else { More::Unlikely }
    }
}

/// A running job's place: freed when the job is settled, and noted when its attempt is dropped before that.
struct Place<'a> {
    registry: &'a Registry,
    lease: Uuid,
}

impl Place<'_> {
    fn leave(self) {
        self.registry.remove(self.lease);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.registry.abandon(self.lease);
    }
}

/// A payload that is no JSON to us is a dead letter.
pub(crate) async fn bury(store: &Store, job: &Leased) {
    let outcome =
        Outcome::Dead("payload cannot be read: numbers out of range, or nested too deeply".to_owned());
    settle(store, job, &outcome, &CancellationToken::new()).await;
}

pub(crate) fn report_crashes(crashed: &[(Kind, JobId, bool)]) {
    for (kind, id, parked) in crashed {
        count(*kind, "crashed");
        if *parked {
            count(*kind, "dead");
            error!(job.id = %id, job.kind = %kind, "dead: its worker died or hung too often");
        } else {
            warn!(job.id = %id, job.kind = %kind, "runs again: its worker died or hung");
        }
    }
}
