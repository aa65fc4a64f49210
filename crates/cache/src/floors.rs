//! The node's floors: for each row written here lately, the oldest version this node may still show.

use std::{collections::HashMap, sync::RwLock};

use ahash::RandomState;
use tokio::time::Instant;

use crate::{Key, Version, sync::Shared};

/// What a node remembers of its own writes, so that it reads them whatever becomes of Redis.
#[derive(Debug)]
pub(crate) struct Floors {
    capacity: usize,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    floors: HashMap<Key, Floor, RandomState>,
    /// Floors were dropped for want of room, the last of which would have expired then. Until then nothing is known of
    /// any row, and the node shows only what it reads from Postgres.
    blind_until: Option<Instant>,
}

/// Writes under way each have their own place: two writers of one row may carry the same version, when the first has
/// been rolled back and the second has got the row lock before the first could say so here; taking the first one's back
/// must leave the second one's.
#[derive(Debug)]
struct Floor {
    pending: Vec<(u64, Version)>,
    /// The newest version of a write that is over; 0 if there is none.
    settled: Version,
    /// When `settled` may be forgotten. Writes under way do not expire.
    until: Instant,
}

impl Floor {
    fn version(&self, now: Instant) -> Version {
        let settled = if now < self.until { self.settled } else { 0 };
        self.pending.iter().map(|&(_, version)| version).fold(settled, Version::max)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.pending.is_empty() && self.until <= now
    }

    /// A newer version's word counts for the older ones too: what keeps the newer safe keeps them safe. An older
    /// version's does not shorten the newer one's.
    fn settle(&mut self, version: Version, until: Instant) {
        if version >= self.settled {
            (self.settled, self.until) = (version, until);
        } else {
            self.until = self.until.max(until);
        }
    }
}

impl Floors {
    /// Remembers up to `capacity` rows.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, inner: RwLock::default() }
    }

    /// The oldest version that may be shown of `key`, 0 if there is no floor; `None` while the node is blind.
    pub(crate) fn get(&self, key: &Key) -> Option<Version> {
        let inner = self.inner.reading();
        match inner.blind_until {
            Some(until) if Instant::now() < until => None,
            _ => Some(inner.floors.get(key).map_or(0, |floor| floor.version(Instant::now()))),
        }
    }

    /// How many rows have a floor, or had one that nobody has cleared away yet.
    pub(crate) fn len(&self) -> usize {
        self.inner.reading().floors.len()
    }

    /// Whether `version` of `key` may be shown from a cache.
    pub(crate) fn allow(&self, key: &Key, version: Version) -> bool {
        self.get(key).is_some_and(|floor| version >= floor)
    }

    /// The write `id` is about to make `version`. Its floor lasts until it is settled or withdrawn.
    pub(crate) fn begin(&self, key: Key, id: u64, version: Version) {
        self.change(key, |floor| floor.pending.push((id, version)));
    }

    /// The write `id` ended; `version` is the floor it leaves behind.
    pub(crate) fn settle(&self, key: Key, id: u64, version: Version, until: Instant) {
        self.change(key, |floor| {
            floor.pending.retain(|&(pending, _)| pending != id);
            floor.settle(version, until);
        });
    }

    /// The write `id` never happened: the floor is what it would be without it.
    pub(crate) fn withdraw(&self, key: Key, id: u64) {
        self.change(key, |floor| floor.pending.retain(|&(pending, _)| pending != id));
    }

    /// Some node has written `version`.
    pub(crate) fn raise(&self, key: Key, version: Version, until: Instant) {
        self.change(key, |floor| floor.settle(version, until));
    }

    /// The floors that writes have left behind. Those of writes under way are told by the writes when they end.
    pub(crate) fn settled(&self) -> Vec<(Key, Version)> {
        let now = Instant::now();
        let inner = self.inner.reading();
        let settled = inner.floors.iter().filter(|(_, floor)| floor.settled > 0 && now < floor.until);
        settled.map(|(key, floor)| (*key, floor.settled)).collect()
    }

    fn change(&self, key: Key, change: impl FnOnce(&mut Floor)) {
        let now = Instant::now();
        let mut inner = self.inner.writing();
        if inner.floors.len() >= self.capacity && !inner.floors.contains_key(&key) {
            inner.make_room(self.capacity, now);
        }
        let floor =
            inner.floors.entry(key).or_insert_with(|| Floor { pending: Vec::new(), settled: 0, until: now });
        change(floor);
        if floor.is_over(now) {
            inner.floors.remove(&key);
        }
    }
}

