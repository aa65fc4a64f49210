//! Customers.

use serde_json::{Value, json};

use crate::{
    cards,
    error::{Error, Result},
    events,
    form::Params,
    state::{State, text},
    subscriptions,
    table::Page,
};

const IGNORED: &[&str] =
    &["invoice_prefix", "next_invoice_sequence", "preferred_locales", "tax", "tax_id_data"];

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let clock = params.text("test_clock")?;
    if let Some(clock) = &clock {
        state.named("clock", clock, "test_clock")?;
    }
    let created = state.now_on(clock.as_deref());
    let mut customer = new(created, clock);
    change(state, &mut customer, params)?;
    add(state, &mut customer);
    Ok(customer)
}

/// A customer of whom no more is known than an address, if that.
pub(crate) fn of_email(state: &mut State, email: Option<&str>) -> Value {
    let mut customer = new(state.now(), None);
    customer["email"] = json!(email);
    add(state, &mut customer);
    customer
}

fn add(state: &mut State, customer: &mut Value) {
    let id = state.id("cus");
    customer["invoice_prefix"] = json!(id[id.len() - 8..]);
    customer["id"] = json!(id);
    keep_card(state, customer);
    state.put("cus", customer.clone());
    events::record(state, "customer.created", customer, None);
}

fn new(created: i64, clock: Option<String>) -> Value {
    json!({
        "id": "",
        "object": "customer",
        "address": null,
        "balance": 0,
        "created": created,
        "currency": null,
        "customer_account": null,
        "default_source": null,
        "delinquent": false,
        "description": null,
        "discount": null,
        "email": null,
        "invoice_prefix": null,
        "invoice_settings": {
            "custom_fields": null, "default_payment_method": null, "footer": null, "rendering_options": null,
        },
        "livemode": false,
        "metadata": {},
        "name": null,
        "next_invoice_sequence": 1,
        "phone": null,
        "preferred_locales": [],
        "shipping": null,
        "tax_exempt": "none",
        "test_clock": clock,
    })
}

fn change(state: &State, customer: &mut Value, params: &mut Params) -> Result<()> {
    for field in ["description", "email", "name", "phone"] {
        if let Some(value) = params.nullable(field)? {
            customer[field] = value;
        }
    }
    if let Some(exempt) = params.choice("tax_exempt", &["none", "exempt", "reverse"])? {
        customer["tax_exempt"] = json!(exempt);
    }
    if let Some(given) = params.nullable_group("address")? {
        customer["address"] = given.map_or(Ok(Value::Null), address)?;
    }
    if let Some(given) = params.nullable_group("shipping")? {
        customer["shipping"] = given.map_or(Ok(Value::Null), shipping)?;
    }
    let method = params.text("payment_method")?;
    if let Some(mut settings) = params.group("invoice_settings")? {
        if let Some(default) = settings.nullable("default_payment_method")? {
            customer["invoice_settings"]["default_payment_method"] = default;
        }
        settings.ignore(&["custom_fields", "footer", "rendering_options"]);
        settings.finish()?;
    }
    let default = customer["invoice_settings"]["default_payment_method"].as_str();
    for method in method.as_deref().into_iter().chain(default) {
        cards::check(state, method)?;
    }
    params.metadata(customer)?;
    params.ignore(IGNORED);
    params.finish()
}

fn address(mut given: Params) -> Result<Value> {
    let mut address = json!({});
    for name in ["city", "country", "line1", "line2", "postal_code", "state"] {
        address[name] = given.nullable(name)?.unwrap_or_default();
    }
    given.finish()?;
    Ok(address)
}

fn shipping(mut given: Params) -> Result<Value> {
    let address = given.group("address")?.map_or(Ok(Value::Null), address)?;
    let (name, phone) = (given.required("name")?, given.nullable("phone")?);
    given.finish()?;
    Ok(json!({"address": address, "name": name, "phone": phone}))
}

/// Stripe's names for test cards become cards of this customer.
fn keep_card(state: &mut State, customer: &mut Value) {
    let id = text(customer, "id").to_owned();
    if let Some(method) = customer["invoice_settings"]["default_payment_method"].as_str() {
        let method = cards::attach(state, method, &id);
        customer["invoice_settings"]["default_payment_method"] = json!(method);
    }
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("cus", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let page = Page::read(params)?;
    let (email, clock) = (params.text("email")?, params.text("test_clock")?);
    params.finish()?;
    let same = |customer: &Value, field: &str, wanted: &Option<String>| {
        wanted.as_deref().is_none_or(|wanted| customer[field] == wanted)
    };
    state.table("cus").page(&page, "/v1/customers", None, |customer| {
        same(customer, "email", &email) && same(customer, "test_clock", &clock)
    })
}

pub(crate) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut customer = live(state, id)?;
    change(state, &mut customer, params)?;
    keep_card(state, &mut customer);
    events::update(state, "cus", "customer.updated", customer.clone());
    Ok(customer)
}

/// A customer goes with its subscriptions.
pub(crate) fn delete(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    let customer = live(state, id)?;
    for subscription in state.table("sub").of_customer(id) {
        if !subscriptions::is_over(&subscription) {
            subscriptions::end(state, subscription, "cancellation_requested");
        }
    }
    let gone = json!({"id": id, "object": "customer", "deleted": true});
    state.put("cus", gone.clone());
    events::record(state, "customer.deleted", &customer, None);
    Ok(gone)
}

fn live(state: &State, id: &str) -> Result<Value> {
    let customer = state.get("cus", id)?;
    if customer["deleted"] == true { Err(Error::not_found("customer", id)) } else { Ok(customer) }
}
