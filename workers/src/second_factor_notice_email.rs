//! Tells a user what happened to their second factor.

use tenantry_accounts::{TenantId, UserId, second_factor};
use tenantry_jobs::SecondFactorNoticeEmail;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let SecondFactorNoticeEmail { user_id, event } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let letter = second_factor::issue_notice(&handlers.app, TenantId(job.tenant), UserId(user_id));
    handlers.mail_about(job, letter, event.as_str(), "", std::time::Duration::ZERO).await
}
