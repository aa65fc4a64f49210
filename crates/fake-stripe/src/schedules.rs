//! Subscription schedules: made from a subscription, with phases that follow each other.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int, text},
    subscriptions::{self, Item, end_after},
    table::Page,
};

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let id = params.required("from_subscription")?;
    let mut subscription = state.named("sub", &id, "from_subscription")?;
    let mut holder = json!({"metadata": {}});
    params.metadata(&mut holder)?;
    params.finish()?;
    if subscriptions::is_over(&subscription) || !subscription["schedule"].is_null() {
        let message = "You cannot migrate a subscription that is over or already attached to a schedule.";
        return Err(Error::invalid(message).about("from_subscription"));
    }
    let at = subscriptions::now_of(state, &subscription);
    let first = &subscription["items"]["data"][0];
    let (start, end) = (int(first, "current_period_start"), int(first, "current_period_end"));
    let items: Vec<Value> =
        subscription["items"]["data"].as_array().into_iter().flatten().map(phase_item).collect();
    let id = state.id("sub_sched");
    let schedule = json!({
        "id": id,
        "object": "subscription_schedule",
        "application": null,
        "billing_mode": subscription["billing_mode"],
        "canceled_at": null,
        "completed_at": null,
        "created": at,
        "current_phase": {"end_date": end, "start_date": start},
        "customer": subscription["customer"],
        "customer_account": null,
        "default_settings": {
            "application_fee_percent": null,
            "automatic_tax": {"disabled_reason": null, "enabled": false, "liability": null},
            "billing_cycle_anchor": "automatic", "billing_thresholds": null,
            "collection_method": "charge_automatically", "default_payment_method": null, "description": null,
            "invoice_settings": {
                "account_tax_ids": null, "custom_fields": null, "days_until_due": null, "description": null,
                "footer": null, "issuer": {"type": "self"},
            },
            "on_behalf_of": null, "transfer_data": null,
        },
        "end_behavior": "release",
        "livemode": false,
        "metadata": holder["metadata"],
        "pause_schedules": [],
        "phases": [phase(&subscription, items, start, end)],
        "released_at": null,
        "released_subscription": null,
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": subscription["test_clock"],
    });
    state.put("sub_sched", schedule.clone());
    events::record(state, "subscription_schedule.created", &schedule, None);
    subscription["schedule"] = json!(id);
    subscriptions::save(state, &subscription);
    Ok(schedule)
}

fn phase_item(item: &Value) -> Value {
    json!({
        "billing_thresholds": null, "discounts": [], "metadata": {}, "plan": item["price"]["id"],
        "price": item["price"]["id"], "quantity": item["quantity"], "tax_rates": [],
    })
}

fn phase(subscription: &Value, items: Vec<Value>, start: i64, end: i64) -> Value {
    json!({
        "add_invoice_items": [], "application_fee_percent": null, "billing_cycle_anchor": null,
        "billing_thresholds": null, "collection_method": null, "currency": subscription["currency"],
        "default_payment_method": null, "default_tax_rates": [], "description": null, "discounts": [],  "end_date": end, "invoice_settings": null, "items": items, "metadata": {}, "on_behalf_of": null,
        "proration_behavior": "create_prorations", "start_date": start, "transfer_data": null, "trial_end": null,
    })
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("sub_sched", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, customer) = (Page::read(params)?, params.text("customer")?);
    params.finish()?;
    state.table("sub_sched").page(&page, "/v1/subscription_schedules", customer.as_deref(), |_| true)
}

/// Sets the phases. The first begins where the current one began; the others where the one before ends.
pub(crate) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut schedule = active(state, id)?;
    let subscription = state.get("sub", text(&schedule, "subscription"))?;
    params.metadata(&mut schedule)?;
    if let Some(end) = params.choice("end_behavior", &["release", "cancel"])? {
        schedule["end_behavior"] = json!(end);
    }
    if let Some(given) = params.list("phases")? {
        let mut phases = vec![];
        let mut start = int(&schedule["current_phase"], "start_date");
        for given in given {
            let phase = read_phase(state, &subscription, given, start)?;
            start = int(&phase, "end_date");
            phases.push(phase);
        }
        let first = phases.first().ok_or_else(|| Error::missing("phases"))?;
        schedule["current_phase"] = json!({"end_date": first["end_date"], "start_date": first["start_date"]});
        schedule["phases"] = json!(phases);
    }
    params.ignore(&["proration_behavior"]);
    params.finish()?;
    events::update(state, "sub_sched", "subscription_schedule.updated", schedule.clone());
    // Its next step may be another now.
    subscriptions::save(state, &subscription);
    Ok(schedule)
}

