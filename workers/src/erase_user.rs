//! Erases what no key leads to of somebody who was erased. It may come twice: what is gone is not found again.

use std::time::Duration;

use tenantry_accounts::{
    TenantId, UserId,
    privacy::{self, Swept},
};
use tenantry_jobs::EraseUser;
use tenantry_queue::{Leased, Outcome};

use crate::{Handlers, stripe};

/// A job of the person's that runs is a mail, which takes no longer than its time-out.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let person: EraseUser = match job.decode() {
        Ok(person) => person,
        Err(outcome) => return outcome,
    };
    let (app, tenant, id) = (&handlers.app, TenantId(job.tenant), UserId(person.user_id));
    if let Err(error) = privacy::sweep(app, tenant, id).await {
        return Outcome::Retry(error.to_string());
    }
    if let Err(outcome) = stripe::forget_contact(handlers, tenant, id).await {
        return outcome;
    }
    match privacy::finish(app, tenant, id).await {
        Ok(Swept::All) => Outcome::Done,
        Ok(Swept::ButWhatRuns) => Outcome::Snooze(PAUSE),
        Err(error) => Outcome::Retry(error.to_string()),
    }
}
