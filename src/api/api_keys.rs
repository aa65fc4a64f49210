//! `/api-keys`.

use chrono::{DateTime, Days, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::Path,
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::Serialize;
use serde_json::Value;
use tenantry_accounts::{
    ApiKeyId,
    api_keys::{self, ApiKey, NewKey, Scope},
    fields::Name,
    idempotency::Namer,
};

use super::{
    Tag,
    body::{Body, Field, body, list, number, wrong},
    envelope::{Answer, Deleted, Envelope},
    idempotency::{IdempotencyKey, Keep, Kept, Repeatable},
    jobs::Time,
    precondition::Precondition,
    schema::shown,
};
use crate::{
    caller::Caller,
    error::{ApiError, FieldError},
    state::State,
};

pub(crate) struct ApiKeys;

/// How long a key works when nobody says.
const USUAL_LIFE: Days = Days::new(365);
/// How long one may work.
const LONGEST_LIFE: Days = Days::new(3650);
/// Requests a minute when nobody says how many.
const USUAL_RATE: i32 = 6_000;

body! {
    /// An API key to be made.
    pub(crate) struct CreateApiKey {
        /// Unique among the tenant's keys.
        name: Name,
        /// What it may be used for.
        scopes: Scopes,
        /// When it stops working, within ten years; in a year when left out.
        expires_at: Option<Time>,
        /// How many requests it may make in a minute, to each process of the service; 6,000 when left out.
        requests_per_minute: Option<Rate>,
    }
}

/// Scopes: one at least, each once.
#[derive(Debug)]
pub(crate) struct Scopes(Vec<Scope>);

impl Field for Scopes {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let mut scopes = list(value, at, errors, "Must hold one scope at least", |scope, at, errors| {
            Scope::parse(Some(scope), at, errors)
        })?;
        scopes.sort_by_key(|scope| scope.as_str());
        scopes.dedup();
        Some(Self(scopes))
    }
}

shown!(Scopes, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    items: Some(Box::new(Scope::schema_ref())),
    min_items: Some(1),
    max_items: Some(100),
    ..MetaSchema::new("array")
})), register: |registry| Scope::register(registry));

/// Requests in a minute.
#[derive(Debug)]
pub(crate) struct Rate(i32);

impl Field for Rate {
    fn parse(value: Option<Value>, at: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        number(value, at, errors, 1..=1_000_000, "Must be a number from 1 to 1000000").map(Self)
    }
}

shown!(Rate, required: true, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    minimum: Some(1.0),
    maximum: Some(1_000_000.0),
    ..MetaSchema::new_with_format("integer", "int32")
})));

/// A key that has just been made.
#[derive(Serialize, Object)]
pub(crate) struct NewApiKey {
    /// Send it as `Authorization: Bearer`. It is told this once and kept by nobody here.
    key: String,
    api_key: ApiKey,
}

/// The API keys of a tenant.
#[derive(Serialize, Object)]
pub(crate) struct ApiKeyList {
    /// The newest first; expired ones, too, for 30 days and until they are revoked. At most 1,000.
    api_keys: Vec<ApiKey>,
}

#[derive(ApiResponse)]
enum KeyMade {
    /// The key.
    #[oai(status = 201)]
    Made(
        Envelope<NewApiKey>,
        /// Keys are kept by nobody on the way.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

/// The key itself is told once.
impl Keep<(ApiKey, String)> for KeyMade {
    fn keep(&self, (api_key, _): &(ApiKey, String)) -> Kept {
        Kept::Secret(api_key.id.0)
    }
}

#[OpenApi(prefix_path = "/api-keys", tag = "Tag::ApiKeys")]
impl ApiKeys {
    /// Create an API key
    ///
    /// A key is the tenant's: it goes on when whoever made it has left. It may do what its scopes say, in its own tenant,
    /// and never makes or changes administrators. For administrators.
    ///
    /// The same request once more by its `Idempotency-Key` makes no other key, and does not tell the key again: 409
    /// `already_created`, with the key's `id`.
    #[oai(path = "/", method = "post", operation_id = "createApiKey")]
    async fn create(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it makes nothing, and says what it has made.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<CreateApiKey>,
    ) -> Result<Repeatable<KeyMade>, ApiError> {
        let CreateApiKey { name, scopes: Scopes(scopes), expires_at, requests_per_minute } = body.0;
        let new = NewKey {
            name,
            scopes,
            requests_per_minute: requests_per_minute.map_or(USUAL_RATE, |rate| rate.0),
            expires_at: lifetime(expires_at.map(|time| time.0))?,
        };
        key.once(&state, Namer::Actor(*caller), made, |once| api_keys::create(&state.app, *caller, new, once))
            .await
    }

    /// List API keys
    ///
    /// Those that have not been revoked, without their secrets. For administrators.
    #[oai(path = "/", method = "get", operation_id = "listApiKeys")]
    async fn list(&self, state: Data<&State>, caller: Caller) -> Result<Answer<ApiKeyList>, ApiError> {
        let api_keys = api_keys::list(&state.app, *caller).await?;
        Ok(Answer::Ok(Envelope::of(&ApiKeyList { api_keys })))
    }

    /// Revoke an API key
    ///
    /// It is refused here at once and elsewhere within a second. For administrators.
    #[oai(path = "/:id", method = "delete", operation_id = "deleteApiKey")]
    async fn revoke(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The key's id.
        id: Path<ApiKeyId>,
        /// It has no versions: 412 unless this is `*`.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        if_match.of_no_version()?;
        api_keys::revoke(&state.app, *caller, id.0).await?;
        Ok(Deleted::Deleted)
    }
}

fn made((api_key, key): &(ApiKey, String)) -> KeyMade {
    let made = NewApiKey { key: key.clone(), api_key: api_key.clone() };
    KeyMade::Made(Envelope::of(&made), "no-store".into())
}

fn lifetime(wanted: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, ApiError> {
    let now = Utc::now();
    let expires_at = wanted.unwrap_or(now + USUAL_LIFE);
    if expires_at > now && expires_at <= now + LONGEST_LIFE {
        return Ok(expires_at);
    }
    let message = "Must be a time to come, within ten years";
    Err(ApiError::invalid(vec![wrong("/expires_at", "out_of_range", message)]))
}
