//! What a subscription is to: prices and how many of each.

use serde_json::{Value, json};

use super::{live, now_of, save, update::rebill};
use crate::{
    catalog,
    error::{Error, Result},
    form::Params,
    state::{State, int, text},
    table::Page,
};

/// A price and how many of it, before it is part of a subscription.
pub(crate) struct Item {
    pub(crate) price: Value,
    pub(crate) quantity: i64,
    pub(crate) metadata: Value,
}

impl Item {
    pub(crate) fn read(state: &State, params: &mut Params) -> Result<Self> {
        let (name, id) = (params.name("price"), params.required("price")?);
        let mut holder = json!({"metadata": {}});
        params.metadata(&mut holder)?;
        let item = Self {
            price: price(state, &id, &name)?,
            quantity: quantity(params)?.unwrap_or(1),
            metadata: holder["metadata"].take(),
        };
        params.ignore(&[
            "payment_behavior",
            "proration_behavior",
            "proration_date",
            "tax_rates",
            "adjustable_quantity",
        ]);
        params.finish()?;
        Ok(item)
    }

    fn into_item(self, state: &mut State, subscription: &str, at: i64, period: (i64, i64)) -> Value {
        let id = state.id("si");
        state.subscription_of_item.insert(id.clone(), subscription.to_owned());
        json!({
            "id": id,
            "object": "subscription_item",
            "billing_thresholds": null,
            "created": at,
            "current_period_end": period.1,
            "current_period_start": period.0,
            "current_trial": null,
            "discounts": [],
            "metadata": self.metadata,
            "plan": catalog::plan(&self.price),
            "price": self.price,
            "quantity": self.quantity,
            "subscription": subscription,
            "tax_rates": [],
        })
    }
}

/// A price that one can subscribe to.
fn price(state: &State, id: &str, param: &str) -> Result<Value> {
    let price = state.named("price", id, param)?;
    if price["type"] != "recurring" {
        let message = "The price specified is set to `type=one_time` but this field only accepts prices with `type=recurring`.";
        return Err(Error::invalid(message).about(param));
    }
    if price["active"] != true {
        let message = "The price specified is inactive. This field only accepts active prices.";
        return Err(Error::invalid(message).about(param));
    }
    Ok(price)
}

fn quantity(params: &mut Params) -> Result<Option<i64>> {
    let name = params.name("quantity");
    match params.integer("quantity")? {
        Some(quantity) if quantity < 0 => {
            Err(Error::coded("parameter_invalid_integer", "This value must be greater than or equal to 0.")
                .about(name))
        }
        quantity => Ok(quantity),
    }
}

/// What all the items of a subscription must have in common.
pub(crate) fn check(prices: &[Value]) -> Result<()> {
    let Some(first) = prices.first() else {
        return Err(Error::invalid("A subscription must have at least one active price.").about("items"));
    };
    let shared = |price: &Value| {
        let recurring = &price["recurring"];
        (price["currency"].clone(), recurring["interval"].clone(), recurring["interval_count"].clone())
    };
    if prices.iter().any(|price| shared(price) != shared(first)) {
        let message = "Currency and interval fields must match across all prices on this subscription.";
        return Err(Error::invalid(message).about("items"));
    }
    for (n, price) in prices.iter().enumerate() {
        if prices[..n].iter().any(|earlier| earlier["id"] == price["id"]) {
            let message =
                format!("Cannot add multiple subscription items with the same price: {}", text(price, "id"));
            return Err(Error::invalid(message).about("items"));
        }
    }
    Ok(())
}

pub(crate) fn check_all(items: &[Item]) -> Result<()> {
    check(&items.iter().map(|item| item.price.clone()).collect::<Vec<_>>())
}

/// Adds items that have been checked.
pub(crate) fn add(
    state: &mut State,
    subscription: &mut Value,
    items: Vec<Item>,
    at: i64,
    period: (i64, i64),
) {
    let id = text(subscription, "id").to_owned();
    for item in items {
        let item = item.into_item(state, &id, at, period);
        if let Some(data) = subscription["items"]["data"].as_array_mut() {
            data.push(item);
        }
    }
    subscription["items"]["url"] = json!(format!("/v1/subscription_items?subscription={id}"));
}

/// Changes to items, read and checked, to be applied when nothing else is wrong.
pub(crate) struct Changes {
    kept: Vec<Value>,
    added: Vec<Item>,
}

impl Changes {
    /// `items[0][id]=..&items[0][quantity]=..`: what is not named stays.
    pub(crate) fn read(state: &State, subscription: &Value, given: Vec<Params>) -> Result<Self> {
        let mut kept = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
        let mut added = vec![];
        for mut params in given {
            params.ignore(&["clear_usage"]);
            let Some(id) = params.text("id")? else {
                added.push(Item::read(state, &mut params)?);
                continue;
            };
            let place = kept.iter().position(|item| item["id"] == id.as_str());
            let place = place.ok_or_else(|| Error::no_such("subscription_item", &id, &params.name("id")))?;
            if params.boolean("deleted")? == Some(true) {
                kept.remove(place);
            } else {
                change(state, &mut kept[place], &mut params)?;
            }
            params.finish()?;
        }
        let prices = kept.iter().map(|item| &item["price"]).chain(added.iter().map(|item| &item.price));
        check(&prices.cloned().collect::<Vec<_>>())?;
        Ok(Self { kept, added })
    }

