//! Changes that somebody asks for.

use serde_json::{Value, json};

use super::{create::no_card, end_after, items::Changes, live, now_of, period_end, save, set_period};
use crate::{
    cards::{self, Charge},
    error::{Error, Result},
    events,
    form::Params,
    invoices,
    state::{State, int, text},
    subscriptions::course,
};

/// What Stripe knows and this fake takes without doing anything.
pub(crate) const IGNORED: &[&str] = &[
    "automatic_tax",
    "billing_mode",
    "invoice_settings",
    "off_session",
    "payment_behavior",
    "payment_settings",
    "proration_behavior",
    "proration_date",
];

/// What may be said at the beginning and later.
pub(crate) fn common(state: &State, subscription: &mut Value, params: &mut Params, at: i64) -> Result<()> {
    params.metadata(subscription)?;
    if let Some(description) = params.nullable("description")? {
        subscription["description"] = description;
    }
    if let Some(method) = params.nullable("default_payment_method")? {
        if let Some(method) = method.as_str() {
            cards::check(state, method)?;
        }
        subscription["default_payment_method"] = method;
    }
    if let Some(method) = params.choice("collection_method", &["charge_automatically", "send_invoice"])? {
        subscription["collection_method"] = json!(method);
    }
    if let Some(days) = params.integer("days_until_due")? {
        subscription["days_until_due"] = json!(days);
    }
    if let Some(mut settings) = params.group("trial_settings")? {
        let mut end =
            settings.group("end_behavior")?.ok_or_else(|| Error::missing("trial_settings[end_behavior]"))?;
        if let Some(choice) = end.choice("missing_payment_method", &["create_invoice", "cancel", "pause"])? {
            subscription["trial_settings"]["end_behavior"]["missing_payment_method"] = json!(choice);
        }
        end.finish()?;
        settings.finish()?;
    }
    cancellation(subscription, params, at)
}

fn cancellation(subscription: &mut Value, params: &mut Params, at: i64) -> Result<()> {
    let (at_period_end, at_time) = (params.boolean("cancel_at_period_end")?, params.nullable("cancel_at")?);
    if at_period_end == Some(true) && at_time.as_ref().is_some_and(Value::is_string) {
        return Err(Error::invalid(
            "You may only specify one of these parameters: cancel_at, cancel_at_period_end.",
        ));
    }
    let cancel_at = match at_time.as_ref().and_then(Value::as_str) {
        None => None,
        Some("min_period_end" | "max_period_end") => Some(period_end(subscription)),
        Some(time) => {
            let time: i64 =
                time.parse().map_err(|_| Error::invalid("Invalid timestamp").about("cancel_at"))?;
            if time <= at {
                return Err(Error::invalid("cancel_at must be in the future").about("cancel_at"));
            }
            Some(time)
        }
    };
    match (at_period_end, cancel_at) {
        (Some(true), _) => {
            // Until there is a period it is filled in by the beginning.
            let end = period_end(subscription);
            will_end(subscription, (end > 0).then_some(end), at);
            subscription["cancel_at_period_end"] = json!(true);
        }
        (_, Some(time)) => {
            will_end(subscription, Some(time), at);
            subscription["cancel_at_period_end"] = json!(false);
        }
        (Some(false), None) if at_time.is_none() && subscription["cancel_at_period_end"] == true => {
            will_stay(subscription);
        }
        (_, None) if at_time.is_some() => will_stay(subscription),
        _ => {}
    }
    cancellation_details(subscription, params)
}

fn will_end(subscription: &mut Value, cancel_at: Option<i64>, at: i64) {
    subscription["cancel_at"] = json!(cancel_at);
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = json!(at);
    }
    subscription["cancellation_details"]["reason"] = json!("cancellation_requested");
}

fn will_stay(subscription: &mut Value) {
    subscription["cancel_at_period_end"] = json!(false);
    (subscription["cancel_at"], subscription["canceled_at"]) = (Value::Null, Value::Null);
    subscription["cancellation_details"]["reason"] = Value::Null;
}

pub(crate) fn cancellation_details(subscription: &mut Value, params: &mut Params) -> Result<()> {
    if let Some(mut details) = params.group("cancellation_details")? {
        for field in ["comment", "feedback"] {
            if let Some(value) = details.nullable(field)? {
                subscription["cancellation_details"][field] = value;
            }
        }
        details.finish()?;
    }
    Ok(())
}