impl Inner {
    /// Frees at least a quarter, so that this costs little for each write: first what has expired, then what expires
    /// first, at the price of blindness until it would have. Writes under way stay, and are as few as what the connections write.
    fn make_room(&mut self, capacity: usize, now: Instant) {
        self.floors.retain(|_, floor| !floor.is_over(now));
        let keep = capacity * 3 / 4;
        if self.floors.len() <= keep {
            return;
        }
        let mut ends: Vec<_> =
            self.floors.values().filter(|floor| floor.pending.is_empty()).map(|floor| floor.until).collect();
        ends.sort_unstable();
        let Some(&last) = ends.get((self.floors.len() - keep).min(ends.len()).wrapping_sub(1)) else {
            return;
        };
        self.floors.retain(|_, floor| !floor.pending.is_empty() || floor.until > last);
        self.blind_until = self.blind_until.max(Some(last));
        tracing::warn!(
            cache.node_floors = capacity,
            "the floors of {capacity} rows are not enough for the writes here; the cache is bypassed for {} ms",
            (last - now).as_millis()
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;

    fn key(id: u128) -> Key {
        Key::new("u", Uuid::nil(), Uuid::from_u128(id))
    }

    fn seconds(n: u64) -> Instant {
        Instant::now() + Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn a_rolled_back_write_leaves_the_floor_of_another_with_the_same_version() {
        let floors = Floors::new(8);
        floors.begin(key(1), 1, 5);
        floors.begin(key(1), 2, 5);
        floors.withdraw(key(1), 1);
        assert_eq!(floors.get(&key(1)), Some(5));
        floors.withdraw(key(1), 2);
        assert_eq!(floors.get(&key(1)), Some(0));
        assert!(floors.inner.reading().floors.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_withdrawn_floor_uncovers_the_one_before() {
        let floors = Floors::new(8);
        floors.settle(key(1), 1, 4, seconds(30));
        floors.begin(key(1), 2, 5);
        floors.withdraw(key(1), 2);
        assert_eq!(floors.get(&key(1)), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_floor_expires_but_never_while_its_write_is_under_way() {
        let floors = Floors::new(8);
        floors.begin(key(1), 1, 5);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(floors.get(&key(1)), Some(5));
        floors.settle(key(1), 1, 5, seconds(30));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!floors.allow(&key(1), 4));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(floors.allow(&key(1), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_write_does_not_shorten_the_life_of_a_newer_floor() {
        let floors = Floors::new(8);
        floors.settle(key(1), 2, 6, seconds(900));
        floors.settle(key(1), 1, 5, seconds(30));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(floors.get(&key(1)), Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_floors_blind_the_node_until_the_dropped_ones_would_have_expired() {
        let floors = Floors::new(4);
        floors.begin(key(0), 0, 2);
        for id in 1..4 {
            floors.settle(key(id), id as u64, 2, seconds(id as u64 * 10));
        }
        assert_eq!(floors.get(&key(9)), Some(0));

        floors.begin(key(4), 4, 2);
        assert_eq!(floors.get(&key(9)), None, "blind");
        assert!(floors.inner.reading().floors.len() <= 4);

        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(floors.get(&key(1)), Some(0), "dropped, and over by now");
        for id in [0, 2, 3, 4] {
            assert_eq!(floors.get(&key(id)), Some(2), "kept");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_placed_again_is_neither_under_way_nor_over() {
        let floors = Floors::new(8);
        floors.begin(key(1), 1, 5);
        floors.settle(key(2), 2, 6, seconds(30));
        floors.settle(key(3), 3, 7, seconds(10));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(floors.settled(), [(key(2), 6)]);
    }

    #[tokio::test(start_paused = true)]
    async fn expired_floors_make_room_without_blindness() {
        let floors = Floors::new(4);
        for id in 0..100 {
            floors.settle(key(id), id as u64, 2, seconds(1));
            tokio::time::advance(Duration::from_millis(500)).await;
            assert!(floors.get(&key(id)).is_some());
        }
    }
}
