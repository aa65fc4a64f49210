use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    Entry, Inner, Key, Pointer, Version,
    budget::Budget,
    entry::{self, Known},
    era::Era,
    planted::{self, Bug},
};

/// A write under way, from its `update` to its outcome; [`Cache::begin_write`](crate::Cache::begin_write) makes it.
///
/// Say how it ended with [`committed`](Self::committed), [`rolled_back`](Self::rolled_back) or
/// [`unknown`](Self::unknown). Dropped without, the outcome counts as unknown: nothing wrong is ever shown, but after a
/// rollback this node misses the row until its floor expires.
#[derive(Debug)]
#[must_use = "say how the write ended"]
pub struct Write {
    cache: Arc<Inner>,
    era: Arc<Era>,
    key: Key,
    version: Version,
    id: u64,
    token: String,
    /// The row was locked then, so what this write makes is the newest at least until it commits.
    begun: Instant,
    budget: Budget,
    confirmed: bool,
    pointers: Vec<Pointer>,
    over: bool,
}

impl Write {
    pub(crate) async fn begin(cache: Arc<Inner>, era: Arc<Era>, key: Key, version: Version) -> Self {
        let (id, token) = cache.token('w');
        cache.floors.begin(key, id, version);
        era.local.remove(&key);
        let budget = Budget::of_request(cache.settings.redis_budget);
        // Made before the call, so that a caller who goes away during it leaves the node's floor to `Drop`.
        let mut write = Self {
            cache,
            era,
            key,
            version,
            id,
            token,
            begun: Instant::now(),
            budget,
            confirmed: true,
            pointers: Vec::new(),
            over: false,
        };
        if let Some(run) = write.era.run.clone().filter(|_| !planted::bug(Bug::DeleteAfterCommit)) {
            let name = write.era.row(&key);
            write.confirmed = run.floor(&name, version, &write.token, &mut write.budget).await.is_ok()
                && !write.cache.is_over(&write.era);
        }
        write
    }

    /// Whether Redis has the floor, or there is no Redis. If so the invalidation job may wait two seconds, since it will
    /// hardly be needed; if not it must run at once, and the version must go into the feed that every node follows.
    pub fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// Removes pointers to rows: of what this write gives to a row and of what it takes from one, such as the old and the new
    /// address of a user. Call it before COMMIT; after COMMIT this write does it once more by itself, for the readers who
    /// have stored them in between.
    ///
    /// It may fail in silence: whoever follows a pointer [validates](crate::Lookup) it.
    pub async fn unlink(&mut self, pointers: &[Pointer]) {
        self.pointers.extend_from_slice(pointers);
        unlink(&self.cache, pointers, &mut self.budget).await;
    }

    /// The transaction was committed; `entry` is what it made of the row. Writes through, over this write's own floor
    /// only: where someone else has written since, their floor or value stays. Takes no longer than is left of the
    /// budget, and never fails the request: what could not be told to Redis is the job's.
    pub async fn committed(mut self, entry: Entry) {
        let known = Some(Arc::new(entry));
        let begun = if planted::bug(Bug::WriteThroughFromInsert) { Instant::now() } else { self.begun };
        self.era.local.insert(&self.key, known.clone(), begun);
        let told = self.write_through(&known).await;
        self.settle(entry::version(&known), told);
        unlink(&self.cache, &self.pointers, &mut self.budget).await;
    }

    /// Whether Redis holds this version, or at least holds none older and will let none in.
    ///
    /// Fills only over a floor that was confirmed. One that failed, or was not tried because Redis had been given up, may
    /// be on its way all the same and arrive after the next writer's; a fill over it could undo what that one did. So
    /// there the floor is placed now, should Redis be back, and else by the job. The same goes for a floor of an era that is
    /// over: those who read now look elsewhere.
    async fn write_through(&mut self, known: &Known) -> bool {
        let Some(run) = self.era.run.clone() else { return true };
        let version = entry::version(known);
        if planted::bug(Bug::DeleteAfterCommit) {
            return run.unlink(&[self.era.row(&self.key)], &mut self.budget).await.is_ok();
        }
        if planted::bug(Bug::UntokenedWriteThrough) {
            let _ = run.lease(&self.era.row(&self.key), &self.token, 0, b"", &mut self.budget).await;
        }
        if self.confirmed && !self.cache.is_over(&self.era) {
            let data = entry::encode(self.cache.settings.schema, &self.key, known);
            match run.fill(&self.era.row(&self.key), &self.token, version, &data, &mut self.budget).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
        }
        let era = self.cache.era();
        let Some(run) = &era.run else { return true };
        run.floor(&era.row(&self.key), version, "", &mut self.budget).await.is_ok()
    }

    /// The transaction was rolled back for certain: everything is as it was before the write.
    pub async fn rolled_back(mut self) {
        self.over = true;
        if planted::bug(Bug::FloorOutlivesRollback) {
            return;
        }
        self.cache.floors.withdraw(self.key, self.id);
        if let Some(run) = self.era.run.clone() {
            // A floor that stays costs misses until it expires, no more.
            let _ = run.unfloor(&self.era.row(&self.key), &self.token, &mut self.budget).await;
        }
    }

    /// The connection was lost during COMMIT. The floor in Redis stays. `actual` is the version that a read of the row
    /// found afterwards; that read must have waited for the row lock (`for share`), or the COMMIT might still have been
    /// on its way. `None` if the row could not be read.
    pub async fn unknown(mut self, actual: Option<Version>) {
        self.settle(actual.unwrap_or(self.version), false);
        unlink(&self.cache, &self.pointers, &mut self.budget).await;
    }

    /// Leaves `version` as the node's floor, for as long as Redis could still show something older.
    fn settle(&mut self, version: Version, told: bool) {
        self.over = true;
        settle(&self.cache, &self.era, self.key, self.id, version, told);
    }
}

/// Leaves `version` as the node's floor of the row that the write `id` was about.
pub(crate) fn settle(cache: &Inner, era: &Arc<Era>, key: Key, id: u64, version: Version, told: bool) {
    let life = if told { cache.settings.floor } else { cache.longest_stale() };
    cache.floors.settle(key, id, version, Instant::now() + life);
    // Asked last, so that no change of era slips through. What Redis was told in an era that is over, nobody reads; so
    // this counts as a write that Redis was not told of.
    if cache.is_over(era) {
        cache.floors.raise(key, version, Instant::now() + cache.longest_stale());
    }
}

/// Whether Redis has removed them.
pub(crate) async fn unlink(cache: &Inner, pointers: &[Pointer], budget: &mut Budget) -> bool {
    let era = cache.era();
    let Some(run) = &era.run else { return true };
    let names: Vec<_> = pointers.iter().map(|pointer| era.pointer(pointer)).collect();
    run.unlink(&names, budget).await.is_ok()
}

impl Drop for Write {
    fn drop(&mut self) {
        if !self.over {
            self.settle(self.version, false);
        }
    }
}
