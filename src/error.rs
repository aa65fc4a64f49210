//! The only file that knows status codes: what went wrong, as a client sees it.

use std::{borrow::Cow, time::Duration};

use chrono::SubsecRound;
use poem::{PathPattern, Response, http::StatusCode};
use poem_openapi::{
    ApiResponse, Enum, Object,
    error::{ContentTypeError, ParseParamError, ParsePathError, ParseRequestPayloadError},
    registry::{MetaResponses, Registry},
};
use serde::Serialize;
use tenantry_accounts::{self as accounts, metadata::Refusal};
use uuid::Uuid;

use crate::{api::bulk, imports::Refused, operations};

/// What went wrong, for programs. The list is closed: a new code is a change of the API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "ErrorCode")]
pub(crate) enum Code {
    /// 400: the request is not JSON, or a header has the wrong form.
    Malformed,
    /// 400: the signature of a webhook is missing, wrong or too old.
    InvalidSignature,
    /// 401: no valid access token came with the request.
    Unauthenticated,
    /// 401: e-mail, password or tenant are wrong; which one is not told.
    InvalidCredentials,
    /// 401: the password is right, and a code is needed beside it: send both.
    SecondFactorRequired,
    /// 401: the password is right; the code is wrong, or was used.
    SecondFactorInvalid,
    /// 401: the refresh token is unknown, used or expired, or its session has ended: sign in again.
    SessionEnded,
    /// 403: the caller may not do this.
    Forbidden,
    /// 403: the address must be verified before signing in.
    EmailNotVerified,
    /// 403: the tenant requires a second factor; the session may only set one up. Renew it when that is done.
    SecondFactorSetupRequired,
    /// 404: there is no such path.
    NotFound,
    /// 404: there is no such user in the caller's tenant.
    UserNotFound,
    /// 404: there is no such tenant.
    TenantNotFound,
    /// 404: there is no such job in the caller's tenant.
    JobNotFound,
    /// 404: there is no such session of the caller.
    SessionNotFound,
    /// 404: there is no such subscription of the caller's tenant.
    SubscriptionNotFound,
    /// 404: this service does not bill.
    NoBilling,
    /// 404: there is no such import in the caller's tenant, or no more.
    ImportNotFound,
    /// 404: there is no such API key in the caller's tenant, or it has been revoked.
    ApiKeyNotFound,
    /// 404: there is no such invitation in the caller's tenant, or it is no longer open.
    InvitationNotFound,
    /// 404: the user has no second factor, or none that waits to be proven.
    SecondFactorNotFound,
    /// 405: the path does not know this method.
    MethodNotAllowed,
    /// 408: the body came too slowly; send it again.
    RequestTimeout,
    /// 409: a user of the tenant has this address.
    EmailTaken,
    /// 409: another tenant has this slug.
    SlugTaken,
    /// 409: another API key of the tenant has this name.
    NameTaken,
    /// 409: the tenant has as many API keys as it may have.
    TooManyApiKeys,
    /// 409: the tenant has as many imports under way, or as many rows of them kept, as it may have.
    TooManyImports,
    /// 409: the tenant has a subscription already.
    AlreadySubscribed,
    /// 409: Stripe refused; the operator finds why in the log.
    BillingRefused,
    /// 409: the customer of Stripe's pays for another tenant.
    CustomerTaken,
    /// 409: every seat of the plan is used.
    NoSeatLeft,
    /// 409: the tenant would be left without an administrator.
    LastAdmin,
    /// 409: the user is in as many projects as one may be.
    TooManyProjects,
    /// 409: the job is in a state in which this cannot be done.
    JobState,
    /// 409: there is a second factor already; remove it first.
    SecondFactorEnabled,
    /// 409: who requires a second factor needs one.
    SecondFactorMissing,
    /// 409: the request with this `Idempotency-Key` is under way; `Retry-After` says when to ask again.
    RequestInFlight,
    /// 409: the request with this `Idempotency-Key` was done, and its answer held a secret that is not told again; `id` names
    /// what was made.
    AlreadyCreated,
    /// 412: `If-Match` names another version than the current one.
    VersionMismatch,
    /// 412: `X-Min-Version` names a version that does not exist yet.
    VersionNotReached,
    /// 413: the body is larger than this path takes.
    PayloadTooLarge,
    /// 415: the body is not `application/json`, or rows are neither `text/csv` nor `application/x-ndjson`.
    UnsupportedMediaType,
    /// 422: fields are wrong; `errors` names each.
    ValidationFailed,
    /// 422: the token is unknown, used, expired or void.
    InvalidToken,
    /// 422: the current password is wrong.
    WrongPassword,
    /// 422: the code is wrong, or was used.
    WrongSecondFactor,
    /// 422: another request had this `Idempotency-Key`.
    IdempotencyKeyReused,
    /// 428: the request must say with `If-Match` which version it means.
    PreconditionRequired,
    /// 429: too many requests; `Retry-After` says when the next is taken.
    RateLimited,
    /// 429: too many codes were wrong; `Retry-After` says when the next is looked at. Recovery codes work.
    SecondFactorLocked,
    /// 500: a fault of the service, logged under the request id.
    Internal,
    /// 503: something the request needs is away or busy; `Retry-After` says when to try again.
    Unavailable,
}

