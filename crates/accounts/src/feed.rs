//! The feed that every node follows: cache entries whose floor a writer could not place, because it could not reach
//! Redis while others may. (It also holds what stopped being valid: sessions, users, tenants.)
//!
//! A row carries the id of its transaction. One statement asks for rows from the last known point on, and for the
//! oldest transaction still running, which is the next point: no clock, no overlap, and no gap from a transaction that
//! commits late. A row may come twice, which changes nothing.

use std::time::Duration;

use tenantry_cache::planted::{self, Bug};
use uuid::Uuid;

use crate::{App, Result, TenantId, UserId, users};

/// How often a node looks: the most another node may serve an entry whose floor was lost, beside its own memory.
const EVERY: Duration = Duration::from_millis(250);

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
        planted::point("before-feed").await;
        let client = self.app.db.client().await?;
        self.app.db.primary().admit(&client).await?;
        let statement = client
            .prepare_cached(
                "select next::text as next, tenant_id, subject, subject_id, min_version
                 from tenantry.revocations_since($1::text::xid8, $2)",
            )
            .await?;
        let relevant = self.app.cache.longest_stale().as_secs_f64();
        let rows = client.query(&statement, &[&self.seen, &relevant]).await?;
        let mut found = 0;
        for row in &rows {
            self.seen = Some(row.try_get("next")?);
            let Some(tenant) = row.try_get::<_, Option<Uuid>>("tenant_id")? else { continue };
            found += 1;
            if row.try_get::<_, &str>("subject")? == "cached_user" && !planted::bug(Bug::FeedIgnored) {
                let key = users::key(TenantId(tenant), UserId(row.try_get("subject_id")?));
                self.app.cache.raise_floor(&key, row.try_get("min_version")?);
            }
        }
        Ok(found)
    }

    /// Looks until the database has answered once: before that a node does not know what its caches may hold.
    pub async fn begin(&mut self) {
        while let Err(error) = self.look().await {
            tracing::warn!("the feed cannot be read yet: {}", in_full(&error));
            tokio::time::sleep(EVERY).await;
        }
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
        let mut lost = false;
        loop {
            tick.tick().await;
            let look = self.look().await;
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
