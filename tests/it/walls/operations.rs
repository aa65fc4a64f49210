//! The operations of the OpenAPI document, and who may call them.

use super::world::Caller;
use crate::document;

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
    let all = document::operations(&document::document());
    let about_rows = all.into_iter().filter_map(|operation| {
        // The others are not about anybody's rows.
        let path = operation.path.strip_prefix("/api/v1")?.to_owned();
        let text = |name: &str| operation.spec[name].as_str().map(str::to_owned);
        let (role, scope) = (text("x-required-role"), text("x-api-key-scope"));
        let spans_tenants = operation.takes("all_tenants");
        Some(Operation { id: operation.id, method: operation.method, path, role, scope, spans_tenants })
    });
    about_rows.collect()
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
