//! Single flight: readers of one row that come at the same time share one look at Redis and Postgres.
//!
//! A flight may be joined only until its `select` is sent: whoever comes later may have come after a write that this
//! `select` does not see. Latecomers form the next flight, which takes off when the `select` of the one before is
//! answered. So for each row there is at most one under way and one that waits, however many readers there are.

use std::{
    any::Any,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use futures_util::{FutureExt, future::Shared};
use tokio::{
    sync::{Mutex as Turn, Notify, OwnedMutexGuard, oneshot},
    time::{Instant, sleep_until},
};

use crate::{Key, Read, sync::Lock};

/// What a flight brings. The error is shared by its readers; its type is the leader's.
pub(crate) type Outcome = Result<Read, Arc<dyn Any + Send + Sync>>;

/// Resolves when the flight lands, with an error if it died.
pub(crate) type Landing = Shared<oneshot::Receiver<Outcome>>;

#[derive(Debug, Default)]
pub(crate) struct Flights {
    newest: Mutex<HashMap<Key, Newest, RandomState>>,
    ids: AtomicU64,
}

/// The newest flight of a row.
#[derive(Debug)]
struct Newest {
    id: u64,
    open: bool,
    landing: Landing,
    /// Shared by the successive flights of the row.
    turn: Arc<Turn<()>>,
    patience: Arc<Patience>,
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

impl Flights {
    /// Joins the flight for `key` if there is one that may be joined; else forms the next and lets `take_off` start it. Who
    /// joins with less time for Redis than a flight has says how much is `left`.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: Key,
        left: Option<Duration>,
        take_off: impl FnOnce(Flight),
    ) -> Landing {
        let mut newest = self.newest.locked();
        let turn = match newest.get(&key) {
            Some(flight) if flight.open => {
                if let Some(left) = left {
                    flight.patience.joined_with(left);
                }
                return flight.landing.clone();
            }
            Some(flight) => flight.turn.clone(),
            None => Arc::default(),
        };
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (report, landing) = oneshot::channel();
        let landing = landing.shared();
        let patience = Arc::new(Patience::default());
        newest.insert(
            key,
            Newest {
                id,
                open: true,
                landing: landing.clone(),
                turn: turn.clone(),
                patience: patience.clone(),
            },
        );
        drop(newest);
        take_off(Flight { flights: self.clone(), key, id, turn, patience, report: Some(report) });
        landing
    }
}

/// A flight, seen by the task that flies it. Dropped before it has landed (its task panicked), it tells its readers so.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    key: Key,
    id: u64,
    turn: Arc<Turn<()>>,
    pub(crate) patience: Arc<Patience>,
    report: Option<oneshot::Sender<Outcome>>,
}

impl Flight {
    /// Waits until the flight before has its answer from Postgres. The turn is over when the guard is dropped.
    pub(crate) async fn turn(&self) -> OwnedMutexGuard<()> {
        self.turn.clone().lock_owned().await
    }

    /// From now on nobody joins.
    pub(crate) fn close(&self) {
        if let Some(newest) = self.flights.newest.locked().get_mut(&self.key)
            && newest.id == self.id
        {
            newest.open = false;
        }
    }

    /// Hands the outcome to everyone on board.
    pub(crate) fn land(mut self, outcome: Outcome) {
        if let Some(report) = self.report.take() {
            // Nobody listens if every client has gone away; what was read has been cached all the same.
            let _ = report.send(outcome);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut newest = self.flights.newest.locked();
        if newest.get(&self.key).is_some_and(|newest| newest.id == self.id) {
            newest.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
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
