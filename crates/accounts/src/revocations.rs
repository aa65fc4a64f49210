//! What stopped being valid, as this node knows it: asked at every request, without I/O.
//!
//! An access token lives for minutes. What ends it earlier is a row of `tenantry.revocations`, written in the
//! transaction of the change, which every node reads within a quarter of a second (see [`feed`](crate::feed)). The node
//! that made the change knows at once. Versions are compared, never times: a token says which `auth_version` of its user
//! and of its tenant it was made of.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::db::Transaction;
use ahash::RandomState;
use uuid::Uuid;

use crate::{ApiKeyId, Result, SessionId, TenantId, UserId};

/// What an access token stands on.
#[derive(Debug, Clone, Copy)]
pub struct Basis {
    /// The user's tenant.
    pub tenant: TenantId,
    /// The user.
    pub user: UserId,
    /// The session.
    pub session: SessionId,
    /// `users.auth_version` when the token was made.
    pub user_version: i64,
    /// `tenants.auth_version` when the token was made.
    pub tenant_version: i64,
}

/// What a row of the feed is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Session(Uuid),
    User(Uuid),
    ApiKey(Uuid),
    Tenant,
}

/// Something that stopped being valid: a session as such, of a user or a tenant what is older than a version.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Revocation {
    pub(crate) tenant: TenantId,
    pub(crate) subject: Subject,
    /// For a session the highest number there is: no token of it stands.
    pub(crate) min_version: i64,
}

/// What this node knows to be void.
#[derive(Debug)]
pub struct Revocations {
    void: RwLock<HashMap<(TenantId, Subject), Void, RandomState>>,
    /// How long a token lives, at most: what is void is remembered as long. In milliseconds.
    lifetime: AtomicU64,
    start: Instant,
    /// When the feed was last known to hold no more than we know, in milliseconds since the start; 0 for never.
    known_at: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Void {
    min_version: i64,
    /// When this node learned of it last.
    since: Instant,
}

impl Revocations {
    /// Knows nothing yet. `lifetime` is that of the access tokens that this process issues.
    pub fn new(lifetime: Duration) -> Self {
        Self {
            void: RwLock::default(),
            lifetime: AtomicU64::new(millis(lifetime)),
            start: Instant::now(),
            known_at: AtomicU64::new(0),
        }
    }

    /// Whether nothing that a token stands on has been revoked, as far as this node knows.
    pub fn stands(&self, basis: &Basis) -> bool {
        let void = self.void.read().unwrap_or_else(PoisonError::into_inner);
        let older = |subject, version| {
            void.get(&(basis.tenant, subject)).is_some_and(|void| version < void.min_version)
        };
        void.is_empty()
            || !(older(Subject::Session(basis.session.0), 0)
                || older(Subject::User(basis.user.0), basis.user_version)
                || older(Subject::Tenant, basis.tenant_version))
    }

    /// The same for an API key whose row was read when its tenant was at `tenant_version`.
    pub fn api_key_stands(&self, tenant: TenantId, key: ApiKeyId, tenant_version: i64) -> bool {
        let void = self.void.read().unwrap_or_else(PoisonError::into_inner);
        let older =
            |subject, version| void.get(&(tenant, subject)).is_some_and(|void| version < void.min_version);
        !(older(Subject::ApiKey(key.0), 0) || older(Subject::Tenant, tenant_version))
    }

    /// How long ago this node last knew everything: a revocation that is older is known here. Counted on a monotonic
    /// clock, from before the look that found it out.
    pub fn lag(&self) -> Duration {
        match self.known_at.load(Ordering::Relaxed) {
            0 => Duration::MAX,
            at => self.start.elapsed().saturating_sub(Duration::from_millis(at)),
        }
    }

    /// The lifetime of the longest-lived token there may be.
    pub(crate) fn lifetime(&self) -> Duration {
        Duration::from_millis(self.lifetime.load(Ordering::Relaxed))
    }