    /// Another interval begins a new period now.
    pub(crate) fn apply(self, state: &mut State, subscription: &mut Value, at: i64) {
        let before = subscription["items"]["data"][0].clone();
        let period = (int(&before, "current_period_start"), int(&before, "current_period_end"));
        subscription["items"]["data"] = json!(self.kept);
        add(state, subscription, self.added, at, period);
        let after = subscription["items"]["data"][0]["price"]["recurring"].clone();
        let other =
            ["interval", "interval_count"].iter().any(|f| before["price"]["recurring"][*f] != after[*f]);
        if other && subscription["status"] != "trialing" {
            rebill(state, subscription, at);
        }
    }
}

fn change(state: &State, item: &mut Value, params: &mut Params) -> Result<()> {
    if let Some(id) = params.text("price")? {
        let price = price(state, &id, &params.name("price"))?;
        item["plan"] = catalog::plan(&price);
        item["price"] = price;
    }
    if let Some(quantity) = quantity(params)? {
        item["quantity"] = json!(quantity);
    }
    params.metadata(item)?;
    params.ignore(&["off_session", "payment_behavior", "proration_behavior", "proration_date", "tax_rates"]);
    Ok(())
}

/// The subscription that has an item, and the item.
fn find(state: &State, id: &str) -> Result<(Value, Value)> {
    let gone = || Error::not_found("subscription_item", id);
    let subscription = state.subscription_of_item.get(id).ok_or_else(gone)?;
    let subscription = live(state, subscription).map_err(|_| gone())?;
    let item = subscription["items"]["data"].as_array().into_iter().flatten().find(|item| item["id"] == id);
    let item = item.cloned().ok_or_else(gone)?;
    Ok((subscription, item))
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    Ok(find(state, id)?.1)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let (page, id) = (Page::read(params)?, params.required("subscription")?);
    params.finish()?;
    let mut table = crate::table::Table::default();
    for item in state.named("sub", &id, "subscription")?["items"]["data"].as_array().into_iter().flatten() {
        table.put(item.clone());
    }
    table.page(&page, "/v1/subscription_items", None, |_| true)
}

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let id = params.required("subscription")?;
    state.named("sub", &id, "subscription")?;
    let mut subscription = live(state, &id)?;
    let item = Item::read(state, params)?;
    let mut prices = prices(&subscription);
    prices.push(item.price.clone());
    check(&prices)?;
    let changes = Changes { kept: data(&subscription), added: vec![item] };
    let at = now_of(state, &subscription);
    changes.apply(state, &mut subscription, at);
    save(state, &subscription);
    Ok(data(&subscription).pop().unwrap_or_default())
}

pub(crate) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let (mut subscription, mut item) = find(state, id)?;
    change(state, &mut item, params)?;
    params.finish()?;
    let kept: Vec<Value> =
        data(&subscription).into_iter().map(|old| if old["id"] == id { item.clone() } else { old }).collect();
    check(&kept.iter().map(|item| item["price"].clone()).collect::<Vec<_>>())?;
    let at = now_of(state, &subscription);
    Changes { kept, added: vec![] }.apply(state, &mut subscription, at);
    save(state, &subscription);
    Ok(find(state, id)?.1)
}

pub(crate) fn delete(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.ignore(&["clear_usage", "payment_behavior", "proration_behavior", "proration_date"]);
    params.finish()?;
    let (mut subscription, _) = find(state, id)?;
    let kept: Vec<Value> = data(&subscription).into_iter().filter(|item| item["id"] != id).collect();
    check(&kept.iter().map(|item| item["price"].clone()).collect::<Vec<_>>())?;
    let at = now_of(state, &subscription);
    Changes { kept, added: vec![] }.apply(state, &mut subscription, at);
    save(state, &subscription);
    Ok(json!({"id": id, "object": "subscription_item", "deleted": true}))
}

/// Replaces all items, as a phase of a schedule does; an item of the same price stays itself.
pub(crate) fn replace(state: &mut State, subscription: &mut Value, wanted: Vec<Item>, at: i64) {
    let mut old = data(subscription);
    let (mut kept, mut added) = (vec![], vec![]);
    for item in wanted {
        match old.iter().position(|had| had["price"]["id"] == item.price["id"]) {
            Some(place) => {
                let mut had = old.remove(place);
                had["quantity"] = json!(item.quantity);
                kept.push(had);
            }
            None => added.push(item),
        }
    }
    Changes { kept, added }.apply(state, subscription, at);
}

pub(crate) fn data(subscription: &Value) -> Vec<Value> {
    subscription["items"]["data"].as_array().cloned().unwrap_or_default()
}

fn prices(subscription: &Value) -> Vec<Value> {
    data(subscription).into_iter().map(|item| item["price"].clone()).collect()
}
