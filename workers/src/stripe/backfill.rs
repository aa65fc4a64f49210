//! Takes in all that Stripe has: customers first, so that what they pay for finds its tenant.

use std::time::{Duration, Instant};

use tenantry_accounts::billing::walk;
use tenantry_queue::{Leased, Outcome};

use super::{Unfinished, unfinished, walk::stretch};
use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    match backfill(handlers, job).await {
        Ok(outcome) => outcome,
        Err(error) => unfinished(&error),
    }
}

async fn backfill(handlers: &Handlers, job: &Leased) -> Result<Outcome, Unfinished> {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return Ok(outcome),
    };
    let (app, began) = (&handlers.app, Instant::now());
    if walk::open_part(app).await?.is_none() {
        let last = walk::find(app, walk::Name::Subscriptions).await?.and_then(|walk| walk.ended_at);
        if last.is_some_and(|ended_at| ended_at > job.created_at) {
            // By this job, or by somebody who was at the same.
            return Ok(Outcome::Done);
        }
        walk::begin_backfill(app).await?;
    }
    while let Some((name, _)) = walk::open_part(app).await? {
        if !stretch(app, stripe, name, handlers.stretch.saturating_sub(began.elapsed()), |_| {}).await? {
            return Ok(Outcome::Snooze(Duration::ZERO));
        }
    }
    Ok(Outcome::Done)
}
