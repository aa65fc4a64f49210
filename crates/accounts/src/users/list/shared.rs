//! Answers that are shared: whoever asks for the same list of a tenant within a second gets the same answer, and those who
//! ask at once cost one statement. What this process has changed is in the next list that it gives.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{List, Wanted};
use crate::{Error, Result, TenantId};

/// How old an answer may be, counted from before the database was asked.
const LIFE: Duration = Duration::from_secs(1);
/// How much all answers that are kept may take of the memory. What has no room is shared while it is under way, and not kept.
const ROOM: usize = 32 << 20;
/// Tenants share counters, so that there are not more of them the more tenants there are: two that do ask once too often.
const COUNTERS: usize = 1_024;

/// The lists that a process has read within the last second.
#[derive(Debug)]
pub struct Lists {
    answers: Mutex<Answers>,
    /// How often users have changed, by tenant.
    changes: Box<[AtomicU64]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Answers {
    shared: HashMap<Asked, Shared>,
    /// What those that are kept take of the memory.
    size: usize,
}

/// What was asked for, and after how many changes of the tenant.
type Asked = (TenantId, u64, Wanted);

type Answer = Result<Arc<List>>;

#[derive(Debug)]
struct Shared {
    since: Instant,
    /// None until it is there.
    answer: watch::Receiver<Option<Answer>>,
}

impl Default for Lists {
    fn default() -> Self {
        let changes = (0..COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Self { answers: Mutex::default(), changes, hasher: RandomState::new() }
    }
}

impl Lists {
    /// Says that users of `tenant` change. When the value goes, which must be after COMMIT and before anybody is told that it
    /// is done, no list that was read before is an answer any more.
    #[must_use = "what was read before is an answer until this goes"]
    pub(crate) fn change(self: &Arc<Self>, tenant: TenantId) -> Change {
        Change { lists: self.clone(), tenant }
    }

    fn counter(&self, tenant: TenantId) -> &AtomicU64 {
        let place = usize::try_from(self.hasher.hash_one(tenant)).unwrap_or(usize::MAX) % COUNTERS;
        &self.changes[place]
    }

    /// The answer to what is `wanted`: one that is there, one that is under way, or what `read` brings.
    pub(super) async fn share<F, Fut>(
        self: &Arc<Self>,
        tenant: TenantId,
        wanted: Wanted,
        read: F,
    ) -> Result<Arc<List>>
    where
        F: FnOnce(Wanted) -> Fut + Send + 'static,
        Fut: Future<Output = Result<List>> + Send + 'static,
    {
        let asked = (tenant, self.counter(tenant).load(Ordering::SeqCst), wanted);
        let (mut answer, first) = self.join(&asked);
        metrics::counter!("tenantry_lists_total", "from" => if first.is_some() { "database" } else { "memory" })
            .increment(1);
        if let Some(answering) = first {
            // In a task of its own: whoever asked first may go away, and others wait.
            tokio::spawn(self.clone().answer(asked, answering, read));
        }
        let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        answer.unwrap_or(Err(Error::Internal("the reading of a list panicked")))
    }

    /// The answer to wait for; with the sender of it where there was none.
    fn join(
        &self,
        asked: &Asked,
    ) -> (watch::Receiver<Option<Answer>>, Option<watch::Sender<Option<Answer>>>) {
        let mut answers = self.answers();
        match answers.shared.entry(asked.clone()) {
            // One whose reader has panicked has no sender.
            Entry::Occupied(shared)
                if shared.get().since.elapsed() < LIFE && shared.get().answer.has_changed().is_ok() =>
            {
                (shared.get().answer.clone(), None)
            }
            entry => {
                let (answering, answer) = watch::channel(None);
                entry.insert_entry(Shared { since: Instant::now(), answer: answer.clone() });
                (answer, Some(answering))
            }
        }
    }

    /// Reads, answers, keeps the answer for what is left of the second, and forgets it.
    async fn answer<F, Fut>(self: Arc<Self>, asked: Asked, answering: watch::Sender<Option<Answer>>, read: F)
    where
        F: FnOnce(Wanted) -> Fut,
        Fut: Future<Output = Result<List>>,
    {
        let since = Instant::now();
        let answer = read(asked.2.clone()).await.map(Arc::new);
        let size = answer.as_ref().map_or(0, |list| list.size());
        let kept = answer.is_ok() && self.answers().make_room(size);
        answering.send_replace(Some(answer));
        if kept {
            tokio::time::sleep(LIFE.saturating_sub(since.elapsed())).await;
        }
        let mut answers = self.answers();
        // Another one may have begun since.
        if answers.shared.get(&asked).is_some_and(|shared| answering.subscribe().same_channel(&shared.answer))
        {
            answers.shared.remove(&asked);
        }
        if kept {
            answers.size -= size;
        }
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        // Nothing panics in between.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn make_room(&mut self, size: usize) -> bool {
        let fits = self.size + size <= ROOM;
        self.size += if fits { size } else { 0 };
        fits
    }
}

impl List {
    /// About what it takes of the memory.
    fn size(&self) -> usize {
        let users = self.users.iter().map(|user| {
            let texts = user.email.as_str().len() + user.name.len();
            texts + user.pending_email.as_ref().map_or(0, |email| email.as_str().len())
        });
        size_of::<Self>() + self.users.len() * size_of::<super::User>() + users.sum::<usize>()
    }
}

/// Users of a tenant change.
pub(crate) struct Change {
    lists: Arc<Lists>,
    tenant: TenantId,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.lists.counter(self.tenant).fetch_add(1, Ordering::SeqCst);
    }
}
