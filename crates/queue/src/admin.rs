//! The queue as an operator sees and changes it.
//!
//! Everything here runs in the caller's transaction, which has taken the tenant's role or the system's: the first sees
//! and changes its own tenant's jobs only, whatever it asks for.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tenantry_jobs::Kind;
use tokio_postgres::{
    Error, Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::JobId;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its first attempt, or was put back.
    Pending,
    /// Leased by a worker.
    Running,
    /// Its effect has happened.
    Done,
    /// Waits for its next attempt.
    Failed,
    /// Given up, for a person to look at.
    Dead,
    /// No longer wanted.
    Cancelled,
}

impl State {
    /// Every state there is.
    pub const ALL: &'static [State] =
        &[State::Pending, State::Running, State::Done, State::Failed, State::Dead, State::Cancelled];

    /// The state as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Dead => "dead",
            State::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(name: &str) -> Result<Self, UnknownState> {
        State::ALL.iter().copied().find(|state| state.as_str() == name).ok_or(UnknownState)
    }
}

/// There is no state of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown state of a job; the states are pending, running, done, failed, dead, cancelled")]
pub struct UnknownState;

/// A job, all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Its id.
    pub id: JobId,
    /// Whose job it is.
    pub tenant_id: Uuid,
    /// What it is about; a program of another version may know kinds that we do not.
    pub kind: String,
    /// The arguments; null when they cannot be read.
    pub payload: Value,
    /// Where it is in its life.
    pub state: State,
    /// Higher goes first.
    pub priority: i32,
    /// When it is, or was last, due.
    pub run_at: DateTime<Utc>,
    /// At most one waiting job of the tenant and kind has this key.
    pub unique_key: Option<String>,
    /// Attempts that counted.
    pub attempts: i32,
    /// It is dead after so many.
    pub max_attempts: i32,
    /// How often its worker died or hung while it ran.
    pub crashes: i32,
    /// It runs alone in its process, because that happened the last time.
    pub suspect: bool,
    /// The worker that has it, or had it last.
    pub leased_by: Option<String>,
    /// Why the last attempt that did not succeed did not, or why the job is where it is.
    pub last_error: Option<String>,
    /// The trace of whoever enqueued it; log lines of both have its id.
    pub trace_id: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When its last attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it was done, dead or cancelled.
    pub finished_at: Option<DateTime<Utc>>,
    /// The last twenty attempts that did not succeed, the oldest first.
    pub history: Vec<Attempt>,
}

/// An attempt that did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first; one that did not count has the number of the next.
    pub attempt: i32,
    /// The worker.
    pub worker: Option<String>,
    /// When it started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, or was found to have ended.
    pub ended_at: DateTime<Utc>,
    /// `failed`, `crashed`, `snoozed`, `released` (the worker stopped), `cancelled` or `dead`.
    pub outcome: String,
    /// Why.
    pub error: Option<String>,
}

/// Which jobs a list holds; the default is all that the transaction may see.
#[derive(Debug, Clone, Default)]
pub struct Filter<'a> {
    /// Of this tenant only.
    pub tenant: Option<Uuid>,
    /// In this state only.
    pub state: Option<State>,
    /// Of this kind only.
    pub kind: Option<&'a str>,
    /// Older than this one: the last id of the page before.
    pub before: Option<JobId>,
}

const COLUMNS: &str = "id, tenant_id, kind, payload::text as payload, state, priority, run_at, unique_key, attempts, \
     max_attempts, crashes, suspect, leased_by, last_error, \
     substr(traceparent, 4, 32) as trace_id, created_at, started_at, finished_at, history";

/// At most `limit` jobs, the newest first.
///
/// # Errors
/// When the database fails or refuses.
pub async fn list(tx: &Transaction<'_>, filter: &Filter<'_>, limit: u32) -> Result<Vec<Record>, Error> {
    let before = filter.before.map(|id| id.0);
    let limit = i64::from(limit);
    // Conditions that are there or not, so that each combination has a plan of its own.
    let mut sql = format!("select {COLUMNS} from tenantry.jobs where true");
    let mut params: Vec<(&(dyn ToSql + Sync), Type)> = Vec::new();
    if let Some(tenant) = &filter.tenant {
        params.push((tenant, Type::UUID));
        sql += &format!(" and tenant_id = ${}", params.len());
    }
    if let Some(state) = filter.state {
        // As a literal: it decides which partial index serves.
        sql += &format!(" and state = '{state}'");
    }
    if let Some(kind) = &filter.kind {
        params.push((kind, Type::TEXT));
        sql += &format!(" and kind = ${}", params.len());
    }
    if let Some(before) = &before {
        params.push((before, Type::UUID));
        sql += &format!(" and id < ${}", params.len());
    }
    params.push((&limit, Type::INT8));
    sql += &format!(" order by id desc limit ${}", params.len());
    tx.query_typed(&sql, &params).await?.iter().map(Record::try_from).collect()
}

/// One job, whatever tenant it is of; none when there is none or it is behind the wall.
///
/// # Errors
/// When the database fails or refuses.
pub async fn show(tx: &Transaction<'_>, id: JobId) -> Result<Option<Record>, Error> {
    let sql = format!("select {COLUMNS} from tenantry.jobs where id = $1");
    let rows = tx.query_typed(&sql, &[(&id.0, Type::UUID)]).await?;
    rows.first().map(Record::try_from).transpose()
}

/// How many jobs of a kind are in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Count {
    /// What they are about.
    pub kind: String,
    /// Where they are in their lives.
    pub state: State,
    /// How many.
    pub jobs: i64,
    /// For those that wait: when the oldest was, or will be, due.
    pub oldest_run_at: Option<DateTime<Utc>>,
}

