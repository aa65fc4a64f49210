//! Invoices: one for each period of a subscription.

mod draft;

use serde_json::{Value, json};

pub(crate) use self::draft::draft;
use crate::{
    Dunning,
    cards::{self, Charge},
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int, text},
    subscriptions,
    table::Page,
};

/// How long after an attempt the next one is made; after the last the invoice is given up.
const RETRIES: [i64; 3] = [3 * 86_400, 5 * 86_400, 7 * 86_400];

/// How an invoice is collected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Way {
    Charge(Charge),
    /// It is open until somebody pays.
    Wait,
    /// It is put away: as a draft, void, or uncollectible.
    Shelve(&'static str),
}

/// How the invoice of a subscription is to be collected.
pub(crate) fn way(state: &State, subscription: &Value, invoice: &Value) -> Way {
    match subscription["pause_collection"]["behavior"].as_str() {
        Some("void") => return Way::Shelve("void"),
        Some("mark_uncollectible") => return Way::Shelve("uncollectible"),
        Some(_) => return Way::Shelve("draft"),
        None => {}
    }
    if subscription["status"] == "unpaid" {
        return Way::Shelve("draft");
    }
    if int(invoice, "total") == 0 {
        return Way::Charge(Charge::Paid);
    }
    if subscription["collection_method"] == "send_invoice" {
        return Way::Wait;
    }
    Way::Charge(cards::charge(state, subscription))
}

/// The status of a subscription whose newest invoice was collected so.
pub(crate) fn status_after(subscription: &Value, way: Way) -> &'static str {
    match way {
        _ if subscription["status"] == "unpaid" => "unpaid",
        _ if subscription["status"] == "incomplete" => "incomplete",
        Way::Charge(Charge::Declined | Charge::NoCard) => "past_due",
        _ => "active",
    }
}

/// Stores an invoice, and collects it: all events that it has at Stripe, one after the other.
pub(crate) fn settle(state: &mut State, mut invoice: Value, way: Way, at: i64) {
    state.put("in", invoice.clone());
    events::record(state, "invoice.created", &invoice, None);
    if way == Way::Shelve("draft") {
        invoice["auto_advance"] = json!(false);
        events::update(state, "in", "invoice.updated", invoice);
        return;
    }
    invoice["status"] = json!("open");
    invoice["effective_at"] = json!(at);
    invoice["status_transitions"]["finalized_at"] = json!(at);
    state.put("in", invoice.clone());
    events::record(state, "invoice.finalized", &invoice, None);
    match way {
        Way::Wait => {}
        Way::Shelve("void") => shelve(state, invoice, "void", "voided", at),
        Way::Shelve(_) => shelve(state, invoice, "uncollectible", "marked_uncollectible", at),
        Way::Charge(charge) => attempt(state, invoice, charge, at),
    }
}

fn shelve(state: &mut State, mut invoice: Value, status: &str, what: &str, at: i64) {
    invoice["status"] = json!(status);
    invoice["next_payment_attempt"] = Value::Null;
    invoice["status_transitions"][format!("{what}_at")] = json!(at);
    state.put("in", invoice.clone());
    events::record(state, &format!("invoice.{what}"), &invoice, None);
}

/// One attempt to be paid.
pub(crate) fn attempt(state: &mut State, mut invoice: Value, charge: Charge, at: i64) {
    let attempts = int(&invoice, "attempt_count");
    invoice["attempted"] = json!(true);
    invoice["attempt_count"] = json!(attempts + 1);
    invoice["next_payment_attempt"] = Value::Null;
    if charge == Charge::Paid {
        invoice["status"] = json!("paid");
        (invoice["amount_paid"], invoice["amount_remaining"]) = (invoice["total"].clone(), json!(0));
        invoice["status_transitions"]["paid_at"] = json!(at);
        (invoice["ending_balance"], invoice["webhooks_delivered_at"]) = (json!(0), json!(at));
        state.put("in", invoice.clone());
        events::record(state, "invoice.paid", &invoice, None);
        events::record(state, "invoice.payment_succeeded", &invoice, None);
        return;
    }
    // First invoices are not tried again by themselves.
    if invoice["billing_reason"] != "subscription_create" {
        let wait = RETRIES.get(attempts as usize);
        invoice["next_payment_attempt"] = json!(wait.map(|wait| at + wait));
    }
    state.put("in", invoice.clone());
    events::record(state, "invoice.payment_failed", &invoice, None);
}

/// The attempt that is due. Whether it was the last one, and failed; then the setting says what comes.
pub(crate) fn retry(state: &mut State, subscription: &Value, at: i64) -> Option<Dunning> {
    let invoice = state.find("in", text(subscription, "latest_invoice")).cloned()?;
    let id = text(&invoice, "id").to_owned();
    let charge = cards::charge(state, subscription);
    attempt(state, invoice, charge, at);
    if charge == Charge::Paid {
        subscriptions::paid(state, text(subscription, "id"), &id);
        return None;
    }
    let given_up = state.find("in", &id)?["next_payment_attempt"].is_null();
    given_up.then_some(state.dunning)
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("in", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, customer, subscription) =
        (Page::read(params)?, params.text("customer")?, params.text("subscription")?);
    let status = params.choice("status", &["draft", "open", "paid", "uncollectible", "void"])?;
    params.finish()?;
    state.table("in").page(&page, "/v1/invoices", customer.as_deref(), |invoice| {
        let of = &invoice["parent"]["subscription_details"]["subscription"];
        status.as_deref().is_none_or(|status| invoice["status"] == status)
            && subscription.as_deref().is_none_or(|subscription| of == subscription)
    })
}

/// Pays an open invoice with the card there is.
pub(crate) fn pay(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let invoice = open(state, id)?;
    let by_hand = params.boolean("paid_out_of_band")?.unwrap_or(false);
    params.ignore(&["off_session", "forgive"]);
    params.finish()?;
    let of = text(&invoice["parent"]["subscription_details"], "subscription").to_owned();
    let subscription = state.get("sub", &of)?;
    let at = subscriptions::now_of(state, &subscription);
    let charge = if by_hand { Charge::Paid } else { cards::charge(state, &subscription) };
    if charge == Charge::NoCard {
        return Err(Error::invalid(
            "There is no default payment method set on this invoice or its customer.",
        ));
    }
    attempt(state, invoice, charge, at);
    if charge != Charge::Paid {
        return Err(Error::declined());
    }
    subscriptions::paid(state, &of, id);
    state.get("in", id)
}

fn open(state: &State, id: &str) -> Result<Value> {
    let invoice = state.get("in", id)?;
    match text(&invoice, "status") {
        "open" | "uncollectible" | "draft" => Ok(invoice),
        "paid" => Err(Error::coded("invoice_already_paid", "Invoice is already paid")),
        _ => Err(Error::coded("invoice_not_editable", "This invoice can no longer be changed.")),
    }
}

pub(crate) fn void(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    let invoice = open(state, id)?;
    let at = state.now_on(invoice["test_clock"].as_str());
    shelve(state, invoice, "void", "voided", at);
    state.get("in", id)
}
