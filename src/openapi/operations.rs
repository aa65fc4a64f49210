//! What is said at each operation: its path as clients call it, who may call it, headers by their usual names.

use serde_json::{Value, json};

use super::{each_operation, framework, members};
use crate::{
    api::PREFIX,
    operations::{self, Who},
};

/// Method, path and id of every operation below `/api/v1`.
pub(crate) fn operations() -> Vec<(String, String, String)> {
    let mut operations = vec![];
    for (path, methods) in members(&framework()["paths"]) {
        for (method, operation) in members(methods) {
            let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
            operations.push((method.clone(), format!("{PREFIX}{path}"), id));
        }
    }
    operations
}

/// Whole paths, since there are operations elsewhere; and `/users/` is written `/users`, as clients call it.
pub(super) fn place(document: &mut Value) {
    let Some(paths) = document["paths"].as_object_mut() else { return };
    *paths = std::mem::take(paths)
        .into_iter()
        .map(|(path, operations)| (format!("{PREFIX}{}", path.trim_end_matches('/')), operations))
        .collect();
}

pub(super) fn complete(document: &mut Value) {
    each_operation(document, |_, _, operation| {
        if operation.get("security").is_none() {
            operation["security"] = json!([]);
        }
        say_who(operation);
        mend_parameters(operation);
        for (_, response) in super::members_mut(&mut operation["responses"]) {
            name_headers(response);
        }
    });
}

/// Who may call it, out of the table that lets requests in.
fn say_who(operation: &mut Value) {
    let (role, scope) = match operations::by_id(operation["operationId"].as_str().unwrap_or_default()) {
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

/// A parameter `Accept` shall be ignored, says the specification; what is the default need not be said; and parts of a path are
/// always there, though the framework believes that those may be missing which we parse ourselves.
fn mend_parameters(operation: &mut Value) {
    let Some(parameters) = operation.get_mut("parameters").and_then(Value::as_array_mut) else { return };
    parameters.retain(|parameter| parameter["name"] != "Accept");
    for parameter in parameters.iter_mut().filter_map(Value::as_object_mut) {
        parameter.remove("deprecated");
        parameter.remove("explode");
        if parameter["in"] == "path" {
            parameter.insert("required".into(), json!(true));
        }
    }
}

/// The framework writes names of headers in capitals.
fn name_headers(response: &mut Value) {
    let Some(headers) = response.get_mut("headers").and_then(Value::as_object_mut) else { return };
    *headers = std::mem::take(headers)
        .into_iter()
        .map(|(name, mut header)| {
            if let Some(header) = header.as_object_mut() {
                header.remove("deprecated");
            }
            (usual(&name), header)
        })
        .collect();
}

/// A header's name as it is usually written.
fn usual(name: &str) -> String {
    if name.eq_ignore_ascii_case("etag") {
        return "ETag".into();
    }
    let word = |word: &str| word[..1].to_uppercase() + &word[1..].to_lowercase();
    name.split('-').filter(|part| !part.is_empty()).map(word).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::usual;

    #[test]
    fn headers_have_their_usual_names() {
        for name in ["ETag", "Location", "X-Cache", "Cache-Control", "Retry-After", "Idempotency-Replayed"] {
            assert_eq!(usual(&name.to_uppercase()), name);
        }
    }
}
