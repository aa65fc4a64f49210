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
};

use futures_util::{FutureExt, future::Shared};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, oneshot};

use crate::{Key, Read, sync::Lock};

/// What a flight brings. The error is shared by its readers; its type is the leader's.
pub(crate) type Outcome = Result<Read, Arc<dyn Any + Send + Sync>>;

/// Resolves when the flight lands, with an error if it died.
pub(crate) type Landing = Shared<oneshot::Receiver<Outcome>>;

#[derive(Debug, Default)]
pub(crate) struct Flights {
    newest: Mutex<HashMap<Key, Newest>>,
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
}

impl Flights {
    /// Joins the flight for `key` if there is one that may be joined; else forms the next and lets `take_off` start it.
    pub(crate) fn join(self: &Arc<Self>, key: Key, take_off: impl FnOnce(Flight)) -> Landing {
        let mut newest = self.newest.locked();
        let turn = match newest.get(&key) {
            Some(flight) if flight.open => return flight.landing.clone(),
            Some(flight) => flight.turn.clone(),
            None => Arc::default(),
        };
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (report, landing) = oneshot::channel();
        let landing = landing.shared();
        newest.insert(key, Newest { id, open: true, landing: landing.clone(), turn: turn.clone() });
        drop(newest);
        take_off(Flight { flights: self.clone(), key, id, turn, report: Some(report) });
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
