//! Merge patches of metadata (RFC 7396): looked at here, and applied by the database to what it has.

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;

use poem::{Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    error::ContentTypeError,
    registry::{MetaMediaType, MetaRequest, MetaSchema, MetaSchemaRef, Registry},
};
use serde_json::Value;
use tenantry_accounts::metadata::Patch;

use super::{
    body::{Fields, member, read, wrong},
    schema::shown,
};
use crate::error::{ApiError, Code, FieldError};

/// What shall be different in metadata.
pub(crate) struct MetadataPatch(pub(crate) Patch);

/// `application/json` as well: there is no other way to change metadata that it could mean.
const CONTENT_TYPES: [&str; 2] = ["application/merge-patch+json", "application/json"];
/// How deep objects and lists may stand in one another.
const DEEPEST: usize = 16;
/// How many names a patch may have in all.
const MOST_NAMES: usize = 1_000;
/// How many characters a key at the top of a part may have.
const LONGEST: usize = 64;

impl<'a> ApiExtractor<'a> for MetadataPatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <Self as poem_openapi::types::Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let schema = <Self as poem_openapi::types::Type>::schema_ref;
        let content = CONTENT_TYPES.map(|content_type| MetaMediaType { content_type, schema: schema() });
        Some(MetaRequest { description: None, content: content.into(), required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let content_type = request.content_type().unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if !CONTENT_TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known)) {
            return Err(ContentTypeError::NotSupported { content_type: content_type.into() }.into());
        }
        let (text, value) = read(request, body).await?;
        let mut looked = Looked::default();
        looked.at_patch(value);
        looked.at_numbers(&text);
        if !looked.errors.is_empty() {
            return Err(ApiError::invalid(looked.errors).into());
        }
        let text =
            String::from_utf8(text).map_err(|_| ApiError::new(Code::Malformed, "The body is not UTF-8"))?;
        Ok(Self(Patch::of(text)))
    }
}

shown!(
    MetadataPatch,
    required: true,
    schema: MetaSchemaRef::Reference("MetadataPatch".into()),
    register: |registry| {
        registry.create_schema::<MetadataPatch, _>("MetadataPatch".into(), |_| {
            let mut schema = MetaSchema::new("object");
            schema.description = Some("A merge patch (RFC 7396) of metadata. What is left out stays.");
            let part = |about| {
                let anything = Some(Box::new(MetaSchemaRef::Inline(Box::new(MetaSchema::ANY))));
                MetaSchemaRef::Inline(Box::new(MetaSchema {
                    description: Some(about),
                    nullable: true,
                    additional_properties: anything,
                    ..MetaSchema::new("object")
                }))
            };
            schema.properties = vec![
                ("public", part("What shall be different in the part that everybody may see; null: nothing stays.")),
                ("private", part("What shall be different in the part for administrators and API keys; null: nothing stays.")),
            ];
            schema
        });
    }
);

/// What a look at a patch has brought up.
#[derive(Default)]
struct Looked {
    errors: Vec<FieldError>,
    names: usize,
}

impl Looked {
    fn at_patch(&mut self, patch: Value) {
        let Some(mut fields) = Fields::of(Some(patch), "", &mut self.errors) else { return };
        for part in ["public", "private"] {
            let at = member("", part);
            match fields.take_any(part) {
                None | Some(Value::Null) => {}
                Some(Value::Object(members)) => {
                    for (name, value) in members {
                        self.at_key(&at, &name);
                        self.at_member(&at, &name, &value, 1);
                    }
                }
                Some(_) => self.errors.push(wrong(&at, "wrong_type", "Must be an object or null")),
            }
        }
        fields.end(&mut self.errors);
        if self.names > MOST_NAMES {
            self.errors.push(wrong("", "too_many_names", "A patch may have at most 1000 names"));
        }
        // Each is told, but no answer is larger than its request for that.
        self.errors.truncate(20);
    }

    /// The database writes numbers out: a few letters with a large exponent are thousands of digits, and so many of them all
    /// of its memory. In valid JSON a digit with an "e" behind it, outside of texts, is a number with an exponent.
    fn at_numbers(&mut self, json: &[u8]) {
        let (mut is_text, mut before) = (false, b' ');
        for (n, &byte) in json.iter().enumerate() {
            match byte {
                b'"' if !is_text => is_text = true,
                b'"' if before != b'\\' => is_text = false,
                b'e' | b'E' if !is_text && before.is_ascii_digit() && is_far(&json[n + 1..]) => {
                    self.errors.push(wrong(
                        "",
                        "out_of_range",
                        "Numbers may have exponents from -308 to 308",
                    ));
                    return;
                }
                _ => {}
            }
            // A backslash that is itself escaped escapes nothing.
            before = if before == b'\\' && byte == b'\\' { b' ' } else { byte };
        }
    }

    /// A key at the top may be looked up by.
    fn at_key(&mut self, at: &str, name: &str) {
        if !(1..=LONGEST).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            let message = "Keys are 1 to 64 characters long, and no control characters";
            self.errors.push(wrong(&member(at, name), "invalid_key", message));
        }
    }

    fn at_member(&mut self, at: &str, name: &str, value: &Value, depth: usize) {
        self.names += 1;
        let at = member(at, name);
        if name.contains('\0') && depth > 1 {
            self.errors.push(wrong(&at, "invalid_characters", "Names must not contain the character U+0000"));
        }
        self.at_value(&at, value, depth);
    }

    fn at_value(&mut self, at: &str, value: &Value, depth: usize) {
        match value {
            Value::String(text) if text.contains('\0') => {
                self.errors.push(wrong(at, "invalid_characters", "Must not contain the character U+0000"));
            }
            Value::Object(_) | Value::Array(_) if depth == DEEPEST => {
                self.errors.push(wrong(at, "too_deep", "Must not stand deeper than 16 levels"));
            }
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| self.at_member(at, name, value, depth + 1));
            }
            Value::Array(values) => {
                let each = values.iter().enumerate();
                each.for_each(|(n, value)| self.at_value(&format!("{at}/{n}"), value, depth + 1));
            }
            _ => {}
        }
    }
}

/// Whether the exponent at the beginning of this is beyond what other programs read.
fn is_far(exponent: &[u8]) -> bool {
    let digits = exponent.strip_prefix(b"-").or(exponent.strip_prefix(b"+")).unwrap_or(exponent);
    let digits: Vec<_> =
        digits.iter().copied().take_while(u8::is_ascii_digit).skip_while(|digit| *digit == b'0').collect();
    digits.len() > 3 || digits.iter().fold(0, |sum, digit| 10 * sum + u32::from(digit - b'0')) > 308
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_would_be_written_with_thousands_of_digits_are_refused() {
        let refused = |json: &str| {
            let mut looked = Looked::default();
            looked.at_numbers(json.as_bytes());
            !looked.errors.is_empty()
        };
        for far in ["[1e-16383]", "[1E309]", "{\"a\":1.5e+0000999}", "[\"\\\\\",1e-400]", "[\"\\\"\",1e-400]"]
        {
            assert!(refused(far), "{far}");
        }
        for near in [
            "[1e308,1e-308,-2E+007]",
            "[\"1e999\"]",
            "[\"\\\"1e999\"]",
            "[true,false]",
            "[\"\\\\\\\"9e999\"]",
        ] {
            assert!(!refused(near), "{near}");
        }
    }
}
