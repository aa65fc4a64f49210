//! Connections and requests: who may ask, what goes wrong on purpose, and the headers of answers.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};

use crate::{
    API_VERSION, Shared, api, browsers, checkout, control, error::Error, events, faults::Fate, form::Params,
    idempotency::Kept, pages, state::State, store, subscriptions,
};

const LARGEST_BODY: usize = 1024 * 1024;

/// The first version whose items have the period; older objects look otherwise, and this fake has none of them.
const OLDEST_VERSION: &str = "2025-03-31";

pub(crate) type Answer = Response<Full<Bytes>>;

/// No answer: the connection is closed.
#[derive(Debug)]
pub(crate) struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

/// Serves connections, for ever. They end with this.
pub(crate) async fn run(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors; some will be free again.
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let shared = shared.clone();
        connections.spawn(async move {
            // Small answers go out at once.
            let _ = stream.set_nodelay(true);
            let serve = service_fn(move |request| {
                let shared = shared.clone();
                // A task of its own: a client that goes away must not leave a key in flight for ever.
                async move { tokio::spawn(answer(shared, request)).await.unwrap_or(Err(Cut)) }
            });
            // It ends by the client, or by a cut: neither is news.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

/// Time passes by itself, for what is on no test clock.
pub(crate) async fn tick(shared: Arc<Shared>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        pass(&shared);
        // What cannot be written now is tried again, and said to whoever changes something next.
        let _ = store::save(&shared).await;
    }
}

fn pass(shared: &Shared) {
    let mut state = shared.lock();
    let events = state.made("evt");
    pass_in(&mut state);
    let happened = state.made("evt") > events;
    drop(state);
    if happened {
        shared.changed();
    }
}

/// What was due by now happens.
pub(crate) fn pass_in(state: &mut State) {
    state.request = (None, None);
    let now = state.now();
    subscriptions::run_until(state, "", now);
    checkout::expire_due(state);
}

/// A request that has been read to its end.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    query: String,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn params(&self) -> Result<Params, Error> {
        let form = self
            .header("content-type")
            .is_none_or(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if !form && !self.body.is_empty() {
            return Err(Error::invalid(
                "The request body must be form-encoded (application/x-www-form-urlencoded).",
            ));
        }
        let mut params = Params::default();
        params.read(self.query.as_bytes())?;
        params.read(&self.body)?;
        Ok(params)
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, Cut> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|_| Cut)?.to_bytes();
    let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
    let asked = Asked { method: head.method, path, query, headers: head.headers, body };
    if let Err(error) = browsers::admit(&shared, &asked) {
        return Ok(json(error.status, pretty(&error.body())));
    }
    let answer = match asked.path.split('/').nth(1) {
        Some("v1") => v1(&shared, &asked).await,
        Some("_fake") => Ok(control::answer(&shared, &asked).await),
        _ => Ok(pages::answer(&shared, &asked)),
    };
    if asked.method != Method::GET {
        shared.changed();
        if let Err(error) = store::save(&shared).await {
            let error = Error::unsaved(&error);
            return Ok(json(error.status, pretty(&error.body())));
        }
    }
    answer
}

async fn v1(shared: &Shared, asked: &Asked) -> Result<Answer, Cut> {
    let id = shared.lock().id("req");
    let key = asked.header("idempotency-key").filter(|_| asked.method == Method::POST).map(str::to_owned);
    let outcome = work(shared, asked, &id, key.as_deref()).await?;
    let (status, body, replayed) = match outcome {
        Ok(Done::Now(status, body)) => (status, body, None),
        Ok(Done::Before(kept)) => (kept.status, kept.body, Some(kept.request)),
        Err(error) => (error.status, pretty(&error.body()), None),
    };
    let mut answer = json(status, body);
    let headers = answer.headers_mut();
    let version = asked.header("stripe-version").unwrap_or(API_VERSION);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("request-id", &id);
    set("stripe-version", version);
    if let Some(key) = &key {
        set("idempotency-key", key);
    }
    if let Some(original) = &replayed {
        set("idempotent-replayed", "true");
        set("original-request", original);
    }
    Ok(answer)
}

enum Done {
    Now(u16, String),
    /// The answer that the key has already.
    Before(Kept),
}

/// A refusal is an error within; without an answer there is `Cut`.
async fn work(
    shared: &Shared,
    asked: &Asked,
    id: &str,
    key: Option<&str>,
) -> Result<Result<Done, Error>, Cut> {
    let (route, params, fate, lag, latency) = {
        let mut state = shared.lock();
        let admitted = admit(shared, asked).and_then(|()| version(asked));
        let route = asked.path.strip_prefix("/v1/").and_then(|path| api::route(asked.method.as_str(), path));
        let name = route.as_ref().map_or("unknown", |route| route.name.as_str());
        *state.counts.entry(name.to_owned()).or_default() += 1;
        let faults = state.faults.api.clone();
        let fate = state.dice.request(&faults);
        match fate {
            Fate::Cut => return Err(Cut),
            Fate::RateLimited => return Ok(Err(Error::rate_limited())),
            Fate::Failed => return Ok(Err(Error::internal())),
            Fate::Fine | Fate::FailedAfter | Fate::CutAfter => {}
        }
        let route = match (admitted, route) {
            (Err(error), _) => return Ok(Err(error)),
            (_, None) => return Ok(Err(Error::no_route(asked.method.as_str(), &asked.path))),
            (_, Some(route)) => route,
        };
        let params = match asked.params() {
            Ok(params) => params,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(key) = key {
            let request = [asked.path.as_bytes(), b"?", asked.query.as_bytes(), b"\n", &asked.body].concat();
            let now = state.now();
            match state.keys.begin(key, &request, now) {
                Err(error) => return Ok(Err(error)),
                Ok(Some(kept)) => return Ok(Ok(Done::Before(kept))),
                Ok(None) => {}
            }
        }
        let one = route.name == "GET /v1/subscriptions/{id}";
        let lag = if one { state.dice.lag(&faults) } else { None };
        (route, params, fate, lag, state.dice.latency(&faults))
    };
    sleep(latency.0).await;
    let outcome = {
        let mut state = shared.lock();
        state.request = (Some(id.to_owned()), key.map(str::to_owned));
        let result = match lag {
            Some(lag) => events::as_it_was(&state, &route.id, state.now() - lag),
            None => api::call(&mut state, &route, params),
        };
        state.request = (None, None);
        let result = if fate == Fate::FailedAfter { result.and(Err(Error::internal())) } else { result };
        let (status, body, keep) = match &result {
            Ok(value) => (200, pretty(value), true),
            Err(error) => (error.status, pretty(&error.body()), error.is_kept()),
        };
        if let Some(key) = key {
            let kept = Kept { status, body: body.clone(), request: id.to_owned() };
            state.keys.end(key, keep.then_some(kept));
        }
        Done::Now(status, body)
    };
    shared.wake.notify_one();
    sleep(latency.1).await;
    if fate == Fate::CutAfter { Err(Cut) } else { Ok(Ok(outcome)) }
}

/// By bearer token, or as the user name of basic authentication.
fn admit(shared: &Shared, asked: &Asked) -> Result<(), Error> {
    let given = asked.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = given.and_then(|given| {
        let (scheme, rest) = given.split_once(' ')?;
        match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(rest.trim().to_owned()),
            "basic" => {
                let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
                Some(text.split(':').next()?.to_owned())
            }
            _ => None,
        }
    });
    let key = key.filter(|key| !key.is_empty()).ok_or_else(|| {
        Error::unauthorized(
            "You did not provide an API key. Provide it in the Authorization header, using Bearer auth.",
        )
    })?;
    let known = match &shared.api_key {
        Some(known) => *known == key,
        None => key.starts_with("sk_") || key.starts_with("rk_"),
    };
    if known { Ok(()) } else { Err(Error::unauthorized("Invalid API Key provided")) }
}

/// Names of versions begin with their day.
fn version(asked: &Asked) -> Result<(), Error> {
    match asked.header("stripe-version") {
        Some(version) if version.get(..10).is_none_or(|day| day < OLDEST_VERSION) => {
            Err(Error::invalid(format!(
                "Invalid Stripe API version: {version}. This fake has the objects of {API_VERSION}, and none from before \
             {OLDEST_VERSION}."
            )))
        }
        _ => Ok(()),
    }
}

pub(crate) fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(crate) fn json(status: u16, body: String) -> Answer {
    with(status, "application/json", body)
}

pub(crate) fn with(status: u16, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    answer
}
