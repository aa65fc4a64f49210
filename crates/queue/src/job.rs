use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use serde::{Deserialize, Serialize};
use tenantry_jobs::{Job, Kind};
use tenantry_trace::Trace;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// The id of a job, unique within its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub Uuid);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A job that is this worker's until its lease ends.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The job.
    pub id: JobId,
    /// Whose job it is: handlers select by this tenant and an id of the payload, never by the payload alone.
    pub tenant: Uuid,
    /// What it is about.
    pub kind: Kind,
    /// The arguments; see [`Leased::decode`].
    pub payload: serde_json::Value,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The job is dead after this many attempts.
    pub max_attempts: u32,
    /// When the job was enqueued.
    pub created_at: DateTime<Utc>,
    /// Proves that the job is ours; another worker that gets the job gets another one.
    pub lease: Uuid,
    /// The trace of whoever enqueued it.
    pub trace: Option<Trace>,
    /// Its worker died or hung while it ran, and it has not ended an attempt since: it runs alone.
    pub suspect: bool,
}

impl Leased {
    /// The arguments as `J`. The error is the outcome that buries the job, since a payload never mends itself:
    /// `let args: VerifyEmail = match job.decode() { Ok(args) => args, Err(outcome) => return outcome };`
    pub fn decode<J: Job>(&self) -> Result<J, Outcome> {
        // serde's message may quote the value, and a payload may be personal: only the place is told.
        J::deserialize(&self.payload)
            .map_err(|_| Outcome::Dead(format!("payload does not fit a {} job", self.kind)))
    }
}

/// How an attempt ended. Panics and time-outs count as `Retry`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It failed: again after the kind's back-off, dead after its last attempt.
    Retry(String),
    /// It is no longer wanted, for this reason.
    Cancel(String),
    /// Not yet: again after this time, without counting the attempt.
    Snooze(Duration),
    /// It can never work: a dead letter, for a person to look at.
    Dead(String),
}

/// Completes `job` inside the transaction of its effect: both happen or neither. The handler then returns
/// [`Outcome::Done`]. The transaction may be the tenant's or the system's.
///
/// After an error the transaction can only roll back, even if it is committed by mistake.
pub async fn complete(tx: &Transaction<'_>, job: &Leased) -> Result<(), CompleteError> {
    let params: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] =
        &[(&job.tenant, Type::UUID), (&job.id.0, Type::UUID), (&job.lease, Type::UUID)];
    match tx.query_typed("select tenantry.complete_job($1, $2, $3)", params).await {
        Ok(_) => Ok(()),
        Err(error) if error.code().is_some_and(|code| code.code() == LEASE_LOST) => {
            Err(CompleteError::LeaseLost)
        }
        Err(error) => Err(CompleteError::Database(error)),
    }
}

/// Raised by `complete_job`.
const LEASE_LOST: &str = "TN001";

/// The job was not completed; roll back.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// Another worker has the job, or it was cancelled.
    #[error("the lease of this job is lost: roll back, another worker has it")]
    LeaseLost,
    /// The database failed or refused.
    #[error("completing the job failed: roll back")]
    Database(#[source] tokio_postgres::Error),
}