/// How many jobs there are, of one tenant or, as the system, of all. It reads them all: for people, not for polling.
///
/// # Errors
/// When the database fails or refuses.
pub async fn counts(tx: &Transaction<'_>, tenant: Option<Uuid>) -> Result<Vec<Count>, Error> {
    let sql = "select kind, state, count(*) as jobs,
                 min(run_at) filter (where state in ('pending', 'failed')) as oldest_run_at
               from tenantry.jobs where $1::uuid is null or tenant_id = $1 group by kind, state order by kind, state";
    let count = |row: &Row| {
        Ok(Count {
            kind: row.try_get("kind")?,
            state: row.try_get::<_, &str>("state")?.parse().unwrap_or(State::Dead),
            jobs: row.try_get("jobs")?,
            oldest_run_at: row.try_get("oldest_run_at")?,
        })
    };
    tx.query_typed(sql, &[(&tenant, Type::UUID)]).await?.iter().map(count).collect()
}

/// What became of a request to change a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was in this state and has been changed.
    Made(State),
    /// It is in this state, in which it cannot be changed so; nothing happened.
    Refused(State),
    /// The tenant has no such job.
    NoJob,
}

impl Change {
    fn from(was: Option<String>, from: &[State]) -> Self {
        match was.and_then(|state| state.parse().ok()) {
            Some(state) if from.contains(&state) => Change::Made(state),
            Some(state) => Change::Refused(state),
            None => Change::NoJob,
        }
    }
}

/// Tries a job that failed, was cancelled or is dead again: at once, with all its attempts. What was parked because
/// its worker died with it runs alone.
///
/// # Errors
/// When the database fails, or the job is of another tenant than the transaction.
pub async fn retry(tx: &Transaction<'_>, tenant: Uuid, id: JobId) -> Result<Change, Error> {
    let params: &[(&(dyn ToSql + Sync), Type)] = &[(&tenant, Type::UUID), (&id.0, Type::UUID)];
    let rows = tx.query_typed("select tenantry.requeue_job($1, $2)", params).await?;
    let was = rows.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(Change::from(was, &[State::Failed, State::Cancelled, State::Dead]))
}

/// Cancels a job that waits or runs. Whoever runs it is stopped at the next heartbeat, and can no longer end it or
/// commit what it does in the transaction that completes it.
///
/// # Errors
/// When the database fails, or the job is of another tenant than the transaction.
pub async fn cancel(tx: &Transaction<'_>, tenant: Uuid, id: JobId, reason: &str) -> Result<Change, Error> {
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&tenant, Type::UUID), (&id.0, Type::UUID), (&reason, Type::TEXT)];
    let rows = tx.query_typed("select tenantry.cancel_job($1, $2, $3)", params).await?;
    let was = rows.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(Change::from(was, &[State::Pending, State::Failed, State::Running]))
}

/// Tries up to `batch` dead jobs of a kind again, the oldest first, of one tenant or, as the system, of all; returns how
/// many there were. Fewer than `batch`: those were all.
///
/// # Errors
/// When the database fails, or the jobs are of another tenant than the transaction.
pub async fn redrive(
    tx: &Transaction<'_>,
    kind: Kind,
    tenant: Option<Uuid>,
    batch: u32,
) -> Result<u64, Error> {
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&kind.as_str(), Type::TEXT), (&tenant, Type::UUID), (&batch, Type::INT4)];
    count(tx, "select tenantry.redrive_jobs($1, $2, $3)", params).await
}

/// Removes up to `batch` jobs that came to one of `states` longer than `keep` ago, of one tenant or, as the system, of
/// all; returns how many. Of states other than done, cancelled and dead nothing is removed.
///
/// # Errors
/// When the database fails, or the jobs are of another tenant than the transaction.
pub async fn purge(
    tx: &Transaction<'_>,
    states: &[State],
    keep: Duration,
    tenant: Option<Uuid>,
    batch: u32,
) -> Result<u64, Error> {
    let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&states, Type::TEXT_ARRAY),
        (&keep.as_secs_f64(), Type::FLOAT8),
        (&tenant, Type::UUID),
        (&batch, Type::INT4),
    ];
    count(tx, "select tenantry.purge_jobs($1, make_interval(secs => $2), $3, $4)", params).await
}

async fn count(
    tx: &Transaction<'_>,
    sql: &str,
    params: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, Error> {
    let rows = tx.query_typed(sql, params).await?;
    Ok(rows.first().map(|row| row.try_get::<_, i64>(0)).transpose()?.unwrap_or(0).unsigned_abs())
}

impl TryFrom<&Row> for Record {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: JobId(row.try_get("id")?),
            tenant_id: row.try_get("tenant_id")?,
            kind: row.try_get("kind")?,
            // JSON to the database may be more than it is to us.
            payload: serde_json::from_str(row.try_get("payload")?).unwrap_or_default(),
            // A check keeps other states out.
            state: row.try_get::<_, &str>("state")?.parse().unwrap_or(State::Dead),
            priority: row.try_get("priority")?,
            run_at: row.try_get("run_at")?,
            unique_key: row.try_get("unique_key")?,
            attempts: row.try_get("attempts")?,
            max_attempts: row.try_get("max_attempts")?,
            crashes: row.try_get("crashes")?,
            suspect: row.try_get("suspect")?,
            leased_by: row.try_get("leased_by")?,
            last_error: row.try_get("last_error")?,
            trace_id: row.try_get("trace_id")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            history: serde_json::from_value(row.try_get("history")?).unwrap_or_default(),
        })
    }
}
