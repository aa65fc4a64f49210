//! Makes the users of an import, batch by batch, from where the last attempt stopped.

use std::time::{Duration, Instant};

use tenantry_accounts::{
    ImportId, TenantId,
    imports::{self, Step},
};
use tenantry_jobs::ImportUsers;
use tenantry_queue::{Leased, Outcome};

use crate::Handlers;

/// After what time somebody looks again who found an import in other hands.
const BUSY: Duration = Duration::from_secs(2);

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let args: ImportUsers = match job.decode() {
        Ok(args) => args,
        Err(outcome) => return outcome,
    };
    let (tenant, id) = (TenantId(job.tenant), ImportId(args.import_id));
    let began = Instant::now();
    loop {
        match imports::step(&handlers.app, tenant, id).await {
            // Other jobs' turn.
            Ok(Step::Moved(_)) if began.elapsed() >= handlers.stretch => {
                return Outcome::Snooze(Duration::ZERO);
            }
            Ok(Step::Moved(_)) => {}
            Ok(Step::Busy(_)) => return Outcome::Snooze(BUSY),
            Ok(Step::Ended(_)) => return Outcome::Done,
            Ok(Step::Gone) => return Outcome::Cancel("there is no such import any more".into()),
            Err(error) => return Outcome::Retry(error.to_string()),
        }
    }
}
