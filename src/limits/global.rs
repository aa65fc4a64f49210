//! What all processes share of a limit: one number in Redis, and what of it is owed while Redis does not answer.

use std::{
    fmt::Write,
    num::NonZeroU32,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tenantry_cache::{Cache, Script};
use tokio::{sync::oneshot, time::timeout};

use super::policy::Policy;

/// Later than any limit is whole again, and still counted exactly by a script in Lua.
const LATEST: u64 = 1 << 52;

/// How long Redis may take. No request waits for so long; but what is taken or given back late is not lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Limits in Redis.
pub(super) struct Global {
    cache: Cache,
    script: Script,
    /// How many processes share a limit that each has to keep by itself.
    replicas: NonZeroU32,
}

/// How a limit is kept: by the generic cell rate algorithm, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells {
    /// One is replenished in this time.
    pub(super) each: u64,
    /// So far ahead may be taken.
    pub(super) burst: u64,
}

/// What a process knows of a limit that Redis keeps. Times are those since the process began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// When all there is will have been replenished.
    pub(super) until: Duration,
    /// The run of Redis that said so; 0 for none.
    pub(super) run: u32,
    /// What this process has let in by itself since, of which Redis has not been told.
    pub(super) owed: u32,
}

/// What Redis has given, or nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) count: u32,
    /// Until when that and all else is replenished, by the clock of Redis.
    pub(super) until: u64,
    /// How far that is ahead.
    pub(super) ahead: Duration,
    /// After this time another may be taken.
    pub(super) wait: Duration,
    /// The run of Redis that has given it.
    pub(super) run: u32,
}

/// What was taken and not used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unused {
    pub(super) count: u32,
    pub(super) until: u64,
    pub(super) run: u32,
}

impl Cells {
    /// Those of a policy, of whose period `lease` is kept back: what is taken may be used for so long.
    pub(super) fn new(policy: &Policy, lease: Duration) -> Self {
        let each = policy.period.as_nanos().div_ceil(u128::from(policy.quota.get()) * 1000);
        Self { each: micros(each).max(1), burst: micros((policy.period - lease).as_micros()).max(1) }
    }

    /// How long Redis keeps what nobody asks for: by then it is whole again, whatever was known of it.
    fn keep(self) -> i64 {
        signed(self.burst.max(self.each) / 1000 + 1)
    }
}

impl Global {
    pub(super) fn new(cache: Cache, replicas: NonZeroU32) -> Self {
        Self { cache, script: Script::new("limit", include_str!("limit.lua")), replicas }
    }

    /// Takes up to `want` under `name`, tells Redis what it is owed, and gives back what was not used. None: Redis does not
    /// answer, and the limit is [kept here](Known::take).
    pub(super) async fn take(
        &self,
        name: &str,
        cells: Cells,
        want: u32,
        (known, now): (Known, Duration),
        unused: &[Unused],
    ) -> Option<Taken> {
        let redis = self.cache.redis()?;
        let run = u32::from_str_radix(redis.run(), 16).ok()?.max(1);
        // What another run knew is lost with it, and what this one knows is told by it.
        let is_news = known.run != run;
        let owed = if is_news { 0 } else { known.owed };
        let ahead = signed(micros(known.until.saturating_sub(now).as_micros()));
        let mut arguments = vec![
            signed(cells.each),
            signed(cells.burst),
            i64::from(want),
            ahead,
            i64::from(is_news),
            i64::from(owed),
            cells.keep(),
        ];
        for unused in unused.iter().filter(|unused| unused.run == run) {
            arguments.extend([i64::from(unused.count), signed(unused.until)]);
        }
        let answer = redis.call(&self.script, name, &arguments, PATIENCE).await.ok()?;
        let &[count, until, redis_now] = answer.as_slice() else { return None };
        let (until, redis_now) = (u64::try_from(until).ok()?, u64::try_from(redis_now).ok()?);
        Some(Taken {
            count: u32::try_from(count).ok()?,
            until,
            ahead: Duration::from_micros(until.saturating_sub(redis_now)),
            wait: Duration::from_micros((until + cells.each).saturating_sub(redis_now + cells.burst)),
            run,
        })
    }

    /// Makes a limit whole again. What is there stays there and says so, or processes would tell what they know of it.
    pub(super) async fn reset(&self, name: &str, cells: Cells) -> Option<()> {
        let redis = self.cache.redis()?;
        let run = u32::from_str_radix(redis.run(), 16).ok()?.max(1);
        let known = Known { run, ..Known::default() };
        let all = Unused { count: u32::MAX, until: LATEST, run };
        self.take(name, cells, 0, (known, Duration::ZERO), &[all]).await?;
        Some(())
    }

