//! Removes users who were deleted long enough ago, with all that is theirs, API keys that ended as long ago, and imports that
//! are kept no longer; the audit trail stays.

use std::time::Duration;

use tenantry_accounts::{
    Error, api_keys, imports,
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
        let keys = api_keys::purge(app, KEEP, batch).await?;
        Ok::<_, Error>(users.max(keys).max(imports::purge(app, batch).await?))
    })
    .await
}
