//! `/_fake`: what tests and people do to the fake itself, in JSON.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    Dunning, Shared, cards, delivery,
    error::{Error, Result},
    faults::{Dice, Faults},
    server::{self, Answer, Asked},
    state::State,
    subscriptions, webhooks,
};

pub(crate) async fn answer(shared: &Arc<Shared>, asked: &Asked) -> Answer {
    match act(shared, asked).await {
        Ok(value) => server::json(200, server::pretty(&value)),
        Err(error) => server::json(error.status, server::pretty(&error.body())),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status {
    status: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cards {
    customer: String,
    declines: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    dunning: Dunning,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    seconds: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resend {
    #[serde(default = "one")]
    copies: u32,
}

fn one() -> u32 {
    1
}

async fn act(shared: &Arc<Shared>, asked: &Asked) -> Result<Value> {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').skip(1).collect();
    let get = asked.method == Method::GET;
    match (get, parts.as_slice()) {
        (true, ["state"]) => Ok(state(&shared.lock())),
        (true, ["requests"]) => Ok(json!(shared.lock().counts)),
        (true, ["pending"]) => Ok(pending(&shared.lock())),
        (true, ["faults"]) => Ok(json!(shared.lock().faults)),
        (false, ["faults"]) => {
            let faults: Faults = read(asked)?;
            set_faults(shared, faults.clone()).map_err(Error::invalid)?;
            Ok(json!(faults))
        }
        (false, ["settings"]) => {
            let settings: Settings = read(asked)?;
            shared.lock().dunning = settings.dunning;
            Ok(json!({}))
        }
        (false, ["clear"]) => {
            clear(shared);
            Ok(json!({}))
        }
        (false, ["deliver"]) => {
            delivery::flush(shared).await;
            Ok(pending(&shared.lock()))
        }
        (false, ["advance"]) => {
            advance(shared, read::<Advance>(asked)?.seconds);
            Ok(state(&shared.lock()))
        }
        (false, ["cards"]) => {
            let cards: Cards = read(asked)?;
            let count = cards::set_declining(&mut shared.lock(), &cards.customer, cards.declines);
            Ok(json!({"cards": count}))
        }
        (false, ["subscriptions", id, "next"]) => subscriptions::next(&mut shared.lock(), id),
        (false, ["subscriptions", id, "status"]) => {
            subscriptions::force(&mut shared.lock(), id, &read::<Status>(asked)?.status)
        }
        (false, ["events", id, "resend"]) => {
            let (mut state, copies) = (shared.lock(), read::<Resend>(asked)?.copies);
            let event = state.get("evt", id)?;
            for endpoint in webhooks::wanting(&state, event["type"].as_str().unwrap_or_default()) {
                state.queue.add(id, &endpoint, vec![Duration::ZERO; copies as usize], true);
            }
            Ok(pending(&state))
        }
        _ => Err(Error::no_route(asked.method.as_str(), &asked.path)),
    }
}

fn read<T: DeserializeOwned>(asked: &Asked) -> Result<T> {
    let body = if asked.body.is_empty() { b"{}" } else { asked.body.as_ref() };
    serde_json::from_slice(body).map_err(|error| Error::invalid(error.to_string()))
}

fn state(state: &State) -> Value {
    let all = |prefix: &str| state.rows(prefix).collect::<Vec<_>>();
    json!({
        "now": state.now(),
        "subscriptions": all("sub"),
        "customers": all("cus"),
        "products": all("prod"),
        "prices": all("price"),
        "events": all("evt").len(),
        "invoices": all("in").len(),
    })
}

pub(crate) fn pending_count(state: &State) -> usize {
    state.queue.all().count() + state.queue.under_way.len()
}

fn pending(state: &State) -> Value {
    let queue = &state.queue;
    json!({
        "pending": pending_count(state),
        "under_way": queue.under_way.len(),
        "delivered": queue.delivered,
        "refused": queue.refused,
        "given_up": queue.given_up,
        "lost": queue.lost,
        "deliveries": queue.all().take(1000).collect::<Vec<_>>(),
    })
}

pub(crate) fn set_faults(shared: &Shared, faults: Faults) -> std::result::Result<(), &'static str> {
    if let Some(problem) = faults.problem() {
        return Err(problem);
    }
    let mut state = shared.lock();
    if let Some(seed) = faults.seed {
        state.dice = Dice::new(seed);
    }
    if faults.webhooks.deliver != state.faults.webhooks.deliver {
        for delivery in state.queue.take_all() {
            if faults.webhooks.deliver {
                state.queue.wait(delivery, Duration::ZERO);
            } else {
                state.queue.hold(delivery);
            }
        }
    }
    state.faults = faults;
    drop(state);
    shared.changed();
    Ok(())
}

/// Lets time pass for all that is on no test clock, as when it passes by itself.
pub(crate) fn advance(shared: &Shared, seconds: u32) {
    {
        let mut state = shared.lock();
        state.ahead += i64::from(seconds);
        server::pass_in(&mut state);
    }
    shared.changed();
}

pub(crate) fn clear(shared: &Shared) {
    shared.lock().clear();
    shared.changed();
    shared.settled.notify_waiters();
}
