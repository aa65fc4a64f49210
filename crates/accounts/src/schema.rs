//! How our text types look in the OpenAPI document. The rule stands once, beside the type that enforces it.

/// Implements [`poem_openapi::types::Type`] for a type that is a string in JSON.
macro_rules! text_schema {
    ($name:ident, format: $format:literal $(, $key:ident: $value:expr)*) => {
        impl poem_openapi::types::Type for $name {
            const IS_REQUIRED: bool = true;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> std::borrow::Cow<'static, str> {
                concat!("string_", $format).into()
            }

            fn schema_ref() -> poem_openapi::registry::MetaSchemaRef {
                let schema = poem_openapi::registry::MetaSchema {
                    $($key: Some($value.into()),)*
                    ..poem_openapi::registry::MetaSchema::new_with_format("string", $format)
                };
                poem_openapi::registry::MetaSchemaRef::Inline(Box::new(schema))
            }

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }
    };
}

/// Lets a text type stand in objects that poem-openapi derives.
macro_rules! json_text {
    ($name:ident) => {
        impl poem_openapi::types::ToJSON for $name {
            fn to_json(&self) -> Option<serde_json::Value> {
                serde_json::to_value(self).ok()
            }
        }

        impl poem_openapi::types::ParseFromJSON for $name {
            fn parse_from_json(value: Option<serde_json::Value>) -> poem_openapi::types::ParseResult<Self> {
                serde_json::from_value(value.unwrap_or_default())
                    .map_err(|_| poem_openapi::types::ParseError::custom("has the wrong form"))
            }
        }
    };
}

pub(crate) use {json_text, text_schema};
