//! What was missed: events that Stripe could not deliver, every quarter of an hour, and once a day every subscription.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tenantry_accounts::billing::{events, walk};
use tenantry_jobs::SyncSubscription;
use tenantry_queue::Outcome;

use super::{Unfinished, unfinished, walk as walking};
use crate::Handlers;

/// How far back events are asked for beyond the last time: they may be listed a little after they happened.
const OVERLAP: TimeDelta = TimeDelta::minutes(10);
/// For how long Stripe lists them.
const LISTED: TimeDelta = TimeDelta::days(29);
/// How often all are compared.
const COMPARED: TimeDelta = TimeDelta::hours(24);
/// How long one job walks.
const STRETCH: Duration = Duration::from_secs(45);
/// The names of the walks.
const EVENTS: &str = "events";
const COMPARISON: &str = "comparison";
const BACKFILL: &str = "backfill";

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    match reconcile(handlers).await {
        Ok(outcome) => outcome,
        Err(error) => unfinished(&error),
    }
}

async fn reconcile(handlers: &Handlers) -> Result<Outcome, Unfinished> {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(_) => return Ok(Outcome::Done),
    };
    let (app, now) = (&handlers.app, Utc::now());
    let last = walk::find(app, EVENTS).await?.and_then(|walk| walk.position?.parse().ok());
    let last = last
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
        .unwrap_or(now - TimeDelta::days(3));
    let missed = walking::events(app, stripe, (last - OVERLAP).max(now - LISTED).timestamp()).await?;
    if missed > 0 {
        tracing::warn!(stripe.events = missed, "{missed} events had not been delivered");
        metrics::counter!("tenantry_stripe_drift_total", "reason" => "missed_event").increment(missed);
    }
    walk::begin(app, EVENTS, Some(&now.timestamp().to_string())).await?;
    events::fetch_neglected(app).await?;
    events::prune(app, 10_000).await?;
    compare(handlers, stripe).await
}

/// Compares all subscriptions, if that is due or was begun.
async fn compare(handlers: &Handlers, stripe: &tenantry_stripe::Client) -> Result<Outcome, Unfinished> {
    let app = &handlers.app;
    let last = walk::find(app, COMPARISON).await?;
    let due =
        last.as_ref().is_none_or(|walk| walk.ended_at.is_none() || walk.started_at + COMPARED < Utc::now());
    if !due {
        return Ok(Outcome::Done);
    }
    if last.is_none_or(|walk| walk.ended_at.is_some()) {
        walk::begin(app, COMPARISON, None).await?;
    }
    let count = |seen: walking::Seen| {
        metrics::counter!("tenantry_stripe_compared_total").increment(seen.seen);
        metrics::counter!("tenantry_stripe_drift_total", "reason" => "different").increment(seen.drifted);
    };
    if !walking::subscriptions(app, stripe, COMPARISON, Some(STRETCH), count).await? {
        return Ok(Outcome::Snooze(Duration::ZERO));
    }
    let Some(walk) = walk::find(app, COMPARISON).await? else { return Ok(Outcome::Done) };
    let lost = walk::not_seen_since(app, walk.number, 1_000).await?;
    if !lost.is_empty() {
        let n = lost.len() as u64;
        tracing::warn!(stripe.subscriptions = n, "{n} subscriptions are not listed by Stripe any more");
        metrics::counter!("tenantry_stripe_drift_total", "reason" => "missing").increment(n);
        for subscription_id in lost {
            let job = SyncSubscription { subscription_id, if_dirty: false };
            walk::look_again(app, &job).await?;
        }
    }
    Ok(Outcome::Done)
}

pub(crate) async fn backfill(handlers: &Handlers) -> Outcome {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    match walking::subscriptions(&handlers.app, stripe, BACKFILL, Some(STRETCH), |_| {}).await {
        Ok(true) => Outcome::Done,
        Ok(false) => Outcome::Snooze(Duration::ZERO),
        Err(error) => unfinished(&error),
    }
}
