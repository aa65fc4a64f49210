//! How long an answer took, and what of that: `X-Process-Time` and `Server-Timing`.

use std::{fmt::Write, time::Duration};

use poem::http::{HeaderMap, HeaderName, HeaderValue};
use tenantry_trace::Work;

const PROCESS_TIME: HeaderName = HeaderName::from_static("x-process-time");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const X_CACHE: HeaderName = HeaderName::from_static("x-cache");

/// Notes that an answer took so long; what for, if whoever asked may know. Nobody else does: how long the database was busy
/// would tell whether there is an account.
pub(crate) fn note(headers: &mut HeaderMap, took: Duration, parts: Option<&Work>) {
    let micros = took.as_micros();
    if let Ok(seconds) = HeaderValue::try_from(format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)) {
        headers.insert(PROCESS_TIME, seconds);
    }
    let mut timing = String::with_capacity(64);
    // Writing to a string cannot fail.
    let _ = write!(timing, "total;dur={}.{:03}", micros / 1_000, micros % 1_000);
    if let Some(work) = parts {
        if let Some(level) = headers.get(X_CACHE).and_then(|level| level.to_str().ok()) {
            let _ = write!(timing, ", cache;desc={level}");
        }
        let database = work.in_database();
        if database > Duration::ZERO {
            let _ = write!(timing, ", db;dur={:.3}", database.as_secs_f64() * 1e3);
        }
    }
    if let Ok(timing) = HeaderValue::try_from(timing) {
        headers.insert(SERVER_TIMING, timing);
    }
}
