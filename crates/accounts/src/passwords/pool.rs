//! Threads that do nothing but hash. Neither a file nor a name look-up of the runtime waits behind them, and a queue whose
//! length is measured in time says no while there is still somebody to hear it.
//!
//! In a flood each of them has another one do the work, which runs only where nobody else wants the processor: all other requests
//! would wait for one for milliseconds where each is hashing. It is no thread for every day, since on a busy machine it may not run for
//! seconds, and it could not return without rights that a service does not have. It does nothing but the work: whoever waited for a
//! lock that it holds would wait until it runs again.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;

use crate::{Error, Result};

/// For so long somebody may wait for a free thread; who would wait longer is told at once to come again.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What is asked for is added up for so long. Where it was more than all threads could hash, it is a flood. A few who come at once are none;
/// and until it is known, all other requests wait for milliseconds.
const FLOOD: Duration = Duration::from_millis(250);

/// A fixed number of threads, which end with the value.
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    threads: usize,
    queue: Mutex<Queue>,
    wake: Condvar,
}

struct Queue {
    waiting: VecDeque<Task>,
    /// Turns whose work has not been handed in yet.
    promised: usize,
    /// Names the next task.
    next: u64,
    running: usize,
    asked: Asked,
    /// What waits, runs and is promised, in the unit of [`StoredHash::work`](super::StoredHash::work).
    work: u64,
    /// What a unit takes, in seconds, as far as is known from those before: by the clock,
    pace: f64,
    /// and of a processor, however many others want it.
    cost: f64,
    closed: bool,
}

/// How much is asked for, granted or not.
struct Asked {
    since: Instant,
    units: u64,
    /// Whether it is too much, or was the time before.
    is_flood: bool,
}

struct Task {
    id: u64,
    work: u64,
    run: Run,
}

/// The work, and what is to be done with what comes of it.
type Run = Box<dyn FnOnce() -> Tell + Send>;
type Tell = Box<dyn FnOnce() + Send>;

/// How work has ended, and the time of a processor that it took.
type Done = (thread::Result<Tell>, Duration);

impl Pool {
    /// Starts `threads`; a unit of work is thought to take `pace` seconds.
    pub(super) fn start(threads: usize, pace: f64) -> Result<Self> {
        let (waiting, promised, next, running, work) = (VecDeque::new(), 0, 0, 0, 0);
        let (asked, closed) = (Asked { since: Instant::now(), units: 0, is_flood: false }, false);
        let queue =
            Mutex::new(Queue { waiting, promised, next, running, asked, work, pace, cost: pace, closed });
        let shared = Arc::new(Shared { threads, queue, wake: Condvar::new() });
        let pool = Self(shared.clone());
        for n in 0..threads {
            let failed = |_| Error::Internal("no thread could be started to hash passwords");
            let (shared, aside) = (shared.clone(), Aside::start(n).map_err(failed)?);
            let serve = move || shared.serve(&aside);
            thread::Builder::new().name(format!("hash-{n}")).spawn(serve).map_err(failed)?;
        }
        Ok(pool)
    }

    /// Promises a turn for so many units, before anything is done that would be in vain without one.
    ///
    /// # Errors
    /// [`Error::Busy`], at once, when it would have to wait for too long.
    pub(super) fn turn(&self, units: u64) -> Result<Turn> {
        let mut queue = self.0.lock();
        queue.ask(units, self.0.threads);
        if !queue.has_room(self.0.threads) {
            return Err(refused());
        }
        queue.promised += 1;
        queue.work += units;
        Ok(Turn { shared: self.0.clone(), units: Some(units) })
    }
}

/// A thread that works only where no other thread wants the processor: even one that has just woken takes it at once.
struct Aside {
    work: mpsc::Sender<Run>,
    done: mpsc::Receiver<Done>,
}

impl Aside {
    fn start(n: usize) -> std::io::Result<Self> {
        let ((work, todo), (ended, done)) = (mpsc::channel(), mpsc::channel());
        thread::Builder::new().name(format!("hash-flood-{n}")).spawn(move || {
            step_back();
            while let Ok(run) = todo.recv() {
                let _ = ended.send(done_here(run));
            }
        })?;
        Ok(Self { work, done })
    }

