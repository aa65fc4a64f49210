//! What was missed: events that Stripe could not deliver, every quarter of an hour, and once a day every subscription.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tenantry_accounts::{
    App,
    billing::{
        events,
        walk::{self, Name},
    },
};
use tenantry_queue::{Leased, Outcome};
use tenantry_stripe::Client;

use super::{Unfinished, unfinished, walk::stretch};
use crate::Handlers;

/// How far back events are asked for beyond the last time: they may be listed a little after they happened.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// For how long Stripe lists them: 30 days, and not to the second.
const LISTED: TimeDelta = TimeDelta::days(29);
/// How far back they are asked for the first time.
const AT_FIRST: TimeDelta = TimeDelta::days(3);
/// How often all are compared.
const COMPARED: TimeDelta = TimeDelta::hours(24);

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    match reconcile(handlers, job).await {
        Ok(outcome) => outcome,
        Err(error) => unfinished(&error),
    }
}

async fn reconcile(handlers: &Handlers, job: &Leased) -> Result<Outcome, Unfinished> {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(_) => return Ok(Outcome::Done),
    };
    let app = &handlers.app;
    // Each has its turn, however long the other is and whatever comes of it.
    let asked = missed(app, stripe, job, handlers.stretch).await;
    let compared = compare(app, stripe, handlers.stretch).await;
    events::fetch_neglected(app).await?;
    events::prune(app, 10_000).await?;
    Ok(if asked? && compared? { Outcome::Done } else { Outcome::Snooze(Duration::ZERO) })
}

/// Asks for events that may have been missed; whether it came to the end of them.
async fn missed(app: &App, stripe: &Client, job: &Leased, limit: Duration) -> Result<bool, Unfinished> {
    let last = walk::find(app, Name::Events).await?;
    if last.as_ref().is_some_and(|walk| walk.ended_at.is_some() && walk.started_at > job.created_at) {
        // While the job goes on comparing.
        return Ok(true);
    }
    if last.is_none_or(|walk| walk.ended_at.is_some()) {
        begin_events(app, None).await?;
    }
    stretch(app, stripe, Name::Events, limit, |seen| {
        let missed = seen.changed;
        if missed > 0 {
            tracing::warn!(stripe.events = missed, "{missed} events had not been delivered");
            metrics::counter!("tenantry_stripe_drift_total", "reason" => "missed_event").increment(missed);
        }
    })
    .await
}

/// Begins to ask for events, since the last time that all were asked for or since `since` if that is earlier. Returns since
/// when, and whether that is later than it should be because Stripe lists no older ones.
///
/// # Errors
/// When the database does not answer.
pub async fn begin_events(
    app: &App,
    since: Option<DateTime<Utc>>,
) -> Result<(DateTime<Utc>, bool), Unfinished> {
    let now = Utc::now();
    let last = match walk::find(app, Name::Events).await? {
        None => now - AT_FIRST,
        // What happens while one is under way is for the next, whose window begins where it began.
        Some(walk) if walk.ended_at.is_some() => walk.started_at - OVERLAP,
        Some(walk) => walk.since.unwrap_or(now - AT_FIRST),
    };
    let wanted = since.map_or(last, |since| since.min(last));
    let since = wanted.max(now - LISTED);
    if since > wanted {
        tracing::warn!(
            "stripe lists no events of before {since}; what they were about is compared once a day, \
             and `tenantry stripe backfill` takes in customers"
        );
    }
    walk::begin(app, Name::Events, Some(since)).await?;
    Ok((since, since > wanted))
}

/// Compares all subscriptions, if that is due or was begun; whether nothing is left to compare.
async fn compare(app: &App, stripe: &Client, limit: Duration) -> Result<bool, Unfinished> {
    let last = walk::find(app, Name::Comparison).await?;
    let due =
        last.as_ref().is_none_or(|walk| walk.ended_at.is_none() || walk.started_at + COMPARED < Utc::now());
    if !due {
        return Ok(true);
    }
    if last.is_none_or(|walk| walk.ended_at.is_some()) {
        walk::begin(app, Name::Comparison, None).await?;
    }
    stretch(app, stripe, Name::Comparison, limit, |seen| {
        metrics::counter!("tenantry_stripe_compared_total").increment(seen.seen);
        metrics::counter!("tenantry_stripe_drift_total", "reason" => "different").increment(seen.changed);
    })
    .await
}