fn read_phase(state: &State, subscription: &Value, mut given: Params, start: i64) -> Result<Value> {
    let items: Vec<Item> = subscriptions::read_items(state, given.list("items")?.unwrap_or_default())?;
    subscriptions::check_items(&items)?;
    let duration = given.group("duration")?;
    let end = match (given.integer("end_date")?, duration) {
        (Some(end), _) => end,
        (None, None) => end_after(&items[0].price, start, start),
        (None, Some(mut duration)) => {
            let (interval, count) = (duration.required("interval")?, duration.integer("interval_count")?);
            duration.finish()?;
            let price = json!({"recurring": {"interval": interval, "interval_count": count.unwrap_or(1)}});
            end_after(&price, start, start)
        }
    };
    let given_start = given.integer("start_date")?.unwrap_or(start);
    if given_start != start || end <= start {
        let message = "Phases follow each other without a gap; the first begins with the current one.";
        return Err(Error::invalid(message).about(given.name("start_date")));
    }
    given.ignore(&["proration_behavior", "collection_method", "billing_cycle_anchor"]);
    given.finish()?;
    let items = items.iter().map(|item| json!({"price": item.price, "quantity": item.quantity}));
    Ok(phase(subscription, items.map(|item| phase_item(&item)).collect(), start, end))
}

pub(crate) fn release(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let schedule = active(state, id)?;
    params.ignore(&["preserve_cancel_date"]);
    params.finish()?;
    let mut subscription = state.get("sub", text(&schedule, "subscription"))?;
    let at = subscriptions::now_of(state, &subscription);
    let schedule = let_go(state, schedule, at);
    subscription["schedule"] = Value::Null;
    subscriptions::save(state, &subscription);
    Ok(schedule)
}

fn let_go(state: &mut State, mut schedule: Value, at: i64) -> Value {
    (schedule["status"], schedule["released_at"]) = (json!("released"), json!(at));
    schedule["released_subscription"] = schedule["subscription"].take();
    schedule["current_phase"] = Value::Null;
    state.put("sub_sched", schedule.clone());
    events::record(state, "subscription_schedule.released", &schedule, None);
    schedule
}

fn active(state: &State, id: &str) -> Result<Value> {
    let schedule = state.get("sub_sched", id)?;
    if schedule["status"] == "active" {
        return Ok(schedule);
    }
    Err(Error::invalid(format!("This schedule is {} and cannot be changed.", text(&schedule, "status"))))
}

/// When the current phase of a subscription's schedule ends.
pub(crate) fn phase_end(state: &State, subscription: &Value) -> Option<i64> {
    let schedule = state.find("sub_sched", subscription["schedule"].as_str()?)?;
    schedule["current_phase"]["end_date"].as_i64()
}

/// The next phase begins, or the schedule ends.
pub(crate) fn next_phase(state: &mut State, subscription: &mut Value, at: i64) {
    let Some(mut schedule) = state.find("sub_sched", text(subscription, "schedule")).cloned() else { return };
    let phases = schedule["phases"].as_array().cloned().unwrap_or_default();
    let Some(next) = phases.iter().find(|phase| int(phase, "start_date") == at) else {
        if schedule["end_behavior"] == "cancel" {
            *subscription = subscriptions::end(state, subscription.take(), "cancellation_requested");
            return canceled_with(state, subscription);
        }
        let_go(state, schedule, at);
        subscription["schedule"] = Value::Null;
        return subscriptions::save(state, subscription);
    };
    let items = next["items"].as_array().into_iter().flatten().filter_map(|item| {
        let price = state.find("price", text(item, "price"))?.clone();
        Some(Item { price, quantity: int(item, "quantity"), metadata: json!({}) })
    });
    let items: Vec<Item> = items.collect();
    schedule["current_phase"] = json!({"end_date": next["end_date"], "start_date": next["start_date"]});
    events::update(state, "sub_sched", "subscription_schedule.updated", schedule);
    subscriptions::replace_items(state, subscription, items, at);
    subscriptions::save(state, subscription);
}

/// A schedule ends with its subscription.
pub(crate) fn canceled_with(state: &mut State, subscription: &Value) {
    let Some(mut schedule) = state.find("sub_sched", text(subscription, "schedule")).cloned() else { return };
    (schedule["status"], schedule["canceled_at"]) = (json!("canceled"), subscription["ended_at"].clone());
    schedule["current_phase"] = Value::Null;
    events::update(state, "sub_sched", "subscription_schedule.canceled", schedule);
}
