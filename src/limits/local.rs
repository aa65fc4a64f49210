//! Limits that each process counts by itself, by governor.

use std::{num::NonZeroU32, time::Duration};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock, QuantaInstant},
    middleware::{StateInformationMiddleware, StateSnapshot},
    nanos::Nanos,
    state::{InMemoryState, NotKeyed},
};

use super::{
    Rate,
    bounded::Bounded,
    policy::{Decision, Policy, Verdict},
};

/// A limit of many, each by a key of 16 bytes, however long the name was that it was made of.
pub(super) struct Local {
    limiter: RateLimiter<u128, Bounded<Nanos>, DefaultClock, StateInformationMiddleware>,
    policy: Policy,
}

impl Local {
    /// None where nothing is limited.
    pub(super) fn new(name: &'static str, rate: Rate) -> Option<Self> {
        let Rate::Per(n, period) = rate else { return None };
        let policy = Policy::new(name, n, period);
        let limiter = RateLimiter::new(quota(&policy)?, Bounded::new(), DefaultClock::default());
        Some(Self { limiter, policy })
    }

    /// Counts a request.
    pub(super) fn count(&self, key: u128, verdict: &mut Verdict) {
        verdict.add(&self.policy, decision(&self.policy, self.limiter.check_key(&key)));
    }

    /// Forgets those whose allowance is whole again: the map would otherwise grow up to its bound.
    pub(super) fn forget(&self) {
        self.limiter.retain_recent();
        metrics::gauge!("tenantry_limit_entries", "scope" => self.policy.name).set(self.limiter.len() as f64);
    }
}

/// The limit of one API key.
pub(crate) struct KeyLimit(
    Option<(RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>, Policy)>,
);

impl KeyLimit {
    pub(crate) fn per_minute(requests: i32) -> Self {
        let n = u32::try_from(requests).ok().and_then(NonZeroU32::new);
        let policy = n.map(|n| Policy::new("api_key", n, Duration::from_secs(60)));
        let limit = policy.and_then(|policy| Some((quota(&policy)?, policy)));
        Self(limit.map(|(quota, policy)| (RateLimiter::direct(quota).with_middleware(), policy)))
    }

    /// Counts a request.
    pub(super) fn count(&self, verdict: &mut Verdict) {
        if let Some((limiter, policy)) = &self.0 {
            verdict.add(policy, decision(policy, limiter.check()));
        }
    }
}

fn quota(policy: &Policy) -> Option<Quota> {
    Some(Quota::with_period(policy.each())?.allow_burst(policy.quota))
}

fn decision(policy: &Policy, decided: Result<StateSnapshot, NotUntil<QuantaInstant>>) -> Decision {
    match decided {
        Ok(state) => {
            let remaining = state.remaining_burst_capacity();
            let used = policy.quota.get().saturating_sub(remaining);
            Decision::Admitted { remaining, whole_in: policy.each() * used }
        }
        Err(refusal) => Decision::Refused { wait: refusal.wait_time_from(DefaultClock::default().now()) },
    }
}
