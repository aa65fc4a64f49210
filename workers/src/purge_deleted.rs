//! Removes users who were deleted long enough ago, with all that is theirs, and API keys that ended as long ago; the audit
//! trail stays.

use std::time::Duration;

use tenantry_accounts::{
    Error, api_keys,
    users::{self, DELETED_KEPT},
};
use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

/// How long an API key that has ended is kept: as long as a deleted user.
const KEEP: Duration = DELETED_KEPT;

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    let app = &handlers.app;
    in_batches(|batch| async move {
        let users = users::purge_deleted(app, DELETED_KEPT, batch).await?;
        Ok::<_, Error>(users.max(api_keys::purge(app, KEEP, batch).await?))
    })
    .await
}
