//! The billing portal: sessions, and what its page does to subscriptions.

use serde_json::{Value, json};

use crate::{
    checkout::url,
    error::{Error, Result},
    form::Params,
    invoices,
    state::{State, text},
    subscriptions,
};

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let customer = params.required("customer")?;
    state.named("cus", &customer, "customer")?;
    let back = params.text("return_url")?.map(|back| url(back, "return_url")).transpose()?;
    params.ignore(&["configuration", "locale", "on_behalf_of"]);
    params.finish()?;
    let id = state.id("bps");
    let session = json!({
        "id": id,
        "object": "billing_portal.session",
        "configuration": "bpc_fake",
        "created": state.now(),
        "customer": customer,
        "customer_account": null,
        "flow": null,
        "livemode": false,
        "locale": null,
        "on_behalf_of": null,
        "return_url": back,
        "url": format!("{}/p/session/{id}", state.base),
    });
    state.put("bps", session.clone());
    Ok(session)
}

/// A subscription that the page of a session may change.
fn of_session(state: &State, session: &Value, id: &str) -> Result<Value> {
    let subscription = state.get("sub", id)?;
    if subscription["customer"] == session["customer"] {
        Ok(subscription)
    } else {
        Err(Error::not_found("subscription", id))
    }
}

/// A card that works from now on, and what is owed by it.
fn pay(state: &mut State, subscription: &Value) -> Result<()> {
    let mut params = Params::default();
    params.set("default_payment_method", "pm_card_visa")?;
    let subscription = subscriptions::update(state, text(subscription, "id"), &mut params)?;
    invoices::pay(state, text(&subscription, "latest_invoice"), &mut Params::default()).map(drop)
}

/// What a form of the page asks for.
pub(crate) fn act(state: &mut State, id: &str, form: &mut Params) -> Result<()> {
    let session = state.get("bps", id)?;
    let subscription = of_session(state, &session, &form.required("subscription")?)?;
    let mut params = Params::default();
    match form.required("action")?.as_str() {
        "change" => {
            let item = text(&subscription["items"]["data"][0], "id");
            let (price, quantity) = (form.required("price")?, form.integer("quantity")?.unwrap_or(1));
            params.set("items[0][id]", item)?;
            params.set("items[0][price]", &price)?;
            params.set("items[0][quantity]", &quantity.to_string())?;
        }
        "pay" => return pay(state, &subscription),
        "cancel_at_period_end" => params.set("cancel_at_period_end", "true")?,
        "keep" => params.set("cancel_at_period_end", "false")?,
        "cancel" => return subscriptions::cancel(state, text(&subscription, "id"), &mut params).map(drop),
        _ => return Err(Error::invalid("no such action")),
    }
    subscriptions::update(state, text(&subscription, "id"), &mut params).map(drop)
}
