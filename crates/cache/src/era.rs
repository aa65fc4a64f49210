//! What is known under one timeline of the database.
//!
//! After a fail-over or a restore the rows may be older than what was read before, under the same versions or higher ones.
//! So nothing that was read on one timeline may be shown on the next: the next begins with an empty level in the process,
//! without the flights that are under way, and under other names in Redis. Whatever began before (a flight, a write) ends in
//! the era it began in, where nobody looks any more.
//!
//! The node's floors are of no era. Whether a write was lost with its timeline only its row can tell. If it was, its floor is
//! too high, and that costs misses until it runs out; without it, if it was not, what is stale could be shown.

use std::sync::Arc;

use crate::{
    Inner, Key, Pointer, flight::Flights, floors::Floors, local::Local, settings::Settings, sync::Shared,
};

#[derive(Debug)]
pub(crate) struct Era {
    epoch: String,
    pub(crate) local: Local,
    pub(crate) flights: Arc<Flights>,
}

impl Era {
    pub(crate) fn new(epoch: &str, settings: &Settings, floors: Arc<Floors>) -> Self {
        Self { epoch: epoch.to_owned(), local: Local::new(settings, floors), flights: Arc::default() }
    }

    /// The name of a row in Redis.
    pub(crate) fn row(&self, key: &Key) -> String {
        key.in_epoch(&self.epoch)
    }

    /// The name of a pointer in Redis.
    pub(crate) fn pointer(&self, pointer: &Pointer) -> String {
        pointer.in_epoch(&self.epoch)
    }
}

impl Inner {
    pub(crate) fn era(&self) -> Arc<Era> {
        self.era.reading().clone()
    }

    pub(crate) fn is_over(&self, era: &Arc<Era>) -> bool {
        !Arc::ptr_eq(&self.era.reading(), era)
    }

    /// Begins a new era, unless it is the one there is.
    pub(crate) fn begin_era(&self, epoch: &str) {
        // Only forward: a connection to the old primary, which may still answer, says what was true before. Timelines are
        // numbers of one length that count up.
        let is_new = |known: &str| (epoch.len(), epoch) > (known.len(), known);
        if !is_new(&self.era.reading().epoch) {
            return;
        }
        let next = Arc::new(Era::new(epoch, &self.settings, self.floors.clone()));
        let mut era = self.era.writing();
        if is_new(&era.epoch) {
            tracing::info!(
                cache.epoch = epoch,
                "the cache begins anew: the timeline of the database is {epoch}, it was {}",
                era.epoch
            );
            *era = next;
        }
    }
}
