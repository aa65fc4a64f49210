//! Answers that are shared: whoever asks for the same list of a tenant within a second gets the same answer, and those who
//! ask at once cost one statement. What this process has changed is in the next list that it gives, and nothing that was read
//! from a server which has been overtaken since.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

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

/// What was asked for, and when: answers to others are no answers to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    tenant: TenantId,
    /// How often users of the tenant had changed.
    changes: u64,
    /// Since when the database is on its timeline.
    epoch: std::time::Instant,
    wanted: Wanted,
}

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

    /// The answer to what is `wanted`: one that is there, one that is under way, or what `read` brings. `epoch` is when the
    /// database's present timeline began.
    pub(super) async fn share<F, Fut>(
        self: &Arc<Self>,
        tenant: TenantId,
        epoch: std::time::Instant,
        wanted: Wanted,
        read: F,
    ) -> Result<Arc<List>>
    where
        F: FnOnce(Wanted) -> Fut + Send + 'static,
        Fut: Future<Output = Result<List>> + Send + 'static,
    {
        let asked = Asked { tenant, changes: self.counter(tenant).load(Ordering::SeqCst), epoch, wanted };
        let (mut answer, first) = self.join(&asked);
        metrics::counter!("tenantry_lists_total", "from" => if first.is_some() { "database" } else { "memory" })
            .increment(1);
        if let Some(answering) = first {
            // In a task of its own: whoever asked first may go away, and others wait.
            tokio::spawn(tenantry_trace::carried(self.clone().answer(asked, answering, read)));
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
        let answer = read(asked.wanted.clone()).await.map(Arc::new);
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
        let figures = size_of_val(self.figures.as_slice());
        size_of::<Self>() + self.users.len() * size_of::<super::User>() + figures + users.sum::<usize>()
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::users::{Filter, Order, Part, Selection, SortBy};

    /// A list whose reading takes until it may end, and is counted.
    struct Reader {
        lists: Arc<Lists>,
        tenant: TenantId,
        epoch: std::time::Instant,
        reads: Arc<AtomicUsize>,
        may_end: Arc<Semaphore>,
    }

    impl Reader {
        fn new() -> Self {
            let (lists, reads, may_end) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(0)));
            let (tenant, epoch) = (TenantId::generate(), std::time::Instant::now());
            Self { lists, tenant, epoch, reads, may_end }
        }

        fn ask(&self, answer: Result<List>) -> tokio::task::JoinHandle<Answer> {
            let (lists, tenant, epoch) = (self.lists.clone(), self.tenant, self.epoch);
            let (reads, may_end) = (self.reads.clone(), self.may_end.clone());
            let read = |_| async move {
                reads.fetch_add(1, Ordering::SeqCst);
                may_end.acquire().await.unwrap().forget();
                answer
            };
            tokio::spawn(async move { lists.share(tenant, epoch, wanted(), read).await })
        }

        /// Waits until so many reads have begun.
        async fn has_read(&self, times: usize) {
            while self.reads.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
            assert_eq!(self.reads.load(Ordering::SeqCst), times);
        }
    }

    fn wanted() -> Wanted {
        let selection = Selection { filter: Filter::default(), sort_by: SortBy::Name, order: Order::Asc };
        Wanted { selection, part: Part::Page { offset: 0 }, limit: 10, figures: false }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_for_a_second_and_forgotten() {
        let reader = Reader::new();
        let (one, other) = (reader.ask(Ok(List::default())), reader.ask(Ok(List::default())));
        reader.has_read(1).await;
        reader.may_end.add_permits(1);
        assert!(Arc::ptr_eq(&one.await.unwrap().unwrap(), &other.await.unwrap().unwrap()));
        reader.ask(Ok(List::default())).await.unwrap().unwrap();
        reader.has_read(1).await;
        assert!(reader.lists.answers().size > 0);

        tokio::time::sleep(2 * LIFE).await;
        let answers = reader.lists.answers();
        assert_eq!((answers.shared.len(), answers.size), (0, 0));
    }

    #[tokio::test]
    async fn a_change_voids_what_is_under_way_as_well() {
        let reader = Reader::new();
        let before = reader.ask(Ok(List::default()));
        reader.has_read(1).await;
        let change = reader.lists.change(reader.tenant);
        let meanwhile = reader.ask(Ok(List::default()));
        tokio::task::yield_now().await;
        drop(change);
        let after = reader.ask(Ok(List::default()));
        reader.has_read(2).await;
        reader.may_end.add_permits(2);
        let [before, meanwhile, after] =
            [before.await, meanwhile.await, after.await].map(|list| list.unwrap().unwrap());
        assert!(Arc::ptr_eq(&before, &meanwhile) && !Arc::ptr_eq(&before, &after));
    }

    #[tokio::test]
    async fn what_was_read_on_an_older_timeline_is_no_answer() {
        let mut reader = Reader::new();
        reader.may_end.add_permits(2);
        let before = reader.ask(Ok(List::default())).await.unwrap().unwrap();
        reader.epoch += Duration::from_nanos(1);
        let after = reader.ask(Ok(List::default())).await.unwrap().unwrap();
        assert!(!Arc::ptr_eq(&before, &after));
        reader.has_read(2).await;
    }

    #[tokio::test]
    async fn whoever_asked_first_may_go_and_others_get_the_answer() {
        let reader = Reader::new();
        let first = reader.ask(Ok(List::default()));
        reader.has_read(1).await;
        let second = reader.ask(Ok(List::default()));
        first.abort();
        reader.may_end.add_permits(1);
        assert!(second.await.unwrap().is_ok());
        reader.has_read(1).await;
    }

    #[tokio::test]
    async fn a_failure_is_told_to_all_who_wait_and_not_kept() {
        let reader = Reader::new();
        let (one, other) = (reader.ask(Err(Error::Busy)), reader.ask(Ok(List::default())));
        reader.has_read(1).await;
        tokio::task::yield_now().await;
        reader.may_end.add_permits(2);
        assert!(matches!((one.await.unwrap(), other.await.unwrap()), (Err(Error::Busy), Err(Error::Busy))));
        while !reader.lists.answers().shared.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(reader.ask(Ok(List::default())).await.unwrap().is_ok());
        reader.has_read(2).await;
    }

    #[tokio::test]
    async fn a_panic_is_one_failure_and_no_more() {
        let reader = Reader::new();
        let panics = |_: Wanted| async { if true { panic!("a bug") } else { Ok(List::default()) } };
        let failed = reader.lists.share(reader.tenant, reader.epoch, wanted(), panics).await;
        assert!(matches!(failed, Err(Error::Internal(_))));
        reader.may_end.add_permits(1);
        assert!(reader.ask(Ok(List::default())).await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_has_no_room_is_answered_and_not_kept() {
        let reader = Reader::new();
        reader.lists.answers().size = ROOM;
        reader.may_end.add_permits(2);
        assert!(reader.ask(Ok(List::default())).await.unwrap().is_ok());
        while !reader.lists.answers().shared.is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(reader.ask(Ok(List::default())).await.unwrap().is_ok());
        assert_eq!((reader.lists.answers().size, reader.reads.load(Ordering::SeqCst)), (ROOM, 2));
    }
}
