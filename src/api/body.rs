//! Request bodies. A field is parsed into a type that is valid because it exists; every wrong field is told at once,
//! and the rules in the OpenAPI document are those of the types.
//!
//! poem-openapi's own JSON payload stops at the first wrong field and names it without its place.

use poem::{FromRequest, Request, RequestBody, Result};
use poem_openapi::{
    impl_apirequest_for_payload,
    payload::{ParsePayload, Payload},
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde_json::{Map, Value};
use tenantry_accounts::{
    UserId,
    fields::{Email, FromText, Name, NewPassword, Problem, Secret, Slug},
};

use super::{json::Unique, schema::shown};
use crate::{
    error::{ApiError, Code, FieldError},
    layers,
};

/// A JSON body that is valid.
pub(crate) struct Body<T>(pub(crate) T);

/// A value in a body.
pub(crate) trait Field: Sized {
    /// Fields of a body that may come as a header instead: (field, header).
    const FROM_HEADERS: &[(&str, &str)] = &[];

    /// Parses what stands at `at`; what is wrong goes to `errors`.
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self>;
}

impl<T: Type> Payload for Body<T> {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    }

    fn schema_ref() -> MetaSchemaRef {
        T::schema_ref()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

impl<T: Type + Field> ParsePayload for Body<T> {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> Result<Self> {
        let (_, mut value) = read(request, body).await?;
        let mut errors = vec![];
        if let Value::Object(object) = &mut value {
            for (field, header) in T::FROM_HEADERS {
                let Some(text) = request.header(header) else { continue };
                // Nobody who names two tenants, one of which cannot be, is taken at his word.
                if !(1..=100).contains(&text.len()) {
                    errors.push(wrong(header, "wrong_type", "Must be a tenant's id or slug"));
                } else if !object.contains_key(*field) {
                    object.insert((*field).into(), text.into());
                }
            }
        }
        match T::parse(Some(value), "", &mut errors) {
            Some(value) if errors.is_empty() => Ok(Self(value)),
            _ => Err(ApiError::invalid(errors).into()),
        }
    }
}

impl_apirequest_for_payload!(Body<T>, T: Type + Field);

/// The body of a request as it came, and as JSON.
pub(crate) async fn read(request: &Request, body: &mut RequestBody) -> Result<(Vec<u8>, Value)> {
    let bytes = Vec::<u8>::from_request(request, body).await?;
    if layers::is_too_large(request, &bytes) {
        return Err(ApiError::new(Code::PayloadTooLarge, "The body is too large").into());
    }
    let Unique(value) = serde_json::from_slice(&bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let message = format!("The body is not JSON, or repeats a name, at line {line} column {column}");
        ApiError::new(Code::Malformed, message)
    })?;
    Ok((bytes, value))
}

pub(crate) fn wrong(at: &str, code: &str, message: &str) -> FieldError {
    FieldError { field: at.into(), code: code.into(), message: message.into() }
}

/// The place of a member. Its name comes from the client: enough of it to be found, escaped as RFC 6901 says.
pub(crate) fn member(at: &str, name: &str) -> String {
    let name: String = name.chars().take(64).collect();
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The fields of an object that is being parsed.
pub(crate) struct Fields<'a> {
    object: Map<String, Value>,
    at: &'a str,
}

impl<'a> Fields<'a> {
    pub(crate) fn of(value: Option<Value>, at: &'a str, errors: &mut Vec<FieldError>) -> Option<Self> {
        match value {
            Some(Value::Object(object)) => return Some(Self { object, at }),
            None => errors.push(wrong(at, "missing", "This field is required")),
            Some(_) => errors.push(wrong(at, "wrong_type", "Must be an object")),
        }
        None
    }

    pub(crate) fn take<T: Field>(&mut self, name: &str, errors: &mut Vec<FieldError>) -> Option<T> {
        T::parse(self.object.remove(name), &format!("{}/{name}", self.at), errors)
    }

    /// A field that may be anything.
    pub(crate) fn take_any(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name)
    }

    /// What is left is unknown.
    pub(crate) fn end(self, errors: &mut Vec<FieldError>) {
        for name in self.object.keys().take(20) {
            errors.push(wrong(&member(self.at, name), "unknown_field", "There is no such field"));
        }
    }
}

/// Declares a request body: the struct, its schema and how it is parsed.
macro_rules! body {
    ($(#[doc = $doc:literal])* $visibility:vis struct $name:ident $(from $header:literal as $header_field:literal)? { $($(#[doc = $about:literal])* $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        $visibility struct $name { $(pub(crate) $field: $type,)* }

        impl $crate::api::body::Field for $name {
            const FROM_HEADERS: &[(&str, &str)] = &[$(($header_field, $header))?];

            fn parse(
                value: Option<serde_json::Value>,
                at: &str,
                errors: &mut Vec<$crate::error::FieldError>,
            ) -> Option<Self> {
                let mut fields = $crate::api::body::Fields::of(value, at, errors)?;
                $(let $field = fields.take::<$type>(stringify!($field), errors);)*
                fields.end(errors);
                Some(Self { $($field: $field?,)* })
            }
        }

        $crate::api::schema::shown!(
            $name,
            required: true,
            schema: poem_openapi::registry::MetaSchemaRef::Reference(stringify!($name).into()),
            register: |registry| {
                registry.create_schema::<$name, _>(stringify!($name).into(), |registry| {
                    $(<$type as poem_openapi::types::Type>::register(registry);)*
                    let described = |schema: poem_openapi::registry::MetaSchemaRef, about: &'static str| {
                        schema.merge(poem_openapi::registry::MetaSchema {
                            description: Some(about).filter(|about| !about.is_empty()),
                            ..poem_openapi::registry::MetaSchema::ANY
                        })
                    };
                    let mut schema = poem_openapi::registry::MetaSchema::new("object");
                    schema.description = Some(concat!($($doc),*).trim());
                    $(
                        if <$type as poem_openapi::types::Type>::IS_REQUIRED {
                            schema.required.push(stringify!($field));
                        }
                        let field = described(<$type as poem_openapi::types::Type>::schema_ref(), concat!("", $($about),*).trim());
                        schema.properties.push((stringify!($field), field));
                    )*
                    schema
                });
            }
        );
    };
}
pub(crate) use body;

