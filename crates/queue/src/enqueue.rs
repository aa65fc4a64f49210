use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use serde_json::Value;
use tenantry_jobs::{Job, Kind};
use tokio_postgres::types::{Json, ToSql, Type};
use uuid::Uuid;

use crate::{JobId, span};

/// When and how a job is to run; the default is now, with priority 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The earliest time of the first attempt; none is the start of the transaction.
    pub run_at: Option<DateTime<Utc>>,
    /// Added to `run_at`.
    pub delay: Duration,
    /// Higher runs first among the due jobs.
    pub priority: i32,
    /// At most one waiting job of the tenant and kind has this key: while there is one, its id is returned and no
    /// job is made. A job that has started never counts, so nothing that happens meanwhile is swallowed.
    pub unique_key: Option<&'a str>,
}

/// Enqueues `job` for `tenant` in the caller's transaction; it exists when that commits.
pub async fn enqueue<J: Job>(
    tx: &Transaction<'_>,
    tenant: Uuid,
    job: &J,
) -> Result<JobId, tokio_postgres::Error> {
    enqueue_with(tx, tenant, job, Options::default()).await
}

/// As [`enqueue`], with [`Options`].
pub async fn enqueue_with<J: Job>(
    tx: &Transaction<'_>,
    tenant: Uuid,
    job: &J,
    options: Options<'_>,
) -> Result<JobId, tokio_postgres::Error> {
    insert(tx, tenant, J::KIND, &Json(job), options).await
}

/// As [`enqueue_with`], for arguments whose type is known at run time only: from a shell, from another program.
///
/// # Errors
/// When the database fails or refuses; `invalid_parameter_value` (22023) says what the payload lacks, and names keys and
/// types, never values.
pub async fn push(
    tx: &Transaction<'_>,
    tenant: Uuid,
    kind: Kind,
    payload: &Value,
    options: Options<'_>,
) -> Result<JobId, tokio_postgres::Error> {
    insert(tx, tenant, kind, &Json(payload), options).await
}

async fn insert(
    tx: &Transaction<'_>,
    tenant: Uuid,
    kind: Kind,
    payload: &(dyn ToSql + Sync),
    options: Options<'_>,
) -> Result<JobId, tokio_postgres::Error> {
    let mut span = span::enqueues(kind, 1);
    // Prepared anew, but in one round trip, and it works behind a transaction pooler; the plans that cost are kept
    // inside the function.
    let row = tx
        .query_typed_one(
            "select tenantry.enqueue_job(kind => $1, payload => $2, tenant_id => $3,
               run_at => coalesce($4, now()) + make_interval(secs => $5), priority => $6, unique_key => $7)",
            &[
                (&kind.as_str(), Type::TEXT),
                (payload, Type::JSONB),
                (&tenant, Type::UUID),
                (&options.run_at, Type::TIMESTAMPTZ),
                (&options.delay.as_secs_f64(), Type::FLOAT8),
                (&options.priority, Type::INT4),
                (&options.unique_key, Type::TEXT),
            ],
        )
        .await?;
    let id = JobId(row.try_get(0)?);
    if let Some(span) = span.recorded() {
        span.set("messaging.message.id", id.to_string());
    }
    Ok(id)
}

/// Enqueues many jobs of one kind for one tenant in one statement; their ids are in the order of `jobs`. As
/// [`enqueue_with`], except that they have no unique keys. Some thousands at a time are a good measure.
///
/// # Errors
/// When the database fails or refuses; then none is enqueued.
pub async fn enqueue_many<J: Job>(
    tx: &Transaction<'_>,
    tenant: Uuid,
    jobs: &[J],
    run_at: Option<DateTime<Utc>>,
    priority: i32,
) -> Result<Vec<JobId>, tokio_postgres::Error> {
    let _span = span::enqueues(J::KIND, jobs.len());
    let payloads: Vec<Json<&J>> = jobs.iter().map(Json).collect();
    let rows = tx
        .query_typed(
            "select tenantry.enqueue_jobs(kind => $1, payloads => $2, tenant_id => $3, run_at => $4, priority => $5)",
            &[
                (&J::KIND.as_str(), Type::TEXT),
                (&payloads, Type::JSONB_ARRAY),
                (&tenant, Type::UUID),
                (&run_at, Type::TIMESTAMPTZ),
                (&priority, Type::INT4),
            ],
        )
        .await?;
    rows.iter().map(|row| Ok(JobId(row.try_get(0)?))).collect()
}
