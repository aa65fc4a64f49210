//! How far a long walk through Stripe has come: whoever goes on with it begins there.

use chrono::{DateTime, Utc};
use tenantry_jobs::SyncSubscription;
use tenantry_queue::Options;

use crate::{App, Result, TenantId, db};

/// A walk.
#[derive(Debug, Clone)]
pub struct Walk {
    /// What was fetched since it began has a higher one.
    pub number: i64,
    /// After what it goes on; none: at the beginning.
    pub position: Option<String>,
    /// How many have been looked at.
    pub done: i64,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last moved.
    pub moved_at: DateTime<Utc>,
    /// When it came to its end; none: it has not.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The walk of this name; none: there has been none.
///
/// # Errors
/// When the database cannot be asked.
pub async fn find(app: &App, name: &str) -> Result<Option<Walk>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select number, position, done, started_at, moved_at, ended_at from tenantry.stripe_cursors where name = $1",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&name]).await?;
    tx.commit().await?;
    let walk = |row: &tokio_postgres::Row| {
        Ok(Walk {
            number: row.try_get("number")?,
            position: row.try_get("position")?,
            done: row.try_get("done")?,
            started_at: row.try_get("started_at")?,
            moved_at: row.try_get("moved_at")?,
            ended_at: row.try_get("ended_at")?,
        })
    };
    row.as_ref().map(walk).transpose()
}

/// Begins the walk anew.
///
/// # Errors
/// When the database cannot be asked.
pub async fn begin(app: &App, name: &str, position: Option<&str>) -> Result<()> {
    let sql = "insert into tenantry.stripe_cursors (name, position) values ($1, $2)
               on conflict (name) do update set number = excluded.number, position = excluded.position, done = 0, started_at = now(), moved_at = now(), ended_at = null";
    write(app, sql, &[&name, &position]).await
}

/// Notes that `n` more have been looked at; without a position the walk is at its end.
///
/// # Errors
/// When the database cannot be asked.
pub async fn advance(app: &App, name: &str, position: Option<&str>, n: i64) -> Result<()> {
    let sql = "update tenantry.stripe_cursors set position = coalesce($2, position), done = done + $3, moved_at = now(),
                 ended_at = case when $2::text is null then now() end where name = $1";
    write(app, sql, &[&name, &position, &n]).await
}

async fn write(app: &App, sql: &str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx.prepare_cached(sql).await?;
    tx.execute(&statement, params).await?;
    tx.commit().await?;
    Ok(())
}

/// Subscriptions that we have, have not ended, and were not fetched since `number`: what a walk through all of Stripe's did
/// not come by.
///
/// # Errors
/// When the database cannot be asked.
pub async fn not_seen_since(app: &App, number: i64, at_most: i64) -> Result<Vec<String>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select o.id from tenantry.stripe_objects o
               join tenantry.billing_customers c on c.customer_id = o.customer_id
               join tenantry.subscriptions s on s.tenant_id = c.tenant_id and s.stripe_id = o.id
             where o.applied < $1 and s.status not in ('canceled', 'incomplete_expired') order by o.id limit $2",
        )
        .await?;
    let rows = tx.query(&statement, &[&number, &at_most]).await?;
    tx.commit().await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Has a subscription fetched by itself.
///
/// # Errors
/// When the database cannot be asked.
pub async fn look_again(app: &App, job: &SyncSubscription) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let options = Options { unique_key: Some(&job.subscription_id), ..Options::default() };
    tenantry_queue::enqueue_with(&tx, TenantId::SYSTEM.0, job, options).await?;
    tx.commit().await?;
    app.db.nudge();
    Ok(())
}