impl Code {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::InvalidSignature => StatusCode::BAD_REQUEST,
            Self::Unauthenticated
            | Self::InvalidCredentials
            | Self::SecondFactorRequired
            | Self::SecondFactorInvalid
            | Self::SessionEnded => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::EmailNotVerified | Self::SecondFactorSetupRequired => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound
            | Self::UserNotFound
            | Self::TenantNotFound
            | Self::SessionNotFound
            | Self::InvitationNotFound
            | Self::ImportNotFound
            | Self::ApiKeyNotFound
            | Self::SecondFactorNotFound
            | Self::SubscriptionNotFound
            | Self::NoBilling
            | Self::JobNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::EmailTaken
            | Self::SlugTaken
            | Self::NameTaken
            | Self::TooManyApiKeys
            | Self::TooManyImports
            | Self::AlreadySubscribed
            | Self::BillingRefused
            | Self::CustomerTaken
            | Self::NoSeatLeft
            | Self::LastAdmin
            | Self::SecondFactorEnabled
            | Self::SecondFactorMissing
            | Self::RequestInFlight
            | Self::AlreadyCreated
            | Self::TooManyProjects
            | Self::JobState => StatusCode::CONFLICT,
            Self::VersionMismatch | Self::VersionNotReached => StatusCode::PRECONDITION_FAILED,
            Self::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::ValidationFailed
            | Self::InvalidToken
            | Self::WrongPassword
            | Self::WrongSecondFactor
            | Self::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::PreconditionRequired => StatusCode::PRECONDITION_REQUIRED,
            Self::RateLimited | Self::SecondFactorLocked => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One wrong field; never its value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Object)]
pub(crate) struct FieldError {
    /// Where: a JSON pointer (RFC 6901) into the body, or the name of a parameter.
    pub field: String,
    /// What is wrong, for programs.
    pub code: String,
    /// What is wrong, for people.
    pub message: String,
}