    /// Waits for what somebody asks Redis, for no longer than a request may. Whoever asks goes on by themselves: what they are
    /// told when nobody waits any more is theirs to make good.
    pub(super) async fn wait<T>(&self, answer: oneshot::Receiver<T>) -> Option<T> {
        let begun = Instant::now();
        let answer = timeout(self.cache.redis_time_left(), answer).await;
        tenantry_cache::charge_request(begun.elapsed());
        answer.ok()?.ok()
    }

    pub(super) fn replicas(&self) -> NonZeroU32 {
        self.replicas
    }
}

impl Known {
    /// Takes note of what Redis has said to somebody who knew of `told` as owed.
    pub(super) fn learn(&mut self, taken: &Taken, told: Known, now: Duration) {
        // Others may have been let in meanwhile of whom Redis does not know yet.
        let owed = self.owed.saturating_sub(told.owed);
        *self = Self { until: now + taken.ahead, run: taken.run, owed };
    }

    /// Lets one in by what this process knows, at its share of the rate, or tells how long that has to wait. One is always let
    /// in when there is nothing to be replenished: the share of a process is never nothing.
    pub(super) fn take(&mut self, cells: Cells, replicas: NonZeroU32, now: Duration) -> Result<(), Duration> {
        let each = Duration::from_micros(cells.each.saturating_mul(replicas.get().into()));
        let burst = Duration::from_micros(cells.burst).max(each);
        let until = self.until.max(now) + each;
        let wait = until.saturating_sub(now + burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        (self.until, self.owed) = (until, self.owed.saturating_add(1));
        Ok(())
    }

    /// Gives one back that was let in here.
    pub(super) fn give_back(&mut self, cells: Cells, replicas: NonZeroU32) {
        if self.owed > 0 {
            let each = Duration::from_micros(cells.each.saturating_mul(replicas.get().into()));
            (self.until, self.owed) = (self.until.saturating_sub(each), self.owed - 1);
        }
    }
}

/// 16 bytes, however long the parts are: neither memory nor Redis holds addresses of people or machines.
pub(super) fn digest(parts: &[&str]) -> u128 {
    let hash = Sha256::digest(parts.join("\0"));
    hash.iter().take(16).fold(0, |key, byte| key << 8 | u128::from(*byte))
}

/// The name of a limit in Redis.
pub(super) fn name(limit: &str, key: u128) -> String {
    let mut name = String::with_capacity(48);
    // Writing to a string does not fail.
    let _ = write!(name, "l:{limit}:{key:032x}");
    name
}

fn micros(n: u128) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn cells(quota: u32, seconds: u64) -> Cells {
        let quota = NonZeroU32::new(quota).unwrap();
        Cells::new(&Policy::new("test", quota, at(seconds)), Duration::ZERO)
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn by_itself_a_process_lets_its_share_in_at_once_and_then_evenly() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        for _ in 0..3 {
            assert_eq!(known.take(cells, TWO, at(100)), Ok(()));
        }
        assert_eq!(known.take(cells, TWO, at(100)), Err(at(10)));
        // Those that are refused do not count.
        assert_eq!(known.take(cells, TWO, at(109)), Err(at(1)));
        assert_eq!(known.take(cells, TWO, at(110)), Ok(()));
        assert_eq!(known.take(cells, TWO, at(110)), Err(at(10)));
        assert_eq!(known.owed, 4);
        known.give_back(cells, TWO);
        assert_eq!(known.take(cells, TWO, at(110)), Ok(()));
        assert_eq!(known.take(cells, TWO, at(110)), Err(at(10)));
    }

    #[test]
    fn a_share_is_of_what_is_left_and_never_nothing() {
        // Four of six are used up: one of the two that are left is ours.
        let mut known = Known { until: at(120), ..Known::default() };
        assert_eq!(known.take(cells(6, 30), TWO, at(100)), Ok(()));
        assert_eq!(known.take(cells(6, 30), TWO, at(100)), Err(at(10)));
        // Half of one an hour is one in two hours.
        let mut known = Known::default();
        assert_eq!(known.take(cells(1, 3600), TWO, at(100)), Ok(()));
        assert_eq!(known.take(cells(1, 3600), TWO, at(100)), Err(at(7200)));
        assert_eq!(known.take(cells(1, 3600), TWO, at(7300)), Ok(()));
    }

    #[test]
    fn what_redis_was_told_is_owed_no_more_and_what_came_since_is() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        known.take(cells, TWO, at(100)).unwrap();
        let told = known;
        known.take(cells, TWO, at(100)).unwrap();
        let taken = Taken { count: 1, until: 0, ahead: at(15), wait: Duration::ZERO, run: 7 };
        known.learn(&taken, told, at(101));
        assert_eq!((known.until, known.run, known.owed), (at(116), 7, 1));
    }
}