pub(crate) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut subscription = state.get("sub", id)?;
    let at = now_of(state, &subscription);
    if super::is_over(&subscription) {
        params.metadata(&mut subscription)?;
        cancellation_details(&mut subscription, params)?;
        let message = "A canceled subscription can only update its cancellation_details and metadata.";
        params.finish().map_err(|_| Error::invalid(message))?;
        save(state, &subscription);
        return Ok(subscription);
    }
    common(state, &mut subscription, params, at)?;
    pause(&mut subscription, params)?;
    let given = params.list("items")?;
    let changes = given.map(|given| Changes::read(state, &subscription, given)).transpose()?;
    let trial = trial(params, at)?;
    let anchor = params.choice("billing_cycle_anchor", &["now", "unchanged"])?;
    params.ignore(IGNORED);
    params.finish()?;

    if let Some(method) = subscription["default_payment_method"].as_str().map(str::to_owned) {
        let customer = text(&subscription, "customer").to_owned();
        subscription["default_payment_method"] = json!(cards::attach(state, &method, &customer));
    }
    if let Some(changes) = changes {
        changes.apply(state, &mut subscription, at);
    }
    match trial {
        Some(Trial::Until(end)) => begin_trial(&mut subscription, at, end),
        Some(Trial::Over) if subscription["status"] == "trialing" => {
            subscription["trial_end"] = json!(at);
            rebill(state, &mut subscription, at);
        }
        _ if anchor.as_deref() == Some("now") => rebill(state, &mut subscription, at),
        _ => {}
    }
    if subscription["cancel_at_period_end"] == true {
        subscription["cancel_at"] = json!(period_end(&subscription));
    }
    save(state, &subscription);
    course::announce(state, &subscription, at);
    Ok(subscription)
}

fn pause(subscription: &mut Value, params: &mut Params) -> Result<()> {
    let Some(given) = params.nullable_group("pause_collection")? else { return Ok(()) };
    subscription["pause_collection"] = match given {
        None => Value::Null,
        Some(mut given) => {
            let behaviors = ["keep_as_draft", "mark_uncollectible", "void"];
            let behavior = given.choice("behavior", &behaviors)?;
            let behavior = behavior.ok_or_else(|| Error::missing("pause_collection[behavior]"))?;
            let resumes_at = given.integer("resumes_at")?;
            given.finish()?;
            json!({"behavior": behavior, "resumes_at": resumes_at})
        }
    };
    Ok(())
}

enum Trial {
    Over,
    Until(i64),
}

fn trial(params: &mut Params, at: i64) -> Result<Option<Trial>> {
    let Some(end) = params.text("trial_end")? else { return Ok(None) };
    if end == "now" {
        return Ok(Some(Trial::Over));
    }
    let end: i64 = end.parse().map_err(|_| Error::invalid("Invalid timestamp").about("trial_end"))?;
    if end <= at {
        return Err(Error::invalid("The trial end must be in the future.").about("trial_end"));
    }
    Ok(Some(Trial::Until(end)))
}

fn begin_trial(subscription: &mut Value, at: i64, end: i64) {
    if subscription["status"] != "trialing" {
        subscription["trial_start"] = json!(at);
    }
    subscription["status"] = json!("trialing");
    subscription["trial_end"] = json!(end);
    subscription["billing_cycle_anchor"] = json!(end);
    let start = int(&subscription["items"]["data"][0], "current_period_start");
    set_period(subscription, start, end);
}

/// Begins a new period now, and bills it. The caller stores the subscription.
pub(crate) fn rebill(state: &mut State, subscription: &mut Value, at: i64) {
    subscription["billing_cycle_anchor"] = json!(at);
    let end = end_after(&subscription["items"]["data"][0]["price"], at, at);
    set_period(subscription, at, end);
    let invoice = invoices::draft(state, subscription, "subscription_update", at, false);
    subscription["latest_invoice"] = invoice["id"].clone();
    let way = invoices::way(state, subscription, &invoice);
    invoices::settle(state, invoice, way, at);
    subscription["status"] = json!(invoices::status_after(subscription, way));
}

/// Takes up again what was paused at the end of its trial.
pub(crate) fn resume(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut subscription = live(state, id)?;
    params.choice("billing_cycle_anchor", &["now", "unchanged"])?;
    params.ignore(&["proration_behavior", "proration_date"]);
    params.finish()?;
    if subscription["status"] != "paused" {
        return Err(Error::invalid("Only paused subscriptions can be resumed."));
    }
    match cards::charge(state, &subscription) {
        Charge::Paid => {}
        Charge::Declined => return Err(Error::declined()),
        Charge::NoCard => return Err(no_card()),
    }
    let at = now_of(state, &subscription);
    rebill(state, &mut subscription, at);
    save(state, &subscription);
    events::record(state, "customer.subscription.resumed", &subscription, None);
    Ok(subscription)
}

/// What an invoice that is paid after all does to its subscription.
pub(crate) fn paid(state: &mut State, subscription: &str, invoice: &str) {
    let Some(mut subscription) = state.find("sub", subscription).cloned() else { return };
    let waits = matches!(text(&subscription, "status"), "incomplete" | "past_due" | "unpaid");
    if waits && subscription["latest_invoice"] == invoice {
        subscription["status"] = json!("active");
        save(state, &subscription);
    } else {
        course::plan(state, &subscription);
    }
}
