//! `/subscriptions` and `/billing`.

use poem::{http::Uri, web::Data};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Path,
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tenantry_accounts::{
    Actor, SubscriptionId, TenantId,
    billing::{self, Billing, Price, Subscription},
    fields::Problem,
    tenants::{self, Plan},
};
use tenantry_stripe::{Checkout, Client, Error as StripeError, Standing};
use tenantry_workers::stripe::{self, Unfinished};

use super::{
    Tag,
    body::{Body, Field, body, text, wrong},
    envelope::{Answer, Envelope},
    idempotency::IdempotencyKey,
    schema::shown,
};
use crate::{
    caller::Caller,
    error::{ApiError, Code, FieldError},
    state::State,
};

pub(crate) struct BillingApi;

body! {
    /// What shall be paid for.
    pub(crate) struct CreateCheckout {
        /// The plan, unless `price_id` says it more exactly.
        plan: Option<Plan>,
        /// One of the prices that the service sells.
        price_id: Option<PriceId>,
        /// Where the customer goes when it is done: on an origin that the service knows.
        success_url: Url,
        /// Where the customer goes when it is not.
        cancel_url: Url,
    }
}

body! {
    /// Where the portal leads back to.
    pub(crate) struct CreatePortal {
        /// On an origin that the service knows.
        return_url: Url,
    }
}

/// The id of a price in Stripe.
#[derive(Debug)]
pub(crate) struct PriceId(String);

impl Field for PriceId {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |id| match id.len() {
            1..=255 => Ok(Self(id.into())),
            _ => Err(vec![Problem { code: "wrong_length", message: "Must be the id of a price" }]),
        })
    }
}

shown!(PriceId, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    min_length: Some(1),
    max_length: Some(255),
    ..MetaSchema::new("string")
})));

/// A web address to which people are sent.
#[derive(Debug)]
pub(crate) struct Url(String);

impl Field for Url {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        text(value, at, errors, |url| {
            let web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
            match url.parse::<Uri>() {
                Ok(uri) if url.len() <= 2_000 && web(&uri) => Ok(Self(url.into())),
                _ => Err(vec![Problem { code: "invalid_url", message: "Must be an http or https URL" }]),
            }
        })
    }
}

shown!(Url, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    max_length: Some(2_000),
    ..MetaSchema::new_with_format("string", "uri")
})));

/// A page of Stripe's.
#[derive(Serialize, Object)]
pub(crate) struct StripePage {
    /// Names the session in Stripe.
    id: String,
    /// Send the customer there.
    url: String,
}

#[derive(ApiResponse)]
enum PageMade {
    /// Where to send the customer.
    #[oai(status = 201)]
    Made(Envelope<StripePage>),
}

#[OpenApi(tag = "Tag::Billing")]
impl BillingApi {
    /// List subscriptions
    ///
    /// What the tenant pays for, as Stripe last told it, and what that gives. For administrators.
    #[oai(path = "/subscriptions", method = "get", operation_id = "listSubscriptions")]
    async fn list(&self, state: Data<&State>, caller: Caller) -> Result<Answer<Billing>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&billing::list(&state.app, *caller).await?)))
    }

    /// Get a subscription
    ///
    /// For administrators.
    #[oai(path = "/subscriptions/:id", method = "get", operation_id = "getSubscription")]
    async fn get(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The subscription's id here.
        id: Path<SubscriptionId>,
    ) -> Result<Answer<Subscription>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&billing::get(&state.app, *caller, id.0).await?)))
    }

    /// Begin a checkout
    ///
    /// Answers with a page of Stripe's on which the customer pays. The plan changes when Stripe says that it is paid. A tenant
    /// that has a subscription changes it in the portal. For administrators.
    #[oai(path = "/billing/checkout-sessions", method = "post", operation_id = "createCheckoutSession")]
    async fn checkout(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The same key and body make one session, however often they come within a day.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<CreateCheckout>,
    ) -> Result<PageMade, ApiError> {
        let request = fingerprint(&body.0);
        let CreateCheckout { plan, price_id, success_url, cancel_url } = body.0;
        let stripe = billed(&state)?;
        let (price, gives) = price(&state, plan, price_id.map(|id| id.0))?;
        known_origins(&state, &[("/success_url", &success_url), ("/cancel_url", &cancel_url)])?;
        if billing::subscribed(&state.app, *caller).await? {
            let message = "The tenant has a subscription; change it in the portal";
            return Err(ApiError::new(Code::AlreadySubscribed, message));
        }
        let quantity = if gives.by_seat {
            i64::from(tenants::used(&state.app, caller.tenant).await?.used.max(1))
        } else {
            1
        };
        let (success_url, cancel_url) = (success_url.0, cancel_url.0);
        let wanted = Wanted::Checkout { price, quantity, success_url, cancel_url, request };
        wanted.page(&state, stripe, *caller, key).await
    }

    /// Open the billing portal
    ///
    /// Answers with a page of Stripe's on which the customer changes or ends what they pay for, and finds invoices. For
    /// administrators.
    #[oai(path = "/billing/portal-sessions", method = "post", operation_id = "createPortalSession")]
    async fn portal(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The same key and body make one session, however often they come within a day.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<CreatePortal>,
    ) -> Result<PageMade, ApiError> {
        let stripe = billed(&state)?;
        let return_url = body.0.return_url;
        known_origins(&state, &[("/return_url", &return_url)])?;
        Wanted::Portal { return_url: return_url.0 }.page(&state, stripe, *caller, key).await
    }
}

