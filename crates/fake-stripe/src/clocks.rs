//! Test clocks, which make time pass for the customers that are on them.

use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    events,
    form::Params,
    state::{State, int},
    subscriptions,
    table::Page,
};

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let frozen = params.integer("frozen_time")?.ok_or_else(|| Error::missing("frozen_time"))?;
    let name = params.nullable("name")?;
    params.finish()?;
    let now = state.now();
    let clock = json!({
        "id": state.id("clock"),
        "object": "test_helpers.test_clock",
        "created": now,
        "deletes_after": now + 30 * 86_400,
        "frozen_time": frozen,
        "livemode": false,
        "name": name,
        "status": "ready",
        "status_details": {},
    });
    state.put("clock", clock.clone());
    events::record(state, "test_helpers.test_clock.created", &clock, None);
    Ok(clock)
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    state.get("clock", id)
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let page = Page::read(params)?;
    params.finish()?;
    state.table("clock").page(&page, "/v1/test_helpers/test_clocks", None, |_| true)
}

/// All that time does until then happens at once. The answer says `advancing` all the same, as Stripe's does; whoever
/// asks again is told `ready`.
pub(crate) fn advance(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let to = params.integer("frozen_time")?.ok_or_else(|| Error::missing("frozen_time"))?;
    params.finish()?;
    let mut clock = state.get("clock", id)?;
    if to <= int(&clock, "frozen_time") {
        return Err(Error::invalid("A test clock can only be advanced to a later time.").about("frozen_time"));
    }
    clock["status"] = json!("advancing");
    clock["status_details"] = json!({"advancing": {"target_frozen_time": to}});
    events::update(state, "clock", "test_helpers.test_clock.advancing", clock.clone());
    subscriptions::run_until(state, id, to);
    let mut ready = clock.clone();
    (ready["frozen_time"], ready["status"]) = (json!(to), json!("ready"));
    ready["status_details"] = json!({});
    events::update(state, "clock", "test_helpers.test_clock.ready", ready);
    Ok(clock)
}
