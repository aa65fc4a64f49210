//! Removes jobs that were done or cancelled long enough ago, with the notes on their mails, and the answers that are no longer
//! kept for requests that come again. The dead stay.

use std::time::Duration;

use tenantry_accounts::idempotency;
use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

/// How long jobs that are done or cancelled are kept.
const KEEP: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    match in_batches(|batch| idempotency::prune(&handlers.app, batch)).await {
        Outcome::Done => in_batches(|batch| tenantry_queue::prune(handlers.app.db.pool(), KEEP, batch)).await,
        unfinished => unfinished,
    }
}
