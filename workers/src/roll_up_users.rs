//! Counts the users of a tenant, for whoever asks for its figures next.

use tenantry_accounts::{TenantId, users::stats};
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    match stats::roll_up(&handlers.app, TenantId(job.tenant)).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Retry(error.to_string()),
    }
}
