//! What all processes share of a limit: one number in Redis, and what of it is owed while Redis does not answer.

mod known;

use std::{
    fmt::Write,
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use tenantry_cache::{Cache, RedisRun, Script, Unreachable};
use tokio::{sync::oneshot, time::timeout};

pub(super) use self::known::{Known, Taken, Told, Unused};
use super::policy::Policy;

/// Later than any limit is whole again, and still counted exactly by a script in Lua.
const LATEST: u64 = 1 << 52;

/// As the birth of what is given back: whichever Redis holds.
const ANY: u64 = 0;

/// For how many milliseconds Redis keeps that nothing of a limit is used.
const WHOLE: i64 = 10_000;

/// How long Redis may take. No request waits for so long; but what is taken or given back late is not lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// Limits in Redis.
pub(super) struct Global {
    cache: Cache,
    script: Script,
    /// How many processes share a limit that each has to keep by itself.
    replicas: NonZeroU32,
    has_complained: AtomicBool,
}

/// How a limit is kept: by the generic cell rate algorithm, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cells {
    /// One is replenished in this time.
    pub(super) each: u64,
    /// So far ahead may be taken.
    pub(super) burst: u64,
}

/// Redis has said nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// It was not asked, since it has not answered others.
    NotAsked,
    /// It may have heard.
    MayHaveHeard,
}

/// What Redis is asked of a limit.
pub(super) struct Question<'a> {
    pub(super) name: &'a str,
    pub(super) cells: Cells,
    /// So many are taken, or as many as there are.
    pub(super) want: u32,
    /// What is known of it, and owed to it.
    pub(super) told: Told,
    /// What is given back.
    pub(super) unused: &'a [Unused],
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
        let script = Script::new("limit", include_str!("../limit.lua"));
        Self { cache, script, replicas, has_complained: AtomicBool::new(false) }
    }

    /// Takes what is wanted, tells Redis what it is to know, and gives back what was not used. Where Redis is silent the
    /// limit is [kept here](Known::take).
    pub(super) async fn take(&self, question: Question<'_>) -> Result<Taken, Silence> {
        let whole = question.cells.keep().min(WHOLE);
        self.ask(question, whole).await
    }

    /// Makes a limit whole again. What is there stays there and says so, or processes would tell what they know of it.
    pub(super) async fn reset(&self, name: &str, cells: Cells) -> Option<()> {
        let all = Unused { count: u32::MAX, until: LATEST, run: self.run()?.1, born: ANY };
        let question = Question { name, cells, want: 0, told: Told::default(), unused: &[all] };
        self.ask(question, cells.keep()).await.ok()?;
        Some(())
    }

    /// `whole`: for how long what is whole is kept.
    async fn ask(&self, question: Question<'_>, whole: i64) -> Result<Taken, Silence> {
        let Question { name, cells, want, told, unused } = question;
        let (redis, run) = self.run().ok_or(Silence::NotAsked)?;
        // What another run has said is not what this one holds.
        let seen = if told.run == run { told.born } else { 0 };
        let mut arguments = vec![
            signed(cells.each),
            signed(cells.burst),
            i64::from(want),
            signed(micros(told.ahead.as_micros())),
            signed(seen),
            signed(micros(told.owed.as_micros())) - signed(micros(told.back.as_micros())),
            cells.keep(),
            whole,
        ];
        for unused in unused.iter().filter(|unused| unused.run == run) {
            arguments.extend([i64::from(unused.count), signed(unused.until), signed(unused.born)]);
        }
        let answer = redis.call(&self.script, name, &arguments, PATIENCE).await;
        self.complain(answer.as_ref().err());
        match answer {
            Ok(numbers) => read(&numbers, cells, run).ok_or(Silence::MayHaveHeard),
            Err(Unreachable::GivenUp) => Err(Silence::NotAsked),
            Err(_) => Err(Silence::MayHaveHeard),
        }
    }

    /// The Redis that there is, and a number that tells its run from others; never 0.
    fn run(&self) -> Option<(RedisRun, u32)> {
        let redis = self.cache.redis()?;
        let run = u32::from_str_radix(redis.run(), 16).ok()?.max(1);
        Some((redis, run))
    }

    /// Says once that Redis refuses to count, until it does again: to the breaker of the cache an error is an answer.
    fn complain(&self, error: Option<&Unreachable>) {
        let refusal = error.filter(|error| error.is_refusal());
        if let Some(error) = refusal
            && !self.has_complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "redis does not count limits, each process does by itself: {}",
                crate::error::sources(error)
            );
        } else if error.is_none() {
            self.has_complained.store(false, Ordering::Relaxed);
        }
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

/// What the script has answered.
fn read(numbers: &[i64], cells: Cells, run: u32) -> Option<Taken> {
    let &[count, until, now, born] = numbers else { return None };
    let (until, now) = (u64::try_from(until).ok()?, u64::try_from(now).ok()?);
    Some(Taken {
        count: u32::try_from(count).ok()?,
        until,
        ahead: Duration::from_micros(until.saturating_sub(now)),
        wait: Duration::from_micros((until + cells.each).saturating_sub(now + cells.burst)),
        run,
        born: u64::try_from(born).ok()?,
    })
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
