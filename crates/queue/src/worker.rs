use std::{collections::HashMap, sync::Arc, time::Duration};

use apalis::prelude::{Monitor, WorkerBuilder};
use deadpool_postgres::Pool;
use futures_util::future::{BoxFuture, join_all};
use tenantry_jobs::Kind;
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
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
    nudge,
    registry::{Held, Registry},
    room::{Places, Room},
    source::Source,
    store::{Fetched, Store, StoreError, Wanted},
};

/// How a worker works. The default reruns the jobs of a killed worker within fifteen seconds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many jobs run at once, beside those in the places that some kinds have of their own
    /// ([`Policy::reserved`](tenantry_jobs::Policy::reserved)).
    pub concurrency: usize,
    /// How long a job stays with a worker that says nothing.
    pub lease: Duration,
    /// How often a worker says that it lives; several times per lease.
    pub heartbeat: Duration,
    /// How long to wait before looking again when nothing was due.
    pub poll: Duration,
    /// How long running jobs may take to finish after a shutdown; those that take longer are handed back.
    pub drain: Duration,
    /// Where to listen for new jobs, not through a pooler; without it the worker only polls.
    pub listen: Option<tokio_postgres::Config>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 32,
            lease: Duration::from_secs(12),
            heartbeat: Duration::from_secs(3),
            poll: Duration::from_millis(500),
            drain: Duration::from_secs(20),
            listen: None,
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
        store: Store::new(pool, settings.lease).together(),
        places: Places::new(kinds, settings.concurrency),
        heard: Arc::default(),
        registry: Registry::default(),
        handlers: TaskTracker::new(),
        settings,
    });
    info!(worker.name = worker.name, "worker {} starts", worker.name);
    let (sender, receiver) = mpsc::channel(worker.places.all());
    let stop_fetching = shutdown.child_token();
    // Whoever drops this future must not leave a task behind that leases jobs for nobody.
    let _stop = stop_fetching.clone().drop_guard();
    let fetching = tokio::spawn(worker.clone().fetch(sender, stop_fetching.clone()));
    let _heart = AbortOnDropHandle::new(tokio::spawn(worker.clone().beat()));
    let _clock = AbortOnDropHandle::new(tokio::spawn(worker.clone().promote()));
    let _calendar = AbortOnDropHandle::new(tokio::spawn(worker.clone().schedule()));
    let listen = worker.settings.listen.clone();
    let _ear = listen
        .map(|config| AbortOnDropHandle::new(tokio::spawn(nudge::listen(config, worker.heard.clone()))));

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
    places: Places,
    /// Somebody says that there are new jobs.
    heard: Arc<Notify>,
    registry: Registry,
    handlers: TaskTracker,
    settings: Settings,
}

