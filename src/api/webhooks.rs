//! `/webhooks`: what Stripe tells.

use std::time::SystemTime;

use poem::{FromRequest, Request, RequestBody, web::Data};
use poem_openapi::{
    Object, OpenApi, impl_apirequest_for_payload,
    param::Header,
    payload::{ParsePayload, Payload},
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::Serialize;
use tenantry_accounts::billing::events::{self, By};
use tenantry_stripe::Event;

use super::{
    Tag,
    envelope::{Answer, Envelope},
};
use crate::{
    error::{ApiError, Code},
    layers,
    state::State,
};

pub(crate) struct Webhooks;

/// The bytes of a JSON body as they came: what is signed are these, not what they mean.
pub(crate) struct Raw(Vec<u8>);

impl Payload for Raw {
    const CONTENT_TYPE: &'static str = "application/json";

    fn check_content_type(content_type: &str) -> bool {
        content_type
            .split(';')
            .next()
            .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(Self::CONTENT_TYPE))
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new("object")))
    }
}

impl ParsePayload for Raw {
    const IS_REQUIRED: bool = true;

    async fn from_request(request: &Request, body: &mut RequestBody) -> poem::Result<Self> {
        let bytes = Vec::<u8>::from_request(request, body).await?;
        if layers::is_too_large(request, &bytes) {
            return Err(ApiError::new(Code::PayloadTooLarge, "The body is too large").into());
        }
        Ok(Self(bytes))
    }
}

impl_apirequest_for_payload!(Raw);

/// That an event was taken in.
#[derive(Debug, Serialize, Object)]
pub(crate) struct Received {
    /// Whether it was new. The same event may come any number of times.
    new: bool,
}

#[OpenApi(prefix_path = "/webhooks", tag = "Tag::Billing")]
impl Webhooks {
    /// Take in an event of Stripe's
    ///
    /// For Stripe, which signs what it sends. The event is noted and its subscription fetched by a job; Stripe is not asked
    /// before this answers. 503: Stripe has to send it again.
    #[oai(path = "/stripe", method = "post", operation_id = "receiveStripeEvent")]
    async fn stripe(
        &self,
        state: Data<&State>,
        /// Time and signatures, as Stripe writes them.
        #[oai(name = "Stripe-Signature")]
        signature: Header<Option<String>>,
        body: Raw,
    ) -> Result<Answer<Received>, ApiError> {
        let genuine = state.webhook_secrets.verify(
            signature.0.as_deref().unwrap_or_default(),
            &body.0,
            SystemTime::now(),
        );
        if let Err(problem) = genuine {
            metrics::counter!("tenantry_stripe_webhooks_total", "outcome" => "refused").increment(1);
            return Err(ApiError::new(Code::InvalidSignature, capitalised(&problem.to_string())));
        }
        let value = serde_json::from_slice(&body.0).ok();
        let Some(event) = value.as_ref().and_then(Event::read) else {
            return Err(ApiError::new(Code::Malformed, "The body is no event of Stripe's"));
        };
        let new = events::receive(&state.app, &event, By::Webhook).await?;
        metrics::counter!("tenantry_stripe_webhooks_total", "outcome" => if new { "new" } else { "known" })
            .increment(1);
        Ok(Answer::Ok(Envelope::of(&Received { new })))
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
