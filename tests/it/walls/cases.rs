//! How each operation is called: one line an operation. One that has none fails the tests of the walls.

use std::collections::BTreeSet;

use serde_json::Value;
use uuid::Uuid;

use super::{
    operations::{Operation, operations},
    things::Thing,
};

/// How an operation is called, and what it answers.
#[derive(Clone, Copy)]
pub(super) struct Case {
    operation: &'static str,
    /// What the request names.
    pub(super) names: Thing,
    query: &'static str,
    body: &'static str,
    pub(super) content_type: &'static str,
    /// The status where it names what is another tenant's, or nobody's. That it succeeds for one's own is tested, too.
    answers: u16,
    to_users: u16,
    to_the_system: u16,
    /// Succeeds for what is new to the tenant only.
    pub(super) makes_what_it_names: bool,
    /// Super administrators reach every tenant by it.
    pub(super) reaches_all: bool,
    /// Sessions of the caller end.
    pub(super) signs_out: bool,
    /// The caller's tenant ends.
    pub(super) ends_the_tenant: bool,
    /// Whether it takes the version that is to be changed.
    pub(super) takes_a_version: bool,
    /// Whether it is signed as Stripe does.
    pub(super) signed: bool,
    /// Why no transaction of a tenant is in it, so that no policy can hold it back.
    pub(super) beyond_the_policies: Option<&'static str>,
}

// `<it>` is what the request names, `<tenant>` the caller's tenant, `<new>` something that nobody has.
const SIGN_UP: &str = r#"{"tenant": {"name": "New", "slug": "<new>"}, "email": "<new>@example.org", "password": "Correct-Horse-1", "name": "New"}"#;

