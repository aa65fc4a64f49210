//! Endpoints that want to hear of events, and the signatures that they get.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::{
    API_VERSION,
    error::{Error, Result},
    events,
    form::Params,
    state::{State, text},
    table::Page,
};

/// An endpoint as it is at the beginning: one that somebody configured, with every event. What an earlier run did not deliver
/// to one goes there now.
pub(crate) fn configure(state: &mut State, url: &str, secrets: Vec<String>) {
    let id = state.earlier.pop_first().unwrap_or_else(|| state.id("we"));
    state.configured.insert(id.clone());
    let created = state.now();
    state.secrets.insert(id.clone(), secrets);
    state.put("we", endpoint(&id, url, json!(["*"]), created));
}

fn endpoint(id: &str, url: &str, enabled_events: Value, created: i64) -> Value {
    json!({
        "id": id,
        "object": "webhook_endpoint",
        "api_version": API_VERSION,
        "application": null,
        "created": created,
        "description": null,
        "enabled_events": enabled_events,
        "livemode": false,
        "metadata": {},
        "status": "enabled",
        "url": url,
    })
}

/// The endpoints that an event of this kind goes to.
pub(crate) fn wanting(state: &State, kind: &str) -> Vec<String> {
    let wants = |endpoint: &&Value| {
        let wanted = endpoint["enabled_events"].as_array().into_iter().flatten().filter_map(Value::as_str);
        endpoint["status"] == "enabled" && endpoint["deleted"] != true && { wanted }
            .any(|w| events::matches(w, kind))
    };
    state.rows("we").filter(wants).map(|endpoint| text(endpoint, "id").to_owned()).collect()
}

/// The header `Stripe-Signature`: one v1 for each secret.
pub(crate) fn signature(secrets: &[String], at: i64, payload: &str) -> String {
    let mut header = format!("t={at}");
    for secret in secrets {
        // HMAC takes keys of any length.
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) {
            mac.update(format!("{at}.{payload}").as_bytes());
            header.push_str(",v1=");
            mac.finalize().into_bytes().iter().for_each(|byte| header.push_str(&format!("{byte:02x}")));
        }
    }
    header
}

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let url = url(&params.required("url")?)?;
    let enabled = params.texts("enabled_events")?;
    if enabled.is_empty() {
        return Err(Error::missing("enabled_events"));
    }
    let description = params.nullable("description")?;
    params.ignore(&["api_version", "connect"]);
    let mut new = endpoint("", &url, json!(enabled), state.now());
    params.metadata(&mut new)?;
    params.finish()?;
    let id = state.id("we");
    let secret = format!("whsec_{}", id.trim_start_matches("we_"));
    (new["id"], new["description"]) = (json!(id), description.unwrap_or_default());
    state.secrets.insert(id, vec![secret.clone()]);
    state.put("we", new.clone());
    // Shown this once.
    new["secret"] = json!(secret);
    Ok(new)
}

/// The fake speaks plain HTTP only.
fn url(url: &str) -> Result<String> {
    if url.starts_with("http://") {
        return Ok(url.to_owned());
    }
    Err(Error::coded("url_invalid", "Invalid URL: this fake delivers to http:// addresses only.")
        .about("url"))
}

pub(crate) fn get(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    live(state, id)
}

fn live(state: &State, id: &str) -> Result<Value> {
    let endpoint = state.get("we", id)?;
    if endpoint["deleted"] == true { Err(Error::not_found("webhook endpoint", id)) } else { Ok(endpoint) }
}

pub(crate) fn list(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let page = Page::read(params)?;
    params.finish()?;
    state.table("we").page(&page, "/v1/webhook_endpoints", None, |_| true)
}

pub(crate) fn update(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    let mut endpoint = live(state, id)?;
    if let Some(new) = params.text("url")? {
        endpoint["url"] = json!(url(&new)?);
    }
    let enabled = params.texts("enabled_events")?;
    if !enabled.is_empty() {
        endpoint["enabled_events"] = json!(enabled);
    }
    if let Some(disabled) = params.boolean("disabled")? {
        endpoint["status"] = json!(if disabled { "disabled" } else { "enabled" });
    }
    if let Some(description) = params.nullable("description")? {
        endpoint["description"] = description;
    }
    params.metadata(&mut endpoint)?;
    params.finish()?;
    state.put("we", endpoint.clone());
    Ok(endpoint)
}

pub(crate) fn delete(state: &mut State, id: &str, params: &mut Params) -> Result<Value> {
    params.finish()?;
    live(state, id)?;
    let gone = json!({"id": id, "object": "webhook_endpoint", "deleted": true});
    state.put("we", gone.clone());
    Ok(gone)
}
