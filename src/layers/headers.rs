//! What every answer says beside its own.

use std::{sync::LazyLock, time::Duration};

use poem::{
    Response,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header},
};
use tenantry_trace::Work;

use super::{
    admission::Admission,
    asked::{Asked, Counts},
    timing, trace,
};
use crate::state::State;

pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// For two years, as browsers' lists of such sites want it; of this name alone, since others may be somebody else's. Over plain
/// HTTP it means nothing: it is for whoever speaks TLS.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

/// Writes them.
pub(super) fn finish(
    response: &mut Response,
    state: &State,
    asked: Asked,
    admission: Admission,
    (work, took): (&Work, Duration),
) {
    let status = response.status();
    let headers = response.headers_mut();
    // To copy them all and put the answer's own in their places costs less than to look for each.
    let own = std::mem::replace(headers, ALWAYS.clone());
    headers.extend(own);
    if state.leaving.is_cancelled() && asked.version < Version::HTTP_2 {
        // Or the client would ask on this connection when it is about to be closed.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    headers.insert(REQUEST_ID, asked.id);
    trace::answer(asked.trace, headers);
    let went_well = status.is_success() || status == StatusCode::NOT_MODIFIED;
    let may_know = admission.is_known() && asked.counts != Counts::Always && went_well;
    timing::note(headers, took, may_know.then_some(work));
    admission.verdict.write(headers);
    if asked.is_tls {
        headers.entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
    }
    cors(headers, state, asked.origin, asked.is_preflight);
}

/// Helmet's set, with a policy for an API: its answers are data and load nothing. Pages bring their own policy.
static ALWAYS: LazyLock<HeaderMap> = LazyLock::new(|| {
    const POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
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
    ];
    headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
});

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
