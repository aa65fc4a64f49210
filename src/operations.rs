//! Who may do what: one table. A request is let in by it, the OpenAPI document says what it says, and tests call every
//! operation with every role (tests/it/walls/). What is not in it is refused.
//!
//! The house asks further where it depends on the record: whose it is, what shall become of it.

use std::{collections::HashMap, sync::LazyLock};

use poem::{PathPattern, Request};
use tenantry_accounts::{api_keys::Scope, users::Role};

use crate::{api::pages, openapi};

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Everybody: sign-up, sign-in, and what a mailed token opens.
    Public,
    /// Those who are signed in and have at least this role; API keys with this scope. None: no API key.
    Role(Role, Option<Scope>),
    /// API keys with this scope, and nobody else.
    Key(Scope),
}

use Role::{Admin, SuperAdmin, User};
use Who::{Key, Public};

const fn of(role: Role) -> Who {
    Who::Role(role, None)
}

const fn or_key(role: Role, scope: Scope) -> Who {
    Who::Role(role, Some(scope))
}

/// The table: operation id, who.
pub(crate) const OPERATIONS: &[(&str, Who)] = &[
    ("register", Public),
    ("login", Public),
    ("refreshSession", Public),
    ("logout", of(User)),
    ("logoutEverywhere", of(User)),
    ("listSessions", of(User)),
    ("deleteSession", of(User)),
    ("changePassword", of(User)),
    ("getTotp", of(User)),
    ("startTotp", of(User)),
    ("confirmTotp", of(User)),
    ("disableTotp", of(User)),
    ("renewRecoveryCodes", of(User)),
    ("resetUserTotp", of(Admin)),
    ("resendVerification", Public),
    ("forgotPassword", Public),
    ("resetPassword", Public),
    ("verifyEmail", Public),
    ("introspectToken", Key(Scope::Introspect)),
    ("createUser", or_key(Admin, Scope::UsersWrite)),
    ("bulkCreateUsers", or_key(Admin, Scope::UsersWrite)),
    ("createImport", or_key(Admin, Scope::UsersWrite)),
    ("listImports", or_key(Admin, Scope::UsersRead)),
    ("getImport", or_key(Admin, Scope::UsersRead)),
    ("getImportReport", or_key(Admin, Scope::UsersRead)),
    ("deleteImport", or_key(Admin, Scope::UsersWrite)),
    ("listUsers", or_key(User, Scope::UsersRead)),
    ("getMe", of(User)),
    ("lookupUser", or_key(User, Scope::UsersRead)),
    ("batchGetUsers", or_key(User, Scope::UsersRead)),
    ("getUser", or_key(User, Scope::UsersRead)),
    ("updateUser", or_key(User, Scope::UsersWrite)),
    ("deleteUser", or_key(Admin, Scope::UsersWrite)),
    ("getUserStats", or_key(Admin, Scope::UsersRead)),
    ("listUserProjects", or_key(User, Scope::UsersRead)),
    ("putUserProject", or_key(Admin, Scope::UsersWrite)),
    ("deleteUserProject", or_key(Admin, Scope::UsersWrite)),
    ("findUsersByMetadata", or_key(User, Scope::MetadataRead)),
    ("getUserMetadata", or_key(User, Scope::MetadataRead)),
    ("updateUserMetadata", or_key(Admin, Scope::MetadataWrite)),
    ("getTenantMetadata", or_key(User, Scope::MetadataRead)),
    ("updateTenantMetadata", or_key(Admin, Scope::MetadataWrite)),
    ("exportUsers", or_key(Admin, Scope::UsersRead)),
    ("listDeletedUsers", or_key(Admin, Scope::UsersRead)),
    ("restoreUser", or_key(Admin, Scope::UsersWrite)),
    ("getUserData", of(User)),
    ("eraseUser", of(Admin)),
    ("createInvitations", or_key(Admin, Scope::InvitationsWrite)),
    ("listInvitations", or_key(Admin, Scope::InvitationsRead)),
    ("acceptInvitation", Public),
    ("resendInvitation", or_key(Admin, Scope::InvitationsWrite)),
    ("deleteInvitation", or_key(Admin, Scope::InvitationsWrite)),
    ("createApiKey", of(Admin)),
    ("listApiKeys", of(Admin)),
    ("deleteApiKey", of(Admin)),
    ("createTenant", Public),
    ("getTenant", or_key(User, Scope::TenantRead)),
    ("updateTenant", or_key(Admin, Scope::TenantWrite)),
    ("listTenants", of(SuperAdmin)),
    ("closeTenant", of(Admin)),
    ("reopenTenant", of(SuperAdmin)),
    ("listAuditEvents", or_key(Admin, Scope::AuditRead)),
    ("listSubscriptions", or_key(Admin, Scope::BillingRead)),
    ("getSubscription", or_key(Admin, Scope::BillingRead)),
    ("createCheckoutSession", of(Admin)),
    ("createPortalSession", of(Admin)),
    ("receiveStripeEvent", Public),
    ("listJobs", or_key(Admin, Scope::JobsRead)),
    ("countJobs", or_key(Admin, Scope::JobsRead)),
    ("pushJob", or_key(Admin, Scope::JobsWrite)),
    ("retryDeadJobs", or_key(Admin, Scope::JobsWrite)),
    ("getJob", or_key(Admin, Scope::JobsRead)),
    ("retryJob", or_key(Admin, Scope::JobsWrite)),
    ("cancelJob", or_key(Admin, Scope::JobsWrite)),
];

