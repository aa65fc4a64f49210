//! A row: the fields of a user to be made, and everything that is wrong with them.

use chrono::{DateTime, Utc};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef};
use serde_json::{Map, Value};
use tenantry_accounts::{
    fields::{Email, Name, Problem},
    imports::{Content, Sent},
    users::Role,
};

use crate::{
    api::{
        body::{Field, body, text},
        bulk::{Hash, refuse_password},
        schema::shown,
    },
    error::FieldError,
};

body! {
    /// A user to be made out of a row.
    pub(super) struct Row {
        /// Unique within the tenant.
        email: Email,
        /// The user's full name.
        name: Name,
        /// At most your own role.
        role: Option<Role>,
        /// The hash of a password that the user had elsewhere.
        password_hash: Option<Hash>,
        /// Whether the address counts as theirs without a mail.
        email_verified: Option<bool>,
        /// Whether the user may sign in.
        is_active: Option<bool>,
        /// When the user was made elsewhere.
        created_at: Option<Past>,
    }
}

/// The fields of a [`Row`].
pub(super) const FIELDS: &[&str] =
    &["email", "name", "role", "password_hash", "email_verified", "is_active", "created_at"];

/// A moment that has been.
#[derive(Debug)]
pub(super) struct Past(DateTime<Utc>);

impl Field for Past {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |text| {
            let message = "Must be a time in the past as RFC 3339 has it, such as 2020-01-31T12:00:00Z";
            let wrong = || vec![Problem { code: "invalid_time", message }];
            let time = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?.to_utc();
            let is_past = time <= Utc::now() && time >= DateTime::UNIX_EPOCH;
            is_past.then_some(Self(time)).ok_or_else(wrong)
        })
    }
}

shown!(Past, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "date-time"))));

/// Counts rows and reads what is in them.
pub(super) struct Rows {
    role: Role,
    number: i32,
}

impl Rows {
    /// Rows that name no role are for users of this one.
    pub(super) fn new(role: Role) -> Self {
        Self { role, number: 0 }
    }

    /// The next row, which begins in this line.
    pub(super) fn next(&mut self, line: i32, fields: Result<Map<String, Value>, FieldError>) -> Sent {
        self.number = self.number.saturating_add(1);
        let content = fields.map_err(|error| vec![error]).and_then(|fields| self.read(fields));
        let content = content.map_err(|errors| serde_json::to_value(errors).unwrap_or_default());
        Sent { number: self.number, line, content }
    }

    fn read(&self, mut fields: Map<String, Value>) -> Result<Content, Vec<FieldError>> {
        // What exports write for what is not there.
        fields.retain(|_, value| !value.is_null());
        let (mut row, mut errors) = (Value::Object(fields), vec![]);
        refuse_password(&mut row, "", &mut errors);
        match Row::parse(Some(row), "", &mut errors) {
            Some(row) if errors.is_empty() => Ok(Content {
                email: row.email,
                name: row.name,
                role: row.role.unwrap_or(self.role),
                email_verified: row.email_verified.unwrap_or(false),
                is_active: row.is_active.unwrap_or(true),
                made_at: row.created_at.map(|Past(time)| time),
                password_hash: row.password_hash.map(|Hash(hash)| hash),
            }),
            _ => Err(errors),
        }
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::{registry::Registry, types::Type};

    use super::*;

    #[test]
    fn the_names_of_the_fields_are_those_of_a_row() {
        let mut registry = Registry::new();
        <Row as Type>::register(&mut registry);
        let names: Vec<_> = registry.schemas["Row"].properties.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, FIELDS);
    }
}
