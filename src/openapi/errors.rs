//! Error answers: which operation has which, and what they look like. Those of one status are the same everywhere.

use poem_openapi::types::{ParseFromJSON, Type};
use serde_json::{Map, Value, json};

use super::{each_operation, examples, members};
use crate::error::{Code, Failure, ProblemDetails};

/// Whether an operation has an error.
type Applies = fn(&Operation<'_>) -> bool;

/// The errors that operations share: status, what it means, when an operation has it.
const ERRORS: [(&str, &str, Applies); 14] = [
    ("400", "The request could not be read.", |_| true),
    ("401", "No valid access token, or wrong credentials.", |operation| {
        operation.secured || operation.is_one_of(SIGNING_IN)
    }),
    ("403", "The caller may not do this.", |operation| operation.secured || operation.is_one_of(SIGNING_IN)),
    ("404", "No such record in the caller's tenant.", |operation| operation.secured),
    ("408", "The body came too slowly.", |operation| operation.has_body),
    ("409", "In conflict with what exists, or with what is under way.", |operation| {
        operation.is_one_of(CONFLICTING) || operation.has_body && !operation.is_one_of(NEVER_CONFLICTING)
    }),
    ("412", "The version is another one than asked for.", |operation| {
        operation.takes("If-Match") || operation.takes("X-Min-Version")
    }),
    ("413", "The body is too large.", |operation| operation.has_body),
    ("415", "The body is of another type than this operation takes.", |operation| operation.has_body),
    ("422", "Fields or parameters are wrong; `errors` names each.", |operation| {
        operation.has_body || operation.secured
    }),
    ("428", "The request must say with `If-Match` which version it means.", |operation| {
        operation.is_one_of(ONLY_CONDITIONALLY)
    }),
    ("429", "Too many requests; `Retry-After` says when the next is taken.", |_| true),
    ("500", "A fault of the service, logged under the request id.", |_| true),
    ("503", "Something needed is away or busy; `Retry-After` says when to try again.", |_| true),
];

const SIGNING_IN: &[&str] = &["login", "refreshSession"];

/// In conflict with what exists, though they have no body.
const CONFLICTING: &[&str] =
    &["deleteUser", "restoreUser", "eraseUser", "putUserProject", "retryJob", "cancelJob"];

/// They have a body, and nothing that they could be in conflict with.
const NEVER_CONFLICTING: &[&str] = &[
    "login",
    "refreshSession",
    "logout",
    "forgotPassword",
    "resendVerification",
    "introspectToken",
    "batchGetUsers",
    "changePassword",
];

/// What is done only to a version that the caller has seen.
const ONLY_CONDITIONALLY: &[&str] = &["closeTenant"];

/// What is asked of an operation.
struct Operation<'a> {
    id: &'a str,
    secured: bool,
    has_body: bool,
    parameters: Vec<&'a str>,
}

impl<'a> Operation<'a> {
    fn of(operation: &'a Value) -> Self {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        Self {
            id: operation["operationId"].as_str().unwrap_or_default(),
            secured: operation["security"].as_array().is_some_and(|ways| !ways.is_empty()),
            has_body: operation.get("requestBody").is_some(),
            parameters: parameters.filter_map(|parameter| parameter["name"].as_str()).collect(),
        }
    }

    fn is_one_of(&self, ids: &[&str]) -> bool {
        ids.contains(&self.id)
    }

    fn takes(&self, parameter: &str) -> bool {
        self.parameters.contains(&parameter)
    }
}

pub(super) fn add(document: &mut Value) {
    register(document);
    headers(document);
    for (status, about, _) in ERRORS {
        document["components"]["responses"][format!("Error{status}")] = response(status, about);
    }
    each_operation(document, |_, path, operation| {
        // Whoever asks whether the service works is told so in another way.
        if !path.starts_with("/api/") {
            return;
        }
        for (status, _, applies) in ERRORS {
            if applies(&Operation::of(operation)) {
                operation["responses"][status] =
                    json!({"$ref": format!("#/components/responses/Error{status}")});
            }
        }
    });
}

