//! Single flight: readers of one row that come at the same time share one look at Redis and Postgres.
//!
//! A flight may be joined only until its `select` is sent: whoever comes later may have come after a write that this
//! `select` does not see. Latecomers form the next flight, which takes off when the `select` of the one before is
//! answered. So for each row there is at most one under way and one that waits, however many readers there are.
//!
//! Who forms a flight flies it, as a part of what it does anyway: most are of one reader, and a task for each would cost more than
//! what it does. Should that reader go away, the flight goes on in a task of its own ([`Flown`]).

use std::{
    any::Any,
    collections::{
        HashMap,
        hash_map::{Entry, OccupiedEntry},
    },
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ahash::RandomState;
use tenantry_trace::Carrier;
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{Key, Read, sync::Lock};

/// What a flight brings. The error is shared by its readers; its type is the leader's.
pub(crate) type Outcome = Result<Read, Arc<dyn Any + Send + Sync>>;

#[derive(Debug, Default)]
pub(crate) struct Flights {
    newest: Mutex<HashMap<Key, Newest, RandomState>>,
}

/// The newest flight of a row.
#[derive(Debug)]
struct Newest {
    open: bool,
    board: Arc<Board>,
}

/// What those on board of a flight share.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) patience: Patience,
    /// What it has brought; nothing: it died.
    outcome: OnceLock<Option<Outcome>>,
    landed: Notify,
    /// Whether the next flight may take off,
    is_clear: AtomicBool,
    /// for which that one waits.
    cleared: Notify,
}

impl Board {
    /// What the flight brings, when it lands; nothing if it dies.
    pub(crate) async fn landing(&self) -> Option<Outcome> {
        let landed = self.landed.notified();
        if let Some(outcome) = self.outcome.get() {
            return outcome.clone();
        }
        landed.await;
        self.outcome.get().cloned().flatten()
    }

    fn land(&self, outcome: Option<Outcome>) {
        // The first counts: a flight that is dropped after it has landed has not died.
        let _ = self.outcome.set(outcome);
        self.landed.notify_waiters();
    }

    async fn clear(&self) {
        let cleared = self.cleared.notified();
        if !self.is_clear.load(Ordering::Acquire) {
            cleared.await;
        }
    }
}

/// How long a flight may wait for Redis on account of those who have joined it with less time left than it has itself: they
/// have asked Redis for something else before. The flight has to end its wait, not they theirs, or each of them would read
/// the row by himself.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    state: Mutex<Waiting>,
    changed: Notify,
}

/// Until Redis is asked, the time that those on board have; from then on when it is over.
#[derive(Debug)]
enum Waiting {
    NotYet(Option<Duration>),
    Until(Option<Instant>),
}

impl Default for Waiting {
    fn default() -> Self {
        Self::NotYet(None)
    }
}

impl Patience {
    fn joined_with(&self, left: Duration) {
        match &mut *self.state.locked() {
            Waiting::NotYet(least) => *least = Some(least.map_or(left, |least| least.min(left))),
            Waiting::Until(end) => {
                let left = Instant::now() + left;
                *end = Some(end.map_or(left, |end| end.min(left)));
            }
        }
        self.changed.notify_one();
    }

    /// Redis is asked from now on.
    pub(crate) fn begin(&self) {
        let mut state = self.state.locked();
        if let Waiting::NotYet(least) = *state {
            *state = Waiting::Until(least.map(|least| Instant::now() + least));
        }
    }