/// An error on its way to the client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    message: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after: Option<u64>,
    made: Option<Uuid>,
    /// The methods that a path knows, where it was asked for another one.
    allow: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), errors: vec![], retry_after: None, made: None, allow: None }
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(Code::Unauthenticated, "A valid access token is needed: sign in at POST /api/v1/auth/login")
    }

    pub(crate) fn setup_required() -> Self {
        let message = "Your organisation requires a second factor: set one up, then renew the session";
        Self::new(Code::SecondFactorSetupRequired, message)
    }

    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::new(Code::ValidationFailed, "Validation failed") }
    }

    /// `limit` is the name of the one that was reached, as in `RateLimit-Policy`.
    pub(crate) fn too_many(limit: &str, retry_after: u64) -> Self {
        let message = match limit {
            "ip" => "Too many requests from this IP, please try again later",
            "tenant" => "Your organisation has used up what its plan allows for now, please try again later",
            _ => "Too many requests, please try again later",
        };
        Self { retry_after: Some(retry_after), ..Self::new(Code::RateLimited, message) }
    }

    /// The same answer whoever was named, and whether there is such a person.
    pub(crate) fn too_many_attempts(wait: Duration) -> Self {
        let message = "Too many attempts, please try again later";
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Self { retry_after: Some(seconds), ..Self::new(Code::RateLimited, message) }
    }

    /// Says that the field which is wrong stands elsewhere in this body.
    pub(crate) fn at(mut self, pointer: &str) -> Self {
        for error in &mut self.errors {
            pointer.clone_into(&mut error.field);
        }
        self
    }

    /// Names more fields that are wrong, if it names any.
    pub(crate) fn beside(mut self, errors: impl Iterator<Item = FieldError>) -> Self {
        if self.code == Code::ValidationFailed {
            self.errors.extend(errors);
        }
        self
    }

    /// As many of the tenant's exports are under way as may be.
    pub(crate) fn too_many_exports() -> Self {
        let message = "Other exports of this tenant are under way; wait for one to end";
        Self { retry_after: Some(10), ..Self::new(Code::RateLimited, message) }
    }

    pub(crate) fn unconditional() -> Self {
        Self::new(Code::PreconditionRequired, "Read the record, and send its ETag as If-Match")
    }

    pub(crate) fn already_created(made: Uuid) -> Self {
        let message = "This was made before, and its secret is told once; delete it and make another";
        Self { made: Some(made), ..Self::new(Code::AlreadyCreated, message) }
    }

    pub(crate) fn unavailable(message: &'static str, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(Code::Unavailable, message) }
    }

    /// Not 503, since it is the client that was waited for.
    pub(crate) fn slow_body() -> Self {
        Self::new(Code::RequestTimeout, "The body came too slowly, please send it again")
    }

    pub(crate) fn in_flight() -> Self {
        let message = "The request with this Idempotency-Key is under way";
        Self { retry_after: Some(1), ..Self::new(Code::RequestInFlight, message) }
    }

    pub(crate) fn key_reused() -> Self {
        let message = "Idempotency-Key was used for another request; choose a new one for each";
        Self::new(Code::IdempotencyKeyReused, message)
    }

    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, "Something went wrong on our side; the request id helps us find it")
    }
}

