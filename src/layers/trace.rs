//! W3C trace context of requests: `traceparent` in, `traceresponse` out.
//!
//! `tracestate` ends here: it is for those whom we would call in turn, and we hand the trace on to jobs alone, whose rows are no
//! place for whatever text a stranger sends.

use poem::http::{HeaderMap, HeaderName, HeaderValue};
use tenantry_trace::Trace;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Of Level 3, an editor's draft: the trace, and our span in it.
pub(crate) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The span of a request: of the trace that it says it belongs to, else of a new one.
pub(super) fn of(headers: &HeaderMap) -> Trace {
    let mut sent = headers.get_all(TRACEPARENT).iter();
    match (sent.next().map(HeaderValue::to_str), sent.next()) {
        // Of two nobody knows which is meant.
        (Some(Ok(text)), None) => text.parse().map_or_else(|_| Trace::begin(), Trace::received),
        _ => Trace::begin(),
    }
}

/// What is answered of it.
pub(super) fn answer(trace: Trace) -> HeaderValue {
    HeaderValue::from_bytes(&trace.text()).unwrap_or(HeaderValue::from_static(""))
}
