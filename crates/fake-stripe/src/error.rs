//! What Stripe answers when it refuses.

use serde_json::{Map, Value, json};

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) status: u16,
    kind: &'static str,
    code: Option<&'static str>,
    decline: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl Error {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, decline: None, param: None, message: message.into() }
    }

    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// A request that can never work, without a code of its own.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", None, message)
    }

    pub(crate) fn coded(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", Some(code), message)
    }

    pub(crate) fn missing(param: &str) -> Self {
        Self::coded("parameter_missing", format!("Missing required param: {param}.")).about(param)
    }

    pub(crate) fn unknown_parameter(param: &str) -> Self {
        Self::coded("parameter_unknown", format!("Received unknown parameter: {param}")).about(param)
    }

    /// The object that the address names is not there.
    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        let mut error = Self::no_such(what, id, "id");
        error.status = 404;
        error
    }

    /// An object that a parameter names is not there: the request itself is at fault.
    pub(crate) fn no_such(what: &str, id: &str, param: &str) -> Self {
        Self::coded("resource_missing", format!("No such {}: '{id}'", what.replace('_', " "))).about(param)
    }

    pub(crate) fn no_route(method: &str, path: &str) -> Self {
        let message = format!(
            "Unrecognized request URL ({method}: {path}). This is a fake of Stripe that knows a part of it."
        );
        Self::new(404, "invalid_request_error", None, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(401, "invalid_request_error", None, message)
    }

    pub(crate) fn rate_limited() -> Self {
        let message = "Request rate limit exceeded. Learn more about rate limits at https://docs.stripe.com/rate-limits.";
        Self::new(429, "invalid_request_error", Some("rate_limit"), message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(500, "api_error", None, "An unknown error occurred")
    }

    /// It is done, and may be forgotten.
    pub(crate) fn unsaved(error: &std::io::Error) -> Self {
        Self::new(500, "api_error", None, format!("The state of this fake is not kept: {error}"))
    }

    /// A browser that another site's page makes ask.
    pub(crate) fn foreign(message: &'static str) -> Self {
        Self::new(403, "invalid_request_error", None, message)
    }

    pub(crate) fn other_parameters(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were first used with. Try \
             using a key other than '{key}' if you meant to execute a different request."
        );
        Self::new(400, "idempotency_error", None, message)
    }

    pub(crate) fn in_flight(key: &str) -> Self {
        let message =
            format!("There is currently another in-progress request using this Idempotency-Key: {key}.");
        Self::new(409, "invalid_request_error", Some("idempotency_key_in_use"), message)
    }

    pub(crate) fn declined() -> Self {
        let mut error = Self::new(402, "card_error", Some("card_declined"), "Your card was declined.");
        error.decline = Some("generic_decline");
        error
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is kept under the idempotency key: what was refused before anything was done is not.
    pub(crate) fn is_kept(&self) -> bool {
        matches!(self.status, 402 | 500)
    }

    pub(crate) fn body(&self) -> Value {
        let mut error = Map::from_iter([
            ("type".to_owned(), json!(self.kind)),
            ("message".to_owned(), json!(self.message)),
        ]);
        for (name, value) in
            [("code", self.code), ("decline_code", self.decline), ("param", self.param.as_deref())]
        {
            if let Some(value) = value {
                error.insert(name.to_owned(), json!(value));
            }
        }
        json!({ "error": error })
    }
}
