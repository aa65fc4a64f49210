//! Removes users who were deleted long enough ago, with all that is theirs; the audit trail stays.

use std::time::Duration;

use tenantry_accounts::users;
use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

/// How long a deleted user is kept.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    in_batches(|batch| users::purge_deleted(&handlers.app, KEEP, batch)).await
}
