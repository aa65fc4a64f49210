use std::time::Duration;

use tokio::time::{Instant, timeout};

/// The time one request may spend on Redis, over all of its calls and waits. Time spent elsewhere, such as in Postgres
/// between two calls, does not count. The clock is monotonic.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Duration);

impl Budget {
    pub(crate) const fn new(whole: Duration) -> Self {
        Self(whole)
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.0.is_zero()
    }

    /// What is left.
    pub(crate) const fn left(&self) -> Duration {
        self.0
    }

    /// Leaves no more than `most`.
    pub(crate) fn cap(&mut self, most: Duration) {
        self.0 = self.0.min(most);
    }

    /// Runs `work` for as long as time is left; `None` when it ran out. With nothing left `work` is not even started.
    pub(crate) async fn spend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_spent() {
            return None;
        }
        let start = Instant::now();
        // An answer may lie there for as long as the process was stopped: what is looked at too late came too late.
        let in_time = |_: &T| start.elapsed() <= self.0;
        let done = timeout(self.0, work).await.ok().filter(in_time);
        self.0 = if done.is_some() { self.0.saturating_sub(start.elapsed()) } else { Duration::ZERO };
        done
    }

    /// Runs `work` to its end and charges all of its time, for work that spends a clone of this budget and does other
    /// things as well.
    pub(crate) async fn charge<T>(&mut self, work: impl Future<Output = T>) -> T {
        let start = Instant::now();
        let done = work.await;
        self.0 = self.0.saturating_sub(start.elapsed());
        done
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
}
