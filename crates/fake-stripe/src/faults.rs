//! What goes wrong on purpose, and the dice that decide when.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};

/// What goes wrong on purpose. Whatever is not named is off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Seeds the dice anew.
    pub seed: Option<u64>,
    /// Requests to `/v1`.
    pub api: ApiFaults,
    /// Deliveries of webhooks.
    pub webhooks: WebhookFaults,
}

/// Shares (0 to 1) of the requests to `/v1` that go wrong.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiFaults {
    /// 429 before anything is done.
    pub rate_limited: f64,
    /// 500 before anything is done.
    pub failed: f64,
    /// 500 although it is done. Stripe keeps this answer under the idempotency key, and so does the fake.
    pub failed_after: f64,
    /// The connection is closed before anything is done.
    pub cut: f64,
    /// The connection is closed instead of the answer.
    pub cut_after: f64,
    /// Milliseconds that a request takes, from and to; a part of it passes before, the rest after the work.
    pub latency_ms: (u64, u64),
    /// The share of subscriptions asked for by id that are told as they were `stale_seconds` ago, as from a copy that lags behind.
    pub stale: f64,
    /// How far that copy lags.
    pub stale_seconds: i64,
    /// More requests than this within a second are answered with 429. Nothing: any number.
    pub per_second: Option<u32>,
}

/// What goes wrong with webhooks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookFaults {
    /// The share of events that are never delivered.
    pub lost: f64,
    /// How many times an event is delivered, from and to.
    pub copies: (u32, u32),
    /// Each delivery waits a random time up to this, so that they come in any order.
    pub shuffle_ms: u64,
    /// Each delivery waits this long besides.
    pub delay_ms: u64,
    /// Off: deliveries are held until `POST /_fake/deliver`, or until this is on again.
    pub deliver: bool,
    /// How many deliveries are under way at a time.
    pub concurrency: usize,
    /// Milliseconds before the second, third, ... attempt; after the last the delivery is given up.
    pub retry_ms: Vec<u64>,
}

impl Default for WebhookFaults {
    fn default() -> Self {
        Self {
            lost: 0.0,
            copies: (1, 1),
            shuffle_ms: 0,
            delay_ms: 0,
            deliver: true,
            concurrency: 8,
            retry_ms: vec![100, 300, 1000, 3000, 10_000, 30_000],
        }
    }
}

impl Faults {
    /// What makes no sense, in words.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let (api, webhooks) = (&self.api, &self.webhooks);
        let shares = [
            api.rate_limited,
            api.failed,
            api.failed_after,
            api.cut,
            api.cut_after,
            api.stale,
            webhooks.lost,
        ];
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) {
            return Some("shares are between 0 and 1");
        }
        if api.latency_ms.0 > api.latency_ms.1 || webhooks.copies.0 > webhooks.copies.1 {
            return Some("the first of two bounds is the lower one");
        }
        (webhooks.copies.0 == 0 || webhooks.concurrency == 0)
            .then_some("copies and concurrency are 1 or more")
    }
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Fate {
    Fine,
    RateLimited,
    Failed,
    FailedAfter,
    Cut,
    CutAfter,
}

/// What becomes of one event at one endpoint: the wait of each copy; none for one that is lost.
pub(crate) type Waits = Vec<Duration>;

/// Dice of their own for requests and for webhooks: how many requests there are changes nothing for the webhooks.
pub(crate) struct Dice {
    api: StdRng,
    webhooks: StdRng,
    /// When the requests of the last second came.
    recent: VecDeque<Instant>,
}

impl Default for Dice {
    fn default() -> Self {
        Self::new(rand::random())
    }
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        let webhooks = StdRng::seed_from_u64(seed.wrapping_add(1));
        Self { api: StdRng::seed_from_u64(seed), webhooks, recent: VecDeque::new() }
    }

    pub(crate) fn request(&mut self, faults: &ApiFaults) -> Fate {
        if let Some(limit) = faults.per_second {
            let now = Instant::now();
            while self.recent.front().is_some_and(|then| now.duration_since(*then) >= Duration::from_secs(1))
            {
                self.recent.pop_front();
            }
            if self.recent.len() >= limit as usize {
                return Fate::RateLimited;
            }
            self.recent.push_back(now);
        }
        let fates = [
            (faults.rate_limited, Fate::RateLimited),
            (faults.failed, Fate::Failed),
            (faults.failed_after, Fate::FailedAfter),
            (faults.cut, Fate::Cut),
            (faults.cut_after, Fate::CutAfter),
        ];
        fates.into_iter().find(|(share, _)| self.api.random_bool(*share)).map_or(Fate::Fine, |(_, fate)| fate)
    }

    /// How many seconds ago what is told was true; none: it is true now.
    pub(crate) fn lag(&mut self, faults: &ApiFaults) -> Option<i64> {
        (faults.stale > 0.0 && self.api.random_bool(faults.stale)).then_some(faults.stale_seconds)
    }

    /// How long a request waits before its work and after it.
    pub(crate) fn latency(&mut self, faults: &ApiFaults) -> (Duration, Duration) {
        let (from, to) = faults.latency_ms;
        let total = self.api.random_range(from..=to);
        let before = self.api.random_range(0..=total);
        (Duration::from_millis(before), Duration::from_millis(total - before))
    }

    pub(crate) fn event(&mut self, faults: &WebhookFaults) -> Waits {
        let lost = self.webhooks.random_bool(faults.lost);
        let copies = self.webhooks.random_range(faults.copies.0..=faults.copies.1);
        let waits: Waits = (0..copies)
            .map(|_| {
                Duration::from_millis(faults.delay_ms + self.webhooks.random_range(0..=faults.shuffle_ms))
            })
            .collect();
        if lost { vec![] } else { waits }
    }

    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        list.shuffle(&mut self.webhooks);
    }
}
