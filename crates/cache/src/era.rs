//! What is known under one timeline of the database and one run of Redis.
//!
//! After a fail-over or a restore the rows may be older than what was read before, under the same versions or higher ones.
//! So nothing that was read on one timeline may be shown on the next: the next begins with an empty level in the process,
//! without the flights that are under way, and under other names in Redis. Whatever began before (a flight, a write) ends in
//! the era it began in, where nobody looks any more.
//!
//! The same goes for Redis: one that comes back from a snapshot, or a replica that is promoted, may hold values whose floors
//! it has never seen. An era is of one [run](Run) and its calls reach that run or nobody, so that a floor is never confirmed
//! by one Redis under the names that are looked up in another.
//!
//! The node's floors are of no era. Whether a write was lost with its timeline only its row can tell. If it was, its floor is
//! too high, and that costs misses until it runs out; without it, if it was not, what is stale could be shown.

use std::sync::Arc;

use crate::{Inner, Key, Pointer, flight::Flights, local::Local, redis::Run, sync::Shared};

#[derive(Debug)]
pub(crate) struct Era {
    timeline: String,
    /// The timeline and the run, as they are written in names.
    epoch: String,
    /// `None` without a Redis.
    pub(crate) run: Option<Arc<Run>>,
    pub(crate) local: Local,
    pub(crate) flights: Arc<Flights>,
}

impl Era {
    pub(crate) fn new(timeline: &str, run: Option<Arc<Run>>, local: Local) -> Self {
        let epoch = match &run {
            Some(run) => format!("{timeline}-{}", run.tag()),
            None => timeline.to_owned(),
        };
        Self { timeline: timeline.to_owned(), epoch, run, local, flights: Arc::default() }
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

    /// Begins a new era if `timeline` is a later one.
    pub(crate) fn begin_timeline(&self, timeline: &str) {
        // Only forward: a connection to the old primary, which may still answer, says what was true before. Timelines are
        // numbers of one length that count up.
        let is_new = |known: &str| (timeline.len(), timeline) > (known.len(), known);
        if !is_new(&self.era.reading().timeline) {
            return;
        }
        let level = self.empty_level();
        let mut era = self.era.writing();
        if is_new(&era.timeline) {
            tracing::info!(
                cache.epoch = timeline,
                "the cache begins anew: the timeline of the database is {timeline}, it was {}",
                era.timeline
            );
            *era = Arc::new(Era::new(timeline, era.run.clone(), level));
        }
    }

    /// Begins a new era with another run of Redis. Nobody but the keeper calls it, so a run that is over never returns.
    pub(crate) fn begin_run(&self, run: Arc<Run>) {
        let level = self.empty_level();
        let mut era = self.era.writing();
        match era.run.as_ref().map(|run| run.tag()) {
            Some(known) if !known.is_empty() => tracing::info!(
                cache.run = run.tag(),
                "the cache begins anew: the run of redis is {}, it was {known}",
                run.tag()
            ),
            _ => {}
        }
        *era = Arc::new(Era::new(&era.timeline, Some(run), level));
    }

    fn empty_level(&self) -> Local {
        Local::new(&self.settings, self.floors.clone())
    }
}
