//! The OpenAPI document. What poem-openapi cannot say, or says so that generators of clients stumble over it, is put right
//! here and nowhere else.

mod errors;
mod exact;
mod examples;
mod links;
mod operations;
mod outside;
mod schemas;

use serde_json::{Map, Value, json};

use crate::api;

pub(crate) use operations::operations;

/// The document, as `tenantry openapi` prints it and `openapi/openapi.json` holds it.
pub fn json() -> String {
    // A map of strings and numbers always serialises.
    serde_json::to_string_pretty(&document()).unwrap_or_default() + "\n"
}

/// The same in YAML.
pub fn yaml() -> String {
    serde_yaml_ng::to_string(&document()).unwrap_or_default()
}

fn document() -> Value {
    let mut document = framework();
    about(&mut document);
    operations::place(&mut document);
    outside::add(&mut document);
    operations::complete(&mut document);
    errors::add(&mut document);
    exact::say(&mut document);
    schemas::mend(&mut document);
    examples::add(&mut document);
    links::add(&mut document);
    document
}

/// What the framework says.
fn framework() -> Value {
    serde_json::from_str(&api::service().spec()).unwrap_or_default()
}

fn about(document: &mut Value) {
    // The first version of the specification that says what `nullable` means.
    document["openapi"] = json!("3.0.3");
    let info = &mut document["info"];
    info["contact"] = json!({"name": "The makers of Tenantry"});
    info["license"] = json!({"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"});
    document["servers"] = json!([{"url": "/", "description": "The service that this document came from."}]);
}

/// Every operation, with its method and its path.
fn each_operation(document: &mut Value, mut visit: impl FnMut(&str, &str, &mut Value)) {
    for (path, methods) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            visit(method, path, operation);
        }
    }
}

/// The members of an object; none, where it is none.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// The same, to be changed.
fn members_mut(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

/// The name at the end of a reference.
fn referenced(value: &Value) -> Option<&str> {
    value.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next())
}
