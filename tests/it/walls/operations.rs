//! The operations of the OpenAPI document, and who may call them.

use serde_json::Value;

use super::world::Caller;

pub(super) const ROLES: [&str; 3] = ["user", "admin", "super_admin"];

/// An operation.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) path: String,
    /// The least role that may call it.
    role: Option<String>,
    /// The scope that an API key needs.
    pub(super) scope: Option<String>,
    /// Whether it may be asked for the rows of all tenants.
    pub(super) spans_tenants: bool,
}

/// All of them.
pub(super) fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&tenantry::openapi::json()).unwrap();
    let mut operations = vec![];
    for (path, methods) in document["paths"].as_object().unwrap() {
        // The others are not about anybody's rows.
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        for (method, operation) in methods.as_object().unwrap() {
            let text = |name: &str| operation[name].as_str().map(str::to_owned);
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            operations.push(Operation {
                id: text("operationId").unwrap(),
                method: method.to_uppercase(),
                path: path.to_owned(),
                role: text("x-required-role"),
                scope: text("x-api-key-scope"),
                spans_tenants: parameters.clone().any(|parameter| parameter["name"] == "all_tenants"),
            });
        }
    }
    assert!(operations.len() >= 35, "{operations:?}");
    operations
}

impl Operation {
    pub(super) fn is_public(&self) -> bool {
        self.role.is_none() && self.scope.is_none()
    }

    /// Whether it names what it is about in its path.
    pub(super) fn has_an_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// Whether somebody who is signed in may call it.
    pub(super) fn admits(&self, role: &str) -> bool {
        self.is_public()
            || role == "api_key" && self.scope.is_some()
            || role != "api_key" && self.role.as_deref().is_some_and(|least| rank(role) >= rank(least))
    }

    /// One of these who may call it.
    pub(super) fn caller<'a>(&self, callers: &'a [Caller]) -> &'a Caller {
        callers
            .iter()
            .find(|caller| self.admits(caller.role))
            .unwrap_or_else(|| panic!("{self:?} admits nobody"))
    }
}

fn rank(role: &str) -> usize {
    ROLES.iter().position(|known| *known == role).unwrap_or_else(|| panic!("{role} is no role"))
}
