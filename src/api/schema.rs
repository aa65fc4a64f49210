//! How a type stands in the OpenAPI document when we parse or write it ourselves.

/// Implements [`poem_openapi::types::Type`]: `shown!(Name, required: true, schema: ...)`, and for a schema with a name of
/// its own `, register: |registry| ...`.
macro_rules! shown {
    ($name:ident, required: $required:literal, schema: $schema:expr $(, register: |$registry:ident| $register:expr)?) => {
        impl poem_openapi::types::Type for $name {
            const IS_REQUIRED: bool = $required;
            type RawValueType = Self;
            type RawElementValueType = Self;

            fn name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn schema_ref() -> poem_openapi::registry::MetaSchemaRef {
                $schema
            }

            $(fn register($registry: &mut poem_openapi::registry::Registry) {
                $register
            })?

            fn as_raw_value(&self) -> Option<&Self> {
                Some(self)
            }

            fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
                Box::new(std::iter::once(self))
            }
        }
    };
}
pub(crate) use shown;
