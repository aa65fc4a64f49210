//! Limits as operators look at them: the rate, and what Redis knows of one key.

use std::{net::IpAddr, num::NonZeroU32, time::Duration};

use tenantry_accounts::{TenantId, tenants::Plan};
use tenantry_cache::{Cache, Script};

use super::{
    Rate,
    attempts::{What, cells},
    global::{Cells, Global, name},
    quota::Quota,
};
use crate::config::Config;

/// How long an operator waits for Redis.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whom a limit is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Named<'a> {
    /// A client address.
    Address(IpAddr),
    /// Who is named by attempts.
    Attempt(What<'a>),
    /// A tenant, and what it pays for.
    Tenant(TenantId, Plan),
    /// A user or an API key.
    Caller,
}

/// One limit of one key.
pub(crate) struct Limit {
    /// As in `RateLimit-Policy` and in metrics.
    pub(crate) name: &'static str,
    pub(crate) rate: Rate,
    /// Where Redis counts it for all processes; else each counts for itself, and nobody else knows.
    shared: Option<(String, Cells)>,
}

/// What is left of it.
pub(crate) struct Shown {
    pub(crate) remaining: u32,
    /// How long until the next is let in.
    pub(crate) wait: Duration,
    pub(crate) whole_in: Duration,
}

impl Limit {
    /// Those of a key by the settings.
    pub(crate) fn of(config: &Config, named: Named<'_>) -> Vec<Self> {
        let alone = |name, rate| Self { name, rate, shared: None };
        let attempt = |what: What<'_>, rate| Self {
            name: what.limit(),
            rate,
            shared: cells(rate).map(|cells| (name(what.limit(), what.key()), cells)),
        };
        match named {
            Named::Address(address) => vec![
                alone("ip", config.rate_limit_ip),
                attempt(What::SignUp(address), config.rate_limit_register),
            ],
            Named::Attempt(what) => vec![attempt(what, config.rate_limit_login)],
            Named::Tenant(tenant, plan) => {
                let rate = config.tenant_rates().of(plan);
                let shared = Quota::new(rate).map(|quota| (quota.name(tenant), quota.cells));
                vec![Self { name: "tenant", rate, shared }]
            }
            Named::Caller => vec![alone("caller", config.rate_limit_caller)],
        }
    }

    /// Whether it is counted for all processes together, in Redis.
    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// What Redis knows of it. None: each process counts it by itself, or Redis does not answer.
    pub(crate) async fn show(&self, cache: &Cache) -> Option<Shown> {
        let (Some((name, cells)), Rate::Per(quota, _)) = (&self.shared, self.rate) else { return None };
        let script = Script::new("limit", include_str!("look.lua"));
        let answer = cache.redis()?.call(&script, name, &[], PATIENCE).await.ok()?;
        let &[until, now] = answer.as_slice() else { return None };
        let ahead = u64::try_from(until.saturating_sub(now)).unwrap_or_default().min(cells.burst);
        let free = (cells.burst - ahead) / cells.each;
        Some(Shown {
            remaining: u32::try_from(free).unwrap_or(u32::MAX).min(quota.get()),
            wait: Duration::from_micros((ahead + cells.each).saturating_sub(cells.burst)),
            whole_in: Duration::from_micros(ahead),
        })
    }

    /// Makes it whole again. False: Redis has not answered.
    pub(crate) async fn reset(&self, cache: &Cache) -> bool {
        let Some((name, cells)) = &self.shared else { return true };
        Global::new(cache.clone(), NonZeroU32::MIN).reset(name, *cells).await.is_some()
    }
}
