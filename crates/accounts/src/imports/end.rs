//! The end of an import: somebody stops it, or it is kept no longer.

use std::time::Duration;

use serde_json::json;
use tenantry_jobs::ImportUsers;

use super::{DAYS_KEPT, find};
use crate::{Actor, App, Error, ImportId, Result, audit, db, to_the_end, users::Role};

/// An upload that nothing has come of for so long has broken off.
const IDLE_UPLOAD: Duration = Duration::from_secs(10 * 60);
/// An import that nobody has gone on with for so long has failed: its job is dead.
const IDLE_WORK: Duration = Duration::from_secs(24 * 3600);

/// Stops an import of the actor's tenant, or, when it has ended, forgets it with its report. Users who were made stay.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoImport`].
pub async fn delete(app: &App, actor: Actor, id: ImportId) -> Result<()> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        // A batch that is under way is waited for.
        let statement = tx
            .prepare_cached(
                "select from tenantry.user_imports where tenant_id = $1 and id = $2 for no key update",
            )
            .await?;
        tx.query_opt(&statement, &[&actor.tenant.0, &id.0]).await?.ok_or(Error::NoImport)?;
        let import = find(&tx, actor.tenant, id).await?;
        if import.state.has_ended() {
            let statement = tx
                .prepare_cached(
                    "update tenantry.user_imports set keep_until = now() where tenant_id = $1 and id = $2",
                )
                .await?;
            tx.execute(&statement, &[&actor.tenant.0, &id.0]).await?;
            audit::record(&tx, actor.tenant, actor, "import.deleted", id.0, json!({})).await?;
        } else {
            let statement = tx
                .prepare_cached(
                    "update tenantry.user_imports set state = 'cancelled', finished_at = clock_timestamp(),
                       touched_at = clock_timestamp(), keep_until = clock_timestamp() + make_interval(days => $3)
                     where tenant_id = $1 and id = $2",
                )
                .await?;
            tx.execute(&statement, &[&actor.tenant.0, &id.0, &DAYS_KEPT.cast_signed()]).await?;
            // The rows that are left hold hashes; of an upload nobody else would come for them.
            tenantry_queue::enqueue(&tx, actor.tenant.0, &ImportUsers { import_id: id.0 }).await?;
            let detail = json!({"state": "cancelled", "created": import.created});
            audit::record(&tx, actor.tenant, actor, "import.ended", id.0, detail).await?;
        }
        tx.commit().await?;
        app.db.nudge();
        Ok(())
    })
    .await
}

/// Removes up to `batch` rows of imports that are kept no longer, and ends those that nobody goes on with; returns how many.
/// Its own transaction.
///
/// # Errors
/// When the database fails.
pub async fn purge(app: &App, batch: u32) -> Result<u64> {
    let client = app.db.client().await?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let statement = client
        .prepare_cached(
            "select tenantry.purge_imports(make_interval(secs => $1), make_interval(secs => $2), make_interval(days => $3), $4)
             from set_config('tenantry.traceparent', $5, true)",
        )
        .await?;
    let (upload, work) = (IDLE_UPLOAD.as_secs_f64(), IDLE_WORK.as_secs_f64());
    let (days, trace) = (DAYS_KEPT.cast_signed(), db::traceparent());
    let row = client.query_one(&statement, &[&upload, &work, &days, &batch, &trace]).await?;
    Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
}