    /// Has the work done there, and waits.
    fn run(&self, run: Run) -> Done {
        match self.work.send(run) {
            Ok(()) => self.done.recv().unwrap_or_else(|gone| (Err(Box::new(gone)), Duration::ZERO)),
            Err(mpsc::SendError(run)) => done_here(run),
        }
    }
}

/// Does the work on this thread.
fn done_here(run: Run) -> Done {
    let processor_time = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let before = processor_time();
    // Whoever waits is told, because the other end of the channel goes; the thread lives on.
    let ended = catch_unwind(AssertUnwindSafe(run));
    (ended, processor_time().saturating_sub(before))
}

fn step_back() {
    // Elsewhere there is no such thing, or it takes rights.
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{
            NormalThreadSchedulePolicy::Idle, ThreadPriority, ThreadSchedulePolicy::Normal,
            set_thread_priority_and_policy, thread_native_id,
        };
        let stepped = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, Normal(Idle));
        if let Err(error) = stepped {
            tracing::warn!("in a flood of sign-ins, hashing will be as urgent as all else: {error}");
        }
    }
}

/// A place in the queue for work that is not known yet. Whoever drops it gives it back.
pub(super) struct Turn {
    shared: Arc<Shared>,
    /// None once the work has been handed in.
    units: Option<u64>,
}

impl Turn {
    /// Does `work`, of so many units, on one of the threads. Whoever stops waiting for it while it waits itself takes it out
    /// of the queue.
    pub(super) async fn run<T: Send + 'static>(
        self,
        units: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let run = Box::new(move || {
            let result = work();
            let tell: Tell = Box::new(move || {
                // Before anybody hears of it, so that who counts what an answer cost counts it.
                count("done");
                // Nobody is there any more to hear it if this fails.
                let _ = sender.send(result);
            });
            tell
        });
        let shared = self.shared.clone();
        let _place = shared.enqueue(self, units, run)?;
        receiver.await.map_err(|_| Error::Internal("hashing panicked"))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(units) = self.units else { return };
        let mut queue = self.shared.lock();
        queue.promised -= 1;
        queue.work -= units;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl Shared {
    /// Nothing that could panic is done while it is held.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the work into the queue in the place of what was promised for it; what is more than that has to find room as anything.
    fn enqueue(&self, mut turn: Turn, work: u64, run: Run) -> Result<Place<'_>> {
        let mut queue = self.lock();
        let promised = turn.units.take().unwrap_or(0);
        queue.promised -= 1;
        queue.work -= promised;
        if work > promised && !queue.has_room(self.threads) {
            return Err(refused());
        }
        let id = queue.next;
        queue.next += 1;
        queue.work += work;
        queue.waiting.push_back(Task { id, work, run });
        queue.tell();
        drop(queue);
        self.wake.notify_one();
        Ok(Place { shared: self, id })
    }

    fn serve(&self, aside: &Aside) {
        while let Some((task, is_flood)) = self.next() {
            let start = Instant::now();
            let (ended, cost) = if is_flood { aside.run(task.run) } else { done_here(task.run) };
            self.end(task.work, [start.elapsed(), cost], ended.is_ok());
            if let Ok(tell) = ended {
                tell();
            }
        }
    }

