//! `Idempotency-Key`: what was asked for once is done once, however often the request comes.

use poem::{Request, RequestBody, http::HeaderValue};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaParamIn, MetaSchema, MetaSchemaRef},
};

use super::body::wrong;
use crate::error::ApiError;

/// So long a key may be: with what we put before it Stripe takes it, whose limit is 255.
const LONGEST: usize = 200;

/// The client's key; none: it gave none. One that we could not tell from others is refused and never ignored: who sends it
/// relies on it.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl IdempotencyKey {
    fn read(request: &Request, name: &str) -> Result<Self, ApiError> {
        let mut values = request.headers().get_all(name).iter();
        let refuse = |code, message| Err(ApiError::invalid(vec![wrong(name, code, message)]));
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        match (values.next(), values.next()) {
            (None, _) => Ok(Self(None)),
            (Some(_), Some(_)) => refuse("repeated", "Send one key"),
            (Some(value), None) => match text(value) {
                Some(key) if (1..=LONGEST).contains(&key.len()) => Ok(Self(Some(key))),
                Some(_) => refuse("wrong_length", "Must have 1 to 200 characters"),
                None => refuse("invalid", "Must consist of printable ASCII characters"),
            },
        }
    }
}

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

    type ParamType = Option<String>;
    type ParamRawType = String;

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let schema =
            MetaSchema { min_length: Some(1), max_length: Some(LONGEST), ..MetaSchema::new("string") };
        Some(MetaSchemaRef::Inline(Box::new(schema)))
    }

    fn param_raw_type(&self) -> Option<&String> {
        self.0.as_ref()
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        options: ExtractParamOptions<Self::ParamType>,
    ) -> poem::Result<Self> {
        Ok(Self::read(request, options.name)?)
    }
}
