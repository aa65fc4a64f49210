//! What has happened, as it was then.

use serde_json::{Map, Value, json};

use crate::{
    API_VERSION,
    error::{Error, Result},
    form::Params,
    state::State,
    table::Page,
    webhooks,
};

/// Stripe shows the events of the last 30 days.
pub(crate) const KEPT: i64 = 30 * 24 * 3600;

/// Notes that something happened to an object, and sends it to the endpoints.
pub(crate) fn record(state: &mut State, kind: &str, object: &Value, previous: Option<Value>) {
    let mut data = json!({ "object": object });
    if let Some(previous) = previous {
        data["previous_attributes"] = previous;
    }
    let (id, created) = (state.id("evt"), state.now());
    let (request, key) = state.request.clone();
    let endpoints = webhooks::wanting(state, kind);
    let event = json!({
        "id": id,
        "object": "event",
        "api_version": API_VERSION,
        "created": created,
        "data": data,
        "livemode": false,
        "pending_webhooks": endpoints.len(),
        "request": {"id": request, "idempotency_key": key},
        "type": kind,
    });
    state.put("evt", event);
    for endpoint in endpoints {
        let waits = state.dice.event(&state.faults.webhooks);
        state.queue.add(&id, &endpoint, waits, state.faults.webhooks.deliver);
    }
}

/// Stores an object that has changed, and says so unless nothing did.
pub(crate) fn update(state: &mut State, prefix: &'static str, kind: &str, new: Value) {
    let old = state.table(prefix).put(new.clone()).unwrap_or_default();
    if old != new {
        let previous = difference(&old, &new);
        record(state, kind, &new, Some(previous));
    }
}

/// The old values of what differs: hashes are compared within, lists as a whole.
fn difference(old: &Value, new: &Value) -> Value {
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else { return old.clone() };
    let mut previous = Map::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (before, after) = (old.get(name).unwrap_or(&Value::Null), new.get(name).unwrap_or(&Value::Null));
        if before != after {
            let both = before.is_object() && after.is_object();
            previous.insert(name.clone(), if both { difference(before, after) } else { before.clone() });
        }
    }
    Value::Object(previous)
}

/// A subscription as it was at that time: as the last event about it by then has it. One that had not been made is not found.
pub(crate) fn as_it_was(state: &State, id: &str, at: i64) -> Result<Value> {
    let about = |event: &&Value| {
        event["created"].as_i64().is_some_and(|created| created <= at) && event["data"]["object"]["id"] == id
    };
    let last = state.rows("evt").rev().find(about).map(|event| event["data"]["object"].clone());
    last.ok_or_else(|| Error::not_found("subscription", id))
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("evt", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let page = Page::read(params)?;
    let mut types = params.texts("types")?;
    types.extend(params.text("type")?);
    params.finish()?;
    let oldest = state.now() - KEPT;
    let kept = |event: &Value| event["created"].as_i64().is_some_and(|created| created >= oldest);
    let events = state.table("evt");
    page.begins_among(events, kept)?;
    events.page(&page, "/v1/events", None, |event| {
        let kind = event["type"].as_str().unwrap_or_default();
        kept(event) && (types.is_empty() || types.iter().any(|wanted| matches(wanted, kind)))
    })
}

/// `customer.subscription.*` stands for all that begin so.
pub(crate) fn matches(wanted: &str, kind: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => wanted == kind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previous_attributes_hold_what_was_and_no_more() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "list": [1], "same": [2]});
        let new = json!({"a": 2, "b": {"c": 1, "d": 3, "e": 4}, "list": [1, 2], "same": [2]});
        assert_eq!(difference(&old, &new), json!({"a": 1, "b": {"d": 2, "e": null}, "list": [1]}));
    }
}