impl From<accounts::Error> for ApiError {
    fn from(error: accounts::Error) -> Self {
        use accounts::Error as E;
        match error {
            E::NoUser => Self::new(Code::UserNotFound, "User not found"),
            E::NoTenant => Self::new(Code::TenantNotFound, "Tenant not found"),
            E::EmailTaken => Self::new(Code::EmailTaken, "User with this email already exists"),
            E::SlugTaken => Self::new(Code::SlugTaken, "Tenant with this slug already exists"),
            E::NoSeat => {
                Self::new(Code::NoSeatLeft, "Every seat of the plan is used; delete users or change the plan")
            }
            E::LastAdmin => Self::new(Code::LastAdmin, "A tenant keeps at least one active administrator"),
            E::Forbidden => Self::new(Code::Forbidden, "Your role does not allow this"),
            E::Revoked => Self::new(Code::Unauthenticated, "Your access has changed; sign in again"),
            E::WrongCredentials => Self::new(Code::InvalidCredentials, "Wrong tenant, email or password"),
            E::NoJob => Self::new(Code::JobNotFound, "Job not found"),
            E::JobState(state) => {
                Self::new(Code::JobState, format!("The job is {state}; this cannot be done with it"))
            }
            E::WrongPayload(message) => {
                let (field, code) = ("/payload".into(), "wrong_payload".into());
                Self::invalid(vec![FieldError { field, code, message: message.to_string() }])
            }
            E::PersonalPassword => {
                let message = PERSONAL_PASSWORD.into();
                let (field, code) = ("/password".into(), "too_personal".into());
                Self::invalid(vec![FieldError { field, code, message }])
            }
            E::WrongPassword => Self::new(Code::WrongPassword, "The current password is wrong"),
            E::SecondFactorRequired => {
                Self::new(Code::SecondFactorRequired, "Send a code of your authenticator app as well")
            }
            E::SecondFactorRefused => {
                Self::new(Code::SecondFactorInvalid, "The code is wrong or was used; wait for the next")
            }
            E::WrongCode => {
                Self::new(Code::WrongSecondFactor, "The code is wrong or was used; wait for the next")
            }
            E::SecondFactorLocked(seconds) => {
                let message = "Too many codes were wrong, please try again later or use a recovery code";
                Self { retry_after: Some(seconds), ..Self::new(Code::SecondFactorLocked, message) }
            }
            E::SecondFactorOn => {
                Self::new(Code::SecondFactorEnabled, "You have a second factor already; remove it first")
            }
            E::NoSecondFactor => Self::new(Code::SecondFactorNotFound, "There is no second factor"),
            E::SecondFactorMissing => {
                Self::new(Code::SecondFactorMissing, "Set up a second factor of your own first")
            }
            E::SessionEnded => Self::new(Code::SessionEnded, "The session has ended; sign in again"),
            E::NoInvitation => Self::new(Code::InvitationNotFound, "Invitation not found"),
            E::NoSubscription => Self::new(Code::SubscriptionNotFound, "Subscription not found"),
            E::CustomerTaken => Self::new(Code::CustomerTaken, "This customer pays for another tenant"),
            E::CustomerDeleted => {
                Self::unavailable("Stripe has just deleted the customer of this tenant, please try again", 1)
            }
            E::NoImport => Self::new(Code::ImportNotFound, "Import not found"),
            E::TooManyImports => {
                let message =
                    "Wait for imports to end, or delete those that have and are not needed any more";
                Self::new(Code::TooManyImports, message)
            }
            E::NoApiKey => Self::new(Code::ApiKeyNotFound, "API key not found"),
            E::NameTaken => Self::new(Code::NameTaken, "API key with this name already exists"),
            E::TooManyKeys => Self::new(Code::TooManyApiKeys, "Revoke API keys that are not used any more"),
            E::TooManyProjects => Self::new(
                Code::TooManyProjects,
                "A user may be in 1000 projects; take them out of others first",
            ),
            E::Metadata(refusal) => Self::invalid(vec![metadata(refusal)]),
            E::NoSession => Self::new(Code::SessionNotFound, "Session not found"),
            E::NotVerified => {
                Self::new(Code::EmailNotVerified, "Verify your email address before signing in")
            }
            E::InvalidToken => {
                Self::new(Code::InvalidToken, "This token is not valid any more; ask for a new one")
            }
            E::VersionChanged => {
                Self::new(Code::VersionMismatch, "The record has changed; read it and try again")
            }
            E::VersionNotReached => Self::new(Code::VersionNotReached, "This version does not exist yet"),
            E::NotAll(refused) => {
                let wrong = |(index, outcome): &(usize, _)| bulk::refusal(*index, outcome);
                Self::invalid(refused.iter().filter_map(wrong).collect())
            }
            E::KeyReused => Self::key_reused(),
            E::InFlight => Self::in_flight(),
            E::WrongCursor => {
                let message = "Must be the next_cursor of this very list, or first".into();
                let (field, code) = ("cursor".into(), "invalid_cursor".into());
                Self::invalid(vec![FieldError { field, code, message }])
            }
            E::Busy => Self::unavailable("Too much is going on at the moment, please try again", 1),
            E::Unavailable(_) | E::NotPrimary(_) => {
                tracing::warn!("no database connection: {}", sources(&error));
                Self::unavailable("The database is not available at the moment, please try again", 1)
            }
            E::Database(ref source) if unavailable(source) => {
                tracing::warn!("a statement was cut off: {}", sources(&error));
                Self::unavailable("The database is not available at the moment, please try again", 1)
            }
            E::Database(_) | E::Internal(_) => {
                tracing::error!("{}", sources(&error));
                Self::internal()
            }
        }
    }
}

