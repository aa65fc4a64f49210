//! The fields of a job that is pushed: each is valid because it exists.

use chrono::{DateTime, Utc};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde_json::Value;
use tenantry_accounts::fields::Problem;
use tenantry_jobs::Kind;

use super::super::{
    body::{Field, number, text, wrong},
    schema::shown,
};
use crate::error::FieldError;

/// A kind of job.
#[derive(Debug)]
pub(crate) struct JobKind(pub(super) Kind);

impl Field for JobKind {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |name| {
            let unknown = Problem { code: "not_allowed", message: "There is no such kind of job" };
            name.parse().map(Self).map_err(|_| vec![unknown])
        })
    }
}

shown!(JobKind, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    enum_items: Kind::ALL.iter().map(|kind| kind.as_str().into()).collect(),
    ..MetaSchema::new("string")
})));

/// The arguments of a job: an object, whose shape the database checks.
#[derive(Debug)]
pub(crate) struct Payload(pub(super) Value);

impl Field for Payload {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        match value {
            Some(object @ Value::Object(_)) => return Some(Self(object)),
            Some(_) => errors.push(wrong(at, "wrong_type", "Must be an object")),
            None => errors.push(wrong(at, "missing", "This field is required")),
        }
        None
    }
}

shown!(Payload, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("object"))));

/// A moment, as RFC 3339 has it.
#[derive(Debug)]
pub(crate) struct Time(pub(in crate::api) DateTime<Utc>);

impl Field for Time {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |time| {
            let years = Utc::now() - chrono::Days::new(36_500)..Utc::now() + chrono::Days::new(36_500);
            match DateTime::parse_from_rfc3339(time).map(|time| time.to_utc()) {
                Ok(time) if years.contains(&time) => Ok(Self(time)),
                Ok(_) => Err(vec![Problem {
                    code: "out_of_range",
                    message: "Must be within a hundred years of now",
                }]),
                Err(_) => {
                    Err(vec![Problem { code: "invalid_time", message: "Must be a time as RFC 3339 has it" }])
                }
            }
        })
    }
}

shown!(Time, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "date-time"))));

/// How early a job goes among those that are due.
#[derive(Debug)]
pub(crate) struct Priority(pub(super) i32);

const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;

impl Field for Priority {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        number(value, at, errors, PRIORITIES, "Must be a number from -1000 to 1000").map(Self)
    }
}

shown!(Priority, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    minimum: Some(-1000.0),
    maximum: Some(1000.0),
    ..MetaSchema::new_with_format("integer", "int32")
})));

/// What tells two jobs that are the same.
#[derive(Debug)]
pub(crate) struct UniqueKey(pub(super) String);

impl Field for UniqueKey {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |key| match key.chars().count() {
            1..=255 if key.contains('\0') => {
                Err(vec![Problem { code: "invalid_characters", message: "Must not contain NUL characters" }])
            }
            1..=255 => Ok(Self(key.into())),
            _ => Err(vec![Problem { code: "wrong_length", message: "Must be 1 to 255 characters long" }]),
        })
    }
}

shown!(UniqueKey, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    min_length: Some(1),
    max_length: Some(255),
    ..MetaSchema::new("string")
})));