/// What a session may do that has yet to set up the second factor which its tenant requires.
const WHILE_SETTING_UP: &[&str] =
    &["getTotp", "startTotp", "confirmTotp", "getMe", "logout", "logoutEverywhere"];

/// Who may call an operation, by its id.
pub(crate) fn by_id(id: &str) -> Option<Who> {
    OPERATIONS.iter().find(|(known, _)| *known == id).map(|(_, who)| *who)
}

/// The methods that a path of this pattern knows, as `Allow` says them.
pub(crate) fn methods(pattern: &PathPattern) -> String {
    let mut methods: Vec<&str> = ROUTES
        .iter()
        .filter(|(_, routes)| routes.contains_key(&*pattern.0))
        .map(|(method, _)| method.as_str())
        .collect();
    // What is not in the document: pages, which are read, and of which some have a form.
    if methods.is_empty() {
        methods = if pages::have_form(&pattern.0) { vec!["GET", "POST"] } else { vec!["GET"] };
    }
    // Whatever can be read has a head.
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.join(", ")
}

/// What the tables say of an operation.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) who: Who,
    /// Whether it is part of setting up a second factor.
    pub(crate) while_setting_up: bool,
}

impl Operation {
    /// The one that a request has been routed to.
    pub(crate) fn routed(request: &Request) -> Option<Self> {
        let pattern = request.data::<PathPattern>()?;
        ROUTES.get(request.method().as_str())?.get(&*pattern.0).copied()
    }

    /// The one of this id.
    pub(crate) fn by_id(id: &str) -> Option<Self> {
        let while_setting_up = WHILE_SETTING_UP.contains(&id);
        by_id(id).map(|who| Self { who, while_setting_up })
    }
}

/// The tables by method and pattern, as the router has them.
static ROUTES: LazyLock<HashMap<String, HashMap<String, Operation>>> = LazyLock::new(|| {
    let mut routes: HashMap<String, HashMap<String, Operation>> = HashMap::new();
    for (method, path, id) in openapi::operations() {
        if let Some(operation) = Operation::by_id(&id) {
            // The framework calls the parameters `param0` and `param1`.
            let pattern = path.replace("{id}", ":param0").replace("{project_id}", ":param1");
            routes.entry(method.to_uppercase()).or_default().insert(pattern, operation);
        }
    }
    routes
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn every_operation_of_the_document_has_one_row_and_every_row_an_operation() {
        let rows: Vec<_> = OPERATIONS.iter().map(|(id, _)| (*id).to_owned()).collect();
        let (known, described): (BTreeSet<_>, BTreeSet<_>) = (
            rows.iter().cloned().collect(),
            openapi::operations().into_iter().map(|(_, _, id)| id).collect(),
        );
        assert_eq!(known, described);
        assert_eq!(known.len(), rows.len(), "a row is there twice");
        let routes: usize = ROUTES.values().map(HashMap::len).sum();
        assert_eq!(routes, rows.len(), "each has a route of its own");
    }

    #[test]
    fn an_operation_asks_for_a_credential_unless_it_is_public() {
        let document: Value = serde_json::from_str(&openapi::json()).unwrap_or_default();
        for methods in document["paths"].as_object().into_iter().flat_map(|paths| paths.values()) {
            for operation in methods.as_object().into_iter().flat_map(|methods| methods.values()) {
                let id = operation["operationId"].as_str().unwrap_or_default();
                let open = operation["security"].as_array().is_some_and(Vec::is_empty);
                let public = by_id(id).is_none_or(|who| who == Public);
                assert_eq!(public, open, "{id}");
                let said = operation.get("x-required-role").or(operation.get("x-api-key-scope"));
                assert_eq!(said.is_none(), open, "{id}");
            }
        }
    }
}