/// What is wrong with a patch whose result cannot be kept.
fn metadata(refusal: Refusal) -> FieldError {
    let (field, code, message) = match refusal {
        Refusal::TooLarge(part) => {
            (format!("/{}", part.as_str()), "too_large", "Would be larger than 16384 bytes")
        }
        Refusal::TooManyKeys(part) => {
            (format!("/{}", part.as_str()), "too_many_keys", "Would have more than 128 keys at its top")
        }
        Refusal::Number => (String::new(), "out_of_range", "There is a number that cannot be kept"),
    };
    FieldError { field, code: code.into(), message: message.into() }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let text = refused.to_string();
        match refused {
            Refused::House(error) => error.into(),
            Refused::TooLarge => Self::new(Code::PayloadTooLarge, "The body is too large"),
            Refused::TooManyRows => Self::new(Code::PayloadTooLarge, capitalised(&text)),
            Refused::Header(errors) => Self::invalid(errors),
            Refused::Empty => Self::invalid(vec![FieldError {
                field: String::new(),
                code: "empty".into(),
                message: "The body has no rows".into(),
            }]),
            Refused::NotUtf8(_) => Self::new(Code::Malformed, capitalised(&text)),
            Refused::Silent => Self::new(Code::RequestTimeout, capitalised(&text)),
            Refused::Broken(_) => Self::new(Code::Malformed, "The body broke off"),
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// What is wrong with a password that the house refuses.
pub(crate) const PERSONAL_PASSWORD: &str =
    "Password must have at least 8 characters beside your address, your name and the tenant";

/// Whether the statement failed because the server went away or gave up, not because the statement is wrong.
fn unavailable(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::SqlState;
    match error.code() {
        None => {
            error.is_closed()
                || std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
        }
        Some(code) => {
            *code == SqlState::QUERY_CANCELED
                || *code == SqlState::LOCK_NOT_AVAILABLE
                || *code == SqlState::T_R_DEADLOCK_DETECTED
                // The server has become a replica: another one is or will be the primary.
                || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                || ["08", "53", "57P"].iter().any(|class| code.code().starts_with(class))
        }
    }
}

/// An error with what it came from, on one line.
pub(crate) fn sources(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = told(error);
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(": ");
        line.push_str(&told(error));
        source = error.source();
    }
    line
}

/// Of PostgreSQL's errors not the detail, which quotes rows: an address, where a constraint is broken.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<tokio_postgres::error::DbError>() {
        None => error.to_string(),
        Some(db) => {
            let hint = db.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {} [{}]{hint}", db.severity(), db.message(), db.code().code())
        }
    }
}

/// What the framework says, in our words. Its own texts may quote the request, so none is passed on.
impl From<poem::Error> for ApiError {
    fn from(error: poem::Error) -> Self {
        if let Some(ours) = error.downcast_ref::<ApiError>() {
            return ours.clone();
        }
        let field = |field: &str, message: &str| {
            Self::invalid(vec![FieldError {
                field: field.into(),
                code: "invalid".into(),
                message: message.into(),
            }])
        };
        if error.is::<ParsePathError>() {
            // poem-openapi calls every parameter of a path `param0`; ours are all `id`.
            return field("id", "Must be a UUID");
        }
        if let Some(error) = error.downcast_ref::<ParseParamError>() {
            return field(error.name, "Has the wrong form or is missing");
        }
        if error.is::<ParseRequestPayloadError>() {
            return Self::new(Code::Malformed, "The body could not be read as JSON");
        }
        if error.is::<ContentTypeError>() {
            let message = "Send the body as Content-Type: application/json; rows of an import as text/csv or application/x-ndjson";
            return Self::new(Code::UnsupportedMediaType, message);
        }
        match error.status() {
            StatusCode::NOT_FOUND => Self::new(Code::NotFound, "There is no such path"),
            StatusCode::METHOD_NOT_ALLOWED => {
                let allow = error.data::<PathPattern>().map(operations::methods);
                Self { allow, ..Self::new(Code::MethodNotAllowed, "This path does not know this method") }
            }
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(Code::PayloadTooLarge, "The body is too large"),
            status if status.is_client_error() => Self::new(Code::Malformed, "The request could not be read"),
            _ => {
                tracing::error!("{}", sources(&error));
                Self::internal()
            }
        }
    }
}

