//! Products and their prices.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    events,
    form::Params,
    state::{State, text},
    table::Page,
};

pub(crate) fn create_product(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let wanted = params.text("id")?;
    if let Some(id) = wanted.as_deref().filter(|id| state.find("prod", id).is_some()) {
        return Err(
            Error::coded("resource_already_exists", format!("Product already exists: {id}")).about("id")
        );
    }
    let name = params.required("name")?;
    let mut product = product(&name, state.now());
    change_product(&mut product, params)?;
    params.finish()?;
    Ok(add_product(state, product, wanted))
}

fn add_product(state: &mut State, mut product: Value, wanted: Option<String>) -> Value {
    product["id"] = json!(wanted.unwrap_or_else(|| state.id("prod")));
    state.put("prod", product.clone());
    events::record(state, "product.created", &product, None);
    product
}

fn product(name: &str, created: i64) -> Value {
    json!({
        "id": "",
        "object": "product",
        "active": true,
        "created": created,
        "default_price": null,
        "description": null,
        "images": [],
        "livemode": false,
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "package_dimensions": null,
        "shippable": null,
        "statement_descriptor": null,
        "tax_code": null,
        "tax_details": null,
        "type": "service",
        "unit_label": null,
        "updated": created,
        "url": null,
    })
}

fn change_product(product: &mut Value, params: &mut Params) -> Result<()> {
    for field in ["description", "statement_descriptor", "tax_code", "unit_label", "url", "default_price"] {
        if let Some(value) = params.nullable(field)? {
            product[field] = value;
        }
    }
    if let Some(active) = params.boolean("active")? {
        product["active"] = json!(active);
    }
    params.metadata(product)?;
    params.ignore(&[
        "images",
        "marketing_features",
        "package_dimensions",
        "shippable",
        "tax_details",
        "type",
    ]);
    Ok(())
}

pub(crate) fn update_product(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut product = live_product(state, id)?;
    if let Some(name) = params.text("name")? {
        product["name"] = json!(name);
    }
    change_product(&mut product, params)?;
    params.finish()?;
    product["updated"] = json!(state.now());
    events::update(state, "prod", "product.updated", product.clone());
    Ok(product)
}

fn live_product(state: &State, id: &str) -> Result<Value> {
    let product = state.get("prod", id)?;
    if product["deleted"] == true { Err(Error::not_found("product", id)) } else { Ok(product) }
}

pub(crate) fn get_product(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    live_product(state, id)
}

pub(crate) fn list_products(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, active, ids) = (Page::read(params)?, params.boolean("active")?, params.texts("ids")?);
    params.finish()?;
    state.table("prod").page(&page, "/v1/products", None, |product| {
        active.is_none_or(|active| product["active"] == active)
            && (ids.is_empty() || ids.iter().any(|id| product["id"] == id.as_str()))
    })
}

pub(crate) fn delete_product(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    let product = live_product(state, id)?;
    if state.rows("price").any(|price| price["product"] == id) {
        return Err(Error::invalid(
            "This product cannot be deleted because it has one or more user-created prices.",
        ));
    }
    let gone = json!({"id": id, "object": "product", "deleted": true});
    state.put("prod", gone.clone());
    events::record(state, "product.deleted", &product, None);
    Ok(gone)
}

pub(crate) fn create_price(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let currency = params.required("currency")?.to_lowercase();
    let amount = match (params.integer("unit_amount")?, params.integer("unit_amount_decimal")?) {
        (Some(amount), None) | (None, Some(amount)) if amount >= 0 => amount,
        _ => return Err(Error::missing("unit_amount")),
    };
    let named = match params.text("product")? {
        Some(id) => Ok(text(&state.named("prod", &id, "product")?, "id").to_owned()),
        None => Err(params.group("product_data")?.ok_or_else(|| Error::missing("product"))?),
    };
    let new_product = match &named {
        Ok(_) => None,
        Err(data) => {
            let mut data = data.clone();
            let mut product = product(&data.required("name")?, state.now());
            change_product(&mut product, &mut data)?;
            data.finish()?;
            Some(product)
        }
    };
    let recurring = params.group("recurring")?.map(recurring).transpose()?;
    let mut price = json!({
        "id": "",
        "object": "price",
        "active": true,
        "billing_scheme": "per_unit",
        "created": state.now(),
        "currency": currency,
        "custom_unit_amount": null,
        "livemode": false,
        "lookup_key": null,
        "metadata": {},
        "nickname": null,
        "product": named.as_ref().ok(),
        "recurring": recurring,
        "tax_behavior": "unspecified",
        "tiers_mode": null,
        "transform_quantity": null,
        "type": if recurring.is_some() { "recurring" } else { "one_time" },
        "unit_amount": amount,
        "unit_amount_decimal": amount.to_string(),
    });
    let moved = change_price(state, &mut price, params)?;
    params.choice("billing_scheme", &["per_unit"])?;
    params.finish()?;
    if let Some(product) = new_product {
        price["product"] = add_product(state, product, None)["id"].clone();
    }
    price["id"] = json!(state.id("price"));
    take_lookup_key(state, moved);
    state.put("price", price.clone());
    events::record(state, "price.created", &price, None);
    Ok(price)
}

