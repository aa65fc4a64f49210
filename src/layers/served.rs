//! The span of a request, for those who have traces exported.

use poem::http::{StatusCode, Version};
use tenantry_trace::{Kind, Span};

use super::{asked::Asked, traffic};

/// A request that is being served. Nothing, unless its trace is recorded.
pub(super) struct Served(Span);

impl Served {
    pub(super) fn begin(asked: &Asked) -> Self {
        let mut span = Span::of(asked.trace, Kind::Server, "HTTP");
        if let Some(span) = span.recorded() {
            // No path, address, agent or query: see docs/operations.md for what is never told.
            let known = Some(traffic::known(&asked.method)).filter(|method| *method != "other");
            span.name = known.unwrap_or("HTTP").into();
            span.set("http.request.method", known.unwrap_or("_OTHER"));
            span.set("url.scheme", if asked.is_tls { "https" } else { "http" });
            span.set("network.protocol.version", version(asked.version));
            span.set("tenantry.request_id", asked.id().to_owned());
        }
        Self(span)
    }

    pub(super) fn end(mut self, route: &str, status: StatusCode) {
        let mut span = std::mem::take(&mut self.0);
        let Some(span) = span.recorded() else { return };
        if route != "unknown" {
            span.name = format!("{} {route}", span.name).into();
            span.set("http.route", route.to_owned());
        }
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            span.fail(status.as_str().to_owned());
        }
    }
}

/// Its client has gone before there was an answer. What it has begun may go on to its end all the same.
impl Drop for Served {
    fn drop(&mut self) {
        self.0.fail("cancelled");
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
