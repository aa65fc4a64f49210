//! Parameters that are not refused one by one: a handler takes all of them and says every wrong one at once.

use std::borrow::Cow;

use chrono::{DateTime, Datelike, Utc};
use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseFromParameter, ParseResult, Type},
};
use tenantry_accounts::{
    fields::{Email, FromText, Problem},
    tenants::Plan,
    users::{self, Order, Role, SortBy},
};
use uuid::Uuid;

use super::{body::wrong, envelope::Condition, export::Format, jobs::JobState};
use crate::error::{ApiError, Code, FieldError};

/// A parameter that may be left out, and may be wrong.
pub(crate) struct Param<T>(Option<Result<T, (&'static str, &'static str)>>);

/// What a parameter's text means.
pub(crate) trait Value: Sized + Send + Sync {
    /// Parses `text`, or says what is wrong: a code and a message.
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)>;
    fn schema() -> MetaSchemaRef;
    fn register(_: &mut Registry) {}
}

impl<T: Value> Param<T> {
    /// The value; what is wrong goes to `errors` under `name`.
    pub(crate) fn take(self, name: &str, errors: &mut Vec<FieldError>) -> Option<T> {
        match self.0? {
            Ok(value) => Some(value),
            Err((code, message)) => {
                errors.push(wrong(name, code, message));
                None
            }
        }
    }

    /// The same of a parameter that must be there.
    pub(crate) fn required(self, name: &str, errors: &mut Vec<FieldError>) -> Option<T> {
        if self.0.is_none() {
            errors.push(wrong(name, "missing", "This parameter is required"));
        }
        self.take(name, errors)
    }

    /// The value of a header, where a wrong form is 400: it is the client's program that is wrong, not a person's input.
    pub(crate) fn header(self) -> Result<Option<T>, ApiError> {
        self.0.transpose().map_err(|(_, message)| ApiError::new(Code::Malformed, message))
    }
}

impl<T: Value> Type for Param<T> {
    const IS_REQUIRED: bool = false;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        "parameter".into()
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}

impl<T: Value> ParseFromParameter for Param<T> {
    fn parse_from_parameter(text: &str) -> ParseResult<Self> {
        Ok(Self(Some(T::parse(text))))
    }

    fn parse_from_parameters<I: IntoIterator<Item = A>, A: AsRef<str>>(texts: I) -> ParseResult<Self> {
        Ok(Self(texts.into_iter().next().map(|text| T::parse(text.as_ref()))))
    }
}

fn integer(minimum: i64, maximum: Option<i64>, default: Option<i64>) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema {
        minimum: Some(minimum as f64),
        maximum: maximum.map(|maximum| maximum as f64),
        default: default.map(Into::into),
        ..MetaSchema::new_with_format("integer", "int64")
    }))
}

fn text(schema: MetaSchema) -> MetaSchemaRef {
    MetaSchemaRef::Inline(Box::new(MetaSchema { ty: "string", ..schema }))
}

/// The number of a page, from 1. There are fewer where a page holds more than one.
pub(crate) struct PageNumber(pub(crate) i64);

const LAST_PAGE: i64 = users::DEEPEST;

impl Value for PageNumber {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match text.parse() {
            Ok(page) if (1..=LAST_PAGE).contains(&page) => Ok(Self(page)),
            _ => Err(("out_of_range", "Must be a number from 1 to 10000")),
        }
    }

    fn schema() -> MetaSchemaRef {
        // Without a default: clients send those, and whoever goes by a cursor has no page.
        integer(1, Some(LAST_PAGE), None)
    }
}

/// How many a page holds.
pub(crate) struct Limit(pub(crate) i64);

impl Value for Limit {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match text.parse() {
            Ok(limit) if (1..=100).contains(&limit) => Ok(Self(limit)),
            _ => Err(("out_of_range", "Must be a number from 1 to 100")),
        }
    }

    fn schema() -> MetaSchemaRef {
        integer(1, Some(100), Some(10))
    }
}

/// Where a part of a list begins: after what has this id.
pub(crate) struct IdCursor(pub(crate) Uuid);

impl Value for IdCursor {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let wrong = ("invalid_cursor", "Must be the next_cursor of an answer");
        Uuid::try_parse(text).map(Self).map_err(|_| wrong)
    }

    fn schema() -> MetaSchemaRef {
        Uuid::schema_ref()
    }
}

/// Where a part of a list of users begins: at its beginning, or where a cursor says, which is looked at when it is known of
/// which list it must be.
pub(crate) enum ListCursor {
    First,
    Next(String),
}

impl Value for ListCursor {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        Ok(if text == "first" { Self::First } else { Self::Next(text.into()) })
    }

    fn schema() -> MetaSchemaRef {
        text(MetaSchema { min_length: Some(1), example: Some("first".into()), ..MetaSchema::ANY })
    }
}