    /// When somebody has no time left; never if all have as much as the flight.
    pub(crate) async fn ends(&self) {
        loop {
            let changed = self.changed.notified();
            match self.end() {
                Some(end) => tokio::select! {
                    () = sleep_until(end) => return,
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// What is left of it, where it is bounded.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.end().map(|end| end.saturating_duration_since(Instant::now()))
    }

    fn end(&self) -> Option<Instant> {
        match *self.state.locked() {
            Waiting::Until(end) => end,
            Waiting::NotYet(_) => None,
        }
    }
}

/// How a reader travels.
pub(crate) enum Seat {
    /// It has formed the flight, and flies it.
    Pilot(Flight),
    /// It waits until another's lands.
    Passenger(Arc<Board>),
}

impl Flights {
    /// Joins the flight for `key` if there is one that may be joined; else forms the next. Who joins with less time for Redis
    /// than a flight has says how much is `left`.
    pub(crate) fn join(self: &Arc<Self>, key: Key, left: Option<Duration>) -> Seat {
        let mut newest = self.newest.locked();
        if let Some(Newest { open: true, board }) = newest.get(&key) {
            if let Some(left) = left {
                board.patience.joined_with(left);
            }
            return Seat::Passenger(board.clone());
        }
        let board = Arc::<Board>::default();
        let before = newest.insert(key, Newest { open: true, board: board.clone() });
        let before = before.map(|flight| flight.board);
        Seat::Pilot(Flight { flights: self.clone(), key, before, board })
    }
}

/// A flight, seen by whoever flies it. Dropped before it has landed (something panicked), it tells its readers so.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    key: Key,
    before: Option<Arc<Board>>,
    board: Arc<Board>,
}

impl Flight {
    /// Waits until the flight before has its answer from Postgres. From then on it is this one's turn.
    pub(crate) async fn turn(&mut self) {
        if let Some(before) = &self.before {
            before.clear().await;
        }
        self.before = None;
    }

    pub(crate) fn patience(&self) -> &Patience {
        &self.board.patience
    }

    /// The next one may take off.
    pub(crate) fn end_turn(&self) {
        if !self.board.is_clear.swap(true, Ordering::AcqRel) {
            self.board.cleared.notify_waiters();
        }
    }

    /// From now on nobody joins.
    pub(crate) fn close(&self) {
        self.if_newest(|mut newest| newest.get_mut().open = false);
    }

    /// Hands the outcome to everyone on board.
    pub(crate) fn land(self, outcome: Outcome) -> Outcome {
        self.board.land(Some(outcome.clone()));
        outcome
    }

    fn if_newest(&self, then: impl FnOnce(OccupiedEntry<'_, Key, Newest>)) {
        if let Entry::Occupied(newest) = self.flights.newest.locked().entry(self.key)
            && Arc::ptr_eq(&newest.get().board, &self.board)
        {
            then(newest);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.if_newest(|newest| drop(newest.remove()));
        self.end_turn();
        self.board.land(None);
    }
}

/// A flight on its way. Dropped before it has landed, it goes on in a task of its own, as a part of the same work.
pub(crate) struct Flown<T: Send + 'static> {
    flight: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// Whoever drops it may not be at that work any more.
    work: Carrier,
}

impl<T: Send> Flown<T> {
    pub(crate) fn new(flight: impl Future<Output = T> + Send + 'static) -> Self {
        Self { flight: Some(Box::pin(flight)), work: Carrier::here() }
    }
}

impl<T: Send> Future for Flown<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        // Taken out meanwhile: one that panics is over.
        let Some(mut flight) = self.flight.take() else { return Poll::Pending };
        let poll = flight.as_mut().poll(cx);
        if poll.is_pending() {
            self.flight = Some(flight);
        }
        poll
    }
}

impl<T: Send> Drop for Flown<T> {
    fn drop(&mut self) {
        // Without a runtime the process ends, and with it whoever waits.
        if let (Some(flight), Ok(runtime)) = (self.flight.take(), Handle::try_current()) {
            runtime.spawn(self.work.clone().carry(flight));
        }
    }
}

#[cfg(test)]
mod tests {
    use tenantry_trace::{Trace, Work};
    use tokio::{
        sync::oneshot,
        time::{advance, timeout},
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[tokio::test]
    async fn a_flight_that_goes_on_without_its_reader_is_a_part_of_the_same_work() {
        let work = Work::new(Trace::begin());
        let ((go, gone), (tell, told)) = (oneshot::channel(), oneshot::channel());
        let flight = async move {
            let _ = gone.await;
            let _ = tell.send(tenantry_trace::current());
        };
        let flown = work.during(|| Flown::new(flight));
        drop(flown);
        go.send(()).unwrap();
        assert_eq!(told.await.unwrap(), Some(work.trace()));
    }

    async fn waited(patience: &Patience) -> Duration {
        let start = Instant::now();
        let _ = timeout(LONG, patience.ends()).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_redis_ends_with_the_least_time_on_board() {
        let patience = Patience::default();
        patience.joined_with(millis(20));
        patience.joined_with(millis(10));
        advance(millis(100)).await; // its turn comes late, and what it waits for is not Redis
        patience.begin();
        assert_eq!(patience.left(), Some(millis(10)));
        assert_eq!(waited(&patience).await, millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_while_redis_is_asked_ends_the_wait_in_time() {
        let patience = Arc::new(Patience::default());
        patience.begin();
        let waiting = tokio::spawn({
            let patience = patience.clone();
            async move { waited(&patience).await }
        });
        tokio::task::yield_now().await;
        advance(millis(30)).await;
        patience.joined_with(millis(15));
        assert_eq!(waiting.await.unwrap(), millis(45));
    }

    #[tokio::test(start_paused = true)]
    async fn without_such_readers_nothing_ends_it() {
        let patience = Patience::default();
        patience.begin();
        assert_eq!(patience.left(), None);
        assert_eq!(waited(&patience).await, LONG);
    }
}
