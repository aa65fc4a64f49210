//! Delivers events to endpoints, as Stripe does: signed, and again until they are taken.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, redirect::Policy};
use tokio::task::JoinSet;

use crate::{Shared, queue::Delivery, state::text, webhooks};

/// Endpoints that do not answer within this have not taken the event.
const DEADLINE: Duration = Duration::from_secs(10);

/// Delivers what is due, for ever.
pub(crate) async fn run(shared: Arc<Shared>) {
    // A redirect is a refusal. Without the settings of the machine: a proxy has no business here.
    let client =
        Client::builder().redirect(Policy::none()).no_proxy().timeout(DEADLINE).build().unwrap_or_default();
    let mut under_way = JoinSet::new();
    loop {
        let woken = shared.wake.notified();
        let (due, next) = {
            let mut state = shared.lock();
            let most = state.faults.webhooks.concurrency;
            let due = state.queue.take(most);
            // With all places taken the next one waits for a place and not for its time.
            (due, state.queue.next_at().filter(|_| state.queue.under_way.len() < most))
        };
        for delivery in due {
            let (shared, client) = (shared.clone(), client.clone());
            under_way.spawn(async move { deliver(&shared, &client, delivery).await });
        }
        tokio::select! {
            () = woken => {}
            _ = under_way.join_next(), if !under_way.is_empty() => {}
            () = until(next) => {}
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}

async fn deliver(shared: &Shared, client: &Client, delivery: Delivery) {
    let request = {
        let state = shared.lock();
        let endpoint =
            state.find("we", &delivery.endpoint).filter(|endpoint| endpoint["status"] == "enabled");
        let event = state.find("evt", &delivery.event);
        endpoint.zip(event).map(|(endpoint, event)| {
            let payload = serde_json::to_string_pretty(event).unwrap_or_default();
            let secrets = state.secrets.get(&delivery.endpoint).map_or(&[][..], Vec::as_slice);
            // The time of the machine and not of the fake: that is what a signature is held against.
            let signature = webhooks::signature(secrets, state.now() - state.ahead, &payload);
            (text(endpoint, "url").to_owned(), payload, signature)
        })
    };
    let taken = match request {
        // Nobody wants it any more.
        None => true,
        Some((url, payload, signature)) => {
            let request = client
                .post(url)
                .header("Content-Type", "application/json; charset=utf-8")
                .header("User-Agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)")
                .header("Stripe-Signature", signature)
                .body(payload);
            request.send().await.is_ok_and(|answer| answer.status().is_success())
        }
    };
    settle(shared, delivery, taken);
}

fn settle(shared: &Shared, mut delivery: Delivery, taken: bool) {
    let mut state = shared.lock();
    state.queue.tried(&delivery);
    if taken {
        state.queue.delivered += 1;
    } else {
        state.queue.refused += 1;
        let wait = state.faults.webhooks.retry_ms.get(delivery.tried).copied();
        delivery.tried += 1;
        match wait {
            None => state.queue.given_up += 1,
            Some(_) if !state.faults.webhooks.deliver => state.queue.hold(delivery),
            Some(wait) => state.queue.wait(delivery, Duration::from_millis(wait)),
        }
    }
    drop(state);
    shared.settled.notify_waiters();
    shared.wake.notify_one();
}

/// Lets go of all that is held back or waits, in any order, and waits until each has been tried.
pub(crate) async fn flush(shared: &Shared) {
    let begin = {
        let mut state = shared.lock();
        let mut all = state.queue.take_all();
        state.dice.shuffle(&mut all);
        for delivery in all {
            state.queue.wait(delivery, Duration::ZERO);
        }
        Instant::now()
    };
    shared.wake.notify_one();
    loop {
        let settled = shared.settled.notified();
        tokio::pin!(settled);
        settled.as_mut().enable();
        if !shared.lock().queue.is_busy(begin) {
            return;
        }
        settled.await;
    }
}