    /// The oldest task, and whether it is one of a flood; none when the pool is no more.
    fn next(&self) -> Option<(Task, bool)> {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(task) = queue.waiting.pop_front() {
                queue.running += 1;
                queue.tell();
                return Some((task, queue.is_flood()));
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// `took` is by the clock, and of a processor.
    fn end(&self, work: u64, took: [Duration; 2], whole: bool) {
        if !whole {
            count("panicked");
        }
        let mut queue = self.lock();
        queue.running -= 1;
        queue.work -= work;
        if whole && work > 0 {
            // Follows a machine that becomes slower or faster within a few hashes.
            let [pace, cost] = took.map(|took| took.as_secs_f64() / work as f64);
            queue.pace += (pace - queue.pace) / 4.0;
            queue.cost += (cost - queue.cost) / 4.0;
        }
    }
}

impl Queue {
    /// Whether somebody who comes now has their turn soon.
    fn has_room(&self, threads: usize) -> bool {
        let idle = self.running + self.waiting.len() + self.promised < threads;
        idle || self.work as f64 * self.pace / threads as f64 <= LONGEST_WAIT.as_secs_f64()
    }

    fn ask(&mut self, units: u64, threads: usize) {
        let is_too_much = |units: u64, time: Duration| {
            units as f64 * self.cost > time.max(FLOOD).as_secs_f64() * threads as f64
        };
        let passed = self.asked.since.elapsed();
        if passed >= FLOOD {
            let is_flood = is_too_much(self.asked.units, passed);
            self.asked = Asked { since: Instant::now(), units: 0, is_flood };
        }
        self.asked.units += units;
        // What is too much for the whole time is known to be long before its end.
        self.asked.is_flood |= is_too_much(self.asked.units, FLOOD);
    }

    fn is_flood(&self) -> bool {
        // Nobody may have asked any more since.
        self.asked.is_flood && self.asked.since.elapsed() < 2 * FLOOD
    }

    fn tell(&self) {
        metrics::gauge!("tenantry_hash_queue_depth").set(self.waiting.len() as f64);
    }
}

fn refused() -> Error {
    count("refused");
    Error::Busy
}

/// What became of a password that was to be hashed or verified.
fn count(outcome: &'static str) {
    metrics::counter!("tenantry_password_hashes_total", "outcome" => outcome).increment(1);
}

/// A place in the queue; whoever leaves it before it is their turn is not served.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        let place = queue.waiting.iter().position(|task| task.id == self.id);
        if let Some(task) = place.and_then(|place| queue.waiting.remove(place)) {
            queue.work -= task.work;
            queue.tell();
            count("abandoned");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    /// A second's work for a thread.
    const SECOND: u64 = 1000;
    const PACE: f64 = 1e-3;

    impl Pool {
        async fn run<T: Send + 'static>(
            &self,
            units: u64,
            work: impl FnOnce() -> T + Send + 'static,
        ) -> Result<T> {
            self.turn(units)?.run(units, work).await
        }

        fn waiting(&self) -> usize {
            self.0.lock().waiting.len()
        }

        /// A thread that has told its result may still be on its way back.
        async fn is_idle(&self) {
            while self.0.lock().running > 0 {
                tokio::task::yield_now().await;
            }
        }

        /// Occupies a thread until what is returned is dropped.
        async fn occupy(&self) -> mpsc::Sender<()> {
            let (release, released) = mpsc::channel::<()>();
            let (started, start) = oneshot::channel();
            let work = move || {
                let _ = started.send(());
                let _ = released.recv();
            };
            // It runs on when nobody waits for it: who leaves does not free a processor that is at work.
            tokio::select! {
                _ = self.run(SECOND, work) => panic!("it has not been released"),
                _ = start => {}
            }
            release
        }
    }

    #[tokio::test]
    async fn what_cannot_start_soon_is_refused_at_once_and_the_others_are_served() {
        let pool = Arc::new(Pool::start(2, PACE).unwrap());
        let busy = [pool.occupy().await, pool.occupy().await];
        let served = Arc::new(AtomicUsize::new(0));
        // The two that run take a second. One more may come, and then there is too much to do.
        let work = |units: u64| {
            let (pool, served) = (pool.clone(), served.clone());
            async move { pool.run(units, move || served.fetch_add(1, Ordering::SeqCst)).await }
        };
        let waiting = tokio::spawn(work(1));
        while pool.waiting() < 1 {
            tokio::task::yield_now().await;
        }

        let start = Instant::now();
        assert!(matches!(work(1).await, Err(Error::Busy)));
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());

        drop(busy);
        assert!(waiting.await.unwrap().is_ok());
        assert!(work(1).await.is_ok());
        assert_eq!((served.load(Ordering::SeqCst), pool.waiting()), (2, 0));
    }

