//! Walks through all that Stripe has: a hundred at a time, from where the last one stopped.

use std::time::{Duration, Instant};

use tenantry_accounts::{
    App,
    billing::{
        events::{self, By},
        sync::{self, Applied, Fetched},
        walk,
    },
};
use tenantry_stripe::Client;

use super::Unfinished;

/// What a walk has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many.
    pub seen: u64,
    /// Of these, how many were another here than there, and have been put right.
    pub drifted: u64,
    /// Of these, how many nobody is known to pay for.
    pub parked: u64,
}

/// Applies every subscription that Stripe has, going on with the walk `name` for as long as `limit` (none: to the end). Tells
/// `progress` of each hundred, and returns whether it came to the end.
///
/// # Errors
/// When Stripe or the database does not answer; what was applied stays, and the next one goes on there.
pub async fn subscriptions(
    app: &App,
    stripe: &Client,
    name: &str,
    limit: Option<Duration>,
    mut progress: impl FnMut(Seen),
) -> Result<bool, Unfinished> {
    let begun_at = Instant::now();
    loop {
        let known = walk::find(app, name).await?;
        let open = known.filter(|walk| walk.ended_at.is_none());
        let position = match open {
            Some(walk) => walk.position,
            None => {
                walk::begin(app, name, None).await?;
                None
            }
        };
        // Before the hundred are asked for; each of them is as new as this number says, or newer.
        let begun = sync::begin(app, name).await?;
        let page = stripe.subscriptions(position.as_deref()).await?;
        let mut seen = Seen::default();
        for subscription in page.data {
            let subscription = stripe.completed(subscription).await?;
            let id = subscription.id.clone();
            let known = sync::begin(app, &id).await?;
            let applied =
                sync::apply(app, &id, &begun.of(&known), Fetched::Found(Box::new(subscription)), None)
                    .await?;
            seen.seen += 1;
            match applied {
                // What no event waits for has been missed.
                Applied::Changed if !known.is_dirty() => seen.drifted += 1,
                Applied::Parked => seen.parked += 1,
                _ => {}
            }
        }
        let n = i64::try_from(seen.seen).unwrap_or(i64::MAX);
        walk::advance(app, name, page.next.as_deref(), n).await?;
        progress(seen);
        if page.next.is_none() {
            return Ok(true);
        }
        if limit.is_some_and(|limit| begun_at.elapsed() > limit) {
            return Ok(false);
        }
    }
}

/// Takes in the events since `since` (Unix seconds) that have not come by themselves; how many those were.
///
/// # Errors
/// When Stripe or the database does not answer; what was taken in stays.
pub async fn events(app: &App, stripe: &Client, since: i64) -> Result<u64, Unfinished> {
    let (mut missed, mut after) = (0, None::<String>);
    loop {
        let page = stripe.events(since, after.as_deref()).await?;
        // Nearly all are known.
        for event in &events::unknown(app, page.data).await? {
            missed += u64::from(events::receive(app, event, By::Reconcile).await?);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(missed),
        }
    }
}
