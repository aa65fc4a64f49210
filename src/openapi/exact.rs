//! What requests must have and answers may be, where the framework says less than the handlers do.

use serde_json::{Value, json};

use super::each_operation;

/// Parameters without which a request is refused: operation, name. A handler takes them as if they could be left out, to say
/// in its own words that they are missing.
const REQUIRED: [(&str, &str); 4] = [
    ("lookupUser", "email"),
    ("findUsersByMetadata", "key"),
    ("findUsersByMetadata", "value"),
    ("closeTenant", "If-Match"),
];

pub(super) fn say(document: &mut Value) {
    each_operation(document, |_, _, operation| {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            say_of(parameter, &id);
        }
    });
    // A page that has neither what comes after it nor a number is one or the other.
    if let Some(schema) =
        document.pointer_mut("/components/schemas/UserPagination").and_then(Value::as_object_mut)
        && let Some(kinds) = schema.remove("oneOf")
    {
        schema.insert("anyOf".into(), kinds);
    }
}

fn say_of(parameter: &mut Value, operation: &str) {
    let name = parameter["name"].as_str().unwrap_or_default();
    if REQUIRED.contains(&(operation, name)) {
        parameter["required"] = json!(true);
    }
    // As in the body, in whose place it may stand.
    if parameter["name"] == "X-Tenant-ID" {
        parameter["schema"]["minLength"] = json!(1);
        parameter["schema"]["maxLength"] = json!(100);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    #[test]
    fn every_required_parameter_is_there() {
        let document: Value = serde_json::from_str(&crate::openapi::json()).unwrap_or_default();
        let operations: Vec<_> = document["paths"]
            .as_object()
            .into_iter()
            .flat_map(|paths| paths.values().filter_map(Value::as_object).flat_map(Map::values))
            .collect();
        for (id, name) in REQUIRED {
            let there = operations.iter().any(|operation| {
                operation["operationId"] == id
                    && operation["parameters"].as_array().is_some_and(|all| {
                        all.iter().any(|one| one["name"] == name && one["required"] == true)
                    })
            });
            assert!(there, "{id} has no {name}");
        }
    }
}