impl Value for Uuid {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        Self::try_parse(text).map_err(|_| ("wrong_type", "Must be a UUID"))
    }

    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

impl Value for DateTime<Utc> {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let wrong = ("invalid_time", "Must be a time as RFC 3339 has it");
        let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong)?.to_utc();
        if (0..=9999).contains(&time.year()) { Ok(time) } else { Err(wrong) }
    }

    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

/// The name of a kind of job, be it one that another version knows.
pub(crate) struct KindName(pub(crate) String);

impl Value for KindName {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let letters = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
        match (1..=63).contains(&text.len()) && text.bytes().all(letters) {
            true => Ok(Self(text.into())),
            false => Err(("not_allowed", "Must be a kind of job, such as verify_email")),
        }
    }

    fn schema() -> MetaSchemaRef {
        text(MetaSchema {
            min_length: Some(1),
            max_length: Some(63),
            pattern: Some("^[a-z0-9_]+$".into()),
            ..MetaSchema::ANY
        })
    }
}

/// Part of a name or an address.
pub(crate) struct Search(pub(crate) String);

impl Value for Search {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match text.trim().chars().count() {
            2..=100 if !text.trim().chars().any(char::is_control) => Ok(Self(text.trim().into())),
            2..=100 => Err(("invalid_characters", "Must not contain control characters")),
            _ => Err(("wrong_length", "Must be 2 to 100 characters long")),
        }
    }

    fn schema() -> MetaSchemaRef {
        text(MetaSchema { min_length: Some(2), max_length: Some(100), ..MetaSchema::ANY })
    }
}

impl Value for bool {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        text.parse().map_err(|_| ("wrong_type", "Must be true or false"))
    }

    fn schema() -> MetaSchemaRef {
        bool::schema_ref()
    }
}

/// Values out of closed lists.
macro_rules! closed {
    ($($type:ty: [$($name:literal => $value:expr),*] $message:literal),*) => {$(
        impl $crate::api::params::Value for $type {
            fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
                match text {
                    $($name => Ok($value),)*
                    _ => Err(("not_allowed", $message)),
                }
            }

            fn schema() -> poem_openapi::registry::MetaSchemaRef {
                <$type as poem_openapi::types::Type>::schema_ref()
            }

            fn register(registry: &mut poem_openapi::registry::Registry) {
                <$type as poem_openapi::types::Type>::register(registry);
            }
        }
    )*};
}
pub(super) use closed;

closed!(
    Role: ["user" => Role::User, "admin" => Role::Admin, "super_admin" => Role::SuperAdmin]
        "Must be one of user, admin, super_admin",
    SortBy: ["created_at" => SortBy::CreatedAt, "email" => SortBy::Email, "name" => SortBy::Name, "last_login_at" => SortBy::LastLoginAt]
        "Must be one of created_at, email, name, last_login_at",
    JobState: ["pending" => JobState::Pending, "running" => JobState::Running, "done" => JobState::Done, "failed" => JobState::Failed, "dead" => JobState::Dead, "cancelled" => JobState::Cancelled]
        "Must be one of pending, running, done, failed, dead, cancelled",
    Plan: ["basic" => Plan::Basic, "pro" => Plan::Pro, "enterprise" => Plan::Enterprise]
        "Must be one of basic, pro, enterprise",
    Format: ["ndjson" => Format::Ndjson, "csv" => Format::Csv] "Must be ndjson or csv",
    Order: ["asc" => Order::Asc, "desc" => Order::Desc] "Must be asc or desc"
);

impl Value for Email {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let first =
            |problems: Vec<Problem>| problems.first().map_or(("invalid", ""), |p| (p.code, p.message));
        Self::from_text(text).map_err(first)
    }

    fn schema() -> MetaSchemaRef {
        Self::schema_ref()
    }
}

/// `X-Min-Version`.
pub(crate) struct MinVersion(pub(crate) i64);

impl Value for MinVersion {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        match text.parse() {
            Ok(version) if version >= 0 => Ok(Self(version)),
            _ => Err(("malformed", "X-Min-Version must be the number of a version")),
        }
    }

    fn schema() -> MetaSchemaRef {
        integer(0, None, None)
    }
}

impl Value for Condition {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        Ok(Self::parse(text))
    }

    fn schema() -> MetaSchemaRef {
        text(MetaSchema { example: Some("\"7\"".into()), ..MetaSchema::ANY })
    }
}

impl Param<Condition> {
    /// The condition; none: there is none. Every text is one.
    pub(crate) fn condition(self) -> Option<Condition> {
        self.0.and_then(Result::ok)
    }
}
