//! What happens around every request: its id, its log line, its metrics, its headers, its limit, its errors.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, PathPattern, Request, Response,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, uri::Scheme},
    web::RemoteAddr,
};
use tenantry_accounts::{Network, api_keys::Presented};
use tenantry_cache::planted::{self, Bug};
use tenantry_trace::Work;
use tokio::time::timeout;
use tracing::Instrument;

use crate::{
    caller::{self, Credential},
    error::ApiError,
    limits::Verdict,
    slow_body::Awaited,
    state::State,
    timing, trace,
};

/// Bodies of ordinary requests; what needs more says so itself.
const BODY_LIMIT: usize = 64 * 1024;

/// Of a thousand users at once.
const BULK_LIMIT: usize = 1024 * 1024;

/// Of webhooks: an event holds a whole object.
const WEBHOOK_LIMIT: usize = 512 * 1024;

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long the rows of an import may take to come. Whoever sends nothing for a while is cut off long before.
const UPLOAD_DEADLINE: Duration = Duration::from_secs(3600);

const IMPORTS: &str = "/api/v1/users/imports";
const BULK_USERS: &str = "/api/v1/users/bulk";
const STRIPE_WEBHOOK: &str = "/api/v1/webhooks/stripe";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// For two years, as browsers' lists of such sites want it; of this name alone, since others may be somebody else's. Over plain
/// HTTP it means nothing: it is for whoever speaks TLS.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");

const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// Who is at the other end, as the limits and the list of sessions see it.
#[derive(Clone)]
pub(crate) struct Client {
    /// Past the trusted proxies; none on a socket that has no addresses.
    pub(crate) address: Option<IpAddr>,
    pub(crate) user_agent: String,
}

impl Client {
    /// What is remembered of the address in the audit trail.
    pub(crate) fn network(&self) -> Option<Network> {
        self.address.map(Network::of)
    }
}

/// Serves one request with `routes`, from its first line to its last header. Never fails.
pub(crate) async fn around<E: Endpoint<Output = Response>>(
    state: State,
    routes: Arc<E>,
    mut request: Request,
) -> Response {
    let start = Instant::now();
    let is_tls = *request.scheme() == Scheme::HTTPS;
    let id = request_id(&request);
    let (method, version) = (request.method().clone(), request.version());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let problem_details = prefers_problem_details(&request);
    let client = Client { address: address(&state, &request), user_agent: user_agent(&request) };
    let counted = counts(&request);
    let preflight =
        method == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);

    let revocations = &state.app.revocations;
    // Nobody is let in on the word of a token or a key that may have been revoked longer ago than is allowed.
    let knows = revocations.lag() <= state.config.revocation_max_lag || planted::bug(Bug::AnswersBlindly);
    let (mut credential, unknown_key) = at_hand(&state, &request);
    let mut verdict = Verdict::default();
    let mut trouble = None;
    if let Some(address) = client.address
        && !preflight
        && (counted == Counts::Always || counted == Counts::Unsigned && credential.is_none())
    {
        state.limits.count_address(address, &mut verdict);
    }
    if let Some(key) = unknown_key.filter(|_| verdict.is_admitted() && !preflight) {
        // Counted first: whoever makes keys up has us ask the database no more often than anybody without one.
        match timeout(DEADLINE, state.api_keys.look_up(&state.app, &key)).await {
            Ok(Ok(found)) => credential = found.map_or(Credential::None, Credential::Key),
            Ok(Err(error)) => trouble = Some(error.into()),
            Err(_) => trouble = Some(late()),
        }
    }
    if counted != Counts::Never && !preflight && verdict.is_admitted() {
        state.limits.count_caller(&credential, &mut verdict).await;
    }
    let admitted = trouble.map_or_else(|| verdict.result(), Err);
    let knows = knows || credential.is_none();
    let (user, api_key) = credential.names();
    request.set_data(credential);
    request.set_data(client);
    request.set_data(state.clone());

    let trace = trace::of(request.headers());
    let work = Work::new(trace);
    let span = tracing::info_span!(
        "request", request.id = %id.to_str().unwrap_or_default(),
        trace.id = %trace.trace_id(), span.id = %trace.span_id()
    );
    let answer = async {
        admitted?;
        if !knows {
            return Err(ApiError::unavailable(
                "Whether you are still signed in cannot be told at the moment",
                1,
            )
            .into());
        }
        if preflight {
            return Ok(Response::builder().status(StatusCode::NO_CONTENT).finish());
        }
        let body = limit_body(&state, &mut request)?;
        let deadline = if is_upload(&request) { UPLOAD_DEADLINE } else { DEADLINE };
        // Whatever a database or a Redis that hangs does, the client gets an answer. Changes go on to their end.
        timeout(deadline, routes.call(request)).await.unwrap_or_else(|_| Err(late_for(&body).into()))
    };
    let answer = AssertUnwindSafe(tenantry_trace::within(work.clone(), answer).instrument(span.clone()))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(parent: &span, "a handler panicked");
            Err(ApiError::internal().into())
        });
    let (route, mut response) = match answer {
        Ok(response) => (response.data::<PathPattern>().map(route), response),
        Err(error) => {
            let route = error.data::<PathPattern>().map(route);
            let error = span.in_scope(|| ApiError::from(error));
            (route, error.into_response(id.to_str().unwrap_or_default(), problem_details))
        }
    };

    let took = start.elapsed();
    let route = route.as_deref().unwrap_or("unknown");
    let status = response.status();
    metrics::counter!("tenantry_http_requests_total", "route" => route.to_owned(), "method" => known(&method), "status" => status.as_str().to_owned()).increment(1);
    metrics::histogram!("tenantry_http_request_duration_seconds", "route" => route.to_owned())
        .record(took.as_secs_f64());
    // The pattern and not the path: a path may carry what nobody should read.
    tracing::info!(
        parent: &span,
        http.method = known(&method), http.route = route, http.status = status.as_u16(),
        duration.ms = took.as_secs_f64() * 1e3, user.id = user.map(tracing::field::display),
        api_key.id = api_key.map(tracing::field::display),
        "{} {route} {}", known(&method), status.as_u16()
    );

    let headers = response.headers_mut();
    if state.leaving.is_cancelled() && version < Version::HTTP_2 {
        // Or the client would ask on this connection when it is about to be closed.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(REQUEST_ID, id);
    trace::answer(trace, headers);
    let may_know = (user.is_some() || api_key.is_some()) && counted != Counts::Always && status.is_success();
    timing::note(headers, took, may_know.then_some(&work));
    verdict.write(headers);
    secure(headers);
    if is_tls {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
    }
    cors(headers, &state, origin, preflight);
    response
}

