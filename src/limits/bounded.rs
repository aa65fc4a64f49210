//! What is remembered by key, of so many keys at most.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ahash::RandomState;
use governor::{
    nanos::Nanos,
    state::{StateStore, keyed::ShrinkableKeyedStateStore},
};

/// Parts with locks of their own.
const SHARDS: usize = 64;
/// Keys of a part: what a table of 16,384 places holds before it doubles. All parts together hold 917,504.
const MOST: usize = 14_336;
/// Buckets of a part that those share who come when it is full.
const SHARED: u64 = 16;

/// A map of bounded size. When a part of it is full, new keys share a few places: they are counted together, so nobody is let
/// in for being one too many, and who has a place of their own keeps it.
pub(super) struct Bounded<V> {
    shards: Box<[Mutex<HashMap<u128, V, RandomState>>]>,
    // Seeded by chance: clients choose their keys.
    hasher: RandomState,
}

impl<V: Copy> Bounded<V> {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new() }
    }

    /// Shows `work` what there is under `key`, and remembers what it returns beside its result.
    pub(super) fn update<T>(&self, key: u128, work: impl FnOnce(Option<V>) -> (T, Option<V>)) -> T {
        let hash = self.hasher.hash_one(key);
        let mut shard = locked(&self.shards[hash as usize % SHARDS]);
        if let Some(value) = shard.get_mut(&key) {
            let (result, new) = work(Some(*value));
            *value = new.unwrap_or(*value);
            return result;
        }
        // No address's bucket, and no hash's but by chance.
        let shared = || u128::MAX - u128::from((hash >> 32) % SHARED);
        let key = if shard.len() >= MOST { shared() } else { key };
        let (result, new) = work(shard.get(&key).copied());
        if let Some(new) = new {
            shard.insert(key, new);
        }
        result
    }

    /// The same, but for what is known of `key` alone: none where it has no place of its own.
    pub(super) fn update_own<T>(
        &self,
        key: u128,
        work: impl FnOnce(Option<V>) -> (T, Option<V>),
    ) -> Option<T> {
        let mut shard = locked(&self.shards[self.hasher.hash_one(key) as usize % SHARDS]);
        let known = shard.get(&key).copied();
        if known.is_none() && shard.len() >= MOST {
            return None;
        }
        let (result, new) = work(known);
        if let Some(new) = new {
            shard.insert(key, new);
        }
        Some(result)
    }

    /// Forgets what `keep` does not keep, and the memory that it took.
    pub(super) fn retain(&self, keep: impl Fn(&V) -> bool) {
        for shard in &self.shards {
            let mut shard = locked(shard);
            shard.retain(|_, value| keep(value));
            shard.shrink_to_fit();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| locked(shard).len()).sum()
    }
}

/// Nothing that could panic is done while it is held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateStore for Bounded<Nanos> {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.update(*key, |known| match f(known) {
            Ok((decision, new)) => (Ok(decision), Some(new)),
            Err(refusal) => (Err(refusal), None),
        })
    }
}

impl ShrinkableKeyedStateStore<u128> for Bounded<Nanos> {
    fn retain_recent(&self, drop_below: Nanos) {
        self.retain(|until| *until > drop_below);
    }

    fn len(&self) -> usize {
        Bounded::len(self)
    }

    fn is_empty(&self) -> bool {
        Bounded::len(self) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use governor::{Quota, RateLimiter, clock::FakeRelativeClock, middleware::NoOpMiddleware};

    use super::*;

    type Limiter = RateLimiter<u128, Bounded<Nanos>, FakeRelativeClock, NoOpMiddleware<Nanos>>;

    #[test]
    fn a_million_keys_are_bounded_and_the_last_of_them_are_limited_too() {
        let clock = FakeRelativeClock::default();
        let quota = Quota::with_period(Duration::from_secs(60)).unwrap();
        let quota = quota.allow_burst(NonZeroU32::new(2).unwrap());
        let limiter: Limiter = RateLimiter::new(quota, Bounded::new(), clock);
        let first = 0;
        assert!(limiter.check_key(&first).is_ok());
        for key in 1..1_000_000 {
            let _ = limiter.check_key(&key);
        }
        assert!(limiter.len() <= SHARDS * (MOST + SHARED as usize), "{}", limiter.len());
        assert!(limiter.len() > 900_000);

        // Who has a place of their own keeps it; those who have none share what is used up.
        assert!(limiter.check_key(&first).is_ok());
        assert!(limiter.check_key(&first).is_err());
        let let_in = (2_000_000..2_100_000).filter(|key| limiter.check_key(key).is_ok()).count();
        assert!(let_in <= SHARDS * SHARED as usize * 2, "{let_in} of 100,000 new ones");

        let memory: usize = limiter
            .into_state_store()
            .shards
            .iter()
            .map(|shard| locked(shard).capacity() * 8 / 7 * (size_of::<(u128, Nanos)>() + 1))
            .sum();
        assert!(memory < 80 << 20, "{memory} bytes");
    }

    #[test]
    fn who_has_no_place_of_their_own_is_taken_for_nobody_else() {
        let full: Bounded<u64> = Bounded::new();
        for key in 0..1_000_000 {
            full.update(key, |_| ((), Some(7)));
        }
        assert_eq!(full.update_own(0, |known| (known, None)), Some(Some(7)), "the first has one");
        for key in 2_000_000..2_000_100 {
            // Counted beside others here, and nothing of that is told as theirs.
            assert_eq!(full.update(key, |known| (known, None)), Some(7));
            assert_eq!(full.update_own(key, |known| (known, Some(1))), None);
        }
    }

    #[test]
    fn who_has_all_of_their_requests_again_is_forgotten() {
        let clock = FakeRelativeClock::default();
        let quota = Quota::per_minute(NonZeroU32::new(60).unwrap());
        let limiter: Limiter = RateLimiter::new(quota, Bounded::new(), clock.clone());
        for key in 0..1000 {
            limiter.check_key(&key).unwrap();
        }
        clock.advance(Duration::from_secs(30));
        limiter.check_key(&7).unwrap();
        clock.advance(Duration::from_secs(60));
        limiter.check_key(&8).unwrap();
        limiter.retain_recent();
        assert_eq!(limiter.len(), 1);
        assert!(limiter.into_state_store().shards.iter().all(|shard| locked(shard).capacity() < 10));
    }
}
