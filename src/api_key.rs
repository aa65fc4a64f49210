//! API keys as a process knows them: looked up once, remembered for as long as an access token would live, and dropped
//! when the feed says that they have ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;
use tenantry_accounts::{
    Actor, ApiKeyId, App, Error, Network, TenantId, Who,
    api_keys::{self, Presented, Scope, Used, Valid},
    revocations::Revocations,
    tenants::Plan,
    users::Role,
};

use crate::limits::KeyLimit;

/// How many a process remembers.
const REMEMBERED: usize = 10_000;

/// Of how many it remembers what they have used: more, so that one that is forgotten is not whole again.
const LIMITS: usize = 40_000;

/// A key that worked when it was looked up.
pub(crate) struct ApiKey {
    valid: Valid,
    /// From before its row was read: what was revoked since is in the feed for at least as long as this is remembered.
    read_at: Instant,
    limit: Arc<KeyLimit>,
}

impl ApiKey {
    pub(crate) fn id(&self) -> ApiKeyId {
        self.valid.id
    }

    pub(crate) fn tenant(&self) -> (TenantId, &str) {
        (self.valid.tenant, &self.valid.tenant_slug)
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.valid.scopes.contains(&scope)
    }

    pub(crate) fn scopes(&self) -> &[Scope] {
        &self.valid.scopes
    }

    /// When it ends, in Unix seconds.
    pub(crate) fn expires_at(&self) -> i64 {
        self.valid.expires_at.timestamp()
    }

    /// Who asks with it, in its own tenant.
    pub(crate) fn actor(&self, from: Option<Network>) -> Actor {
        let tenant = self.valid.tenant;
        Actor { tenant, home: tenant, who: Who::ApiKey(self.valid.id), role: Role::Admin, from }
    }

    /// The key's own limit.
    pub(crate) fn limit(&self) -> &KeyLimit {
        &self.limit
    }

    /// What its tenant pays for, as of when the key was looked up.
    pub(crate) fn plan(&self) -> Plan {
        self.valid.tenant_plan
    }
}

/// The keys that a process knows.
pub(crate) struct ApiKeys {
    remembered: quick_cache::sync::Cache<Vec<u8>, Arc<ApiKey>>,
    /// By key: they do not begin anew when a key is looked up again.
    limits: quick_cache::sync::Cache<ApiKeyId, Arc<KeyLimit>>,
    /// As long as an access token lives, no longer: so long is what was revoked remembered.
    ttl: Duration,
    used: Mutex<HashMap<(TenantId, ApiKeyId), chrono::DateTime<Utc>>>,
}

impl ApiKeys {
    pub(crate) fn new(ttl: Duration) -> Self {
        let remembered = quick_cache::sync::Cache::new(REMEMBERED);
        Self { remembered, limits: quick_cache::sync::Cache::new(LIMITS), ttl, used: Mutex::default() }
    }

    /// The key if it was looked up lately and still stands, as far as this process knows. Without I/O.
    pub(crate) fn remembered(&self, revocations: &Revocations, key: &Presented) -> Option<Arc<ApiKey>> {
        let known = self.remembered.get(key.digest())?;
        let Valid { id, tenant, tenant_version, expires_at, .. } = &known.valid;
        let stands = known.read_at.elapsed() < self.ttl
            && *expires_at > Utc::now()
            && revocations.api_key_stands(*tenant, *id, *tenant_version);
        stands.then(|| self.note(known.clone()))
    }

    /// Asks the database about a key.
    pub(crate) async fn look_up(&self, app: &App, key: &Presented) -> Result<Option<Arc<ApiKey>>, Error> {
        let read_at = Instant::now();
        let Some(valid) = api_keys::check(app, key).await? else {
            self.remembered.remove(key.digest());
            return Ok(None);
        };
        // One of those that look it up at the same time makes it.
        let make = || Ok::<_, Error>(Arc::new(KeyLimit::per_minute(valid.requests_per_minute)));
        let limit = self.limits.get_or_insert_with(&valid.id, make)?;
        let found = Arc::new(ApiKey { valid, read_at, limit });
        self.remembered.insert(key.digest().to_vec(), found.clone());
        Ok(Some(self.note(found)))
    }

    fn note(&self, key: Arc<ApiKey>) -> Arc<ApiKey> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert((key.valid.tenant, key.valid.id), Utc::now());
        drop(used);
        key
    }

    /// Writes down when keys were used since the last time.
    pub(crate) async fn write_down(&self, app: &App) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let mut rows: Vec<_> = used.iter().map(|(&(tenant, id), &at)| Used { tenant, id, at }).collect();
        // In one order for all processes, or two would wait for each other.
        rows.sort_by_key(|used| (used.tenant, used.id));
        if let Err(error) = api_keys::note_used(app, &rows).await {
            tracing::warn!("when API keys were last used is noted later: {}", crate::error::sources(&error));
            let mut since = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, at) in used {
                since.entry(key).or_insert(at);
            }
        }
    }
}
