//! Removes jobs that were done or cancelled long enough ago, with the notes on their mails, the answers that are no longer
//! kept for requests that come again, and sign-ins that are no longer counted. Jobs that are dead stay.

use std::time::Duration;

use tenantry_accounts::{idempotency, users::logins};
use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

/// How long jobs that are done or cancelled are kept.
const KEEP: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    let app = &handlers.app;
    match in_batches(|batch| idempotency::prune(app, batch)).await {
        Outcome::Done => {}
        unfinished => return unfinished,
    }
    match in_batches(|batch| logins::prune(app, batch)).await {
        Outcome::Done => in_batches(|batch| tenantry_queue::prune(app.db.pool(), KEEP, batch)).await,
        unfinished => unfinished,
    }
}