fn billed(state: &State) -> Result<&Client, ApiError> {
    state
        .stripe
        .as_ref()
        .ok_or_else(|| ApiError::new(Code::NoBilling, "This service does not bill by Stripe"))
}

/// The price that is meant, out of those that are sold.
fn price(state: &State, plan: Option<Plan>, id: Option<String>) -> Result<(String, Price), ApiError> {
    let unknown = |at| ApiError::invalid(vec![wrong(at, "not_sold", "This is not sold; see STRIPE_PRICES")]);
    let settings = state.app.settings.billing.as_ref();
    match (id, plan) {
        (Some(id), plan) => {
            let price = settings.and_then(|settings| settings.prices.get(&id)).copied();
            let price = price.filter(|price| plan.is_none_or(|plan| plan == price.plan));
            price.map(|price| (id, price)).ok_or_else(|| unknown("/price_id"))
        }
        (None, Some(plan)) => {
            let price = settings.and_then(|settings| settings.price_of(plan));
            price.map(|(id, price)| (id.to_owned(), price)).ok_or_else(|| unknown("/plan"))
        }
        (None, None) => {
            Err(ApiError::invalid(vec![wrong("/plan", "missing", "Say which plan, or which price")]))
        }
    }
}

/// Refuses to have people sent to where we do not know: what looks like ours would lead to somebody else's.
fn known_origins(state: &State, urls: &[(&str, &Url)]) -> Result<(), ApiError> {
    let config = &state.config;
    let ours = [config.app_url.as_ref().map(|url| url.0.clone()), config.public_url().ok()];
    let origins = config.allowed_origins.iter().map(|origin| origin.0.clone());
    let known: Vec<_> = origins.chain(ours.into_iter().flatten()).filter_map(|url| origin(&url)).collect();
    let foreign = urls.iter().filter(|(_, url)| origin(&url.0).is_none_or(|origin| !known.contains(&origin)));
    let message = "Must be on an origin that the service knows: ALLOWED_ORIGINS, APP_URL or PUBLIC_URL";
    let errors: Vec<_> = foreign.map(|(at, _)| wrong(at, "foreign_origin", message)).collect();
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(errors)) }
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    // What stands before an @ is no host, and is only there to look like one.
    (!uri.authority()?.as_str().contains('@')).then_some(())?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// The customer of the actor's tenant, made now if the job has not been there yet: as the job makes it.
async fn customer(state: &State, stripe: &Client, actor: Actor) -> Result<String, ApiError> {
    stripe::customer(&state.app, stripe, actor.tenant).await.map_err(unfinished)
}

fn unfinished(error: Unfinished) -> ApiError {
    match error {
        // These keys are our own: another is used the next time.
        Unfinished::Stripe(StripeError::KeyUsed | StripeError::KeyBusy) => busy(1),
        Unfinished::Stripe(error) => refused(error),
        Unfinished::Accounts(error) => error.into(),
    }
}

/// What makes bodies the same.
fn fingerprint(body: &CreateCheckout) -> String {
    let CreateCheckout { plan, price_id, success_url, cancel_url } = body;
    let body = json!([plan, price_id.as_ref().map(|id| &id.0), success_url.0, cancel_url.0]);
    hex(&body.to_string())
}

