//! Invoices: one for each period of a subscription.

use serde_json::{Value, json};

use crate::{
    Dunning,
    cards::{self, Charge},
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int, text, without},
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

/// What invoices have at Stripe, and nothing in here.
const NOTHING: &[&str] = &[
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "custom_fields",
    "customer_account",
    "default_payment_method",
    "default_source",
    "description",
    "effective_at",
    "ending_balance",
    "footer",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "webhooks_delivered_at",
];

/// An invoice for the period that the items are in. It is stored when it is settled.
pub(crate) fn draft(state: &mut State, subscription: &Value, reason: &str, at: i64, free: bool) -> Value {
    let id = state.id("in");
    let items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    let lines: Vec<Value> = items.iter().map(|item| line(state, &id, item, free)).collect();
    let total: i64 = lines.iter().map(|line| int(line, "amount")).sum();
    let customer = state.find("cus", text(subscription, "customer")).cloned().unwrap_or_default();
    let start = items.first().map_or(at, |item| int(item, "current_period_start"));
    let number = format!("{}-{}", text(&customer, "invoice_prefix"), &id[id.len() - 4..]);
    let mut new = json!({
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Fake",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": false,
        "auto_advance": true,
        "automatic_tax": {
            "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
        },
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": at,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "due_date": subscription["days_until_due"].as_i64().map(|days| at + days * 86_400),
        "issuer": {"type": "self"},
        "lines": {
            "object": "list", "data": lines, "has_more": false, "url": format!("/v1/invoices/{id}/lines"),
        },
        "livemode": false,
        "metadata": {},
        "number": number,
        "parent": {
            "quote_details": null,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
            "type": "subscription_details",
        },
        "payment_settings": {"default_mandate": null, "payment_method_options": null, "payment_method_types": null},
        "period_end": at,
        "period_start": start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": {
            "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": subscription["test_clock"],
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    });
    without(&mut new, NOTHING);
    new
}

fn line(state: &mut State, invoice: &str, item: &Value, free: bool) -> Value {
    let (price, quantity) = (&item["price"], int(item, "quantity"));
    let amount = if free { 0 } else { int(price, "unit_amount") * quantity };
    json!({
        "id": state.id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": null,
        "discount_amounts": [],
        "discountable": true,
        "discounts": [],
        "invoice": invoice,
        "livemode": false,
        "metadata": {},
        "parent": {
            "invoice_item_details": null,
            "subscription_item_details": {
                "invoice_item": null, "proration": false, "proration_details": null,
                "subscription": item["subscription"], "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": item["current_period_end"], "start": item["current_period_start"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": quantity.to_string(),
        "subscription": item["subscription"],
        "subtotal": amount,
        "taxes": [],
    })
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
