//! `expand[]=data.customer`: ids become the objects that they stand for.

use serde_json::Value;

use crate::{
    error::{Error, Result},
    state::State,
};

/// Stripe's limit.
const DEPTH: usize = 4;

pub(crate) fn expand(state: &State, object: &mut Value, paths: &[String]) -> Result<()> {
    for path in paths {
        let parts: Vec<&str> = path.split('.').collect();
        if parts.len() > DEPTH {
            return Err(Error::invalid(format!("You cannot expand more than {DEPTH} levels of a property.")));
        }
        at(state, object, &parts, path)?;
    }
    Ok(())
}

fn at(state: &State, object: &mut Value, path: &[&str], whole: &str) -> Result<()> {
    let Some((first, rest)) = path.split_first() else { return Ok(()) };
    if let Some(list) = object.as_array_mut() {
        return list.iter_mut().try_for_each(|element| at(state, element, path, whole));
    }
    include(state, object, first);
    let Some(value) = object.get_mut(*first) else {
        let message = format!("This property cannot be expanded ({whole}).");
        return Err(Error::invalid(message).about("expand"));
    };
    let found = value.as_str().and_then(|id| state.any(id)).cloned();
    match found {
        Some(found) => *value = found,
        None if value.is_string() || value.is_number() || value.is_boolean() => {
            return Err(
                Error::invalid(format!("This property cannot be expanded ({whole}).")).about("expand")
            );
        }
        None if value.is_null() => return Ok(()),
        None => {}
    }
    at(state, value, rest, whole)
}

/// Lists that an object has only when asked.
fn include(state: &State, object: &mut Value, field: &str) {
    let id = object["id"].as_str().unwrap_or_default();
    let list = match (object["object"].as_str(), field) {
        (Some("checkout.session"), "line_items") => {
            state.orders.get(id).map(|order| order.line_items.clone())
        }
        (Some("customer"), "subscriptions") => {
            let of = |row: &&Value| row["customer"] == id && row["status"] != "canceled";
            let data: Vec<Value> = state.rows("sub").filter(of).cloned().collect();
            let url = format!("/v1/customers/{id}/subscriptions");
            Some(serde_json::json!({"object": "list", "data": data, "has_more": false, "url": url}))
        }
        _ => None,
    };
    if let Some(list) = list {
        object[field] = list;
    }
}
