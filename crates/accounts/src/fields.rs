//! Values that are valid because they exist. Each is parsed once, at the edge, and says everything that is wrong.

use std::fmt;

use email_address::{EmailAddress, Options};
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;

use crate::{passwords, schema::text_schema};

/// What is wrong with a value; never the value itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// For programs, e.g. `too_short`.
    pub code: &'static str,
    /// For people.
    pub message: &'static str,
}

const fn problem(code: &'static str, message: &'static str) -> Problem {
    Problem { code, message }
}

/// A value that is written as text.
pub trait FromText: Sized {
    /// Parses `text`, or says all that is wrong with it.
    fn from_text(text: &str) -> Result<Self, Vec<Problem>>;
}

/// An e-mail address in its one stored form: NFC, lower case, without surrounding blanks.
///
/// RFC 5321 allows local parts that differ by case only; no mail service of today does, and two accounts that look
/// the same are a trap.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Email(String);

text_schema!(Email, format: "email", max_length: 254usize, min_length: 3usize);
crate::schema::json_text!(Email);

impl FromText for Email {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        if text.len() > 1_000 {
            return Err(vec![problem("too_long", "Email must be at most 254 bytes long")]);
        }
        let address: String = text.trim().nfc().flat_map(char::to_lowercase).collect();
        if address.len() > 254 {
            return Err(vec![problem("too_long", "Email must be at most 254 bytes long")]);
        }
        let options =
            Options::default().without_display_text().without_domain_literal().with_minimum_sub_domains(2);
        match EmailAddress::parse_with_options(&address, options) {
            // Quoted local parts are legal and reach nobody's mailbox.
            Ok(_) if address.is_ascii() && !address.contains('"') => Ok(Self(address)),
            _ => Err(vec![problem("invalid_email", "Email must be a valid e-mail address")]),
        }
    }
}

impl Email {
    /// The stored form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Email {
    /// Takes an address out of the database, where only valid ones are.
    fn from(stored: String) -> Self {
        Self(stored)
    }
}

/// The name of a person or a tenant: 1 to 255 characters, trimmed, without control characters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Name(String);

text_schema!(Name, format: "name", max_length: 255usize, min_length: 1usize, pattern: "\\S");

impl FromText for Name {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        let name: String = text.trim().nfc().collect();
        match name.chars().count() {
            0 => Err(vec![problem("too_short", "Name must not be empty")]),
            256.. => Err(vec![problem("too_long", "Name must be at most 255 characters long")]),
            _ if name.chars().any(char::is_control) => {
                Err(vec![problem("invalid_characters", "Name must not contain control characters")])
            }
            _ => Ok(Self(name)),
        }
    }
}

impl Name {
    /// As people read it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The part of a URL that names a tenant: 1 to 100 lower-case letters, digits and inner hyphens.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slug(String);

text_schema!(Slug, format: "slug", max_length: 100usize, min_length: 1usize, pattern: "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$");

impl FromText for Slug {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if text.len() > 100 {
            return Err(vec![problem("too_long", "Slug must be at most 100 characters long")]);
        }
        if text.is_empty() || !text.chars().all(allowed) || text.starts_with('-') || text.ends_with('-') {
            return Err(vec![problem(
                "invalid_slug",
                "Slug must consist of lower-case letters, digits and inner hyphens",
            )]);
        }
        if uuid::Uuid::try_parse(text).is_ok() {
            return Err(vec![problem("invalid_slug", "Slug must not have the form of an id")]);
        }
        Ok(Self(text.into()))
    }
}

impl Slug {
    /// As it stands in URLs.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A project of the caller's own: 1 to 128 letters, digits and `._~:-`, the first of them a letter or a digit. Upper and lower
/// case differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProjectId(String);

text_schema!(ProjectId, format: "project-id", max_length: 128usize, min_length: 1usize, pattern: "^[A-Za-z0-9][A-Za-z0-9._~:-]{0,127}$");
crate::schema::json_text!(ProjectId);

impl FromText for ProjectId {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._~:-".contains(&c);
        let begins = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        match begins && text.len() <= 128 && text.bytes().all(allowed) {
            true => Ok(Self(text.into())),
            false => Err(vec![problem(
                "invalid_project_id",
                "Must be 1 to 128 letters, digits and ._~:- that begin with a letter or a digit",
            )]),
        }
    }
}

