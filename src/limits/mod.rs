//! Limits of requests.
//!
//! By client address, by caller and by API key each process counts for itself ([`local`]). What a tenant may ask for by its
//! plan ([`quota`]) and the attempts that name somebody ([`attempts`]) are counted in Redis for all processes together
//! ([`global`]). A Redis that is away opens nothing and closes nothing: then each process lets in its share of the rate.

mod address;
mod attempts;
mod bounded;
mod buckets;
mod global;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod local;
mod policy;
mod quota;
mod rate;
mod show;
mod spelling;

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;
use poem::http::HeaderMap;
use tenantry_accounts::{App, Error, tenants::Plan};
use tenantry_cache::Cache;

pub(crate) use self::{
    address::{bucket, canonical},
    attempts::{Attempts, What},
    local::KeyLimit,
    policy::{POLICY, STATE, Verdict},
    quota::ByPlan,
    rate::Rate,
    show::{Limit, Named, Shown},
};
use self::{global::Global, local::Local, quota::Quotas, spelling::Spelling};
use crate::{caller::Credential, config::Config};

/// Gauges and maps are looked after this often.
pub(crate) const FORGET_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// The limits of a process.
pub(crate) struct Limits {
    trusted: Vec<IpNet>,
    by_address: Option<Local>,
    by_caller: Option<Local>,
    quotas: Arc<Quotas>,
    pub(crate) attempts: Arc<Attempts>,
    spelling: Spelling,
    /// Whether attempts that name a tenant are counted.
    names: bool,
}

impl Limits {
    pub(crate) fn new(config: &Config, cache: &Cache) -> Self {
        let global = Arc::new(Global::new(cache.clone(), config.api_replicas));
        Self {
            trusted: config.trusted_proxies.clone(),
            by_address: Local::new("ip", config.rate_limit_ip),
            by_caller: Local::new("caller", config.rate_limit_caller),
            quotas: Arc::new(Quotas::new(global.clone(), config.tenant_rates())),
            attempts: Arc::new(Attempts::new(global, config.rate_limit_login, config.rate_limit_register)),
            spelling: Spelling::new(),
            names: config.rate_limit_login != Rate::Off,
        }
    }

    /// The client's address, past the trusted proxies.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        address::client(&self.trusted, peer, headers)
    }

    /// Counts a request by the client's address.
    pub(crate) fn count_address(&self, client: IpAddr, verdict: &mut Verdict) {
        if let Some(limit) = &self.by_address {
            limit.count(bucket(client), verdict);
        }
    }

    /// Counts a request of somebody who is known, and against the quota of the tenant they belong to. What one of their own
    /// limits refuses costs the others and the tenant nothing.
    pub(crate) async fn count_caller(&self, credential: &Credential, verdict: &mut Verdict) {
        let (caller, tenant, plan) = match credential {
            Credential::None => return,
            // A token from before there were plans in tokens.
            Credential::Token(claims) => (claims.sub.0, claims.tid, claims.plan.unwrap_or(Plan::Enterprise)),
            Credential::Key(key) => {
                key.limit().count(verdict);
                (key.id().0, key.tenant().0, key.plan())
            }
        };
        if let Some(limit) = self.by_caller.as_ref().filter(|_| verdict.is_admitted()) {
            limit.count(caller.as_u128(), verdict);
        }
        if verdict.is_admitted() {
            self.quotas.count(tenant, plan, verdict).await;
        } else {
            self.quotas.look(tenant, plan, verdict);
        }
    }

    /// The one name of a tenant that attempts are counted by, however it was named.
    pub(crate) async fn tenant(&self, app: &App, reference: &str) -> Result<String, Error> {
        if self.names { self.spelling.of(app, reference).await } else { Ok(reference.to_owned()) }
    }

    /// Forgets those who have all of their allowance again.
    pub(crate) fn forget(&self) {
        for limit in [&self.by_address, &self.by_caller].into_iter().flatten() {
            limit.forget();
        }
        self.quotas.forget();
        self.attempts.forget();
    }
}