/// The schemas of the two forms.
fn register(document: &mut Value) {
    let mut registry = poem_openapi::registry::Registry::new();
    Failure::register(&mut registry);
    ProblemDetails::register(&mut registry);
    let schemas = serde_json::to_value(&registry.schemas).unwrap_or_default();
    for (name, schema) in members(&schemas) {
        document["components"]["schemas"][name] = schema.clone();
    }
}

fn headers(document: &mut Value) {
    let text = |about: &str, example: &str| json!({"description": about, "schema": {"type": "string"}, "example": example});
    document["components"]["headers"] = json!({
        "RetryAfter": {
            "description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}, "example": 1
        },
        "RateLimit": text("How many requests are left, and the seconds until there are more.", "\"ip\";r=999;t=1"),
        "RateLimitPolicy": text("The limits that this request was counted by.", "\"ip\";q=1000;w=900"),
        "RequestId": text("Names the request in our logs.", "01a204ce-1672-7040-b398-b782837a3b96"),
        "Authenticate": text("How to sign in.", "Bearer"),
    });
}

fn response(status: &str, about: &str) -> Value {
    let header = |name: &str| json!({"$ref": format!("#/components/headers/{name}")});
    let mut headers = json!({"X-Request-Id": header("RequestId")});
    // 409: where a request of the same Idempotency-Key is under way.
    if matches!(status, "409" | "429" | "503") {
        headers["Retry-After"] = header("RetryAfter");
    }
    if status == "429" {
        headers["RateLimit"] = header("RateLimit");
        headers["RateLimit-Policy"] = header("RateLimitPolicy");
    }
    if status == "401" {
        headers["WWW-Authenticate"] = header("Authenticate");
    }
    let codes: Vec<_> = codes().into_iter().filter(|(code, _)| code.status().as_str() == status).collect();
    let written = |example: fn(Code, &str) -> Value| -> Map<String, Value> {
        codes.iter().map(|(code, name)| (name.clone(), json!({"value": example(*code, name)}))).collect()
    };
    let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    json!({
        "description": about,
        "headers": headers,
        "content": {
            "application/json": {"schema": schema("ErrorResponse"), "examples": written(envelope)},
            "application/problem+json": {"schema": schema("Problem"), "examples": written(problem)},
        },
    })
}

/// All codes, and how they are written.
fn codes() -> Vec<(Code, String)> {
    let mut registry = poem_openapi::registry::Registry::new();
    Code::register(&mut registry);
    let names = registry.schemas.values().flat_map(|schema| schema.enum_items.clone());
    names
        .filter_map(|name| Some((Code::parse_from_json(Some(name.clone())).ok()?, name.as_str()?.to_owned())))
        .collect()
}

fn envelope(code: Code, name: &str) -> Value {
    let mut error = json!({
        "code": name,
        "message": message(code),
        "status_code": code.status().as_u16(),
        "request_id": examples::REQUEST,
        "errors": wrong_fields(code),
    });
    add_made(code, &mut error);
    json!({"success": false, "error": error, "timestamp": examples::TIME})
}

fn problem(code: Code, name: &str) -> Value {
    let mut problem = json!({
        "type": "about:blank",
        "title": code.status().canonical_reason(),
        "status": code.status().as_u16(),
        "detail": message(code),
        "code": name,
        "request_id": examples::REQUEST,
        "errors": wrong_fields(code),
    });
    add_made(code, &mut problem);
    problem
}

fn wrong_fields(code: Code) -> Value {
    if code != Code::ValidationFailed {
        return json!([]);
    }
    json!([{"field": "/name", "code": "missing", "message": "This field is required"}])
}

fn add_made(code: Code, error: &mut Value) {
    if code == Code::AlreadyCreated {
        error["id"] = json!(examples::ID);
    }
}

