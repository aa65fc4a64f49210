//! Checkout sessions: what a page is about, and what paying there does.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    cards, customers,
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int, text, without},
    subscriptions::{self, Behavior, Item, Opening},
    table::Page,
};

/// What somebody is about to subscribe to.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Order {
    /// As the session shows them when asked to.
    pub(crate) line_items: Value,
    items: Vec<(String, i64)>,
    /// The parameters `subscription_data`, which have been read once.
    data: Params,
}

impl Order {
    /// Whether nothing is due at first.
    pub(crate) fn has_trial(&self) -> bool {
        ["trial_period_days", "trial_end"].iter().any(|field| self.data.has(field))
    }
}

/// What sessions have at Stripe, and nothing in here.
const NOTHING: &[&str] = &[
    "adaptive_pricing",
    "after_expiration",
    "allow_promotion_codes",
    "allowed_payment_method_types",
    "billing_address_collection",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer_account",
    "customer_details",
    "integration_identifier",
    "invoice",
    "invoice_creation",
    "locale",
    "managed_payments",
    "origin_context",
    "payment_intent",
    "payment_link",
    "payment_method_configuration_details",
    "payment_method_options",
    "permissions",
    "recovered_from",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "submit_type",
    "subscription",
    "wallet_options",
];

const LIFE: i64 = 24 * 3600;

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let mode = params.required("mode")?;
    if mode != "subscription" {
        return Err(
            Error::invalid("This fake knows checkout sessions of mode `subscription` only.").about("mode")
        );
    }
    let customer = match params.text("customer")? {
        Some(id) => state.named("cus", &id, "customer")?,
        None => Value::Null,
    };
    let items = subscriptions::read_items(state, params.list("line_items")?.unwrap_or_default())?;
    if items.is_empty() {
        return Err(Error::missing("line_items"));
    }
    let data = params.group("subscription_data")?.unwrap_or_default();
    let now = state.now_on(customer["test_clock"].as_str());
    opening(state, &customer, &items, data.clone(), now)?;
    let success = url(params.required("success_url")?, "success_url")?;
    let cancel = params.text("cancel_url")?.map(|cancel| url(cancel, "cancel_url")).transpose()?;
    let (reference, email) = (params.text("client_reference_id")?, params.text("customer_email")?);
    if email.is_some() && !customer.is_null() {
        return Err(Error::invalid(
            "You may only specify one of these parameters: customer, customer_email.",
        ));
    }
    let expires_at = params.integer("expires_at")?.unwrap_or(now + LIFE);
    let mut holder = json!({"metadata": {}});
    params.metadata(&mut holder)?;
    params.ignore(IGNORED);
    params.finish()?;

    let id = state.id("cs_test");
    let line_items: Vec<Value> = items.iter().map(|item| line_item(state, item)).collect();
    let total: i64 = line_items.iter().map(|item| int(item, "amount_total")).sum();
    let url = format!("{}/c/pay/{id}", state.base);
    let line_items = json!({
        "object": "list", "data": line_items, "has_more": false, "url": format!("/v1/checkout/sessions/{id}/line_items"),
    });
    let mut session = json!({
        "id": id,
        "object": "checkout.session",
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": false, "liability": null, "provider": null, "status": null},
        "cancel_url": cancel,
        "client_reference_id": reference,
        "created": now,
        "currency": items[0].price["currency"],
        "custom_fields": [],
        "custom_text": {
            "after_submit": null, "shipping_address": null, "submit": null, "terms_of_service_acceptance": null,
        },
        "customer": customer["id"],
        "customer_creation": if customer.is_null() { json!("always") } else { Value::Null },
        "customer_email": email,
        "discounts": [],
        "expires_at": expires_at,
        "livemode": false,
        "metadata": holder["metadata"],
        "mode": mode,
        "payment_method_collection": "always",
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": false},
        "shipping_options": [],
        "status": "open",
        "success_url": success,
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": url,
    });
    without(&mut session, NOTHING);
    let items = items.iter().map(|item| (text(&item.price, "id").to_owned(), item.quantity)).collect();
    state.orders.insert(id, Order { line_items, items, data }.into());
    state.put("cs_test", session.clone());
    Ok(session)
}

const IGNORED: &[&str] = &[
    "allow_promotion_codes",
    "automatic_tax",
    "billing_address_collection",
    "consent_collection",
    "custom_text",
    "customer_update",
    "locale",
    "payment_method_collection",
    "payment_method_types",
    "phone_number_collection",
    "saved_payment_method_options",
    "submit_type",
    "tax_id_collection",
    "ui_mode",
];

/// An address that a browser may be sent to.
pub(crate) fn url(url: String, param: &str) -> Result<String> {
    let web = url.starts_with("http://") || url.starts_with("https://");
    if web && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(url);
    }
    Err(Error::coded("url_invalid", "Not a valid URL").about(param))
}