/// A field that is text in JSON.
pub(crate) fn text<T>(
    value: Option<Value>,
    at: &str,
    errors: &mut Vec<FieldError>,
    parse: impl FnOnce(&str) -> Result<T, Vec<Problem>>,
) -> Option<T> {
    match value {
        Some(Value::String(text)) => {
            return parse(&text)
                .map_err(|problems| {
                    errors.extend(problems.iter().map(|problem| wrong(at, problem.code, problem.message)));
                })
                .ok();
        }
        None => errors.push(wrong(at, "missing", "This field is required")),
        Some(_) => errors.push(wrong(at, "wrong_type", "Must be a string")),
    }
    None
}

/// A field that is a whole number within bounds.
pub(crate) fn number(
    value: Option<Value>,
    at: &str,
    errors: &mut Vec<FieldError>,
    bounds: std::ops::RangeInclusive<i32>,
    message: &str,
) -> Option<i32> {
    let number = value.as_ref().and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    let number = number.filter(|number| bounds.contains(number));
    if number.is_none() {
        errors.push(wrong(at, "out_of_range", message));
    }
    number
}

macro_rules! text_fields {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
                text(value, at, errors, <$type as FromText>::from_text)
            }
        }
    )*};
}
text_fields!(Email, Name, NewPassword, Secret, Slug, tenantry_accounts::second_factor::Code);

/// A value out of a closed list.
macro_rules! named_fields {
    ($($type:ty: $message:literal),*) => {$(
        impl Field for $type {
            fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
                text(value, at, errors, |text| {
                    <$type>::named(text).ok_or_else(|| vec![Problem { code: "not_allowed", message: $message }])
                })
            }
        }
    )*};
}
named_fields!(
    tenantry_accounts::users::Role: "Must be one of user, admin, super_admin",
    tenantry_accounts::tenants::Plan: "Must be one of basic, pro, enterprise",
    tenantry_accounts::api_keys::Scope: "Must be a scope, such as users:read"
);

impl Field for bool {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        match value {
            Some(Value::Bool(value)) => return Some(value),
            None => errors.push(wrong(at, "missing", "This field is required")),
            Some(_) => errors.push(wrong(at, "wrong_type", "Must be true or false")),
        }
        None
    }
}

/// Ids: 1 to 100 of them.
#[derive(Debug)]
pub(crate) struct Ids(pub(crate) Vec<UserId>);

const MOST_IDS: usize = 100;

impl Field for Ids {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        list(value, at, errors, "Must hold 1 to 100 ids", |id, at, errors| {
            let id = id.as_str().and_then(|id| id.parse().ok());
            if id.is_none() {
                errors.push(wrong(at, "wrong_type", "Must be a UUID"));
            }
            id
        })
        .map(Self)
    }
}

/// A list of 1 to 100 things, every wrong one of which is told.
pub(crate) fn list<T>(
    value: Option<Value>,
    at: &str,
    errors: &mut Vec<FieldError>,
    length: &'static str,
    parse: impl Fn(Value, &str, &mut Vec<FieldError>) -> Option<T>,
) -> Option<Vec<T>> {
    let (code, message) = match value {
        Some(Value::Array(things)) if (1..=MOST_IDS).contains(&things.len()) => {
            let each = things.into_iter().enumerate();
            let parsed: Vec<_> = each.map(|(n, thing)| parse(thing, &format!("{at}/{n}"), errors)).collect();
            return parsed.into_iter().collect();
        }
        Some(Value::Array(_)) => ("wrong_length", length),
        Some(_) => ("wrong_type", "Must be a list"),
        None => ("missing", "This field is required"),
    };
    errors.push(wrong(at, code, message));
    None
}

/// Addresses: 1 to 100 of them, each once.
#[derive(Debug)]
pub(crate) struct Emails(pub(crate) Vec<Email>);

impl Field for Emails {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let emails = list(value, at, errors, "Must hold 1 to 100 addresses", |email, at, errors| {
            Email::parse(Some(email), at, errors)
        })?;
        let mut seen = std::collections::HashSet::new();
        let repeated = emails.iter().position(|email| !seen.insert(email.as_str()));
        if let Some(n) = repeated {
            errors.push(wrong(&format!("{at}/{n}"), "repeated", "This address is there already"));
            return None;
        }
        Some(Self(emails))
    }
}

shown!(Emails, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    items: Some(Box::new(Email::schema_ref())),
    min_items: Some(1),
    max_items: Some(MOST_IDS),
    unique_items: Some(true),
    ..MetaSchema::new("array")
})));

shown!(Ids, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    items: Some(Box::new(UserId::schema_ref())),
    min_items: Some(1),
    max_items: Some(MOST_IDS),
    ..MetaSchema::new("array")
})));

/// A field that may be left out; null is not the same as left out, and wrong unless the type takes it.
impl<T: Field> Field for Option<T> {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        match value {
            None => Some(None),
            Some(value) => T::parse(Some(value), at, errors).map(Some),
        }
    }
}
