//! `Idempotency-Key`: a POST that may be sent again. What it was answered is said again, byte for byte; a secret is not.

#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;

use std::{
    collections::HashSet,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use poem::{
    IntoResponse, PathPattern, Request, RequestBody, Response,
    http::{StatusCode, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions,
    registry::{MetaHeader, MetaParamIn, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tenantry_accounts::{
    self as accounts,
    idempotency::{self, Named, Namer, Once},
};
use uuid::Uuid;

use super::json::Unique;
use crate::{
    error::{ApiError, Code},
    limits::What,
    state::State,
};

const HEADER: &str = "idempotency-key";
/// Tells an answer that is said again.
const REPLAYED: &str = "Idempotency-Replayed";

/// What the client calls this request, with a digest of the request; or it does not.
pub(crate) struct IdempotencyKey(Option<(String, [u8; 32])>);

/// The same of a request whose body is read as it comes: its digest is not known before its end.
pub(crate) struct KeyOfStream(Option<String>);

/// How both stand in the document.
macro_rules! header {
    () => {
        const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];

        type ParamType = ();
        type ParamRawType = ();

        fn param_in() -> Option<MetaParamIn> {
            Some(MetaParamIn::Header)
        }

        fn param_schema_ref() -> Option<MetaSchemaRef> {
            Some(MetaSchemaRef::Inline(Box::new(MetaSchema {
                min_length: Some(1),
                max_length: Some(255),
                pattern: Some("^[!-~]+$".into()),
                ..MetaSchema::new("string")
            })))
        }
    };
}

impl<'a> ApiExtractor<'a> for KeyOfStream {
    header!();

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        Ok(Self(key(request)?))
    }
}

impl KeyOfStream {
    /// Whether a request of this name has been answered, be it another one: then there is nothing to do but to compare.
    pub(crate) async fn is_known(&self, state: &State, namer: Namer<'_>) -> Result<bool, ApiError> {
        let Some(key) = &self.0 else { return Ok(false) };
        match idempotency::answered(&state.app, &Named::new(namer, key, [0; 32])?).await {
            Ok(answer) => Ok(answer.is_some()),
            Err(accounts::Error::KeyReused) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// The key of the request as it has turned out to be: what was asked for, in words, and the digest of its body.
    pub(crate) fn of(self, asked: &str, body: [u8; 32]) -> IdempotencyKey {
        let digest = Sha256::new().chain_update(asked).chain_update([0]).chain_update(body);
        IdempotencyKey(self.0.map(|key| (key, digest.finalize().into())))
    }
}

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    header!();

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let Some(key) = key(request)? else { return Ok(Self(None)) };
        let bytes = body.take()?.into_bytes().await?;
        let digest = digest(request, &bytes);
        // For whoever reads what it says.
        *body = RequestBody::new(bytes.into());
        Ok(Self(Some((key, digest))))
    }
}

/// Nothing that is there is passed over: whoever sends a key relies on it.
fn key(request: &Request) -> Result<Option<String>, ApiError> {
    let lines: Vec<_> = request.headers().get_all(HEADER).iter().collect();
    let is_one = |line: &[u8]| (1..=255).contains(&line.len()) && line.iter().all(u8::is_ascii_graphic);
    match lines[..] {
        [] => Ok(None),
        [line] if is_one(line.as_bytes()) => Ok(line.to_str().ok().map(str::to_owned)),
        _ => {
            let message = "Idempotency-Key must be 1 to 255 visible ASCII characters, and there once";
            Err(ApiError::new(Code::Malformed, message))
        }
    }
}

/// Of what is asked for. The same JSON is the same request, with its names in any order and with any blanks.
fn digest(request: &Request, body: &[u8]) -> [u8; 32] {
    let operation = request.data::<PathPattern>().map(|pattern| pattern.0.clone()).unwrap_or_default();
    // What is no JSON is refused by whoever reads it.
    let parsed = serde_json::from_slice(body).ok();
    let canonical = parsed.and_then(|Unique(value)| serde_json::to_vec(&value).ok());
    let body = canonical.as_deref().unwrap_or(body);
    Sha256::new().chain_update(&*operation).chain_update([0]).chain_update(body).finalize().into()
}

impl IdempotencyKey {
    /// The key alone, where Stripe keeps the answers.
    pub(crate) fn into_key(self) -> Option<String> {
        self.0.map(|(key, _)| key)
    }

    /// Does `work`, unless it was done when the same request came before. `answer` makes the answer of what it has made.
    pub(crate) async fn once<T, R, F>(
        self,
        state: &State,
        namer: Namer<'_>,
        answer: impl Fn(&T) -> R + Clone + Send + 'static,
        work: impl FnOnce(Once<T>) -> F,
    ) -> Result<Repeatable<R>, ApiError>
    where
        R: Keep<T> + Send + 'static,
        F: Future<Output = accounts::Result<T>>,
    {
        let Some((key, digest)) = self.0 else {
            return Ok(Repeatable::First(answer(&work(Once::unnamed()).await?)));
        };
        let request = Named::new(namer, &key, digest)?;
        let _place = state.in_flight.enter(request.name())?;
        // Whoever is not known could find out by it which password was in the body.
        let guess = match namer {
            Namer::Actor(_) => None,
            Namer::Holder(_) | Namer::Anybody => {
                Some(state.limits.attempts.count(What::Repetition(request.name())).await?)
            }
        };
        let result = once(state, request, answer, work).await;
        if let Some(guess) = guess {
            guess.end(&result).await;
        }
        match result? {
            Done::Now(first) => Ok(Repeatable::First(first)),
            Done::Before(kept) => match serde_json::from_slice(&kept) {
                Ok(Kept::Answer(answer)) => Ok(Repeatable::Again(answer, PhantomData)),
                Ok(Kept::Secret(made)) => Err(ApiError::already_created(made)),
                Err(_) => Err(accounts::Error::Internal("an answer that was kept cannot be read").into()),
            },
        }
    }
}

enum Done<R> {
    Now(R),
    Before(Vec<u8>),
}

async fn once<T, R, F>(
    state: &State,
    request: Named,
    answer: impl Fn(&T) -> R + Clone + Send + 'static,
    work: impl FnOnce(Once<T>) -> F,
) -> accounts::Result<Done<R>>
where
    R: Keep<T> + Send + 'static,
    F: Future<Output = accounts::Result<T>>,
{
    if let Some(kept) = idempotency::answered(&state.app, &request).await? {
        return Ok(Done::Before(kept));
    }
    let first = Arc::new(Mutex::new(None));
    let (told, say) = (first.clone(), answer.clone());
    let keep = move |made: &T| {
        let response = say(made);
        let kept = serde_json::to_vec(&response.keep(made)).unwrap_or_default();
        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        kept
    };
    match work(Once::new(request, keep)).await {
        Ok(made) => {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            Ok(Done::Now(first.unwrap_or_else(|| answer(&made))))
        }
        // It may have ended since.
        Err(accounts::Error::InFlight) => match idempotency::answered(&state.app, &request).await? {
            Some(kept) => Ok(Done::Before(kept)),
            None => Err(accounts::Error::InFlight),
        },
        Err(error) => Err(error),
    }
}

/// The requests by name that this process is at work for. A client that does not wait for the answer makes us hash a password
/// once and not each time it asks again; what decides is the lock in the database.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashSet<[u8; 32]>>);

/// A place among them, until it is dropped.
struct Place<'a>(&'a InFlight, [u8; 32]);

impl InFlight {
    fn enter(&self, name: [u8; 32]) -> accounts::Result<Place<'_>> {
        let is_new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        if is_new { Ok(Place(self, name)) } else { Err(accounts::Error::InFlight) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// What is kept of an answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// All of it.
    Answer(Answer),
    /// It holds a secret: what was made is named, and no more is said again.
    Secret(Uuid),
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Answer {
    status: u16,
    etag: Option<String>,
    location: Option<String>,
    body: Box<RawValue>,
}

impl Kept {
    /// An answer whose body is JSON.
    pub(crate) fn answer(status: u16, etag: Option<&str>, location: Option<&str>, body: &Bytes) -> Self {
        // Our own JSON, which was serialised a moment ago.
        let body = serde_json::from_slice(body).unwrap_or_else(|_| RawValue::NULL.to_owned());
        let [etag, location] = [etag, location].map(|header| header.map(str::to_owned));
        Self::Answer(Answer { status, etag, location, body })
    }
}

/// An answer of which something may be kept, made of a `T`.
pub(crate) trait Keep<T>: ApiResponse + IntoResponse {
    fn keep(&self, made: &T) -> Kept;
}

/// An answer, or what was answered before.
pub(crate) enum Repeatable<R> {
    First(R),
    Again(Answer, PhantomData<R>),
}

impl<R> Repeatable<R> {
    pub(crate) fn is_first(&self) -> bool {
        matches!(self, Self::First(_))
    }
}

impl<R: IntoResponse> IntoResponse for Repeatable<R> {
    fn into_response(self) -> Response {
        let answer = match self {
            Self::First(first) => return first.into_response(),
            Self::Again(answer, _) => answer,
        };
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
        let mut response =
            Response::builder().status(status).content_type("application/json").header(REPLAYED, "true");
        for (name, value) in [(header::ETAG, answer.etag), (header::LOCATION, answer.location)] {
            if let Some(value) = value {
                response = response.header(name, value);
            }
        }
        response.body(Box::<str>::from(answer.body).into_string())
    }
}

impl<R: ApiResponse> ApiResponse for Repeatable<R> {
    fn meta() -> MetaResponses {
        let mut meta = R::meta();
        for response in &mut meta.responses {
            response.headers.push(MetaHeader {
                name: REPLAYED.into(),
                description: Some(
                    "`true` where this was answered before, to the same `Idempotency-Key`.".into(),
                ),
                required: false,
                deprecated: false,
                schema: bool::schema_ref(),
            });
        }
        meta
    }

    fn register(registry: &mut Registry) {
        R::register(registry);
    }
}