    /// Takes note that some process has issued tokens that live as long as this.
    pub(crate) fn reckon_with(&self, lifetime: Duration) {
        self.lifetime.fetch_max(millis(lifetime), Ordering::Relaxed);
    }

    pub(crate) fn add(&self, revocations: &[Revocation]) {
        if revocations.is_empty() {
            return;
        }
        let since = Instant::now();
        let mut void = self.void.write().unwrap_or_else(PoisonError::into_inner);
        for &Revocation { tenant, subject, min_version } in revocations {
            let known = void.entry((tenant, subject)).or_insert(Void { min_version, since });
            known.min_version = known.min_version.max(min_version);
            known.since = since;
        }
    }

    /// Takes note that a look at the feed that began at `at` has been taken in.
    pub(crate) fn known_at(&self, at: Instant) {
        self.known_at.fetch_max(millis(at - self.start).max(1), Ordering::Relaxed);
    }

    /// Forgets what no token can stand on any more; returns how much is left.
    pub(crate) fn forget(&self) -> usize {
        let lifetime = self.lifetime();
        let mut void = self.void.write().unwrap_or_else(PoisonError::into_inner);
        void.retain(|_, void| void.since.elapsed() <= lifetime);
        void.shrink_to_fit();
        void.len()
    }
}

/// Which sessions of a user end.
pub(crate) enum Which {
    All,
    One(SessionId),
    AllBut(SessionId),
}

/// Ends sessions of a user and tells every node, when `tx` commits; then this node is told with [`Revocations::add`].
pub(crate) async fn end_sessions(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    which: Which,
) -> Result<Vec<Revocation>> {
    let (only, but) = match which {
        Which::All => (None, None),
        Which::One(session) => (Some(session.0), None),
        Which::AllBut(session) => (None, Some(session.0)),
    };
    let statement = tx
        .prepare_cached(
            "with ended as (
               update tenantry.sessions set revoked_at = now()
               where tenant_id = $1 and user_id = $2 and revoked_at is null
                 and ($3::uuid is null or id = $3) and id is distinct from $4
               returning id
             )
             insert into tenantry.revocations (tenant_id, subject, subject_id)
             select $1, 'session', id from ended returning subject_id",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0, &user.0, &only, &but]).await?;
    let ended = |row: &tokio_postgres::Row| {
        let subject = Subject::Session(row.try_get("subject_id")?);
        Ok(Revocation { tenant, subject, min_version: i64::MAX })
    };
    rows.iter().map(ended).collect()
}

/// Ends all tokens made of an older `users.auth_version` than the row's, when `tx` commits.
pub(crate) async fn outdate_user(tx: &Transaction<'_>, tenant: TenantId, user: UserId) -> Result<Revocation> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.revocations (tenant_id, subject, subject_id, min_version)
             select tenant_id, 'user', id, auth_version from tenantry.users where tenant_id = $1 and id = $2
             returning min_version",
        )
        .await?;
    let min_version = tx.query_one(&statement, &[&tenant.0, &user.0]).await?.try_get("min_version")?;
    Ok(Revocation { tenant, subject: Subject::User(user.0), min_version })
}

/// Tells every node that a key has ended, when `tx` commits.
pub(crate) async fn end_api_key(tx: &Transaction<'_>, tenant: TenantId, key: ApiKeyId) -> Result<()> {
    let sql = "insert into tenantry.revocations (tenant_id, subject, subject_id) values ($1, 'api_key', $2)";
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, &[&tenant.0, &key.0]).await?;
    Ok(())
}

/// The same for a tenant.
pub(crate) async fn outdate_tenant(tx: &Transaction<'_>, tenant: TenantId) -> Result<Revocation> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.revocations (tenant_id, subject, subject_id, min_version)
             select id, 'tenant', id, auth_version from tenantry.tenants where id = $1
             returning min_version",
        )
        .await?;
    let min_version = tx.query_one(&statement, &[&tenant.0]).await?.try_get("min_version")?;
    Ok(Revocation { tenant, subject: Subject::Tenant, min_version })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
