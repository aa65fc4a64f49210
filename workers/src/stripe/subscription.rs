//! Fetches a subscription and applies what it is now.

use tenantry_accounts::{
    TenantId,
    billing::sync::{self, Applied, Fetched},
};
use tenantry_jobs::SyncSubscription;
use tenantry_queue::{Leased, Outcome};

use super::{failed, unanswered};
use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let args: SyncSubscription = match job.decode() {
        Ok(args) => args,
        Err(outcome) => return outcome,
    };
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    let (app, id) = (&handlers.app, args.subscription_id.as_str());
    // Numbered before Stripe is asked: what is applied in the end is what was asked for last.
    let begun = match sync::begin(app, id).await {
        Ok(begun) => begun,
        Err(error) => return failed(&error),
    };
    if args.if_dirty && !begun.is_dirty() {
        return Outcome::Done;
    }
    if job.tenant != TenantId::SYSTEM.0 && begun.tenant() != Some(TenantId(job.tenant)) {
        return Outcome::Cancel("the tenant has no such subscription".into());
    }
    metrics::counter!("tenantry_stripe_fetches_total", "why" => if args.if_dirty { "event" } else { "again" })
        .increment(1);
    let (fetched, at) = match stripe.subscription(id).await {
        Ok(answer) => match answer.value {
            Some(subscription) => (Fetched::Found(Box::new(subscription)), answer.at),
            None => (Fetched::Gone, answer.at),
        },
        Err(error) => return unanswered(&error),
    };
    match sync::apply(app, id, &begun, fetched, at).await {
        Ok(Applied::Parked) => {
            tracing::warn!(
                "nobody is known to pay for a subscription; link its customer with `tenantry stripe link`"
            );
            Outcome::Done
        }
        Ok(Applied::Changed | Applied::Same | Applied::Overtaken) => Outcome::Done,
        Err(error) => failed(&error),
    }
}