impl poem::error::ResponseError for ApiError {
    fn status(&self) -> StatusCode {
        self.code.status()
    }
}

/// Errors stand at every operation of the document, put there in one place (src/openapi/errors.rs).
impl ApiResponse for ApiError {
    fn meta() -> MetaResponses {
        MetaResponses { responses: vec![] }
    }

    fn register(_: &mut Registry) {}
}

/// The envelope of every 4xx and 5xx.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "ErrorResponse")]
pub(crate) struct Failure {
    /// Always false.
    success: bool,
    error: ErrorBody,
    /// When the answer was made.
    #[serde(serialize_with = "in_milliseconds")]
    timestamp: chrono::DateTime<chrono::Utc>,
}

/// Of one length, as in the envelope of a success: how long an answer is tells nothing.
fn in_milliseconds<S: serde::Serializer>(
    time: &chrono::DateTime<chrono::Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[derive(Debug, Serialize, Object)]
#[oai(rename = "Error")]
struct ErrorBody {
    code: Code,
    /// For people; may change.
    message: String,
    /// The HTTP status.
    status_code: u16,
    /// Names the request in our logs; the `X-Request-Id` of the answer.
    request_id: String,
    /// Every wrong field at once; empty unless the code is `validation_failed`.
    errors: Vec<FieldError>,
    /// What was made before, where the code is `already_created`.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

/// The same as RFC 9457 has it, for clients that prefer `application/problem+json`.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Problem")]
pub(crate) struct ProblemDetails {
    /// Always `about:blank`: `code` says what went wrong.
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// What HTTP calls the status, as `about:blank` has it.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong, for people; may change.
    detail: String,
    code: Code,
    /// Names the request in our logs; the `X-Request-Id` of the answer.
    request_id: String,
    /// Every wrong field at once; empty unless the code is `validation_failed`.
    errors: Vec<FieldError>,
    /// What was made before, where the code is `already_created`.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
}

impl ApiError {
    /// The answer, in the form the client prefers.
    pub(crate) fn into_response(self, request_id: &str, problem_details: bool) -> Response {
        let status = self.code.status();
        let id = self.made.map(|made| made.to_string());
        let (content_type, body) = if problem_details {
            let problem = ProblemDetails {
                kind: "about:blank".into(),
                title: status.canonical_reason().unwrap_or_default().into(),
                status: status.as_u16(),
                detail: self.message.into_owned(),
                code: self.code,
                request_id: request_id.into(),
                errors: self.errors,
                id,
            };
            ("application/problem+json", serde_json::to_vec(&problem))
        } else {
            let failure = Failure {
                success: false,
                error: ErrorBody {
                    code: self.code,
                    message: self.message.into_owned(),
                    status_code: status.as_u16(),
                    request_id: request_id.into(),
                    errors: self.errors,
                    id,
                },
                timestamp: chrono::Utc::now().trunc_subsecs(3),
            };
            ("application/json", serde_json::to_vec(&failure))
        };
        let mut response =
            Response::builder().status(status).content_type(content_type).header("Cache-Control", "no-store");
        if let Some(seconds) = self.retry_after {
            response = response.header("Retry-After", seconds);
        }
        if let Some(methods) = self.allow {
            response = response.header("Allow", methods);
        }
        if status == StatusCode::UNAUTHORIZED {
            response = response.header("WWW-Authenticate", "Bearer");
        }
        response.body(body.unwrap_or_default())
    }
}
