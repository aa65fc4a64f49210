//! Limits as clients are told of them: draft-ietf-httpapi-ratelimit-headers-11.

use std::{num::NonZeroU32, time::Duration};

use poem::http::{HeaderName, HeaderValue};

use crate::{digits::whole, error::ApiError};

pub(crate) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(crate) const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// A limit.
#[derive(Debug)]
pub(super) struct Policy {
    /// Its name in headers, in answers and in `tenantry_rate_limited_total`.
    pub(super) name: &'static str,
    pub(super) quota: NonZeroU32,
    pub(super) period: Duration,
    /// As an item of `RateLimit-Policy`.
    item: String,
}

impl Policy {
    pub(super) fn new(name: &'static str, quota: NonZeroU32, period: Duration) -> Self {
        let item = format!("\"{name}\";q={quota};w={}", period.as_secs().max(1));
        Self { name, quota, period, item }
    }

    /// In how long one request is replenished.
    pub(super) fn each(&self) -> Duration {
        self.period / self.quota.get()
    }
}

/// What became of a request by one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// So many more may follow at once; all are replenished after this time.
    Admitted { remaining: u32, whole_in: Duration },
    /// After this time it may come again.
    Refused { wait: Duration },
}

/// What all limits that a request was counted against have said of it.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    policies: String,
    states: String,
    /// The limit that refuses for the longest time, and for how long.
    refused: Option<(&'static str, Duration)>,
}

impl Verdict {
    pub(super) fn add(&mut self, policy: &Policy, decision: Decision) {
        let (remaining, time) = match decision {
            Decision::Admitted { remaining, whole_in } => (remaining, whole_in),
            Decision::Refused { wait } => {
                if self.refused.is_none_or(|(_, longest)| longest < wait) {
                    self.refused = Some((policy.name, wait));
                }
                (0, wait)
            }
        };
        if self.policies.is_empty() {
            // For two of them.
            self.policies.reserve(64);
            self.states.reserve(64);
        } else {
            self.policies.push_str(", ");
            self.states.push_str(", ");
        }
        self.policies.push_str(&policy.item);
        self.states.push('"');
        self.states.push_str(policy.name);
        self.states.push_str("\";r=");
        whole(&mut self.states, remaining.into());
        self.states.push_str(";t=");
        whole(&mut self.states, seconds(time));
    }

    /// Whether no limit has refused it so far.
    pub(crate) fn is_admitted(&self) -> bool {
        self.refused.is_none()
    }

    /// After the longest of the waits all of them let it in, if nobody else comes in between. Counts the refusal.
    pub(crate) fn result(&self) -> Result<(), ApiError> {
        match self.refused {
            None => Ok(()),
            Some((name, wait)) => {
                refused(name);
                Err(ApiError::too_many(name, seconds(wait)))
            }
        }
    }

    /// What is said of the limits, as [`POLICY`] and as [`STATE`] say it, if it was counted against any.
    pub(crate) fn headers(&self) -> Option<(HeaderValue, HeaderValue)> {
        if self.policies.is_empty() {
            return None;
        }
        Some((HeaderValue::from_str(&self.policies).ok()?, HeaderValue::from_str(&self.states).ok()?))
    }
}

/// Counts a refusal.
pub(super) fn refused(limit: &'static str) {
    metrics::counter!("tenantry_rate_limited_total", "scope" => limit).increment(1);
}

/// Upwards, so that it is not too early to come again.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