fn recurring(mut given: Params) -> Result<Value> {
    let interval = given
        .choice("interval", &["day", "week", "month", "year"])?
        .ok_or_else(|| Error::missing("recurring[interval]"))?;
    let count = given.integer("interval_count")?.unwrap_or(1);
    if !(1..=36).contains(&count) {
        return Err(Error::invalid("Invalid interval_count").about("recurring[interval_count]"));
    }
    given.choice("usage_type", &["licensed"])?;
    given.finish()?;
    Ok(json!({
        "interval": interval, "interval_count": count, "meter": null, "trial_period_days": null,
        "usage_type": "licensed",
    }))
}

/// What may change of a price; the price that loses its lookup key to this one.
fn change_price(state: &State, price: &mut Value, params: &mut Params) -> Result<Option<Value>> {
    if let Some(active) = params.boolean("active")? {
        price["active"] = json!(active);
    }
    if let Some(nickname) = params.nullable("nickname")? {
        price["nickname"] = nickname;
    }
    if let Some(behavior) = params.choice("tax_behavior", &["exclusive", "inclusive", "unspecified"])? {
        price["tax_behavior"] = json!(behavior);
    }
    params.metadata(price)?;
    let transfer = params.boolean("transfer_lookup_key")?.unwrap_or(false);
    let Some(key) = params.nullable("lookup_key")? else { return Ok(None) };
    let other = |row: &&Value| !key.is_null() && row["lookup_key"] == key && row["id"] != price["id"];
    let holder = state.rows("price").find(other).cloned();
    if holder.is_some() && !transfer {
        let message =
            format!("A price (`{}`) already uses that lookup key.", holder.unwrap_or_default()["id"]);
        return Err(Error::invalid(message).about("lookup_key"));
    }
    price["lookup_key"] = key;
    Ok(holder)
}

fn take_lookup_key(state: &mut State, holder: Option<Value>) {
    if let Some(mut holder) = holder {
        holder["lookup_key"] = Value::Null;
        events::update(state, "price", "price.updated", holder);
    }
}

pub(crate) fn update_price(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut price = state.get("price", id)?;
    let moved = change_price(state, &mut price, params)?;
    params.finish()?;
    take_lookup_key(state, moved);
    events::update(state, "price", "price.updated", price.clone());
    Ok(price)
}

pub(crate) fn get_price(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("price", id)
}

pub(crate) fn list_prices(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, active) = (Page::read(params)?, params.boolean("active")?);
    let (product, kind, currency) = (params.text("product")?, params.text("type")?, params.text("currency")?);
    let keys = params.texts("lookup_keys")?;
    let interval = match params.group("recurring")? {
        None => None,
        Some(mut recurring) => {
            let interval = recurring.text("interval")?;
            recurring.ignore(&["meter", "usage_type"]);
            recurring.finish()?;
            interval
        }
    };
    params.finish()?;
    let same =
        |value: &Value, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| value == wanted);
    state.table("price").page(&page, "/v1/prices", None, |price| {
        active.is_none_or(|active| price["active"] == active)
            && same(&price["product"], &product)
            && same(&price["type"], &kind)
            && same(&price["currency"], &currency)
            && same(&price["recurring"]["interval"], &interval)
            && (keys.is_empty() || keys.iter().any(|key| price["lookup_key"] == key.as_str()))
    })
}

/// The form that prices had before there were prices; items of subscriptions show it still.
pub(crate) fn plan(price: &Value) -> Value {
    let recurring = &price["recurring"];
    json!({
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": false,
        "metadata": price["metadata"],
        "meter": null,
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": null,
        "transform_usage": null,
        "trial_period_days": null,
        "usage_type": "licensed",
    })
}
