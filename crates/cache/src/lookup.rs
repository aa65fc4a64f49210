use std::sync::Arc;

use uuid::Uuid;

use crate::{Inner, Key, Loaded, Pointer, Read, ReadError, budget::Budget, era::Era, planted};

/// A look-up by something other than the id; [`Cache::look_up`](crate::Cache::look_up) makes it. All it asks of Redis
/// shares one budget.
///
/// A pointer is a hint and no more: a slow reader may store it after a write has removed it. So whoever follows one reads
/// the row it leads to, and looks whether the row says the same:
///
/// ```no_run
/// # use tenantry_cache::{Cache, Entry, Key, Loaded, Pointer, ReadError, State};
/// # use uuid::Uuid;
/// # struct Failed;
/// # async fn by_id(id: Uuid) -> Result<Loaded, Failed> { Err(Failed) }
/// # async fn by_address(address: &str) -> Result<Option<(Uuid, Entry)>, Failed> { Err(Failed) }
/// # fn has_address(entry: &Entry, address: &str) -> bool { false }
/// # async fn find(cache: &Cache, tenant: Uuid, digest: [u8; 32], address: &str) -> Result<(), ReadError<Failed>> {
/// let mut lookup = cache.look_up(&Pointer::new("e", tenant, digest)).await;
/// if let Some(id) = lookup.target() {
///     let read = lookup.read(&Key::new("u", tenant, id), move || by_id(id)).await?;
///     if read.entry.is_some_and(|entry| entry.state == State::Live && has_address(&entry, address)) {
///         return Ok(());
///     }
/// }
/// let found = by_address(address).await.map_err(|error| ReadError::Load(error.into()))?;
/// lookup.leads_to(found.map(|(id, _)| id)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Lookup {
    cache: Arc<Inner>,
    /// What the truth says is stored where it was asked for: a connection to an old primary may be in use until the end.
    era: Arc<Era>,
    pointer: Pointer,
    target: Option<Uuid>,
    budget: Budget,
}

impl Lookup {
    pub(crate) async fn begin(cache: Arc<Inner>, pointer: Pointer) -> Self {
        let mut budget = Budget::of_request(cache.settings.redis_budget);
        let era = cache.era();
        let target = match &era.run {
            Some(run) => run.follow(&era.pointer(&pointer), &mut budget).await.ok().flatten(),
            None => None,
        };
        Self { cache, era, pointer, target, budget }
    }

    /// The id that the pointer leads to, if there is one; to be validated.
    pub fn target(&self) -> Option<Uuid> {
        self.target
    }

    /// Reads the row that the pointer leads to, as [`Cache::read_through`](crate::Cache::read_through) does, but past what
    /// this process holds, which may be a moment older than the pointer.
    ///
    /// # Errors
    /// [`ReadError::Load`], [`ReadError::Gone`].
    pub async fn read<L, F, E>(&mut self, key: &Key, load: L) -> Result<Read, ReadError<E>>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Loaded, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let budget = self.budget.clone();
        let result = self.budget.charge(self.cache.read_past_local(*key, None, load, budget)).await;
        self.cache.counts.count(&result);
        result
    }

    /// Tells what the truth has said after the pointer was missing or wrong: the id, or that there is none. That there is
    /// none is not stored; a pointer that says otherwise is removed.
    pub async fn leads_to(mut self, id: Option<Uuid>) {
        let Some(run) = &self.era.run else { return };
        let name = self.era.pointer(&self.pointer);
        planted::point("before-pointer").await;
        // A pointer that is not stored costs a miss, and one that is not removed is found to be wrong again.
        let _ = match (id, self.target) {
            (Some(id), target) if target != Some(id) => run.point(&name, id, &mut self.budget).await,
            (None, Some(_)) => run.unlink(&[name], &mut self.budget).await,
            _ => Ok(()),
        };
    }
}
