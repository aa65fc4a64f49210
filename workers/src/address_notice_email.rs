//! Tells who reads mail at an address that its account is about to have another one.

use tenantry_accounts::{TenantId, notices};
use tenantry_jobs::AddressNoticeEmail;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let AddressNoticeEmail { notice_id } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    let letter = notices::issue(&handlers.app, TenantId(job.tenant), notice_id);
    handlers.mail(job, letter, "", std::time::Duration::ZERO).await
}
