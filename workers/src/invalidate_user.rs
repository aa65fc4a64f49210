//! Makes Redis forget what is older than a change. The writer does this itself; the job is for the writer that died.

use tenantry_accounts::{TenantId, users};
use tenantry_jobs::InvalidateUser;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let stale: InvalidateUser = match job.decode() {
        Ok(stale) => stale,
        Err(outcome) => return outcome,
    };
    match users::invalidate(&handlers.app, TenantId(job.tenant), &stale.users).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Retry(error.to_string()),
    }
}
