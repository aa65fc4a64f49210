//! What is held by key for as long as it is used, of so many keys at most.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use ahash::RandomState;

/// Parts with locks of their own, and keys of a part: 102,400 tenants that ask within one period.
const SHARDS: usize = 16;
const MOST: usize = 6_400;

type Shard<B> = HashMap<u128, Arc<B>, RandomState>;

/// Those of a part that come when it is full share one.
pub(super) struct Buckets<B> {
    shards: Vec<RwLock<Shard<B>>>,
    shared: Box<[Arc<B>]>,
    hasher: RandomState,
}

impl<B> Buckets<B> {
    /// None yet, but those that are shared.
    pub(super) fn new(shared: impl Fn(u128) -> B) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            shared: (0..SHARDS as u128).map(|n| Arc::new(shared(n))).collect(),
            hasher: RandomState::new(),
        }
    }

    fn shard(&self, key: u128) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    pub(super) fn find(&self, key: u128) -> Option<Arc<B>> {
        let shard = self.shards[self.shard(key)].read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&key).cloned()
    }

    /// That of `key`, which is made where there is none.
    pub(super) fn get(&self, key: u128, make: impl Fn(u128) -> B) -> Arc<B> {
        if let Some(bucket) = self.find(key) {
            return bucket;
        }
        let place = self.shard(key);
        let mut shard = self.shards[place].write().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= MOST && !shard.contains_key(&key) {
            return self.shared[place].clone();
        }
        shard.entry(key).or_insert_with(|| Arc::new(make(key))).clone()
    }

    /// Forgets those that nobody holds and `keep` does not keep.
    pub(super) fn retain(&self, keep: impl Fn(&B) -> bool) {
        for shard in &self.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, bucket| Arc::strong_count(bucket) > 1 || keep(bucket));
            shard.shrink_to_fit();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_tenants_are_bounded_and_the_last_of_them_share() {
        let buckets = Buckets::new(|shared| (true, shared));
        let first = buckets.get(0, |key| (false, key));
        for key in 1..1_000_000 {
            buckets.get(key, |key| (false, key));
        }
        assert!(buckets.len() <= SHARDS * MOST);
        assert!(Arc::ptr_eq(&first, &buckets.get(0, |key| (false, key))));
        let (is_shared, _) = *buckets.get(2_000_000, |key| (false, key));
        assert!(is_shared);
        buckets.retain(|_| false);
        assert_eq!(buckets.len(), 1, "one is held");
    }
}
