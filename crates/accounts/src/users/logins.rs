//! Sign-ins: one row each, written by the statement that begins the session (`sessions`). Their ids tell when they were by
//! the database's clock, so those of the last days are counted out of the primary key alone.

use std::time::Duration;

use crate::{App, Result};

/// What counts as recent; as an interval and a condition on `id` in every statement that counts.
pub(super) const RECENT: &str = "id >= tenantry.uuid_floor(statement_timestamp() - interval '30 days')";

/// How long sign-ins are kept: longer than any is counted.
const KEPT: Duration = Duration::from_secs(35 * 24 * 3600);

/// Removes up to `batch` sign-ins that are counted no more; returns how many. Its own transaction.
///
/// # Errors
/// When the database fails.
pub async fn prune(app: &App, batch: u32) -> Result<u64> {
    let client = app.db.client().await?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let statement =
        client.prepare_cached("select tenantry.prune_user_logins(make_interval(secs => $1), $2)").await?;
    let removed: i64 = client.query_one(&statement, &[&KEPT.as_secs_f64(), &batch]).await?.try_get(0)?;
    Ok(removed.unsigned_abs())
}
