//! Sends the mail by which a user chooses another password, or the first one.

use tenantry_accounts::{TenantId, UserId, recovery};
use tenantry_jobs::ResetPasswordEmail;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let ResetPasswordEmail { user_id } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let letter = recovery::issue(&handlers.app, TenantId(job.tenant), UserId(user_id), job.id.0);
    handlers.mail(job, letter, "/reset-password", handlers.app.settings.reset_ttl).await
}
