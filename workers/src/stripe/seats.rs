//! Lets the quantity in Stripe follow the seats that are used.

use tenantry_accounts::{TenantId, billing::seats};
use tenantry_queue::{Leased, Outcome};
use tenantry_stripe::Error;

use super::{failed, unanswered};
use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    let out_of_step = match seats::out_of_step(&handlers.app, TenantId(job.tenant)).await {
        Ok(out_of_step) => out_of_step,
        Err(error) => return failed(&error),
    };
    let mut problem = None;
    for item in out_of_step {
        // With the number in it: a job that runs again for another number must not be given the answer to the first. And with
        // the attempt: Stripe answers a key that met a fault with that fault for a day. To set it twice does no harm.
        let key = format!("{}-{}-{}-{}", job.id, item.item, item.used, job.attempt);
        match stripe.set_quantity(&item.item, item.used, &key).await {
            Ok(()) => {}
            // The others may be better off.
            Err(error @ Error::Refused { .. }) => problem = Some(error),
            Err(error) => return unanswered(&error),
        }
    }
    // Our rows follow by the event that Stripe sends of it.
    problem.map_or(Outcome::Done, |error| unanswered(&error))
}
