use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tenantry_jobs::Kind;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{JobId, Leased};

/// The leases this worker holds. A lease is in here from the answer of the fetch to the answer of what ends it, and
/// whoever is in here is kept alive by the heartbeat and handed back at the end.
#[derive(Default)]
pub(crate) struct Registry {
    held: Mutex<HashMap<Uuid, Held>>,
    freed: Notify,
}

/// One lease.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) id: JobId,
    pub(crate) tenant: Uuid,
    pub(crate) kind: Kind,
    pub(crate) lease: Uuid,
    /// Cancelled when somebody else has the job.
    pub(crate) lost: CancellationToken,
    abandoned: bool,
}

impl Registry {
    pub(crate) fn insert(&self, job: &Leased) {
        let held = Held {
            id: job.id,
            tenant: job.tenant,
            kind: job.kind,
            lease: job.lease,
            lost: CancellationToken::new(),
            abandoned: false,
        };
        self.lock().insert(job.lease, held);
    }

    pub(crate) fn remove(&self, lease: Uuid) {
        self.lock().remove(&lease);
        self.freed.notify_one();
    }

    /// Its attempt was dropped before its end: to be handed back.
    pub(crate) fn abandon(&self, lease: Uuid) {
        if let Some(held) = self.lock().get_mut(&lease) {
            held.abandoned = true;
        }
    }

    pub(crate) fn abandoned(&self) -> Vec<Held> {
        self.lock().values().filter(|held| held.abandoned).cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Held> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn lost(&self, lease: Uuid) {
        if let Some(held) = self.lock().get(&lease) {
            held.lost.cancel();
        }
    }

    /// The signal that this lease is lost; it is so already for a lease that is not held.
    pub(crate) fn signal(&self, lease: Uuid) -> CancellationToken {
        self.lock().get(&lease).map(|held| held.lost.clone()).unwrap_or_else(|| {
            let lost = CancellationToken::new();
            lost.cancel();
            lost
        })
    }

    pub(crate) fn holds(&self, lease: Uuid) -> bool {
        self.lock().contains_key(&lease)
    }

    /// Kind and tenant of each job that is held.
    pub(crate) fn jobs(&self) -> Vec<(Kind, Uuid)> {
        self.lock().values().map(|held| (held.kind, held.tenant)).collect()
    }

    /// The kinds of the jobs that are held beside this one.
    pub(crate) fn beside(&self, lease: Uuid) -> Vec<Kind> {
        self.lock().values().filter(|held| held.lease != lease).map(|held| held.kind).collect()
    }

    /// Resolves when a lease has been removed since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
