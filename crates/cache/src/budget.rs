use std::{cell::Cell, time::Duration};

use tokio::{
    task_local,
    time::{Instant, timeout},
};

task_local! {
    /// What the request of this task has waited for Redis on behalf of others than the cache.
    static SPENT: Cell<Duration>;
}

/// Does the work of one request, whose waits for Redis are one budget whoever causes them: what is
/// [charged](charge_request) to it is not left for look-ups. Tasks that it starts are not part of it, unless it is
/// [said](of_this_request) that it waits for them.
pub fn one_request<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    SPENT.scope(Cell::default(), work)
}

/// `work` as a part of the request that calls this, to be done by another task: it has what the request has left to wait.
pub fn of_this_request<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    SPENT.scope(Cell::new(spent()), work)
}

/// Takes what this request has waited for a [script](crate::RedisRun::call) out of what [it](one_request) may wait for Redis,
/// and tells it with its other waits.
pub fn charge_request(waited: Duration) {
    // Outside of a request nobody asks.
    let _ = SPENT.try_with(|spent| spent.set(spent.get() + waited));
    tell(waited);
}

fn tell(waited: Duration) {
    metrics::histogram!("tenantry_cache_redis_wait_seconds").record(waited.as_secs_f64());
}

/// What is left for this request to wait of `whole`.
pub(crate) fn left_of(whole: Duration) -> Duration {
    whole.saturating_sub(spent())
}

fn spent() -> Duration {
    SPENT.try_with(Cell::get).unwrap_or_default()
}

/// The time one request may spend on Redis, over all of its calls and waits. Time spent elsewhere, such as in Postgres
/// between two calls, does not count. The clock is monotonic.
///
/// That of a request is told to `tenantry_cache_redis_wait_seconds` when it is dropped: what was really waited, a timer
/// that fires late included. A clone is told by itself, so the parts of a look-up by address are two.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Duration,
    waited: Duration,
    is_told: bool,
}

impl Budget {
    /// For whoever has patience, such as a worker or the background ping.
    pub(crate) const fn new(whole: Duration) -> Self {
        Self { left: whole, waited: Duration::ZERO, is_told: false }
    }

    /// For a request, whose waiting is told, less what it has waited on behalf of others.
    pub(crate) fn of_request(whole: Duration) -> Self {
        Self { is_told: true, ..Self::new(left_of(whole)) }
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.left.is_zero()
    }

    /// What is left.
    pub(crate) const fn left(&self) -> Duration {
        self.left
    }

    /// Leaves no more than `most`.
    pub(crate) fn cap(&mut self, most: Duration) {
        self.left = self.left.min(most);
    }

    /// Runs `work` for as long as time is left; `None` when it ran out. With nothing left `work` is not even started.
    pub(crate) async fn spend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_spent() {
            return None;
        }
        let start = Instant::now();
        // An answer may lie there for as long as the process was stopped: what is looked at too late came too late.
        let in_time = |_: &T| start.elapsed() <= self.left;
        let done = timeout(self.left, work).await.ok().filter(in_time);
        let waited = start.elapsed();
        self.waited += waited;
        self.left = if done.is_some() { self.left.saturating_sub(waited) } else { Duration::ZERO };
        done
    }

    /// Runs `work` to its end and charges all of its time, for work that spends a clone of this budget and does other
    /// things as well.
    pub(crate) async fn charge<T>(&mut self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = work.await;
        self.left = self.left.saturating_sub(start.elapsed());
        done
    }
}

/// With what is left of the first one, which alone tells what it has waited so far.
impl Clone for Budget {
    fn clone(&self) -> Self {
        Self { left: self.left, waited: Duration::ZERO, is_told: self.is_told }
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if self.is_told && !self.waited.is_zero() {
            tell(self.waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_share_the_budget_and_time_elsewhere_is_free() {
        let mut budget = Budget::new(Duration::from_millis(50));
        assert!(budget.spend(sleep(Duration::from_millis(20))).await.is_some());
        sleep(Duration::from_secs(1)).await;
        assert!(budget.spend(sleep(Duration::from_millis(20))).await.is_some());

        let start = Instant::now();
        assert!(budget.spend(sleep(Duration::from_millis(20))).await.is_none());
        assert_eq!(start.elapsed(), Duration::from_millis(10));
        assert!(budget.spend(async {}).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_waited_in_a_request_is_not_left_for_the_cache() {
        let whole = Duration::from_millis(50);
        one_request(async {
            charge_request(Duration::from_millis(30));
            assert_eq!(Budget::of_request(whole).left(), Duration::from_millis(20));
            charge_request(Duration::from_millis(30));
            assert!(Budget::of_request(whole).is_spent());
            let task = tokio::spawn(of_this_request(async move { Budget::of_request(whole).is_spent() }));
            assert!(task.await.unwrap(), "in its own task");
        })
        .await;
        assert_eq!(Budget::of_request(whole).left(), whole, "another request");
    }
}
