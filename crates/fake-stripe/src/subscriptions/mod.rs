//! Subscriptions: what they are, and what all that changes them shares.

mod course;
mod create;
mod items;
mod period;
mod update;

use serde_json::{Value, json};

pub(crate) use self::{
    course::{coming_next, force, next, plan, run_until},
    create::{Behavior, Opening, create, open, read_items},
    items::{
        Item, check_all as check_items, create as create_item, delete as delete_item, get as get_item,
        list as list_items, replace as replace_items, update as update_item,
    },
    period::end_after,
    update::{paid, resume, update},
};
use crate::{
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int, text},
    table::{Page, Range},
};

/// A subscription to nothing yet.
fn skeleton(customer: &Value, currency: &str, at: i64) -> Value {
    json!({
        "id": "",
        "object": "subscription",
        "application": null,
        "application_fee_percent": null,
        "automatic_tax": {"disabled_reason": null, "enabled": false, "liability": null},
        "billing_cycle_anchor": at,
        "billing_cycle_anchor_config": null,
        "billing_mode": {"flexible": {"proration_discounts": "included"}, "type": "flexible", "updated_at": at},
        "billing_schedules": [],
        "billing_thresholds": null,
        "cancel_at": null,
        "cancel_at_period_end": false,
        "canceled_at": null,
        "cancellation_details": {"comment": null, "feedback": null, "feedback_option": null, "reason": null},
        "collection_method": "charge_automatically",
        "created": at,
        "currency": currency,
        "customer": customer["id"],
        "customer_account": null,
        "days_until_due": null,
        "default_payment_method": null,
        "default_source": null,
        "default_tax_rates": [],
        "description": null,
        "discounts": [],
        "ended_at": null,
        "invoice_settings": {
            "account_tax_ids": null, "custom_fields": null, "description": null, "footer": null,
            "issuer": {"type": "self"},
        },
        "items": {"object": "list", "data": [], "has_more": false, "url": ""},
        "latest_invoice": null,
        "livemode": false,
        "managed_payments": null,
        "metadata": {},
        "next_pending_invoice_item_invoice": null,
        "on_behalf_of": null,
        "pause_collection": null,
        "payment_settings": {
            "payment_method_options": null, "payment_method_types": null, "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": null,
        "pending_setup_intent": null,
        "pending_update": null,
        "schedule": null,
        "start_date": at,
        "status": "incomplete",
        "test_clock": customer["test_clock"],
        "transfer_data": null,
        "trial_end": null,
        "trial_settings": {
            "end_behavior": {"billing_cycle_anchor": null, "missing_payment_method": "create_invoice"},
        },
        "trial_start": null,
    })
}

pub(crate) fn is_over(subscription: &Value) -> bool {
    matches!(text(subscription, "status"), "canceled" | "incomplete_expired")
}

/// The time at which a subscription is.
pub(crate) fn now_of(state: &State, subscription: &Value) -> i64 {
    state.now_on(subscription["test_clock"].as_str())
}

pub(crate) fn period_end(subscription: &Value) -> i64 {
    int(&subscription["items"]["data"][0], "current_period_end")
}

/// All items are in one period.
fn set_period(subscription: &mut Value, start: i64, end: i64) {
    for item in subscription["items"]["data"].as_array_mut().into_iter().flatten() {
        (item["current_period_start"], item["current_period_end"]) = (json!(start), json!(end));
    }
}

/// Stores a subscription that has changed, says so, and plans what comes next.
pub(crate) fn save(state: &mut State, subscription: &Value) {
    events::update(state, "sub", "customer.subscription.updated", subscription.clone());
    course::plan(state, subscription);
}

/// Ends a subscription now.
pub(crate) fn end(state: &mut State, mut subscription: Value, reason: &str) -> Value {
    let at = now_of(state, &subscription);
    end_at(state, &mut subscription, reason, at);
    subscription
}

fn end_at(state: &mut State, subscription: &mut Value, reason: &str, at: i64) {
    subscription["status"] = json!("canceled");
    subscription["ended_at"] = json!(at);
    if subscription["canceled_at"].is_null() {
        subscription["canceled_at"] = json!(at);
    }
    subscription["cancellation_details"]["reason"] = json!(reason);
    state.put("sub", subscription.clone());
    events::record(state, "customer.subscription.deleted", subscription, None);
    course::plan(state, subscription);
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("sub", id)
}

/// A subscription that can still be changed.
fn live(state: &State, id: &str) -> Result<Value> {
    let subscription = state.get("sub", id)?;
    if is_over(&subscription) { Err(Error::not_found("subscription", id)) } else { Ok(subscription) }
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let page = Page::read(params)?;
    let (customer, price) = (params.text("customer")?, params.text("price")?);
    let (clock, collection) = (params.text("test_clock")?, params.text("collection_method")?);
    let status = params.choice("status", STATUSES)?;
    let ends = Range::read(params, "current_period_end")?;
    params.finish()?;
    let in_state = |subscription: &Value| match status.as_deref() {
        Some("all") => true,
        Some("ended") => is_over(subscription),
        Some(wanted) => subscription["status"] == wanted,
        None => subscription["status"] != "canceled",
    };
    let subscriptions = state.table("sub");
    // As Stripe does: who cancels what a list has come to cannot go on from there.
    page.begins_among(subscriptions, in_state)?;
    subscriptions.page(&page, "/v1/subscriptions", customer.as_deref(), |subscription| {
        let is = |field: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| subscription[field] == wanted)
        };
        let items = || subscription["items"]["data"].as_array().into_iter().flatten();
        in_state(subscription)
            && is("test_clock", &clock)
            && is("collection_method", &collection)
            && ends.contains(period_end(subscription))
            && price.as_deref().is_none_or(|price| items().any(|item| item["price"]["id"] == price))
    })
}

const STATUSES: &[&str] = &[
    "active",
    "past_due",
    "unpaid",
    "canceled",
    "incomplete",
    "incomplete_expired",
    "trialing",
    "paused",
    "all",
    "ended",
];

pub(crate) fn cancel(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut subscription = live(state, id)?;
    update::cancellation_details(&mut subscription, params)?;
    params.ignore(&["invoice_now", "prorate"]);
    params.finish()?;
    let ended = end(state, subscription, "cancellation_requested");
    crate::schedules::canceled_with(state, &ended);
    state.get("sub", id)
}
