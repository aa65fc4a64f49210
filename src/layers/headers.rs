//! What every answer says beside its own.

use std::sync::LazyLock;

use poem::{
    Response,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
};

use super::{
    admission::Admission,
    asked::{Asked, Counts},
    timing::{self, SERVER_TIMING, Timing},
    trace::{self, TRACERESPONSE},
};
use crate::{
    api::{
        envelope::etag,
        look_up::{self, LookedUp},
    },
    limits::{self, Verdict},
    state::State,
};

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// For two years, as browsers' lists of such sites want it; of this name alone, since others may be somebody else's. Over plain
/// HTTP it means nothing: it is for whoever speaks TLS.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");
const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
/// Of what is yet to be filled in.
const EMPTY: HeaderValue = HeaderValue::from_static("");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Writes them around what a route has answered.
pub(super) fn finish(
    mut response: Response,
    state: &State,
    asked: Asked,
    admission: Admission,
    timing: &Timing<'_>,
) -> Response {
    let status = response.status();
    let headers = response.headers_mut();
    let went_well = status.is_success() || status == StatusCode::NOT_MODIFIED;
    let may_know = admission.is_known() && asked.counts != Counts::Always && went_well;
    let cache = headers.get(timing::X_CACHE).and_then(|level| level.to_str().ok());
    let server = timing.server(may_know, cache);
    let own = std::mem::replace(headers, ALL.frame(&asked, &admission.verdict, timing, server, []));
    headers.extend(own);
    headers.append(header::VARY, ORIGIN);
    depending(headers, state, asked);
    response
}

/// The answer to a look-up.
pub(super) fn looked_up(
    found: LookedUp,
    state: &State,
    asked: Asked,
    admission: Admission,
    timing: &Timing<'_>,
) -> Response {
    let level = look_up::name(found.level);
    let server = timing.server(true, Some(level));
    let own = [
        HeaderValue::try_from(etag(found.version)).unwrap_or(EMPTY),
        HeaderValue::from_static(level),
        JSON,
        ORIGIN,
    ];
    let mut response = match found.body {
        Some(body) => Response::builder().body(body),
        None => Response::builder().status(StatusCode::NOT_MODIFIED).finish(),
    };
    let headers = response.headers_mut();
    *headers = OF_LOOK_UPS.frame(&asked, &admission.verdict, timing, server, own);
    if response.status() == StatusCode::NOT_MODIFIED {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    depending(response.headers_mut(), state, asked);
    response
}

/// What depends on who asks, and on how.
fn depending(headers: &mut HeaderMap, state: &State, asked: Asked) {
    if state.leaving.is_cancelled() && asked.version < Version::HTTP_2 {
        // Or the client would ask on this connection when it is about to be closed.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if asked.is_tls {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
    }
    if let Some(origin) = asked.origin {
        cors(headers, state, origin, asked.is_preflight);
    }
}

/// Headers of which the first have yet to be filled in. To copy them and put each value in its place costs less than to look
/// for the places of twenty names.
struct Frame(HeaderMap);

/// In the order of [`FILLED`].
static ALL: LazyLock<Frame> = LazyLock::new(|| Frame::of(&[]));
static OF_LOOK_UPS: LazyLock<Frame> =
    LazyLock::new(|| Frame::of(&[header::ETAG, timing::X_CACHE, header::CONTENT_TYPE, header::VARY]));

const FILLED: [HeaderName; 6] =
    [REQUEST_ID, TRACERESPONSE, timing::PROCESS_TIME, SERVER_TIMING, limits::POLICY, limits::STATE];

impl Frame {
    fn of(own: &[HeaderName]) -> Self {
        let mut headers: HeaderMap = FILLED.iter().chain(own).map(|name| (name.clone(), EMPTY)).collect();
        headers.extend(ALWAYS.into_iter().map(|(name, value)| (Some(name), HeaderValue::from_static(value))));
        Self(headers)
    }

    fn frame<const N: usize>(
        &self,
        asked: &Asked,
        verdict: &Verdict,
        timing: &Timing<'_>,
        server: HeaderValue,
        own: [HeaderValue; N],
    ) -> HeaderMap {
        let mut headers = self.0.clone();
        let limits = verdict.headers();
        let is_limited = limits.is_some();
        let (policy, state) = limits.unwrap_or((EMPTY, EMPTY));
        let common = [asked.id.clone(), trace::answer(asked.trace), timing.total(), server, policy, state];
        for (place, value) in headers.values_mut().zip(common.into_iter().chain(own)) {
            *place = value;
        }
        if !is_limited {
            headers.remove(limits::POLICY);
            headers.remove(limits::STATE);
        }
        headers
    }
}

/// Helmet's set, with a policy for an API: its answers are data and load nothing. Pages bring their own policy.
const ALWAYS: [(HeaderName, &str); 12] = {
    const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("origin-agent-cluster"), "?1"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_DNS_PREFETCH_CONTROL, "off"),
        (HeaderName::from_static("x-download-options"), "noopen"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("x-permitted-cross-domain-policies"), "none"),
        (header::X_XSS_PROTECTION, "0"),
        // Data of signed-in people is nobody's to keep but the client's own, which may ask with If-None-Match.
        (header::CACHE_CONTROL, "private, no-cache"),
    ]
};

/// Lets the listed origins call with credentials. Others get the answer without the permission, and their browser
/// keeps it from them.
fn cors(headers: &mut HeaderMap, state: &State, origin: HeaderValue, preflight: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_comes_first_and_in_order() {
        let names = |frame: &Frame| frame.0.keys().cloned().collect::<Vec<_>>();
        for frame in [&ALL, &OF_LOOK_UPS] {
            assert_eq!(names(frame)[..FILLED.len()], FILLED);
            // A copy has the same order: values are put in by place.
            assert_eq!(names(frame), frame.0.clone().keys().cloned().collect::<Vec<_>>());
        }
        let own = [header::ETAG, timing::X_CACHE, header::CONTENT_TYPE, header::VARY];
        assert_eq!(names(&OF_LOOK_UPS)[FILLED.len()..][..own.len()], own);
    }
}
