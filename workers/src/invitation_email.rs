//! Sends the mail by which somebody who was invited accepts.

use tenantry_accounts::{InvitationId, TenantId, invitations};
use tenantry_jobs::InvitationEmail;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let InvitationEmail { invitation_id } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let letter =
        invitations::issue(&handlers.app, TenantId(job.tenant), InvitationId(invitation_id), job.id.0);
    handlers.mail(job, letter, "/accept-invitation", handlers.app.settings.invitation_ttl).await
}
