//! Removes jobs that were done or cancelled long enough ago, with the notes on their mails. The dead stay.

use std::time::Duration;

use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

/// How long jobs that are done or cancelled are kept.
const KEEP: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    in_batches(|batch| tenantry_queue::prune(handlers.app.db.pool(), KEEP, batch)).await
}
