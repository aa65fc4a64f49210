//! The feed that every node follows: cache entries whose floor a writer could not place, because it could not reach
//! Redis while others may. (It also holds what stopped being valid: sessions, users, tenants.)
//!
//! A row carries the id of its transaction. One statement asks for rows from the last known point on, and for the
//! oldest transaction still running, which is the next point: no clock, no overlap, and no gap from a transaction that
//! commits late. A row may come twice, which changes nothing.
//!
//! A server that has crashed, or a standby that was promoted, may give ids of transactions to others. So the point is one of
//! a run of the server, and with another run the look goes back as far as at the start.

use std::time::{Duration, Instant};

use tenantry_cache::planted::{self, Bug};
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

/// The longest that Redis may keep an entry. Rows of the feed, and the attempts of a job, last for as long: another process
/// may have a longer `CACHE_TTL` than this one.
pub const LONGEST_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long rows about cached users are kept: an hour more, for the lease of a slow reader and the longest transaction.
const KEPT: Duration = Duration::from_secs(25 * 3600);

/// How often they are pruned, and how many at once: a pruning must be over long before its statement is cut off.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
const PRUNE_AT_MOST: i32 = 1_000;

/// A node's place in the feed.
pub struct Feed {
    app: App,
    /// Transactions before this one have been seen; none: nothing has.
    seen: Option<String>,
    /// The run of the server that these are of.
    server: Option<String>,
}

impl Feed {
    /// At the start: the first look takes in all that Redis may still hold an older entry of.
    pub fn new(app: App) -> Self {
        Self { app, seen: None, server: None }
    }

    /// Looks once. Returns how many rows were there.
    ///
    /// # Errors
    /// When the database cannot be asked; the place stays.
    pub async fn look(&mut self) -> Result<usize> {
        planted::point("before-feed").await;
        let (began, revocations) = (Instant::now(), &self.app.revocations);
        let client = self.app.db.client().await?;
        self.app.db.primary().admit(&client).await?;
        let statement = client
            .prepare_cached(
                "select server, next::text as next, tenant_id, subject, subject_id, min_version
                 from tenantry.follow_revocations($1, $2::text::xid8, $3)",
            )
            .await?;
        let relevant = self.app.cache.longest_stale().max(revocations.lifetime()).as_secs_f64();
        let rows = client.query(&statement, &[&self.server, &self.seen, &relevant]).await?;
        let (mut found, mut void) = (0, vec![]);
        for row in &rows {
            (self.server, self.seen) = (Some(row.try_get("server")?), Some(row.try_get("next")?));
            let Some(tenant) = row.try_get::<_, Option<Uuid>>("tenant_id")?.map(TenantId) else { continue };
            found += 1;
            let (id, min_version) =
                (row.try_get("subject_id")?, row.try_get::<_, Option<i64>>("min_version")?);
            let subject = match row.try_get("subject")? {
                "session" => Subject::Session(id),
                "user" => Subject::User(id),
                "api_key" => Subject::ApiKey(id),
                "tenant" => Subject::Tenant,
                _ => {
                    if !planted::bug(Bug::FeedIgnored) {
                        let key = users::key(tenant, UserId(id));
                        self.app.cache.raise_floor(&key, min_version.unwrap_or(i64::MAX));
                    }
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
            tracing::warn!("the feed cannot be read yet: {}", in_full(&error));
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn first_look(&mut self) -> Result<()> {
        self.forget().await?;
        self.look().await.map(drop)
    }

    /// Follows the feed for as long as it is polled, through every failure of the database, and prunes it.
    pub async fn follow(self) {
        let app = self.app.clone();
        // Side by side: a look must not wait for a pruning.
        tokio::join!(self.keep_looking(), keep_pruning(&app));
    }

    async fn keep_looking(mut self) {
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
                Err(error) if !lost => tracing::warn!("the feed cannot be followed: {}", in_full(error)),
                _ => {}
            }
            lost = look.is_err();
        }
    }
}

/// Every process does so, since none of them is special; they may get in each other's way and lose nothing by it.
async fn keep_pruning(app: &App) {
    loop {
        match prune(app).await {
            // There may be more.
            Ok(pruned) if pruned >= i64::from(PRUNE_AT_MOST) => tokio::time::sleep(EVERY).await,
            Ok(_) => tokio::time::sleep(PRUNE_EVERY).await,
            Err(error) => {
                tracing::debug!("the feed was not pruned: {}", in_full(&error));
                tokio::time::sleep(PRUNE_EVERY).await;
            }
        }
    }
}

async fn prune(app: &App) -> Result<i64> {
    let client = app.db.client().await?;
    let statement = client.prepare_cached("select tenantry.prune_revocations($1, $2)").await?;
    Ok(client.query_one(&statement, &[&KEPT.as_secs_f64(), &PRUNE_AT_MOST]).await?.try_get(0)?)
}

/// With what it came from: "not available" alone tells an operator nothing.
fn in_full(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
