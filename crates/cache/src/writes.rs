use std::{fmt, sync::Arc};

use crate::{
    Inner, Key, Pointer, Version,
    budget::Budget,
    era::Era,
    redis::Run,
    write::{settle, unlink},
};

/// How many rows are told to Redis at a time, under the budget of one request: they go out together, and each is a call of its
/// own, since the rows of a transaction lie on any shard.
const AT_A_TIME: usize = 100;

/// Many rows that one transaction writes; [`Cache::begin_writes_on`](crate::Cache::begin_writes_on) makes it. As a
/// [`Write`](crate::Write) of each of them, in a few round trips, and with two differences:
///
/// - The floors in Redis have no token, as those of the worker. So nobody is kept from asking for a lease meanwhile, and what
///   is read before COMMIT is refused by the floor. After a rollback they stay until they expire, which costs misses.
/// - Nothing is written through: whoever reads a row first fills it.
#[must_use = "say how the writes ended"]
pub struct Writes {
    cache: Arc<Inner>,
    era: Arc<Era>,
    /// Each with the number of its place among the node's floors.
    rows: Vec<(Key, Version, u64)>,
    confirmed: bool,
    pointers: Vec<Pointer>,
    over: bool,
}

impl Writes {
    pub(crate) async fn begin(cache: Arc<Inner>, era: Arc<Era>, rows: &[(Key, Version)]) -> Self {
        let begin = |&(key, version): &(Key, Version)| {
            let (id, _) = cache.token('w');
            cache.floors.begin(key, id, version);
            era.local.remove(&key);
            (key, version, id)
        };
        let rows = rows.iter().map(begin).collect();
        // Made before the calls, so that a caller who goes away during them leaves the node's floors to `Drop`.
        let mut writes = Self { cache, era, rows, confirmed: true, pointers: Vec::new(), over: false };
        if let Some(run) = writes.era.run.clone() {
            writes.confirmed = writes.place(&run).await && !writes.cache.is_over(&writes.era);
        }
        writes
    }

    /// Places the floors; false as soon as some are not confirmed.
    async fn place(&self, run: &Run) -> bool {
        for rows in self.rows.chunks(AT_A_TIME) {
            let floors: Vec<_> = rows.iter().map(|(key, version, _)| (self.era.row(key), *version)).collect();
            let mut budget = Budget::of_request(self.cache.settings.redis_budget);
            if run.floors(&floors, &mut budget).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Whether Redis has the floors, all of them, or there is no Redis; see [`Write::confirmed`](crate::Write::confirmed).
    pub fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// As [`Write::unlink`](crate::Write::unlink), of all rows.
    pub async fn unlink(&mut self, pointers: Vec<Pointer>) {
        self.pointers = pointers;
        self.unlink_all().await;
    }

    async fn unlink_all(&self) {
        for pointers in self.pointers.chunks(AT_A_TIME) {
            let mut budget = Budget::of_request(self.cache.settings.redis_budget);
            if !unlink(&self.cache, pointers, &mut budget).await {
                return;
            }
        }
    }

    /// The transaction was committed. Never fails the request: what could not be told to Redis is the job's.
    pub async fn committed(mut self) {
        self.settle(self.confirmed);
        self.unlink_all().await;
    }

    /// The transaction was rolled back for certain. Floors in Redis stay for as long as they live.
    pub fn rolled_back(mut self) {
        self.over = true;
        for &(key, _, id) in &self.rows {
            self.cache.floors.withdraw(key, id);
        }
    }

    /// The connection was lost during COMMIT. As if they were committed: a floor above a row costs misses until it expires.
    pub async fn unknown(mut self) {
        self.settle(false);
        self.unlink_all().await;
    }

    fn settle(&mut self, told: bool) {
        self.over = true;
        for &(key, version, id) in &self.rows {
            settle(&self.cache, &self.era, key, id, version, told);
        }
    }
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writes({})", self.rows.len())
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        if !self.over {
            self.settle(false);
        }
    }
}