impl Worker {
    /// Leases as many jobs as there are free places, so that a leased job is a job that runs.
    async fn fetch(self: Arc<Self>, jobs: mpsc::Sender<Leased>, stop: CancellationToken) {
        let mut served = HashMap::new();
        // When the next suspect may come.
        let mut others_until = Instant::now();
        while !stop.is_cancelled() {
            let running = self.registry.jobs();
            let room = self.places.room(&running);
            if room.kinds.is_empty() {
                tokio::select! { () = self.registry.freed() => {} () = stop.cancelled() => {} }
                continue;
            }
            let suspects = Instant::now() >= others_until;
            // Never dropped half way: what it leased would be ours without our knowing.
            let pause = match self.lease(&room, &running, &mut served, suspects).await {
                Ok(Fetched { suspect: Some(suspect), .. }) => {
                    let begun = Instant::now();
                    self.alone(&jobs, suspect, &mut served, &stop).await;
                    // The others' turn, for as long: however many suspects there are, they get half of the time.
                    others_until = Instant::now() + begun.elapsed();
                    continue;
                }
                Ok(fetched) if fetched.is_empty() && suspects => self.settings.poll,
                // Nobody uses the others' turn.
                Ok(fetched) if fetched.is_empty() && running.is_empty() => {
                    others_until = Instant::now();
                    continue;
                }
                Ok(fetched) if fetched.is_empty() => {
                    others_until.saturating_duration_since(Instant::now()).min(self.settings.poll)
                }
                Ok(fetched) => {
                    let brought = fetched.kinds();
                    self.start(&jobs, fetched).await;
                    self.gather(&brought).await;
                    continue;
                }
                Err(cause) => {
                    warn!(error = ?cause, "fetching jobs failed, trying again");
                    self.settings.poll.max(Duration::from_secs(1))
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.heard.notified() => {}
                // Jobs may wait for which there was no room.
                () = self.registry.freed(), if self.places.tight(&running) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn lease(
        &self,
        room: &Room,
        running: &[(Kind, Uuid)],
        served: &mut HashMap<Kind, Uuid>,
        suspect: bool,
    ) -> Result<Fetched, StoreError> {
        let wanted = Wanted { worker: &self.name, room, running, served, suspect, tenant: None, except: &[] };
        let fetched = self.store.fetch(wanted).await?;
        report_crashes(&fetched.crashed);
        served.extend(fetched.served.iter().map(|(kind, (_, tenant))| (*kind, *tenant)));
        if let Some(suspect) = &fetched.suspect {
            self.registry.insert(suspect);
        }
        Ok(fetched)
    }

    async fn start(&self, jobs: &mpsc::Sender<Leased>, fetched: Fetched) {
        for job in fetched.leased {
            self.registry.insert(&job);
            // There is room for all places. When the receiver is gone the job is in the registry, to be handed back.
            let _ = jobs.send(job).await;
        }
        for job in &fetched.unreadable {
            bury(&self.store, job).await;
        }
    }

    /// A fetch for one place costs as much as one for many: after one that brought jobs, waits until a kind of these has a
    /// quarter of its places free, but not for long.
    async fn gather(&self, brought: &[Kind]) {
        let freed = async {
            while !self.places.airy(&self.registry.jobs(), brought) {
                self.registry.freed().await;
            }
        };
        let _ = timeout(Duration::from_millis(5), freed).await;
    }

    /// Runs a suspect, and those that wait behind it for a moment, while nothing else runs here. Each of them is in the
    /// registry from its lease on, so a worker that stops hands it back.
    async fn alone(
        &self,
        jobs: &mpsc::Sender<Leased>,
        suspect: Leased,
        served: &mut HashMap<Kind, Uuid>,
        stop: &CancellationToken,
    ) {
        /// Waiting for silence is what costs: it is used for this long.
        const ENOUGH: Duration = Duration::from_millis(250);
        if !self.silence(jobs, &suspect, served, stop).await {
            return;
        }
        let silent = Instant::now();
        let mut next = Some(suspect);
        while let Some(suspect) = next.take() {
            self.run_alone(jobs, suspect, stop).await;
            if silent.elapsed() < ENOUGH && !stop.is_cancelled() {
                let nothing_else = self.places.room(&[]).none();
                // An error is met again by the next fetch.
                if let Ok(fetched) = self.lease(&nothing_else, &[], served, true).await {
                    next = fetched.suspect;
                    self.start(jobs, Fetched { suspect: None, ..fetched }).await;
                }
            }
        }
    }

    /// Waits until nothing runs here beside the suspect; false when it is not to run here after all. Kinds with places of their own go on in these while something runs
    /// that may take longer than they: an invalidation need not wait for a mail.
    async fn silence(
        &self,
        jobs: &mpsc::Sender<Leased>,
        suspect: &Leased,
        served: &mut HashMap<Kind, Uuid>,
        stop: &CancellationToken,
    ) -> bool {
        let lost = self.registry.signal(suspect.lease);
        loop {
            if lost.is_cancelled() {
                self.registry.remove(suspect.lease);
                return false;
            }
            if stop.is_cancelled() {
                return false;
            }
            let beside = self.registry.beside(suspect.lease);
            if beside.is_empty() {
                return true;
            }
            let running = self.registry.jobs();
            let room = self.places.room_meanwhile(&running, &beside);
            if !room.kinds.is_empty() {
                // As above, never dropped half way.
                match self.lease(&room, &running, served, false).await {
                    Ok(fetched) if !fetched.is_empty() => {
                        let brought = fetched.kinds();
                        self.start(jobs, fetched).await;
                        self.gather(&brought).await;
                        continue;
                    }
                    Ok(_) => {}
                    Err(cause) => warn!(error = ?cause, "fetching jobs failed, trying again"),
                }
            }
            tokio::select! {
                () = sleep(self.settings.poll) => {}
                () = self.heard.notified(), if !room.kinds.is_empty() => {}
                () = self.registry.freed() => {}
                () = lost.cancelled() => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// From the word that nothing else runs here to the end of the attempt.
    async fn run_alone(&self, jobs: &mpsc::Sender<Leased>, suspect: Leased, stop: &CancellationToken) {
        let lease = suspect.lease;
        let lost = self.registry.signal(lease);
        loop {
            match self.store.begin_alone(&suspect).await {
                Ok(true) => break,
                Ok(false) => return self.registry.remove(lease),
                Err(cause) => warn!(error = ?cause, "a job to run alone could not be begun, trying again"),
            }
            tokio::select! {
                () = sleep(Duration::from_millis(200)) => {}
                () = lost.cancelled() => return self.registry.remove(lease),
                () = stop.cancelled() => return,
            }
        }
        info!(job.id = %suspect.id, job.kind = %suspect.kind, "runs alone: its worker died or hung the last time");
        let _ = jobs.send(suspect).await;
        while self.registry.holds(lease) {
            tokio::select! { () = self.registry.freed() => {} () = stop.cancelled() => return }
        }
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

    /// Jobs whose time has come become ready, however many and however full this worker is.
    async fn promote(self: Arc<Self>) {
        const BATCH: i32 = 2000;
        loop {
            match self.store.promote(BATCH).await {
                Ok(promoted) => {
                    if promoted > 0 {
                        self.heard.notify_one();
                    }
                    if promoted >= i64::from(BATCH) {
                        continue;
                    }
                }
                Err(cause) => warn!(error = ?cause, "making jobs ready failed, trying again"),
            }
            sleep(self.settings.poll).await;
        }
    }

    /// Work that comes round by itself. Every worker looks; the database lets one of them enqueue.
    async fn schedule(self: Arc<Self>) {
        loop {
            match self.store.enqueue_scheduled().await {
                Ok(0) => {}
                Ok(_) => self.heard.notify_one(),
                Err(cause) => warn!(error = ?cause, "scheduling failed, trying again"),
            }
            sleep(Duration::from_secs(5)).await;
        }
    }

    async fn hand_back(&self, held: Vec<Held>) {
        join_all(held.iter().map(|held| async {
            match self.store.release(held).await {
                Ok(_) => {
                    count(held.kind, "released");
                }
                Err(cause) => {
                    warn!(job.id = %held.id, error = ?cause, "handing back failed; the lease will run out")
                }
            }
            self.registry.remove(held.lease);
        }))
        .await;
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
