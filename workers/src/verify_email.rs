//! Sends the mail that asks a user to show that an address is theirs.

use tenantry_accounts::{TenantId, UserId, verification};
use tenantry_jobs::VerifyEmail;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let VerifyEmail { user_id } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let letter = verification::issue(&handlers.app, TenantId(job.tenant), UserId(user_id), job.id.0);
    handlers.mail(job, letter, "/verify-email", handlers.app.settings.verification_ttl).await
}
