//! Makes room for the audit events of the months to come, and drops the months that were kept long enough.

use tenantry_accounts::audit;
use tenantry_queue::Outcome;

use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers) -> Outcome {
    match audit::rotate(&handlers.app).await {
        Ok(dropped) => {
            if dropped > 0 {
                tracing::info!("dropped {dropped} months of the audit trail");
            }
            Outcome::Done
        }
        Err(error) => Outcome::Retry(error.to_string()),
    }
}
