//! Removes closed tenants that may no longer be opened again, with all that is theirs; the audit trail stays.

use tenantry_accounts::tenants;
use tenantry_queue::Outcome;

use crate::{Handlers, in_batches};

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    // Goes on for as long as there is such a tenant, however little a batch has removed.
    in_batches(|batch| async move {
        let more = tenants::purge(&handlers.app, batch).await?;
        Ok::<_, tenantry_accounts::Error>(if more { u64::from(batch) } else { 0 })
    })
    .await
}
