//! How large the body of a request may be, and how long it may take to come.

use std::time::Duration;

use poem::{
    Request,
    http::{Method, header},
};
use tokio::io::AsyncReadExt;

use super::slow_body::Awaited;
use crate::state::State;

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
pub(super) const STRIPE_WEBHOOK: &str = "/api/v1/webhooks/stripe";

/// How long this request may take.
pub(super) fn deadline(request: &Request) -> Duration {
    if is_upload(request) { UPLOAD_DEADLINE } else { DEADLINE }
}

/// Refuses a body that says it is too large, and cuts off one that does not say. (poem's SizeLimit answers 411 to a
/// GET.) `awaited` learns whether the client is waited for.
pub(super) fn limit(state: &State, request: &mut Request, awaited: &Awaited) -> poem::Result<()> {
    let limit = if is_upload(request) { state.config.import_max_bytes } else { body_limit(request) as u64 };
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit) {
        return Err(poem::error::SizedLimitError::PayloadTooLarge.into());
    }
    if is_upload(request) {
        // Counted as it comes.
        return Ok(());
    }
    let body = request.take_body();
    if !body.is_empty() {
        // One byte more than allowed may be read, so that a body of just the limit is told from a longer one.
        let body = awaited.watch(Box::pin(body.into_async_read()));
        request.set_body(poem::Body::from_async_read(body.take(limit + 1)));
    }
    Ok(())
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
