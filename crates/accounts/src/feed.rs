//! The feed that every node follows: cache entries whose floor a writer could not place, because it could not reach
//! Redis while others may. (It also holds what stopped being valid: sessions, users, tenants.)
//!
//! A row carries the id of its transaction. One statement asks for rows from the last known point on, and for the
//! oldest transaction still running, which is the next point: no clock, no overlap, and no gap from a transaction that
//! commits late. A row may come twice, which changes nothing.

use std::time::{Duration, Instant};

use tenantry_cache::Cache;
use uuid::Uuid;

use crate::{
    App, Result, TenantId, UserId,
    revocations::{Revocation, Subject},
    users,
};

/// How often a node looks: the most another node may serve an entry whose floor was lost, beside its own memory, and the
/// most it may take a token that was revoked elsewhere.
const EVERY: Duration = Duration::from_millis(250);
/// How often it forgets what is void by now without being revoked.
const FORGET: Duration = Duration::from_secs(60);

/// Learns from a connection which timeline the database is on, and gives the cache a new epoch when it is another one:
/// after a fail-over or a restore, what Redis holds may be of a history that never was.
///
/// The timeline is the first eight digits of the name of the file that the log of changes is written to. A server that
/// takes no changes has none.
///
/// # Errors
/// When the database cannot be asked.
pub async fn learn_timeline(
    client: &tokio_postgres::Client,
    cache: &Cache,
) -> std::result::Result<(), tokio_postgres::Error> {
    let sql = "select case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end";
    if let Some(timeline) = client.query_typed_one(sql, &[]).await?.try_get::<_, Option<&str>>(0)? {
        cache.set_epoch(timeline);
    }
    Ok(())
}

/// A node's place in the feed.
pub struct Feed {
    app: App,
    /// Transactions before this one have been seen; none: nothing has.
    seen: Option<String>,
}

impl Feed {
    /// At the start: the first look takes in all that Redis may still hold an older entry of.
    pub fn new(app: App) -> Self {
        Self { app, seen: None }
    }

    /// Looks once. Returns how many rows were there.
    ///
    /// # Errors
    /// When the database cannot be asked; the place stays.
    pub async fn look(&mut self) -> Result<usize> {
        let (began, revocations) = (Instant::now(), &self.app.revocations);
        let client = self.app.db.client().await?;
        learn_timeline(&client, &self.app.cache).await?;
        let statement = client
            .prepare_cached(
                "select next::text as next, tenant_id, subject, subject_id, min_version
                 from tenantry.revocations_since($1::text::xid8, $2)",
            )
            .await?;
        let relevant = self.app.cache.longest_stale().max(revocations.lifetime()).as_secs_f64();
        let rows = client.query(&statement, &[&self.seen, &relevant]).await?;
        let (mut found, mut void) = (0, vec![]);
        for row in &rows {
            self.seen = Some(row.try_get("next")?);
            let Some(tenant) = row.try_get::<_, Option<Uuid>>("tenant_id")?.map(TenantId) else { continue };
            found += 1;
            let (id, min_version) =
                (row.try_get("subject_id")?, row.try_get::<_, Option<i64>>("min_version")?);
            let subject = match row.try_get("subject")? {
                "session" => Subject::Session(id),
                "user" => Subject::User(id),
                "tenant" => Subject::Tenant,
                _ => {
                    let key = users::key(tenant, UserId(id));
                    self.app.cache.raise_floor(&key, min_version.unwrap_or(i64::MAX));
                    continue;
                }
            };
            void.push(Revocation { tenant, subject, min_version: min_version.unwrap_or(i64::MAX) });
        }
        revocations.add(&void);
        revocations.known_at(began);
        Ok(found)
    }

    /// Notes how long the tokens live that this process issues, and learns how long others' do; then forgets what no token
    /// can stand on any more.
    async fn forget(&self) -> Result<()> {
        let revocations = &self.app.revocations;
        let client = self.app.db.client().await?;
        let statement = client.prepare_cached("select tenantry.note_token_lifetime($1)").await?;
        let own = self.app.settings.access_token_ttl.as_secs_f64();
        let longest: f64 = client.query_one(&statement, &[&own]).await?.try_get(0)?;
        revocations.reckon_with(Duration::try_from_secs_f64(longest).unwrap_or_default());
        metrics::gauge!("tenantry_revocations").set(revocations.forget() as f64);
        Ok(())
    }

    /// Looks until the database has answered once: before that a node does not know what its caches may hold.
    pub async fn begin(&mut self) {
        // First of all how long a token may live: as far back does the first look go.
        while let Err(error) = self.first_look().await {
            tracing::warn!("the feed cannot be read yet: {error}");
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn first_look(&mut self) -> Result<()> {
        self.forget().await?;
        self.look().await.map(drop)
    }

    /// Follows the feed for as long as it is polled, through every failure of the database.
    pub async fn follow(mut self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut lost, mut forgot) = (false, Instant::now());
        loop {
            tick.tick().await;
            let mut look = self.look().await.map(drop);
            if look.is_ok() && forgot.elapsed() >= FORGET {
                look = self.forget().await;
                forgot = Instant::now();
            }
            match &look {
                Ok(_) if lost => tracing::info!("following the feed again"),
                Err(error) if !lost => tracing::warn!("the feed cannot be followed: {error}"),
                _ => {}
            }
            lost = look.is_err();
        }
    }
}
