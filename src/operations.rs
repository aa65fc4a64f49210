//! Who may do what: one table. A request is let in by it, the OpenAPI document says what it says, and tests call every
//! operation with every role (tests/it/walls.rs). What is not in it is refused.
//!
//! The house asks further where it depends on the record: whose it is, what shall become of it.

use std::{collections::HashMap, sync::LazyLock};

use poem::{PathPattern, Request};
use tenantry_accounts::{api_keys::Scope, users::Role};

use crate::openapi;

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

use Role::{Admin, User};
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
    ("resendVerification", Public),
    ("forgotPassword", Public),
    ("resetPassword", Public),
    ("verifyEmail", Public),
    ("introspectToken", Key(Scope::Introspect)),
    ("createUser", or_key(Admin, Scope::UsersWrite)),
    ("listUsers", or_key(User, Scope::UsersRead)),
    ("getMe", of(User)),
    ("lookupUser", or_key(User, Scope::UsersRead)),
    ("batchGetUsers", or_key(User, Scope::UsersRead)),
    ("getUser", or_key(User, Scope::UsersRead)),
    ("updateUser", or_key(User, Scope::UsersWrite)),
    ("deleteUser", or_key(Admin, Scope::UsersWrite)),
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

/// Who may call an operation, by its id.
pub(crate) fn by_id(id: &str) -> Option<Who> {
    OPERATIONS.iter().find(|(known, _)| *known == id).map(|(_, who)| *who)
}

/// Who may call the operation that a request has been routed to.
pub(crate) fn of_request(request: &Request) -> Option<Who> {
    let pattern = request.data::<PathPattern>()?;
    ROUTES.get(request.method().as_str())?.get(&*pattern.0).copied()
}

/// The table by method and pattern, as the router has them.
static ROUTES: LazyLock<HashMap<String, HashMap<String, Who>>> = LazyLock::new(|| {
    let mut routes: HashMap<String, HashMap<String, Who>> = HashMap::new();
    for (method, path, id) in openapi::operations() {
        if let Some(who) = by_id(&id) {
            // The framework calls every parameter `param0`, and ours have one at most.
            let pattern = path.replace("{id}", ":param0");
            routes.entry(method.to_uppercase()).or_default().insert(pattern, who);
        }
    }
    routes
});
