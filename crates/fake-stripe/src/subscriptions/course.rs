//! What time does to subscriptions: trials end, periods follow, payments are tried again, subscriptions end.

use serde_json::{Value, json};

use super::{end_after, end_at, is_over, period_end, save, set_period};
use crate::{
    Dunning,
    cards::{self, Charge},
    error::{Error, Result},
    events, invoices, schedules,
    state::{State, int, text},
};

/// The first invoice may be paid for this long.
const PATIENCE: i64 = 23 * 3600;

/// The end of a trial is announced this long before.
const NOTICE: i64 = 3 * 86_400;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Expire,
    End,
    Announce,
    NextPhase,
    EndTrial,
    Resume,
    Retry,
    Renew,
}

/// What comes next, and when. Of two things in one second, what ends comes before what goes on.
fn coming(state: &State, subscription: &Value) -> Option<(i64, Step)> {
    let status = text(subscription, "status");
    let at = |field: &str| subscription[field].as_i64();
    let end = at("cancel_at").map(|at| (at, Step::End));
    let phase = schedules::phase_end(state, subscription).map(|at| (at, Step::NextPhase));
    let steps = match status {
        "canceled" | "incomplete_expired" => return None,
        "incomplete" => vec![Some((int(subscription, "created") + PATIENCE, Step::Expire))],
        "paused" => vec![end],
        "trialing" => {
            let trial_end = int(subscription, "trial_end");
            let announced = state.announced.get(text(subscription, "id")) == Some(&trial_end);
            let notice = (!announced).then_some((trial_end - NOTICE, Step::Announce));
            vec![end, notice, phase, Some((trial_end, Step::EndTrial))]
        }
        _ => {
            let resumes = subscription["pause_collection"]["resumes_at"].as_i64();
            let invoice = state.find("in", text(subscription, "latest_invoice"));
            let retry = invoice.and_then(|invoice| invoice["next_payment_attempt"].as_i64());
            vec![
                end,
                phase,
                resumes.map(|at| (at, Step::Resume)),
                retry.map(|at| (at, Step::Retry)),
                Some((period_end(subscription), Step::Renew)),
            ]
        }
    };
    // Of equals, `min_by_key` keeps the first.
    steps.into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// The same in words, which follow "it".
pub(crate) fn coming_next(state: &State, subscription: &Value) -> Option<(i64, &'static str)> {
    let (at, step) = coming(state, subscription)?;
    let words = match step {
        Step::Expire => "expires, as its first invoice is not paid,",
        Step::End => "ends",
        Step::Announce => "says that its trial will end",
        Step::NextPhase => "goes into its next phase",
        Step::EndTrial => "ends its trial",
        Step::Resume => "collects payments again",
        Step::Retry => "tries to be paid again",
        Step::Renew => "renews",
    };
    Some((at, words))
}

/// Notes when something will happen to a subscription.
pub(crate) fn plan(state: &mut State, subscription: &Value) {
    let id = text(subscription, "id").to_owned();
    if let Some((clock, at)) = state.due_of.remove(&id) {
        state.due.remove(&(clock, at, id.clone()));
    }
    if let Some((at, _)) = coming(state, subscription) {
        let clock = text(subscription, "test_clock").to_owned();
        state.due.insert((clock.clone(), at, id.clone()));
        state.due_of.insert(id, (clock, at));
    }
}

/// Lets time pass on a test clock, or on everything that has none: all that is due until `to`, in its order.
pub(crate) fn run_until(state: &mut State, clock: &str, to: i64) {
    loop {
        let mut from = state.due.range((clock.to_owned(), i64::MIN, String::new())..);
        let Some((of, at, id)) = from.next().cloned() else { return };
        if of != clock || at > to {
            return;
        }
        let before = next_of(state, &id);
        step(state, &id);
        if next_of(state, &id) == before {
            // Nothing came of it, and nothing will.
            state.due.remove(&(of, at, id.clone()));
            state.due_of.remove(&id);
        }
    }
}

fn next_of(state: &State, id: &str) -> Option<(i64, Step)> {
    coming(state, state.find("sub", id)?)
}

/// What comes next happens to this subscription, as if its time had come.
pub(crate) fn next(state: &mut State, id: &str) -> Result<Value> {
    step(state, id);
    state.get("sub", id)
}

fn step(state: &mut State, id: &str) {
    let Some(mut subscription) = state.find("sub", id).cloned() else { return };
    let Some((at, step)) = coming(state, &subscription) else { return };
    match step {
        Step::Expire => {
            subscription["status"] = json!("incomplete_expired");
            subscription["ended_at"] = json!(at);
            save(state, &subscription);
        }
        Step::End => {
            end_at(state, &mut subscription, "cancellation_requested", at);
            schedules::canceled_with(state, &subscription);
        }
        Step::Announce => announce_now(state, &subscription),
        Step::NextPhase => schedules::next_phase(state, &mut subscription, at),
        Step::EndTrial => end_trial(state, subscription, at),
        Step::Resume => {
            subscription["pause_collection"] = Value::Null;
            save(state, &subscription);
        }
        Step::Retry => {
            let dunning = invoices::retry(state, &subscription, at);
            subscription = state.find("sub", id).cloned().unwrap_or_default();
            match dunning {
                Some(Dunning::Cancel) => end_at(state, &mut subscription, "payment_failed", at),
                Some(Dunning::Unpaid) => {
                    subscription["status"] = json!("unpaid");
                    save(state, &subscription);
                }
                Some(Dunning::PastDue) | None => plan(state, &subscription),
            }
        }
        Step::Renew => renew(state, subscription, at, "subscription_cycle"),
    }
}

/// The next period, and its invoice.
fn renew(state: &mut State, mut subscription: Value, at: i64, reason: &str) {
    let price = subscription["items"]["data"][0]["price"].clone();
    let end = end_after(&price, int(&subscription, "billing_cycle_anchor"), at);
    set_period(&mut subscription, at, end);
    let invoice = invoices::draft(state, &subscription, reason, at, false);
    subscription["latest_invoice"] = invoice["id"].clone();
    let way = invoices::way(state, &subscription, &invoice);
    let status = invoices::status_after(&subscription, way);
    // A payment that fails is news of its own; the next one that works ends it with the new period.
    if status != "past_due" {
        subscription["status"] = json!(status);
    } else if subscription["status"] == "trialing" {
        subscription["status"] = json!("active");
    }
    save(state, &subscription);
    invoices::settle(state, invoice, way, at);
    subscription["status"] = json!(status);
    save(state, &subscription);
}

fn end_trial(state: &mut State, mut subscription: Value, at: i64) {
    if cards::charge(state, &subscription) == Charge::NoCard {
        match text(&subscription["trial_settings"]["end_behavior"], "missing_payment_method") {
            "cancel" => return end_at(state, &mut subscription, "payment_failed", at),
            "pause" => {
                subscription["status"] = json!("paused");
                save(state, &subscription);
                return events::record(state, "customer.subscription.paused", &subscription, None);
            }
            _ => {}
        }
    }
    renew(state, subscription, at, "subscription_cycle");
}

/// Says at once that a trial ends soon.
pub(crate) fn announce(state: &mut State, subscription: &Value, at: i64) {
    if matches!(coming(state, subscription), Some((due, Step::Announce)) if due <= at) {
        announce_now(state, subscription);
    }
}

fn announce_now(state: &mut State, subscription: &Value) {
    state.announced.insert(text(subscription, "id").to_owned(), int(subscription, "trial_end"));
    events::record(state, "customer.subscription.trial_will_end", subscription, None);
    plan(state, subscription);
}

/// Puts a subscription into a status, however it would get there; be it one that Stripe has not thought of yet.
pub(crate) fn force(state: &mut State, id: &str, status: &str) -> Result<Value> {
    let mut subscription = state.get("sub", id)?;
    // What lists are asked for by is none.
    let word = |status: &str| status.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if status.is_empty() || !word(status) || super::STATUSES[8..].contains(&status) {
        return Err(Error::invalid("no such status").about("status"));
    }
    if is_over(&subscription) {
        return Err(Error::invalid("it is over").about("status"));
    }
    let at = super::now_of(state, &subscription);
    match status {
        "canceled" => end_at(state, &mut subscription, "cancellation_requested", at),
        _ => {
            if status == "trialing" {
                subscription["trial_start"] = json!(at);
                subscription["trial_end"] = json!(period_end(&subscription));
            }
            if status == "incomplete_expired" {
                subscription["ended_at"] = json!(at);
            }
            let was = text(&subscription, "status").to_owned();
            subscription["status"] = json!(status);
            save(state, &subscription);
            match (was.as_str(), status) {
                (_, "paused") => events::record(state, "customer.subscription.paused", &subscription, None),
                ("paused", "active") => {
                    events::record(state, "customer.subscription.resumed", &subscription, None);
                }
                _ => {}
            }
        }
    }
    Ok(subscription)
}
