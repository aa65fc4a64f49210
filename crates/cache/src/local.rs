//! The level in the process: a bounded map of entries, each readable for a moment, under the node's floors.

use std::{sync::Arc, time::Duration};

use quick_cache::sync::{Cache, EntryAction, EntryResult};
use tokio::time::Instant;

use crate::{
    Key, Settings,
    entry::{self, Known},
    floors::Floors,
    planted::{self, Bug},
};

/// Entries read or written here within the last moment.
///
/// An insert may race with a write: a flight finds its version allowed, the write raises the floor and removes the entry,
/// the flight inserts after all. The entry is then there and never shown: each hit asks the floor again, the floor was
/// raised before the write committed, and it outlives the entry (`ttl` is a second, a floor lasts half a minute).
/// After a rollback the floor sinks and the entry is shown again, rightly.
#[derive(Debug)]
pub(crate) struct Local {
    entries: Cache<Key, Held>,
    ttl: Duration,
    /// How long it is shown that there is no row.
    absent_ttl: Duration,
    floors: Arc<Floors>,
}

#[derive(Clone, Debug)]
struct Held {
    known: Known,
    until: Instant,
}

impl Local {
    pub(crate) fn new(settings: &Settings, floors: Arc<Floors>) -> Self {
        let (ttl, absent_ttl) = (settings.local_ttl, settings.local_ttl.min(settings.absent_ttl));
        Self { entries: Cache::new(settings.local_entries), ttl, absent_ttl, floors }
    }

    /// What is known of the row, if it is fresh and not older than the floor.
    pub(crate) fn get(&self, key: &Key) -> Option<Known> {
        let held = self.entries.get(key)?;
        let version = entry::version(&held.known);
        let allowed = self.floors.allow(key, version) || planted::bug(Bug::HitIgnoresFloor);
        (Instant::now() < held.until && allowed).then_some(held.known)
    }

    /// Holds `known`, which was the truth at some moment after `read_at`: it must be the time from *before* the read began,
    /// or a slow read would be shown for longer than promised. A newer entry that is still fresh stays.
    pub(crate) fn insert(&self, key: &Key, known: Known, read_at: Instant) {
        let until = read_at + if known.is_some() { self.ttl } else { self.absent_ttl };
        let version = entry::version(&known);
        let now = Instant::now();
        let allowed = self.floors.allow(key, version) || planted::bug(Bug::HitIgnoresFloor);
        if until <= now || !allowed {
            return;
        }
        let new = Held { known, until };
        let found = self.entries.entry(key, Some(Duration::ZERO), |_, held| {
            let stays = now < held.until && (entry::version(&held.known), held.until) >= (version, new.until);
            if !stays {
                *held = new.clone();
            }
            EntryAction::Retain(())
        });
        if let EntryResult::Vacant(place) = found {
            // It fails only if the place was removed meanwhile, by a write: then there is nothing to hold.
            let _ = place.insert(new);
        }
    }

    /// How many entries take up room, fresh or not.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn remove(&self, key: &Key) {
        self.entries.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;
    use crate::{Entry, State};

    const KEY: Key = Key::new("u", Uuid::nil(), Uuid::nil());
    const TTL: Duration = Duration::from_secs(1);

    fn local() -> Local {
        let settings =
            Settings { local_entries: 16, local_ttl: TTL, absent_ttl: TTL / 2, ..Settings::default() };
        Local::new(&settings, Arc::new(Floors::new(16)))
    }

    fn entry(version: i64) -> Known {
        Some(Arc::new(Entry { version, state: State::Live, body: Bytes::new() }))
    }

    fn version(local: &Local) -> Option<i64> {
        local.get(&KEY).map(|known| entry::version(&known))
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_shown_for_the_ttl_counted_from_before_its_read() {
        let local = local();
        let read_at = Instant::now();
        tokio::time::advance(Duration::from_millis(900)).await;
        local.insert(&KEY, entry(1), read_at);
        tokio::time::advance(Duration::from_millis(99)).await;
        assert_eq!(version(&local), Some(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(version(&local), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_took_longer_than_the_ttl_is_not_held() {
        let local = local();
        let read_at = Instant::now();
        tokio::time::advance(TTL).await;
        local.insert(&KEY, entry(1), read_at);
        assert_eq!(local.entries.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_version_does_not_replace_a_newer_one_while_that_is_fresh() {
        let local = local();
        local.insert(&KEY, entry(2), Instant::now());
        local.insert(&KEY, entry(1), Instant::now());
        assert_eq!(version(&local), Some(2));
        tokio::time::advance(TTL).await;
        local.insert(&KEY, entry(1), Instant::now());
        assert_eq!(version(&local), Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn that_there_is_no_row_is_shown_for_a_life_of_its_own_and_under_no_floor() {
        let local = local();
        local.insert(&KEY, None, Instant::now());
        assert_eq!(local.get(&KEY), Some(None));
        tokio::time::advance(TTL / 2).await;
        assert_eq!(local.get(&KEY), None);

        local.insert(&KEY, None, Instant::now());
        local.floors.begin(KEY, 1, 1);
        assert_eq!(local.get(&KEY), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_below_the_floor_is_not_held() {
        let local = local();
        local.floors.begin(KEY, 1, 2);
        local.insert(&KEY, entry(1), Instant::now());
        assert_eq!(local.entries.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_insert_that_races_with_a_write_is_never_shown() {
        let local = local();
        let read_at = Instant::now();
        // What `insert` does after its own look at the floor, with a write in between.
        local.floors.begin(KEY, 1, 2);
        local.remove(&KEY);
        local.entries.insert(KEY, Held { known: entry(1), until: read_at + TTL });
        assert_eq!(version(&local), None);

        local.floors.withdraw(KEY, 1);
        assert_eq!(version(&local), Some(1), "rolled back: it is the truth again");
    }
}
