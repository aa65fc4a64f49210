//! Walks through all that Stripe has: a hundred at a time, from where the last one stopped.

use std::{
    future::ready,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, TryStreamExt, stream};
use tenantry_accounts::{
    App,
    billing::{
        customers, directory,
        events::{self, By},
        sync::{self, Applied, Begun, Fetched},
        unchanged,
        walk::{self, Name, Walk},
    },
};
use tenantry_stripe::{Client, Event, Listed, Listing, Page, Place, Standing, Subscription};
use uuid::Uuid;

use super::{
    Unfinished, customer,
    oldest::{BEGINNING, oldest},
};

/// How many of a page are worked on at once: most of the time of each is spent waiting for the database.
const AT_ONCE: usize = 4;

/// What a step of a walk has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many.
    pub seen: u64,
    /// Of these, how many were new or another here than there, and have been put right. Of events: had been missed. Of
    /// customers that were not listed: have been deleted.
    pub changed: u64,
    /// How many customers were linked by their mark.
    pub linked: u64,
}

impl std::ops::Add for Seen {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seen: self.seen + other.seen,
            changed: self.changed + other.changed,
            linked: self.linked + other.linked,
        }
    }
}

/// Goes on with a walk until its end, or for as long as `limit`. Returns whether it came to the end.
///
/// # Errors
/// When Stripe or the database does not answer; what was done stays, and the next one goes on there.
pub(crate) async fn stretch(
    app: &App,
    stripe: &Client,
    name: Name,
    limit: Duration,
    mut seen: impl FnMut(Seen),
) -> Result<bool, Unfinished> {
    let began = Instant::now();
    loop {
        let (walk, step) = step(app, stripe, name).await?;
        seen(step);
        if walk.ended_at.is_some() {
            return Ok(true);
        }
        if began.elapsed() >= limit {
            return Ok(false);
        }
    }
}

/// Goes one step further with a walk, which is begun if it never was; one that has ended stays so. Returns how it is then, and
/// what was seen.
///
/// Two who go on with the same walk at once do no harm: all that is done may be done twice, and of two who come from the same
/// place one moves the walk.
///
/// # Errors
/// When Stripe or the database does not answer; then the walk has not moved.
pub async fn step(app: &App, stripe: &Client, name: Name) -> Result<(Walk, Seen), Unfinished> {
    let began = Instant::now();
    let walk = match walk::find(app, name).await? {
        Some(walk) if walk.ended_at.is_some() => return Ok((walk, Seen::default())),
        Some(walk) => walk,
        None => walk::begin(app, name, None).await?,
    };
    // Before the page is asked for: each thing in it is as new as this number says, or newer.
    let begun = sync::begin(app, name.as_str()).await?;
    let place = place(&walk);
    let (mut step, seen) = match name {
        Name::Unlisted => unlisted(app, stripe, &walk, begun.number()).await?,
        Name::Customers => {
            let page = stripe.customers(&place).await?;
            let step = listed(stripe, Listed::Customers, &walk, &page).await;
            let seen = take_in_customers(app, begun.number(), page.data).await?;
            if step.next.is_none() {
                directory::forget_unlisted(app, walk.number).await?;
            }
            (step, seen)
        }
        Name::Subscriptions | Name::Comparison => {
            let page = stripe.subscriptions(&place).await?;
            let step = listed(stripe, Listed::Subscriptions, &walk, &page).await;
            let seen = take_in_subscriptions(app, stripe, &begun, page.data).await?;
            if step.next.is_none() {
                lost(app, name, &walk).await?;
            }
            (step, seen)
        }
        Name::Events => {
            let since = walk.since.map_or(0, |since| since.timestamp());
            let page = stripe.events(since, &place).await?;
            let step = listed(stripe, Listed::EventsSince(since), &walk, &page).await;
            (step, take_in_events(app, page.data).await?)
        }
    };
    (step.done, step.changed) = (seen.seen.cast_signed(), seen.changed.cast_signed());
    step.took = began.elapsed().saturating_sub(step.took);
    let walk = walk::advance(app, name, &walk, &step).await?.unwrap_or(walk);
    Ok((walk, seen))
}

fn place(walk: &Walk) -> Place {
    match &walk.position {
        Some(id) => Place::After { id: id.clone(), made: walk.reached.map(|at| at.timestamp()) },
        None => Place::Newest,
    }
}

/// Where a page of a list ends. With the first that is not the last it is found out where the list does; without an answer the
/// walk goes on all the same, and asks with the next.
async fn listed<T>(stripe: &Client, listed: Listed, walk: &Walk, page: &Page<T>) -> walk::Step {
    let mut step = walk::Step {
        next: page.next.clone(),
        newest: time(page.newest),
        reached: time(page.oldest),
        ..walk::Step::default()
    };
    if let (true, None, Some(newest)) = (page.next.is_some(), walk.oldest, page.newest) {
        let asked = Instant::now();
        let beginning = walk.since.map_or(BEGINNING, |since| since.timestamp());
        step.oldest = time(oldest(newest, beginning, |than| stripe.older(listed, than)).await.ok());
        // Says nothing about the pace of the walk.
        step.took = asked.elapsed();
    }
    step
}

fn time(seconds: Option<i64>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds?, 0)
}