    #[tokio::test]
    async fn whoever_goes_away_while_waiting_is_not_served_and_in_nobodys_way() {
        let pool = Pool::start(1, PACE).unwrap();
        let busy = pool.occupy().await;
        let served = Arc::new(AtomicUsize::new(0));
        for _ in 0..100 {
            let served = served.clone();
            let abandoned = pool.run(SECOND, move || served.fetch_add(1, Ordering::SeqCst));
            assert!(tokio::time::timeout(Duration::from_millis(1), abandoned).await.is_err());
        }
        assert_eq!(pool.waiting(), 0);
        let last = pool.run(1, || "served");
        drop(busy);
        assert_eq!(last.await.unwrap(), "served");
        assert_eq!(served.load(Ordering::SeqCst), 0);
        pool.is_idle().await;
        assert_eq!(pool.0.lock().work, 0);
    }

    #[tokio::test]
    async fn a_promised_turn_keeps_others_out_until_it_is_used_or_given_back() {
        let pool = Pool::start(1, PACE).unwrap();
        let turn = pool.turn(2 * SECOND).unwrap();
        assert!(matches!(pool.turn(1), Err(Error::Busy)));
        // What is handed in may be less than was promised, and then only that counts.
        assert_eq!(turn.run(1, || 7).await.unwrap(), 7);
        pool.is_idle().await;
        assert_eq!(pool.0.lock().work, 0);

        drop(pool.turn(2 * SECOND).unwrap());
        assert_eq!(pool.run(1, || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn while_more_is_asked_than_all_can_hash_it_is_done_where_nobody_else_wants_the_processor() {
        let pool = Pool::start(2, PACE).unwrap();
        let is_aside = async || {
            let name = || thread::current().name().is_some_and(|name| name.starts_with("hash-flood-"));
            pool.run(1, name).await.unwrap()
        };
        assert!(!is_aside().await);
        // Six seconds' work at once.
        for _ in 0..60 {
            let _ = pool.turn(SECOND / 10);
        }
        // However long the test takes, it is still the same moment.
        pool.0.lock().asked.since += Duration::from_secs(3600);
        assert!(is_aside().await);
        #[cfg(target_os = "linux")]
        {
            use thread_priority::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, thread_schedule_policy};
            let policy = pool.run(1, thread_schedule_policy).await.unwrap().unwrap();
            assert_eq!(policy, ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle));
        }
        assert!(matches!(pool.run(1, || panic!("planned")).await, Err(Error::Internal(_))));
        assert!(is_aside().await, "a panic ends none of them");
        pool.0.lock().asked.since = Instant::now() - 40 * FLOOD;
        assert!(!is_aside().await, "nobody has asked for a while");
    }

    #[tokio::test]
    async fn a_burst_that_all_can_hash_in_the_time_since_is_no_flood() {
        let pool = Pool::start(2, PACE).unwrap();
        let (mut queue, can_be_hashed) = (pool.0.lock(), 2 * (2 * FLOOD).as_millis() as u64);
        queue.asked.units = can_be_hashed * 3 / 4;
        queue.asked.since -= 2 * FLOOD;
        queue.ask(1, 2);
        assert!(!queue.is_flood());
        queue.asked.units = can_be_hashed * 5 / 4;
        queue.asked.since -= 2 * FLOOD;
        queue.ask(1, 2);
        assert!(queue.is_flood());
    }

    #[tokio::test]
    async fn a_panic_ends_no_thread() {
        let pool = Pool::start(1, PACE).unwrap();
        assert!(matches!(pool.run(1, || panic!("planned")).await, Err(Error::Internal(_))));
        assert_eq!(pool.run(1, || 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn who_finds_a_free_thread_is_served_however_slow_the_machine_was() {
        let pool = Pool::start(1, 1e6).unwrap();
        for _ in 0..3 {
            pool.is_idle().await;
            assert!(pool.run(SECOND, || ()).await.is_ok());
        }
    }

    #[tokio::test]
    async fn the_threads_end_with_the_pool() {
        let pool = Pool::start(2, PACE).unwrap();
        let shared = Arc::downgrade(&pool.0);
        drop(pool);
        let start = Instant::now();
        while shared.strong_count() > 0 {
            assert!(start.elapsed() < Duration::from_secs(10));
            thread::yield_now();
        }
    }
}