impl ProjectId {
    /// As its makers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for ProjectId {
    /// Takes an id out of the database, where only valid ones are.
    fn from(stored: String) -> Self {
        Self(stored)
    }
}

/// A password that somebody wants to have: 8 to 128 characters with an upper-case letter, a lower-case one and a digit, and
/// none of those that most people choose.
///
/// Cannot be printed, serialised or compared.
#[derive(Clone)]
pub struct NewPassword(String);

text_schema!(NewPassword, format: "password", max_length: 128usize, min_length: 8usize);

impl FromText for NewPassword {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        // Rules are checked on a bounded part, so that a megabyte of text costs no more than a line of it.
        let length = text.chars().take(129).count();
        let has = |rule: fn(char) -> bool| text.chars().take(129).any(rule);
        let rules = [
            (length >= 8, problem("too_short", "Password must be at least 8 characters long")),
            (length <= 128, problem("too_long", "Password must be at most 128 characters long")),
            (
                has(char::is_uppercase),
                problem("no_uppercase", "Password must contain at least one uppercase letter"),
            ),
            (
                has(char::is_lowercase),
                problem("no_lowercase", "Password must contain at least one lowercase letter"),
            ),
            (has(|c| c.is_ascii_digit()), problem("no_digit", "Password must contain at least one digit")),
            (
                !has(char::is_control),
                problem("invalid_characters", "Password must not contain control characters"),
            ),
            (
                length > 128 || !passwords::is_common(text),
                problem("too_common", "Password is too common, choose one that others do not have"),
            ),
        ];
        let wrong: Vec<_> = rules.into_iter().filter(|(kept, _)| !kept).map(|(_, problem)| problem).collect();
        if wrong.is_empty() { Ok(Self(text.into())) } else { Err(wrong) }
    }
}

/// Text that must be kept from logs and answers: a password offered at login, a token.
///
/// At most 1,024 bytes: no valid one is longer, and hashing more would be work for an attacker's sake.
#[derive(Clone)]
pub struct Secret(String);

text_schema!(Secret, format: "password", min_length: 1usize, max_length: 1024usize);

impl FromText for Secret {
    fn from_text(text: &str) -> Result<Self, Vec<Problem>> {
        match text.len() {
            0 => Err(vec![problem("too_short", "Must not be empty")]),
            1..=1024 => Ok(Self(text.into())),
            _ => Err(vec![problem("too_long", "Must be at most 1024 bytes long")]),
        }
    }
}

macro_rules! sealed {
    ($name:ident) => {
        impl $name {
            /// The text itself, for the hash function and the look-up of a hash only.
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

sealed!(NewPassword);
sealed!(Secret);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_stored_form() {
        let forms = [" Ada@Example.ORG", "ada@example.org", "ADA@EXAMPLE.ORG "];
        let stored: Vec<_> = forms.iter().map(|form| Email::from_text(form).unwrap()).collect();
        assert!(stored.iter().all(|email| email.as_str() == "ada@example.org"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "ada",
            "ada@",
            "@example.org",
            "a b@example.org",
            "ada@localhost",
            "ada@exa\0mple.org",
            "Ada <ada@example.org>",
            "\"a b\"@example.org",
        ] {
            assert_eq!(Email::from_text(text).unwrap_err()[0].code, "invalid_email", "{text:?}");
        }
        assert_eq!(
            Email::from_text(&format!("{}@example.org", "a".repeat(10_000))).unwrap_err()[0].code,
            "too_long"
        );
    }

    #[test]
    fn a_password_says_all_that_it_lacks() {
        let codes = |text: &str| -> Vec<_> {
            NewPassword::from_text(text).map_or_else(|all| all.iter().map(|p| p.code).collect(), |_| vec![])
        };
        assert_eq!(codes("abc"), ["too_short", "no_uppercase", "no_digit"]);
        assert_eq!(codes("Abcdefg1"), ["too_common"]);
        assert_eq!(codes("password1"), ["no_uppercase", "too_common"]);
        assert_eq!(codes("Abcdefz1"), Vec::<&str>::new());
        assert_eq!(codes(&"Aa1".repeat(400_000)), ["too_long"]);
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::from_text("hunter2").unwrap()), "Secret(..)");
    }
}
