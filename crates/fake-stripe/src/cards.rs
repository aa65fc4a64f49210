//! Payment methods: as much of them as decides whether an invoice is paid. Stripe's names for test cards work:
//! `pm_card_visa` pays, `pm_card_chargeCustomerFail` is attached and then declined, `pm_card_chargeDeclined` is
//! declined at once.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    events,
    form::Params,
    state::{State, text},
    table::Page,
};

/// Whether a name or id can be attached.
pub(crate) fn check(state: &State, method: &str) -> Result<()> {
    if method.starts_with("pm_card_chargeDeclined") {
        return Err(Error::declined());
    }
    if method.starts_with("pm_card_") {
        return Ok(());
    }
    state.named("pm", method, "payment_method").map(|_| ())
}

/// Makes a card out of a name that stands for one, and gives it to the customer; its id.
pub(crate) fn attach(state: &mut State, method: &str, customer: &str) -> String {
    let Some(name) = method.strip_prefix("pm_card_") else { return method.to_owned() };
    let id = state.id("pm");
    if name == "chargeCustomerFail" {
        state.declining.insert(id.clone());
    }
    let created = state.now();
    let card = json!({
        "id": id,
        "object": "payment_method",
        "allow_redisplay": "unspecified",
        "billing_details": {"address": null, "email": null, "name": null, "phone": null, "tax_id": null},
        "card": {
            "brand": "visa", "checks": null, "country": "US", "display_brand": "visa", "exp_month": 12,
            "exp_year": 2040, "funding": "credit", "generated_from": null, "last4": "4242", "networks": null,
            "regulated_status": null, "three_d_secure_usage": null, "wallet": null,
        },
        "created": created,
        "customer": customer,
        "customer_account": null,
        "livemode": false,
        "metadata": {},
        "type": "card",
    });
    state.put("pm", card.clone());
    events::record(state, "payment_method.attached", &card, None);
    id
}

/// What becomes of a charge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Charge {
    Paid,
    Declined,
    NoCard,
}

/// Charges the card of a subscription, or else its customer's.
pub(crate) fn charge(state: &State, subscription: &Value) -> Charge {
    let customer = state.find("cus", text(subscription, "customer"));
    let of_customer = customer.map(|customer| &customer["invoice_settings"]["default_payment_method"]);
    let method = [Some(&subscription["default_payment_method"]), of_customer];
    match method.into_iter().flatten().find_map(Value::as_str) {
        None => Charge::NoCard,
        Some(method) if state.declining.contains(method) => Charge::Declined,
        Some(_) => Charge::Paid,
    }
}

/// From now on all cards of a customer are declined, or none.
pub(crate) fn set_declining(state: &mut State, customer: &str, declining: bool) -> usize {
    let cards = state.of_customer("pm", customer);
    for card in &cards {
        let id = text(card, "id").to_owned();
        if declining {
            state.declining.insert(id)
        } else {
            state.declining.remove(&id)
        };
    }
    cards.len()
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("pm", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, customer) = (Page::read(params)?, params.text("customer")?);
    params.ignore(&["type"]);
    params.finish()?;
    state.table("pm").page(&page, "/v1/payment_methods", customer.as_deref(), |_| true)
}

pub(crate) fn attach_to(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let customer = params.required("customer")?;
    params.finish()?;
    state.named("cus", &customer, "customer")?;
    check(state, id)?;
    let id = attach(state, id, &customer);
    state.get("pm", &id)
}