/// The SHA-256 of a text.
fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A page of Stripe's that is to be opened.
enum Wanted {
    Checkout {
        price: String,
        quantity: i64,
        success_url: String,
        cancel_url: String,
        /// The fingerprint of the body.
        request: String,
    },
    Portal {
        return_url: String,
    },
}

impl Wanted {
    /// Opens it for the customer of the actor's tenant. When Stripe has deleted that one, another is made and pays from now on.
    async fn page(
        &self,
        state: &State,
        stripe: &Client,
        actor: Actor,
        key: IdempotencyKey,
    ) -> Result<PageMade, ApiError> {
        let key = key.into_key().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let mut payer = customer(state, stripe, actor).await?;
        let mut opened = self.open(stripe, actor.tenant, &payer, &key).await;
        if opened.as_ref().is_err_and(StripeError::is_missing) {
            match stripe::ask_for(&state.app, stripe, &payer, 0).await.map_err(unfinished)? {
                Standing::Deleted => {
                    payer = customer(state, stripe, actor).await?;
                    opened = self.open(stripe, actor.tenant, &payer, &key).await;
                }
                Standing::Unknown => {
                    tracing::error!(tenant.id = %actor.tenant, "stripe does not know the customer by STRIPE_SECRET_KEY");
                    let message =
                        "Stripe does not know the customer of this tenant; only the operator can mend that";
                    return Err(ApiError::new(Code::BillingRefused, message));
                }
                // It is something else that is missing.
                Standing::Live => {}
            }
        }
        let (id, url) = opened.map_err(refused)?;
        Ok(PageMade::Made(Envelope::of(&StripePage { id, url })))
    }

    /// Stripe keeps a fault under a key for a day, as it keeps any other answer. Where it tells one that it had kept, nothing else
    /// will come of that key, and the next is used: the same for the same key of the client, whoever asks and however often.
    async fn open(
        &self,
        stripe: &Client,
        tenant: TenantId,
        customer: &str,
        key: &str,
    ) -> Result<(String, String), StripeError> {
        let mut faults = 0;
        let made = loop {
            match self.ask(stripe, customer, key, &self.own_key(tenant, customer, faults, key)).await {
                Err(StripeError::Failed(fault)) if fault.kept && faults < FAULTS => faults += 1,
                made => break made,
            }
        };
        match (self, made) {
            // The body may be the same all the same, and the seats others.
            (Self::Checkout { request, .. }, Err(StripeError::KeyUsed)) => {
                stripe.find_checkout(customer, (key, request)).await?.ok_or(StripeError::KeyUsed)
            }
            (_, made) => made,
        }
    }

    async fn ask(
        &self,
        stripe: &Client,
        customer: &str,
        key: &str,
        own_key: &str,
    ) -> Result<(String, String), StripeError> {
        match self {
            Self::Checkout { price, quantity, success_url, cancel_url, request } => {
                let (quantity, note) = (*quantity, (key, request.as_str()));
                let checkout = Checkout { customer, price, quantity, success_url, cancel_url, note };
                stripe.create_checkout(&checkout, own_key).await
            }
            Self::Portal { return_url } => stripe.create_portal(customer, return_url, own_key).await,
        }
    }

    /// What others call theirs has nothing to do with it, and neither has what the same client calls so for another operation or
    /// customer: Stripe takes a key for one set of parameters only.
    fn own_key(&self, tenant: TenantId, customer: &str, faults: u8, key: &str) -> String {
        let operation = match self {
            Self::Checkout { .. } => "checkout",
            Self::Portal { .. } => "portal",
        };
        hex(&format!("{tenant}:{operation}:{customer}:{faults}:{key}"))
    }
}

/// So many faults of Stripe's a client's key outlives.
const FAULTS: u8 = 5;

fn busy(seconds: u64) -> ApiError {
    ApiError::unavailable("Stripe is busy at the moment, please try again", seconds)
}

fn refused(error: StripeError) -> ApiError {
    use StripeError as E;
    match error {
        E::Limited(wait) => busy(wait.as_secs().max(1)),
        E::Unavailable(_) | E::Failed(_) | E::Unreadable(_) => {
            tracing::warn!("{error}");
            ApiError::unavailable("Stripe is not available at the moment, please try again", 5)
        }
        E::KeyBusy => ApiError::in_flight(),
        E::KeyUsed => ApiError::key_reused(),
        E::Refused { .. } => {
            tracing::error!("{error}");
            ApiError::new(Code::BillingRefused, "Stripe refused this; the request id tells the operator why")
        }
    }
}
