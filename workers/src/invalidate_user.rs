//! Makes Redis forget what is older than a change. The writer does this itself; the job is for the writer that died.
//!
//! It comes by every user that was changed, a moment later, so it is here that a sample is compared with the rows: should the
//! protocol have a hole, it shows in a metric and not in what people see.

use std::time::Duration;

use tenantry_accounts::{App, TenantId, UserId, users};
use tenantry_jobs::InvalidateUser;
use tenantry_queue::{JobId, Leased, Outcome};

use crate::Handlers;

/// One job in so many, by its id: a job that is run again is compared again.
const SAMPLE: u128 = 16;
/// How long a comparison may take: the job is done without it.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let stale: InvalidateUser = match job.decode() {
        Ok(stale) => stale,
        Err(outcome) => return outcome,
    };
    match users::invalidate(&handlers.app, TenantId(job.tenant), &stale.users).await {
        Ok(()) => {
            if is_sampled(job.id) {
                compare(&handlers.app, TenantId(job.tenant), &stale).await;
            }
            Outcome::Done
        }
        Err(error) => Outcome::Retry(error.to_string()),
    }
}

/// The last bits of an id are chance.
fn is_sampled(job: JobId) -> bool {
    job.0.as_u128().is_multiple_of(SAMPLE)
}

async fn compare(app: &App, tenant: TenantId, stale: &InvalidateUser) {
    if !app.cache.has_redis() {
        return;
    }
    let ids: Vec<_> = stale.users.iter().map(|user| UserId(user.id)).collect();
    match tokio::time::timeout(PATIENCE, users::cached::sample(app, tenant, &ids)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("the cache was not compared: {error}"),
        Err(_) => tracing::debug!("the cache was not compared in time"),
    }
}