const CASES: &[Case] = &[
    case("register", Thing::Nothing).with(SIGN_UP).answers(201).beyond("makes a tenant"),
    case("login", Thing::Account)
        .with(r#"{"tenant": "<tenant>", "email": "<it>", "password": "Correct-Horse-1"}"#)
        .answers(401),
    case("refreshSession", Thing::RefreshToken).with(r#"{"refresh_token": "<it>"}"#).answers(401),
    case("logout", Thing::RefreshToken).with(r#"{"refresh_token": "<it>"}"#).answers(204).signs_out(),
    case("logoutEverywhere", Thing::Nothing).answers(204).signs_out(),
    case("listSessions", Thing::Nothing).answers(200),
    case("deleteSession", Thing::Session),
    case("changePassword", Thing::Nothing)
        .with(r#"{"current_password": "Correct-Horse-1", "new_password": "Correct-Horse-1"}"#)
        .answers(204)
        .signs_out(),
    case("getTotp", Thing::Nothing).answers(200),
    case("startTotp", Thing::Nothing).with(r#"{"current_password": "Correct-Horse-1"}"#).answers(200),
    // Another's code is no more than a wrong one: whoever calls has just begun to set up a factor of their own.
    case("confirmTotp", Thing::ProvingCode).with(r#"{"code": "<it>"}"#).answers(422),
    case("disableTotp", Thing::RecoveryCode)
        .with(r#"{"current_password": "Correct-Horse-1", "code": "<it>"}"#)
        .signs_out(),
    case("renewRecoveryCodes", Thing::RecoveryCode)
        .with(r#"{"current_password": "Correct-Horse-1", "code": "<it>"}"#),
    case("resetUserTotp", Thing::UserWithFactor),
    case("resendVerification", Thing::Address)
        .with(r#"{"tenant": "<tenant>", "email": "<it>"}"#)
        .answers(202)
        .beyond("looks for the address by a function that acts as the system, and answers nothing"),
    case("forgotPassword", Thing::Address)
        .with(r#"{"tenant": "<tenant>", "email": "<it>"}"#)
        .answers(202)
        .beyond("looks for the address by a function that acts as the system, and answers nothing"),
    case("resetPassword", Thing::ResetToken)
        .with(r#"{"token": "<it>", "password": "Correct-Horse-2"}"#)
        .answers(422),
    case("verifyEmail", Thing::VerificationToken).with(r#"{"token": "<it>"}"#).answers(422),
    case("createUser", Thing::Address)
        .with(r#"{"email": "<it>", "name": "New"}"#)
        .answers(201)
        .makes_what_it_names(),
    case("bulkCreateUsers", Thing::Address)
        .with(r#"{"users": [{"email": "<it>", "name": "New"}], "atomic": true}"#)
        .answers(207)
        .makes_what_it_names(),
    case("createImport", Thing::Address)
        .with(r#"{"email": "<it>", "name": "New"}"#)
        .of_type("application/x-ndjson")
        .answers(202)
        .makes_what_it_names(),
    case("listImports", Thing::Import).answers(200),
    case("getImport", Thing::Import),
    case("getImportReport", Thing::Import),
    case("deleteImport", Thing::Import),
    case("listUsers", Thing::Nothing).ask("limit=100").answers(200),
    case("getMe", Thing::Nothing).answers(200),
    case("lookupUser", Thing::Address).ask("email=<it>"),
    case("batchGetUsers", Thing::User).with(r#"{"ids": ["<it>"]}"#).answers(200),
    case("getUser", Thing::User),
    case("updateUser", Thing::User).with(r#"{"name": "Mallory"}"#).answers_users(403),
    case("deleteUser", Thing::User),
    case("getUserStats", Thing::Nothing).answers(200),
    case("listUserProjects", Thing::UserInProject).answers_users(403),
    case("putUserProject", Thing::User),
    case("deleteUserProject", Thing::UserInProject),
    case("findUsersByMetadata", Thing::MetadataValue).ask("key=number&value=<it>").answers(200),
    case("getUserMetadata", Thing::UserWithMetadata),
    case("updateUserMetadata", Thing::UserWithMetadata).with(r#"{"public": {"number": "<new>"}}"#),
    case("getTenantMetadata", Thing::Tenant).reaches_all(),
    case("updateTenantMetadata", Thing::Tenant).with(r#"{"private": {"number": "<new>"}}"#).reaches_all(),
    case("exportUsers", Thing::Nothing).ask("role=admin").answers(200),
    case("listDeletedUsers", Thing::DeletedUser).answers(200),
    case("restoreUser", Thing::DeletedUser),
    case("getUserData", Thing::User).answers_users(403),
    case("eraseUser", Thing::User),
    case("createInvitations", Thing::Address)
        .with(r#"{"emails": ["<it>"]}"#)
        .answers(201)
        .makes_what_it_names(),
    case("listInvitations", Thing::Nothing).answers(200),
    case("acceptInvitation", Thing::InvitationToken)
        .with(r#"{"token": "<it>", "name": "New", "password": "Correct-Horse-1"}"#)
        .answers(422),
    case("resendInvitation", Thing::Invitation),
    case("deleteInvitation", Thing::Invitation),
    case("createApiKey", Thing::Nothing).with(r#"{"name": "<new>", "scopes": ["users:read"]}"#).answers(201),
    case("listApiKeys", Thing::Nothing).answers(200),
    case("deleteApiKey", Thing::ApiKey),
    // Another tenant's token is no more than a wrong one.
    case("introspectToken", Thing::AccessToken).with(r#"{"token": "<it>"}"#).answers(200),
    case("createTenant", Thing::Nothing).with(SIGN_UP).answers(201).beyond("makes a tenant"),
    case("getTenant", Thing::Tenant).reaches_all(),
    case("updateTenant", Thing::Tenant).with(r#"{"name": "Mallory's"}"#).reaches_all(),
    case("listTenants", Thing::Nothing)
        .answers(200)
        .reaches_all()
        .beyond("lists all tenants, for super administrators"),
    case("closeTenant", Thing::Tenant).takes_a_version().reaches_all().ends_the_tenant(),
    case("reopenTenant", Thing::Tenant).reaches_all(),
    case("listAuditEvents", Thing::Nothing).ask("limit=100").answers(200),
    case("listSubscriptions", Thing::Nothing).answers(200),
    case("getSubscription", Thing::Subscription),
    case("createCheckoutSession", Thing::Nothing)
        .with(r#"{"plan": "pro", "success_url": "http://tenantry.test/done", "cancel_url": "http://tenantry.test/"}"#)
        .answers(201)
        .answers_the_system(404),
    case("createPortalSession", Thing::Nothing)
        .with(r#"{"return_url": "http://tenantry.test/"}"#)
        .answers(201)
        .answers_the_system(404),
    case("receiveStripeEvent", Thing::Nothing)
        .with(r#"{"id": "<new>", "type": "customer.subscription.updated", "created": 1, "data": {"object": {"object": "subscription", "id": "<new>", "customer": "<new>"}}}"#)
        .answers(200)
        .signed()
        .beyond("Stripe names no tenant; whose the event is comes out of our own rows"),
    case("listJobs", Thing::Nothing).ask("limit=100").answers(200),
    case("countJobs", Thing::Nothing).answers(200),
    // That a job names nobody is found out when it runs, in its own tenant.
    case("pushJob", Thing::User)
        .with(r#"{"kind": "verify_email", "payload": {"user_id": "<it>"}, "run_at": "2099-01-01T00:00:00Z"}"#)
        .answers(201),
    case("retryDeadJobs", Thing::DeadJob).with(r#"{"kind": "verify_email"}"#).answers(200),
    case("getJob", Thing::Job),
    case("retryJob", Thing::DeadJob),
    case("cancelJob", Thing::Job),
];

const fn case(operation: &'static str, names: Thing) -> Case {
    Case {
        operation,
        names,
        query: "",
        body: "",
        content_type: "application/json",
        answers: 404,
        to_users: 0,
        to_the_system: 0,
        makes_what_it_names: false,
        reaches_all: false,
        signs_out: false,
        ends_the_tenant: false,
        takes_a_version: false,
        signed: false,
        beyond_the_policies: None,
    }
}

impl Case {
    const fn with(self, body: &'static str) -> Self {
        Self { body, ..self }
    }

    const fn of_type(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    const fn ask(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    const fn answers(self, answers: u16) -> Self {
        Self { answers, ..self }
    }

    /// Where the house, and not the table of operations, refuses users.
    const fn answers_users(self, to_users: u16) -> Self {
        Self { to_users, ..self }
    }

    /// Where the tenant of super administrators cannot do what others can.
    const fn answers_the_system(self, to_the_system: u16) -> Self {
        Self { to_the_system, ..self }
    }

    const fn signed(self) -> Self {
        Self { signed: true, ..self }
    }

    const fn makes_what_it_names(self) -> Self {
        Self { makes_what_it_names: true, ..self }
    }

    const fn reaches_all(self) -> Self {
        Self { reaches_all: true, ..self }
    }

    const fn signs_out(self) -> Self {
        Self { signs_out: true, ..self }
    }

    const fn ends_the_tenant(self) -> Self {
        Self { ends_the_tenant: true, ..self }
    }

    const fn takes_a_version(self) -> Self {
        Self { takes_a_version: true, ..self }
    }

    const fn beyond(self, why: &'static str) -> Self {
        Self { beyond_the_policies: Some(why), ..self }
    }

    /// The status where what is named is another tenant's, or nobody's.
    pub(super) fn status(&self, operation: &Operation, role: &str) -> u16 {
        match role {
            _ if !operation.admits(role) => 403,
            "user" if self.to_users != 0 => self.to_users,
            "super_admin" if self.to_the_system != 0 => self.to_the_system,
            _ => self.answers,
        }
    }

    pub(super) fn query(&self, named: &str) -> String {
        if self.query.is_empty() { String::new() } else { format!("?{}", self.query.replace("<it>", named)) }
    }

    pub(super) fn body(&self, named: &str, tenant: &str) -> Option<Value> {
        let new = format!("new-{}", Uuid::now_v7().simple());
        let body = self.body.replace("<it>", named).replace("<tenant>", tenant).replace("<new>", &new);
        (!body.is_empty()).then(|| serde_json::from_str(&body).unwrap())
    }
}

/// Every operation of the document, with its case.
pub(super) fn cases() -> Vec<(Operation, Case)> {
    let with_case = |operation: Operation| {
        let case = CASES.iter().find(|case| case.operation == operation.id);
        let case = *case.unwrap_or_else(|| panic!("{} has no case in {}: add a line", operation.id, file!()));
        // What an operation names in its path is told apart from what is another's by nothing.
        assert!(!operation.has_an_id() || case.answers == 404, "{} answers 404", operation.id);
        assert!(
            !operation.has_an_id() || !matches!(case.names, Thing::Nothing),
            "{} names one",
            operation.id
        );
        (operation, case)
    };
    operations().into_iter().map(with_case).collect()
}

#[test]
fn every_operation_has_one_case_and_every_case_an_operation() {
    let described: BTreeSet<_> = cases().into_iter().map(|(operation, _)| operation.id).collect();
    let known: BTreeSet<_> = CASES.iter().map(|case| case.operation.to_owned()).collect();
    assert_eq!(described, known);
    assert_eq!(known.len(), CASES.len(), "a case is there twice");
}
