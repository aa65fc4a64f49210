//! The OpenAPI document. What poem-openapi cannot say is put right here, in one place: error answers, security of
//! public operations, closed request bodies.

mod exact;
mod links;

use poem_openapi::types::Type;
use serde_json::{Map, Value, json};

use crate::{
    api,
    error::Failure,
    operations::{self, Who},
};

/// The document, as `tenantry openapi` prints it and `openapi/openapi.json` holds it.
pub fn json() -> String {
    // A map of strings and numbers always serialises.
    serde_json::to_string_pretty(&document()).unwrap_or_default() + "\n"
}

/// The same in YAML.
pub fn yaml() -> String {
    serde_yaml_ng::to_string(&document()).unwrap_or_default()
}

/// Whether an operation has an error.
type Applies = fn(&Operation) -> bool;

/// The errors that operations share: status, what it means, when an operation has it.
const ERRORS: [(&str, &str, Applies); 12] = [
    ("400", "The request could not be read.", |_| true),
    ("401", "No valid access token, or wrong credentials.", |operation| {
        operation.secured || operation.is("login") || operation.is("refreshSession")
    }),
    ("403", "The caller may not do this.", |operation| {
        operation.secured || operation.is("login") || operation.is("refreshSession")
    }),
    ("404", "No such record in the caller's tenant.", |operation| operation.secured),
    ("409", "In conflict with what exists.", |operation| {
        operation.has_body
            || ["deleteUser", "restoreUser", "eraseUser", "putUserProject", "retryJob", "cancelJob"]
                .iter()
                .any(|id| operation.is(id))
    }),
    ("412", "The version is another one than asked for.", |operation| operation.secured),
    ("413", "The body is too large.", |operation| operation.has_body),
    ("415", "The body is not JSON.", |operation| operation.has_body),
    ("422", "Fields or parameters are wrong; `errors` names each.", |operation| {
        operation.has_body || operation.secured
    }),
    ("428", "The request must say with `If-Match` which version it means.", |operation| {
        operation.is("closeTenant")
    }),
    ("429", "Too many requests; `Retry-After` says when the next is taken.", |_| true),
    ("503", "Something needed is away or busy; `Retry-After` says when to try again.", |_| true),
];

struct Operation {
    id: String,
    secured: bool,
    has_body: bool,
}

impl Operation {
    fn is(&self, id: &str) -> bool {
        self.id == id
    }
}

fn document() -> Value {
    let mut document: Value = serde_json::from_str(&api::service().spec()).unwrap_or_default();
    document["info"]["license"] =
        json!({"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"});
    for path in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for operation in path.as_object_mut().into_iter().flat_map(Map::values_mut) {
            complete(operation);
        }
    }
    merge_errors(&mut document);
    exact::say(&mut document);
    close_bodies(&mut document);
    trim_slashes(&mut document);
    links::add(&mut document);
    document
}

/// Method, path and id of every operation below `/api/v1`.
pub(crate) fn operations() -> Vec<(String, String, String)> {
    let document: Value = serde_json::from_str(&api::service().spec()).unwrap_or_default();
    let mut operations = vec![];
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            operations.push((method.clone(), format!("/api/v1{path}"), id));
        }
    }
    operations
}

fn complete(operation: &mut Value) {
    let about = Operation {
        id: operation["operationId"].as_str().unwrap_or_default().into(),
        secured: operation.get("security").is_some(),
        has_body: operation.get("requestBody").is_some(),
    };
    for (status, _, applies) in ERRORS {
        if applies(&about) {
            operation["responses"][status] = json!({"$ref": format!("#/components/responses/Error{status}")});
        }
    }
    if !about.secured {
        operation["security"] = json!([]);
    }
    say_who(&about.id, operation);
}

/// Who may call it, out of the table that lets requests in.
fn say_who(id: &str, operation: &mut Value) {
    let (role, scope) = match operations::by_id(id) {
        Some(Who::Role(role, scope)) => (Some(role), scope),
        Some(Who::Key(scope)) => (None, Some(scope)),
        Some(Who::Public) | None => (None, None),
    };
    if let Some(role) = role {
        operation["x-required-role"] = json!(role.as_str());
    }
    if let Some(scope) = scope {
        operation["x-api-key-scope"] = json!(scope.as_str());
    }
}

fn merge_errors(document: &mut Value) {
    let mut registry = poem_openapi::registry::Registry::new();
    Failure::register(&mut registry);
    let schemas = serde_json::to_value(&registry.schemas).unwrap_or_default();
    for (name, schema) in schemas.as_object().into_iter().flatten() {
        document["components"]["schemas"][name] = schema.clone();
    }
    let reference = json!({"$ref": "#/components/schemas/ErrorResponse"});
    for (status, description, _) in ERRORS {
        let mut response = json!({
            "description": description,
            "content": {"application/json": {"schema": reference}},
        });
        // 409: where a request of the same Idempotency-Key is under way.
        if matches!(status, "409" | "429" | "503") {
            response["headers"] = json!({"Retry-After": {
                "description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}
            }});
        }
        document["components"]["responses"][format!("Error{status}")] = response;
    }
}

/// Unknown fields are refused, and the document says so.
fn close_bodies(document: &mut Value) {
    let mut pending: Vec<String> = vec![];
    let mut references = |value: &Value| collect_references(value, &mut pending);
    for path in document["paths"].as_object().into_iter().flat_map(Map::values) {
        for operation in path.as_object().into_iter().flat_map(Map::values) {
            references(&operation["requestBody"]);
        }
    }
    let mut closed = std::collections::BTreeSet::new();
    while let Some(name) = pending.pop() {
        let schema = &mut document["components"]["schemas"][&name];
        if schema["type"] == "object" && closed.insert(name) {
            schema["additionalProperties"] = json!(false);
            let schema = schema.clone();
            collect_references(&schema, &mut pending);
        }
    }
}

fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(name) =
                object.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next())
            {
                names.push(name.to_owned());
            }
            object.values().for_each(|value| collect_references(value, names));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, names)),
        _ => {}
    }
}

/// `/users/` is written `/users`, as clients call it.
fn trim_slashes(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    *paths = std::mem::take(paths)
        .into_iter()
        .map(|(path, operations)| match path.strip_suffix('/') {
            Some(trimmed) if !trimmed.is_empty() => (trimmed.to_owned(), operations),
            _ => (path, operations),
        })
        .collect();
}
