//! Many rows at once: the process, then Redis in one round trip, then one load for all that is missing.
//!
//! There is no lease, no wait and no fill here. A fill needs a lease for each row, and a batch that held a hundred leases
//! during one long `select` would make the readers of a hundred rows wait for it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::{
    Inner, Key, Level, Loaded, Read, ReadError,
    budget::Budget,
    entry::{self, Known},
    era::Era,
    planted::{self, Bug},
};

impl Inner {
    pub(crate) async fn read_many<L, F, E>(&self, keys: &[Key], load: L) -> Result<Vec<Read>, ReadError<E>>
    where
        L: FnOnce(Vec<Key>) -> F,
        F: Future<Output = Result<Vec<(Key, Loaded)>, E>>,
    {
        let era = self.era();
        // Every key gets into `found`, so the answer is as long as the question.
        let mut found = HashMap::with_capacity(keys.len());
        let mut missing = Vec::new();
        for key in keys.iter().collect::<HashSet<_>>() {
            match era.local.get(key) {
                Some(entry) => drop(found.insert(*key, Read::new(entry, Level::Local))),
                None => missing.push(*key),
            }
        }
        let mut budget = Budget::of_request(self.settings.redis_budget);
        for (key, entry) in self.look_in_redis(&era, &missing, &mut budget).await {
            found.insert(key, Read::new(entry, Level::Redis));
        }
        missing.retain(|key| !found.contains_key(key));
        if !missing.is_empty() {
            for (key, entry) in self.select_many(&era, missing, load).await? {
                found.insert(key, Read::new(entry, Level::Postgres));
            }
        }
        Ok(keys.iter().filter_map(|key| found.get(key).cloned()).collect())
    }

    /// What Redis has of these rows and may be shown. The reads go out together, one for each row, since the rows of a
    /// batch lie on any shard; what has been answered when the budget ends is used.
    async fn look_in_redis(&self, era: &Era, keys: &[Key], budget: &mut Budget) -> Vec<(Key, Known)> {
        let mut found = Vec::new();
        let Some(run) = &era.run else { return found };
        // A blind node may show nothing of what Redis says.
        let keys = keys.iter().filter(|key| self.floors.get(key).is_some());
        let read_at = Instant::now();
        let asked = |key: Key| async move { (key, run.get(&era.row(&key)).await) };
        let mut answers: FuturesUnordered<_> = keys.copied().map(asked).collect();
        if answers.is_empty() {
            return found;
        }
        let answered = async {
            let mut failed = Ok(());
            while let Some((key, answer)) = answers.next().await {
                match answer {
                    Ok(Some((version, data))) => {
                        found.extend(
                            self.accept(era, &key, &version, &data, read_at).map(|known| (key, known)),
                        );
                    }
                    Ok(None) => {}
                    Err(error) => failed = Err(error),
                }
            }
            failed
        };
        // What could not be read is missing, as what is not there.
        let _ = run.all("read", answered, budget).await;
        found
    }

    /// What Redis holds, if it may be shown: as for a hit of a single read, to which it leaves all repairs.
    fn accept(&self, era: &Era, key: &Key, version: &[u8], data: &Bytes, read_at: Instant) -> Option<Known> {
        let known = self.decode(key, version, data)?.known();
        if !self.floors.allow(key, entry::version(&known)) && !planted::bug(Bug::BatchBelowNodeFloor) {
            return None;
        }
        era.local.insert(key, known.clone(), read_at);
        Some(known)
    }

    /// Reads `keys` from the truth. What it does not name does not exist.
    async fn select_many<L, F, E>(
        &self,
        era: &Era,
        keys: Vec<Key>,
        load: L,
    ) -> Result<HashMap<Key, Known>, ReadError<E>>
    where
        L: FnOnce(Vec<Key>) -> F,
        F: Future<Output = Result<Vec<(Key, Loaded)>, E>>,
    {
        let read_at = Instant::now();
        let mut rows: HashMap<Key, Known> = keys.iter().map(|key| (*key, None)).collect();
        let loaded = load(keys).await.map_err(|error| ReadError::Load(Arc::new(error)))?;
        planted::point("after-select").await;
        for (key, loaded) in loaded {
            if let Some(row) = rows.get_mut(&key) {
                *row = loaded.known();
            }
        }
        for (key, known) in &rows {
            if known.is_some() || self.absences.admit() {
                era.local.insert(key, known.clone(), read_at);
            }
        }
        Ok(rows)
    }
}