/// Notes which customers there are, and links those that we have made for a tenant and died before they were linked. Whose
/// they are is told by their mark alone, which nobody but we and Stripe ever had.
async fn take_in_customers(app: &App, number: i64, page: Vec<Listing>) -> Result<Seen, Unfinished> {
    let ids: Vec<_> = page.iter().map(|customer| customer.id.as_str()).collect();
    let fresh = directory::note(app, number, &ids).await?;
    let marked: Vec<(Uuid, &str)> = page
        .iter()
        .filter_map(|customer| Some((customer.mark.as_deref()?.parse().ok()?, customer.id.as_str())))
        .collect();
    let marks: Vec<_> = marked.iter().map(|(mark, _)| *mark).collect();
    let mut seen = Seen { seen: page.len() as u64, changed: fresh.unsigned_abs(), ..Seen::default() };
    if marks.is_empty() {
        return Ok(seen);
    }
    for (awaited, tenant) in directory::awaited(app, &marks).await? {
        for (_, customer) in marked.iter().filter(|(mark, _)| *mark == awaited) {
            use tenantry_accounts::Error as E;
            match customers::link(app, tenant, customer).await {
                Ok(linked) => seen.linked += u64::from(linked == *customer),
                // It was closed, another was linked to it, or Stripe has deleted this one: since we looked.
                Err(E::NoTenant | E::CustomerTaken | E::CustomerDeleted) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(seen)
}

/// Asks for customers of tenants that Stripe has not listed.
async fn unlisted(
    app: &App,
    stripe: &Client,
    walk: &Walk,
    number: i64,
) -> Result<(walk::Step, Seen), Unfinished> {
    const BATCH: i64 = 20;
    let after = walk.position.as_deref().and_then(|after| after.parse().ok()).unwrap_or_default();
    // What no fetch has come by since was not listed.
    let since = walk::find(app, Name::Customers).await?.map_or(0, |walk| walk.number);
    let found = directory::unlisted(app, since, after, BATCH).await?;
    let last = found.last().filter(|_| found.len() as i64 == BATCH);
    let mut step = walk::Step { next: last.map(|(tenant, _)| tenant.to_string()), ..walk::Step::default() };
    if walk.expected.is_none() {
        step.expected = Some(directory::count_unlisted(app, since).await?);
    }
    let ask = |(_, customer): (_, String)| async move {
        let standing = customer::ask_for(app, stripe, &customer, number).await?;
        Ok(Seen { seen: 1, changed: u64::from(standing == Standing::Deleted), linked: 0 })
    };
    Ok((step, together(found, ask).await?))
}

/// Applies each subscription of a page: those that are as they were together.
async fn take_in_subscriptions(
    app: &App,
    stripe: &Client,
    begun: &Begun,
    page: Vec<Subscription>,
) -> Result<Seen, Unfinished> {
    let same = unchanged::note(app, begun, &page).await?;
    let seen = Seen { seen: same.len() as u64, ..Seen::default() };
    let page: Vec<_> = page.into_iter().filter(|subscription| !same.contains(&subscription.id)).collect();
    let ids: Vec<_> = page.iter().map(|subscription| subscription.id.as_str()).collect();
    // After Stripe has answered.
    let known = &sync::known(app, &ids).await?;
    let apply = |subscription: Subscription| async move {
        let subscription = stripe.completed(subscription).await?;
        let id = subscription.id.clone();
        let known = known.get(&id).cloned().unwrap_or_default();
        let fetched = Fetched::Found(Box::new(subscription));
        let applied = sync::apply(app, &id, &begun.of(&known), fetched, None).await?;
        // What no event waits for has been missed.
        let changed = u64::from(applied == Applied::Changed && !known.is_dirty());
        Ok(Seen { seen: 1, changed, linked: 0 })
    };
    Ok(seen + together(page, apply).await?)
}

/// Subscriptions that we have and did not come by.
async fn lost(app: &App, name: Name, walk: &Walk) -> Result<(), Unfinished> {
    let n = walk::fetch_unlisted(app, walk.number).await?;
    if n > 0 {
        tracing::warn!(stripe.subscriptions = n, "{n} subscriptions are not listed by Stripe any more");
    }
    if name == Name::Comparison {
        metrics::counter!("tenantry_stripe_drift_total", "reason" => "missing").increment(n);
    }
    Ok(())
}

/// Takes in those events that have not come by themselves.
async fn take_in_events(app: &App, page: Vec<Event>) -> Result<Seen, Unfinished> {
    let seen = Seen { seen: page.len() as u64, ..Seen::default() };
    // Nearly all are known.
    let receive = |event: Event| async move {
        let new = events::receive(app, &event, By::Reconcile).await?;
        Ok(Seen { changed: u64::from(new), ..Seen::default() })
    };
    Ok(seen + together(events::unknown(app, page).await?, receive).await?)
}

/// Does the same with each, a few at once; what was seen by all. After an error no more are begun.
async fn together<T, F>(things: Vec<T>, act: impl Fn(T) -> F) -> Result<Seen, Unfinished>
where
    F: Future<Output = Result<Seen, Unfinished>>,
{
    let acts = stream::iter(things).map(act).buffer_unordered(AT_ONCE);
    acts.try_fold(Seen::default(), |sum, seen| ready(Ok(sum + seen))).await
}
