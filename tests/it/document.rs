//! The OpenAPI document, as tests read it.

use serde_json::Value;

/// The document of this program.
pub(crate) fn document() -> Value {
    serde_json::from_str(&tenantry::openapi::json()).unwrap()
}

/// An operation of the document.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) id: String,
    /// In capitals.
    pub(crate) method: String,
    pub(crate) path: String,
    /// All that the document says of it.
    pub(crate) spec: Value,
}

/// All of them, in the order of their paths.
pub(crate) fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = vec![];
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, spec) in methods.as_object().unwrap() {
            operations.push(Operation {
                id: spec["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                spec: spec.clone(),
            });
        }
    }
    assert!(operations.len() > 50, "{operations:?}");
    operations
}

impl Operation {
    /// Whether it takes a parameter of this name, wherever that comes.
    pub(crate) fn takes(&self, parameter: &str) -> bool {
        self.parameters().any(|known| known["name"] == parameter)
    }

    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.spec["parameters"].as_array().into_iter().flatten()
    }
}