fn late() -> ApiError {
    ApiError::unavailable("This took too long, please try again", 1)
}

fn late_for(body: &Awaited) -> ApiError {
    if body.now() { ApiError::slow_body() } else { late() }
}

/// What the request came with as far as this process knows by itself, and the key that it would have to ask for.
fn at_hand(state: &State, request: &Request) -> (Credential, Option<Presented>) {
    let Some(text) = caller::bearer(request) else { return (Credential::None, None) };
    let revocations = &state.app.revocations;
    if !Presented::looks_like_one(text) {
        let claims = state.tokens.verify(text).filter(|claims| revocations.stands(&claims.basis()));
        return (claims.map_or(Credential::None, Credential::Token), None);
    }
    let Some(key) = Presented::parse(text) else { return (Credential::None, None) };
    match state.api_keys.remembered(revocations, &key) {
        Some(known) => (Credential::Key(known), None),
        None => (Credential::None, Some(key)),
    }
}

/// Whether a request counts against the limit by client address.
#[derive(PartialEq, Eq)]
enum Counts {
    /// What nobody is signed in for: guessing passwords is not free for those who are.
    Always,
    /// Unless it carries a valid credential.
    Unsigned,
    Never,
}

fn counts(request: &Request) -> Counts {
    let path = request.uri().path().trim_end_matches('/');
    match path {
        "/api/v1/auth/register"
        | "/api/v1/auth/login"
        | "/api/v1/auth/refresh"
        | "/api/v1/auth/verify-email"
        | "/api/v1/auth/resend-verification"
        | "/api/v1/auth/forgot-password"
        | "/api/v1/auth/reset-password"
        | "/api/v1/invitations/accept" => Counts::Always,
        "/api/v1/tenants" | "/verify-email" | "/reset-password" | "/accept-invitation"
            if request.method() == Method::POST =>
        {
            Counts::Always
        }
        // Stripe sends from few addresses, and is known by its signature.
        STRIPE_WEBHOOK => Counts::Never,
        _ if path.starts_with("/api/") => Counts::Unsigned,
        _ => Counts::Never,
    }
}

/// The pattern of a path as the document writes it. (poem-openapi calls the parameters `param0` and `param1`.)
fn route(pattern: &PathPattern) -> String {
    pattern.0.replace(":param0", "{id}").replace(":param1", "{project_id}")
}

/// The client's own id for the request when it is harmless, else a new one.
fn request_id(request: &Request) -> HeaderValue {
    let harmless = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    request
        .header("x-request-id")
        .filter(harmless)
        .and_then(|id| HeaderValue::from_str(id).ok())
        .or_else(|| HeaderValue::from_str(&uuid::Uuid::now_v7().to_string()).ok())
        .unwrap_or(HeaderValue::from_static("none"))
}