/// What an example says; messages may change.
fn message(code: Code) -> &'static str {
    match code {
        Code::Malformed => "The body is not JSON, or repeats a name, at line 1 column 10",
        Code::InvalidSignature => "The signature is missing",
        Code::Unauthenticated => "A valid access token is needed: sign in at POST /api/v1/auth/login",
        Code::InvalidCredentials => "Wrong tenant, email or password",
        Code::SecondFactorRequired => "Send a code of your authenticator app as well",
        Code::SecondFactorInvalid | Code::WrongSecondFactor => {
            "The code is wrong or was used; wait for the next"
        }
        Code::SessionEnded => "The session has ended; sign in again",
        Code::Forbidden => "Your role does not allow this",
        Code::EmailNotVerified => "Verify your email address before signing in",
        Code::SecondFactorSetupRequired => {
            "Your organisation requires a second factor: set one up, then renew the session"
        }
        Code::NotFound => "There is no such path",
        Code::UserNotFound => "User not found",
        Code::TenantNotFound => "Tenant not found",
        Code::JobNotFound => "Job not found",
        Code::SessionNotFound => "Session not found",
        Code::SubscriptionNotFound => "Subscription not found",
        Code::NoBilling => "This service does not bill",
        Code::ImportNotFound => "Import not found",
        Code::ApiKeyNotFound => "API key not found",
        Code::InvitationNotFound => "Invitation not found",
        Code::SecondFactorNotFound => "There is no second factor",
        Code::MethodNotAllowed => "This path does not know this method",
        Code::RequestTimeout => "The body came too slowly, please send it again",
        Code::EmailTaken => "User with this email already exists",
        Code::SlugTaken => "Tenant with this slug already exists",
        Code::NameTaken => "API key with this name already exists",
        Code::TooManyApiKeys => "Revoke API keys that are not used any more",
        Code::TooManyImports => {
            "Wait for imports to end, or delete those that have and are not needed any more"
        }
        Code::AlreadySubscribed => "The tenant has a subscription already; change it in the portal",
        Code::BillingRefused => "Stripe refused",
        Code::CustomerTaken => "This customer pays for another tenant",
        Code::NoSeatLeft => "Every seat of the plan is used; delete users or change the plan",
        Code::LastAdmin => "A tenant keeps at least one active administrator",
        Code::TooManyProjects => "A user may be in 1000 projects; take them out of others first",
        Code::JobState => "The job is running; this cannot be done with it",
        Code::SecondFactorEnabled => "You have a second factor already; remove it first",
        Code::SecondFactorMissing => "Set up a second factor of your own first",
        Code::RequestInFlight => "The request with this Idempotency-Key is under way",
        Code::AlreadyCreated => {
            "This was made before, and its secret is told once; delete it and make another"
        }
        Code::VersionMismatch => "The record has changed; read it and try again",
        Code::VersionNotReached => "This version does not exist yet",
        Code::PayloadTooLarge => "The body is too large",
        Code::UnsupportedMediaType => "Send the body as Content-Type: application/json",
        Code::ValidationFailed => "Validation failed",
        Code::InvalidToken => "This token is not valid any more; ask for a new one",
        Code::WrongPassword => "The current password is wrong",
        Code::IdempotencyKeyReused => {
            "Idempotency-Key was used for another request; choose a new one for each"
        }
        Code::PreconditionRequired => "Read the record, and send its ETag as If-Match",
        Code::RateLimited => "Too many requests, please try again later",
        Code::SecondFactorLocked => {
            "Too many codes were wrong, please try again later or use a recovery code"
        }
        Code::Internal => "Something went wrong on our side; the request id helps us find it",
        Code::Unavailable => "The database is not available at the moment, please try again",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_operations_that_are_named_here_exist() {
        let mut document: Value = serde_json::from_str(&crate::openapi::json()).unwrap_or_default();
        let mut there = BTreeSet::new();
        each_operation(&mut document, |_, _, operation| {
            there.insert(operation["operationId"].as_str().unwrap_or_default().to_owned());
        });
        for id in [SIGNING_IN, CONFLICTING, NEVER_CONFLICTING, ONLY_CONDITIONALLY].concat() {
            assert!(there.contains(id), "{id} is no operation");
        }
    }
}