/// What paying will begin; said twice, so that a wrong parameter is refused with the session and not with the payment.
fn opening(state: &State, customer: &Value, items: &[Item], mut data: Params, at: i64) -> Result<Opening> {
    let items = items.iter().map(|item| Item {
        price: item.price.clone(),
        quantity: item.quantity,
        metadata: item.metadata.clone(),
    });
    let mut opening = Opening::of(customer, items.collect(), at)?;
    opening.read(state, &mut data, at)?;
    opening.behavior = Behavior::Stepwise;
    data.ignore(&["billing_mode", "invoice_settings", "proration_behavior"]);
    data.finish()?;
    Ok(opening)
}

fn line_item(state: &mut State, item: &Item) -> Value {
    let amount = int(&item.price, "unit_amount") * item.quantity;
    let product = state.find("prod", text(&item.price, "product")).cloned().unwrap_or_default();
    json!({
        "id": state.id("li"),
        "object": "item",
        "adjustable_quantity": null,
        "amount_discount": 0,
        "amount_subtotal": amount,
        "amount_tax": 0,
        "amount_total": amount,
        "currency": item.price["currency"],
        "description": product["name"],
        "metadata": item.metadata,
        "price": item.price,
        "quantity": item.quantity,
    })
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("cs_test", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, customer) = (Page::read(params)?, params.text("customer")?);
    let (status, subscription) = (params.text("status")?, params.text("subscription")?);
    params.finish()?;
    state.table("cs_test").page(&page, "/v1/checkout/sessions", customer.as_deref(), |session| {
        status.as_deref().is_none_or(|status| session["status"] == status)
            && subscription.as_deref().is_none_or(|subscription| session["subscription"] == subscription)
    })
}

pub(crate) fn line_items(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    Page::read(params)?;
    params.finish()?;
    state.get("cs_test", id)?;
    Ok(state.orders.get(id).map(|order| order.line_items.clone()).unwrap_or_default())
}

pub(crate) fn expire(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    let session = state.get("cs_test", id)?;
    if session["status"] != "open" {
        return Err(Error::invalid("Only Checkout Sessions with a status of `open` can be expired."));
    }
    expire_now(state, session);
    state.get("cs_test", id)
}

fn expire_now(state: &mut State, mut session: Value) {
    (session["status"], session["url"]) = (json!("expired"), Value::Null);
    state.put("cs_test", session.clone());
    events::record(state, "checkout.session.expired", &session, None);
}

/// Lets sessions expire whose time has come.
pub(crate) fn expire_due(state: &mut State) {
    let due = |session: &&Value| {
        session["status"] == "open"
            && int(session, "expires_at") <= state.now_on(session["test_clock"].as_str())
    };
    for session in state.rows("cs_test").filter(due).cloned().collect::<Vec<_>>() {
        expire_now(state, session);
    }
}

/// The button "Pay": the customer if there is none, the card, the subscription, the session. Where the browser goes.
pub(crate) fn pay(state: &mut State, id: &str, email: Option<&str>) -> Result<String> {
    let mut session = state.get("cs_test", id)?;
    let order = state
        .orders
        .get(id)
        .map(|order| (**order).clone())
        .ok_or_else(|| Error::not_found("checkout.session", id))?;
    if session["status"] != "open" {
        return Err(Error::invalid("This Checkout Session is no longer open."));
    }
    let mut items = vec![];
    for (price, quantity) in &order.items {
        items.push(Item { price: state.get("price", price)?, quantity: *quantity, metadata: json!({}) });
    }
    let customer = match session["customer"].as_str() {
        Some(customer) => state.named("cus", customer, "customer")?,
        None => customers::of_email(state, session["customer_email"].as_str().or(email)),
    };
    let at = state.now_on(customer["test_clock"].as_str());
    let mut opening = opening(state, &customer, &items, order.data, at)?;
    let card = cards::attach(state, "pm_card_visa", text(&customer, "id"));
    opening.subscription["default_payment_method"] = json!(card);
    let subscription = subscriptions::open(state, opening, at)?;
    session["customer"] = customer["id"].clone();
    session["customer_details"] = json!({
        "address": null, "business_name": null, "email": customer["email"], "individual_name": null,
        "name": customer["name"], "phone": customer["phone"], "tax_exempt": "none", "tax_ids": [],
    });
    session["subscription"] = subscription["id"].clone();
    session["invoice"] = subscription["latest_invoice"].clone();
    let trial = subscription["status"] == "trialing";
    session["payment_status"] = json!(if trial { "no_payment_required" } else { "paid" });
    (session["status"], session["url"]) = (json!("complete"), Value::Null);
    state.put("cs_test", session.clone());
    events::record(state, "checkout.session.completed", &session, None);
    Ok(success_url(&session))
}

pub(crate) fn success_url(session: &Value) -> String {
    text(session, "success_url").replace("{CHECKOUT_SESSION_ID}", text(session, "id"))
}