fn user_agent(request: &Request) -> String {
    request.header("user-agent").unwrap_or_default().chars().take(200).collect()
}

fn address(state: &State, request: &Request) -> Option<IpAddr> {
    let RemoteAddr(address) = request.remote_addr();
    address.as_socket_addr().map(|peer| state.limits.client(peer.ip(), request.headers()))
}

/// RFC 9457 for those who ask for it, unless they would rather have the envelope.
fn prefers_problem_details(request: &Request) -> bool {
    let lines = request.headers().get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let ranges: Vec<_> = lines.flat_map(|line| line.split(',')).map(range).collect();
    let weight = |wanted: &str| {
        let ranges = ranges.iter().filter(|(kind, _)| kind.eq_ignore_ascii_case(wanted));
        ranges.map(|(_, weight)| *weight).fold(0.0, f32::max)
    };
    let problem = weight("application/problem+json");
    problem > 0.0 && problem >= weight("application/json")
}

/// A media range and its weight (RFC 9110, 12.5.1).
fn range(range: &str) -> (&str, f32) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (kind, weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
}

/// Refuses a body that says it is too large, and cuts off one that does not say. (poem's SizeLimit answers 411 to a
/// GET.)
fn limit_body(state: &State, request: &mut Request) -> poem::Result<Awaited> {
    let awaited = Awaited::default();
    let limit = if is_upload(request) { state.config.import_max_bytes } else { body_limit(request) as u64 };
    let declared = request.header("content-length").and_then(|length| length.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(poem::error::SizedLimitError::PayloadTooLarge.into());
    }
    if is_upload(request) {
        // Counted as it comes.
        return Ok(awaited);
    }
    let body = request.take_body();
    if !body.is_empty() {
        use tokio::io::AsyncReadExt;
        // One byte more than allowed may be read, so that a body of just the limit is told from a longer one.
        let body = awaited.watch(Box::pin(body.into_async_read()));
        request.set_body(poem::Body::from_async_read(body.take(limit + 1)));
    }
    Ok(awaited)
}

/// Whether the body is read as it comes, however long that takes.
fn is_upload(request: &Request) -> bool {
    request.method() == Method::POST && request.original_uri().path().trim_end_matches('/') == IMPORTS
}

fn body_limit(request: &Request) -> usize {
    match request.original_uri().path() {
        BULK_USERS => BULK_LIMIT,
        STRIPE_WEBHOOK => WEBHOOK_LIMIT,
        _ => BODY_LIMIT,
    }
}

/// Whether a body was cut off at the limit.
pub(crate) fn is_too_large(request: &Request, body: &[u8]) -> bool {
    body.len() > body_limit(request)
}

/// A method as a metric's label: the known ones, so that clients cannot make labels up.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Helmet's set, with a policy for an API: its answers are data and load nothing. Pages bring their own policy.
fn secure(headers: &mut HeaderMap) {
    const SECURITY: [(HeaderName, HeaderValue); 11] = [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("origin-agent-cluster"), HeaderValue::from_static("?1")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_DNS_PREFETCH_CONTROL, HeaderValue::from_static("off")),
        (HeaderName::from_static("x-download-options"), HeaderValue::from_static("noopen")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (HeaderName::from_static("x-permitted-cross-domain-policies"), HeaderValue::from_static("none")),
        (header::X_XSS_PROTECTION, HeaderValue::from_static("0")),
    ];
    for (name, value) in SECURITY {
        headers.entry(name).or_insert(value);
    }
    // Data of signed-in people is nobody's to keep but the client's own, which may ask with If-None-Match.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
}

/// Lets the listed origins call with credentials. Others get the answer without the permission, and their browser
/// keeps it from them.
fn cors(headers: &mut HeaderMap, state: &State, origin: Option<HeaderValue>, preflight: bool) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else { return };
    if !state.config.allowed_origins.iter().any(|allowed| allowed.0.as_bytes() == origin.as_bytes()) {
        return;
    }
    // Its scripts may also see how long what took.
    headers.insert(TIMING_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    if preflight {
        const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS");
        const ALLOWED: HeaderValue = HeaderValue::from_static(
            "Content-Type, Authorization, X-Tenant-ID, X-Request-Id, X-Min-Version, If-Match, If-None-Match, \
             Idempotency-Key, Traceparent",
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    } else {
        const EXPOSED: HeaderValue = HeaderValue::from_static(
            "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id, X-Process-Time, X-Cache, \
             Idempotency-Replayed, Traceresponse, Server-Timing",
        );
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}
