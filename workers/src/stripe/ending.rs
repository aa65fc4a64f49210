//! Ends what a closed tenant pays for: nobody could sign in to do so.

use tenantry_accounts::{TenantId, billing::closed};
use tenantry_queue::{Leased, Outcome};

use super::{failed, unanswered};
use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    let renewing = match closed::renewing(&handlers.app, TenantId(job.tenant)).await {
        Ok(renewing) => renewing,
        Err(error) => return failed(&error),
    };
    for subscription in renewing {
        // With the attempt: Stripe answers a key that met a fault with that fault for a day.
        let key = format!("{}-{subscription}-{}", job.id, job.attempt);
        if let Err(error) = stripe.end_with_period(&subscription, &key).await {
            return unanswered(&error);
        }
    }
    // Our rows follow by the event that Stripe sends of it.
    Outcome::Done
}
