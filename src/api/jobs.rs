//! `/jobs`.

mod fields;

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    types::Any,
};
use serde::Serialize;
use serde_json::Value;
use tenantry_accounts::{
    Actor, TenantId,
    idempotency::Namer,
    jobs::{self, Action, Filter, JobId, NewJob, Record, Scope, State as QueueState},
    users::Role,
};
use uuid::Uuid;

pub(super) use fields::Time;
use fields::{JobKind, Payload, Priority, UniqueKey};

use super::{
    Tag,
    body::{Body, body},
    envelope::{Answer, Cursor, Envelope},
    idempotency::{IdempotencyKey, Keep, Kept, Repeatable},
    params::{IdCursor, KindName, Limit, Param},
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct Jobs;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub(crate) enum JobState {
    /// Waits for its first attempt, or was put back.
    Pending,
    /// A worker has it.
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

impl From<QueueState> for JobState {
    fn from(state: QueueState) -> Self {
        match state {
            QueueState::Pending => Self::Pending,
            QueueState::Running => Self::Running,
            QueueState::Done => Self::Done,
            QueueState::Failed => Self::Failed,
            QueueState::Dead => Self::Dead,
            QueueState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<JobState> for QueueState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Pending => Self::Pending,
            JobState::Running => Self::Running,
            JobState::Done => Self::Done,
            JobState::Failed => Self::Failed,
            JobState::Dead => Self::Dead,
            JobState::Cancelled => Self::Cancelled,
        }
    }
}

/// Work that is done by a worker, after the change that asked for it.
#[derive(Debug, Serialize, Object)]
struct Job {
    /// Names the job.
    id: Uuid,
    /// Whose job it is.
    tenant_id: TenantId,
    /// What it is about.
    kind: String,
    /// Its arguments: ids, never personal data.
    payload: Any<Value>,
    /// Where it is in its life.
    state: JobState,
    /// Higher goes first.
    priority: i32,
    /// When it is, or was last, due.
    run_at: DateTime<Utc>,
    /// At most one waiting job of the tenant and kind has this key.
    #[oai(nullable)]
    unique_key: Option<String>,
    /// Attempts that counted.
    attempts: i32,
    /// It is dead after so many.
    max_attempts: i32,
    /// How often its worker died or hung while it ran.
    crashes: i32,
    /// Why the last attempt that did not succeed did not, or why the job is where it is.
    #[oai(nullable)]
    last_error: Option<String>,
    /// The trace of the request that asked for it, as log lines name it (W3C Trace Context).
    #[oai(nullable)]
    trace_id: Option<String>,
    /// When it was enqueued.
    created_at: DateTime<Utc>,
    /// When its last attempt started.
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    /// When it was done, dead or cancelled.
    #[oai(nullable)]
    finished_at: Option<DateTime<Utc>>,
    /// The last twenty attempts that did not succeed, the oldest first.
    history: Vec<Attempt>,
}

/// An attempt that did not succeed.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "JobAttempt")]
struct Attempt {
    /// 1 for the first.
    attempt: i32,
    /// The worker; null unless you are a super administrator.
    #[oai(nullable)]
    worker: Option<String>,
    /// When it started.
    #[oai(nullable)]
    started_at: Option<DateTime<Utc>>,
    /// When it ended.
    ended_at: DateTime<Utc>,
    /// `failed`, `crashed`, `snoozed`, `released`, `cancelled` or `dead`.
    outcome: String,
    /// Why.
    #[oai(nullable)]
    error: Option<String>,
}

/// How many jobs of a kind are in a state.
#[derive(Debug, Serialize, Object)]
struct JobCount {
    /// What they are about.
    kind: String,
    /// Where they are in their lives.
    state: JobState,
    /// How many.
    jobs: i64,
    /// When the oldest of those that wait was, or will be, due.
    #[oai(nullable)]
    oldest_run_at: Option<DateTime<Utc>>,
}

/// How many jobs there are.
#[derive(Debug, Serialize, Object)]
struct JobCounts {
    /// By kind and state.
    counts: Vec<JobCount>,
}

body! {
    /// A job to be enqueued.
    pub(crate) struct PushJob {
        /// What it is about.
        kind: JobKind,
        /// Its arguments, as openapi/jobs.schema.json describes them.
        payload: Payload,
        /// The earliest time it runs; now when left out.
        run_at: Option<Time>,
        /// Higher goes first; 0 when left out.
        priority: Option<Priority>,
        /// While a job of the tenant and kind with this key waits, that one is returned and none is made. It has no NUL
        /// characters.
        unique_key: Option<UniqueKey>,
    }
}

body! {
    /// Which dead jobs are tried again.
    pub(crate) struct RetryDead {
        /// What they are about.
        kind: JobKind,
    }
}

/// How many jobs are tried again.
#[derive(Debug, Serialize, Object)]
struct Retried {
    /// At most 1,000; ask again while it is as many.
    retried: u64,
}

#[derive(ApiResponse)]
enum JobPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<Job>, Cursor>),
}

#[derive(ApiResponse)]
enum JobPushed {
    /// The job, which waits.
    #[oai(status = 201)]
    Pushed(
        Envelope<Job>,
        /// Where it is to be found.
        #[oai(header = "Location")]
        String,
    ),
}

impl Keep<Record> for JobPushed {
    fn keep(&self, _: &Record) -> Kept {
        let Self::Pushed(envelope, location) = self;
        Kept::answer(201, None, Some(location), envelope.body())
    }
}

#[OpenApi(prefix_path = "/jobs", tag = "Tag::Jobs")]
impl Jobs {
    /// List jobs
    ///
    /// Those of your tenant, the newest first. For administrators; super administrators may see all tenants'.
    #[oai(path = "/", method = "get", operation_id = "listJobs")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Jobs in this state only.
        #[oai(name = "state")]
        wanted: Query<Param<JobState>>,
        /// Jobs of this kind only.
        kind: Query<Param<KindName>>,
        /// Jobs of all tenants; for super administrators.
        all_tenants: Query<Param<bool>>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<IdCursor>>,
    ) -> Result<JobPage, ApiError> {
        let mut errors = vec![];
        let before = cursor.0.take("cursor", &mut errors).map(|cursor| JobId(cursor.0));
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        let wanted = wanted.0.take("state", &mut errors).map(QueueState::from);
        let kind = kind.0.take("kind", &mut errors).map(|KindName(kind)| kind);
        let scope = scope(all_tenants.0.take("all_tenants", &mut errors));
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let filter = Filter { tenant: None, state: wanted, kind: kind.as_deref(), before };
        let most = u32::try_from(limit).unwrap_or(u32::MAX);
        // One more than asked for tells whether there is a next part.
        let found = jobs::list(&state.app, *caller, scope, filter, most + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.id.0);
        let found: Vec<_> = found.into_iter().map(|record| job(record, &caller)).collect();
        Ok(JobPage::Page(Envelope::page(&found, &cursor)))
    }

    /// Count jobs
    ///
    /// By kind and state. For administrators; super administrators may count all tenants'.
    #[oai(path = "/counts", method = "get", operation_id = "countJobs")]
    async fn counts(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Jobs of all tenants; for super administrators.
        all_tenants: Query<Param<bool>>,
    ) -> Result<Answer<JobCounts>, ApiError> {
        let scope = scope_of(all_tenants.0)?;
        let counts = jobs::counts(&state.app, *caller, scope).await?.into_iter();
        let counts = counts.map(|count| JobCount {
            kind: count.kind,
            state: count.state.into(),
            jobs: count.jobs,
            oldest_run_at: count.oldest_run_at,
        });
        Ok(Answer::Ok(Envelope::of(&JobCounts { counts: counts.collect() })))
    }

    /// Enqueue a job
    ///
    /// For your tenant. Administrators may push jobs of the kinds `verify_email`, `invitation_email` and `sync_subscription` (this
    /// one without `unique_key`, `run_at` and `priority`); super administrators any.
    #[oai(path = "/", method = "post", operation_id = "pushJob")]
    async fn push(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<PushJob>,
    ) -> Result<Repeatable<JobPushed>, ApiError> {
        let PushJob { kind: JobKind(kind), payload: Payload(payload), run_at, priority, unique_key } = body.0;
        let new = NewJob {
            kind,
            payload,
            run_at: run_at.map(|Time(time)| time),
            priority: priority.map_or(0, |Priority(priority)| priority),
            unique_key: unique_key.map(|UniqueKey(key)| key),
        };
        let actor = *caller;
        let pushed = move |record: &Record| {
            let location = format!("/api/v1/jobs/{}", record.id);
            JobPushed::Pushed(Envelope::of(&job(record.clone(), &actor)), location)
        };
        key.once(&state, Namer::Actor(actor), pushed, |once| jobs::push(&state.app, actor, new, once)).await
    }

    /// Try all dead jobs of a kind again
    ///
    /// Up to 1,000 of them, the oldest first, each with all its attempts. For administrators.
    #[oai(path = "/retry-dead", method = "post", operation_id = "retryDeadJobs")]
    async fn retry_dead(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Those of all tenants; for super administrators.
        all_tenants: Query<Param<bool>>,
        body: Body<RetryDead>,
    ) -> Result<Answer<Retried>, ApiError> {
        let (scope, JobKind(kind)) = (scope_of(all_tenants.0)?, body.0.kind);
        let retried = jobs::retry_dead(&state.app, *caller, scope, kind).await?;
        Ok(Answer::Ok(Envelope::of(&Retried { retried })))
    }

    /// Get a job
    ///
    /// With the attempts that did not succeed. For administrators.
    #[oai(path = "/:id", method = "get", operation_id = "getJob")]
    async fn get(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The job's id.
        id: Path<Uuid>,
        /// Whatever tenant it is of; for super administrators.
        all_tenants: Query<Param<bool>>,
    ) -> Result<Answer<Job>, ApiError> {
        let scope = scope_of(all_tenants.0)?;
        let record = jobs::show(&state.app, *caller, scope, JobId(id.0)).await?;
        Ok(Answer::Ok(Envelope::of(&job(record, &caller))))
    }

    /// Try a job again
    ///
    /// One that failed, was cancelled or is dead: at once, with all its attempts. For administrators.
    #[oai(path = "/:id/retry", method = "post", operation_id = "retryJob")]
    async fn retry(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The job's id.
        id: Path<Uuid>,
        /// Whatever tenant it is of; for super administrators.
        all_tenants: Query<Param<bool>>,
    ) -> Result<Answer<Job>, ApiError> {
        act(&state, &caller, id.0, all_tenants.0, Action::Retry).await
    }

    /// Cancel a job
    ///
    /// One that waits or runs. Whoever runs it can no longer end it. For administrators, who cancel mails that they
    /// may push; super administrators cancel any.
    #[oai(path = "/:id/cancel", method = "post", operation_id = "cancelJob")]
    async fn cancel(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The job's id.
        id: Path<Uuid>,
        /// Whatever tenant it is of; for super administrators.
        all_tenants: Query<Param<bool>>,
    ) -> Result<Answer<Job>, ApiError> {
        act(&state, &caller, id.0, all_tenants.0, Action::Cancel).await
    }
}

async fn act(
    state: &State,
    caller: &Caller,
    id: Uuid,
    all_tenants: Param<bool>,
    action: Action,
) -> Result<Answer<Job>, ApiError> {
    let scope = scope_of(all_tenants)?;
    let record = jobs::act(&state.app, **caller, scope, JobId(id), action).await?;
    Ok(Answer::Ok(Envelope::of(&job(record, caller))))
}

fn scope_of(all_tenants: Param<bool>) -> Result<Scope, ApiError> {
    let mut errors = vec![];
    let all_tenants = all_tenants.take("all_tenants", &mut errors);
    if errors.is_empty() { Ok(scope(all_tenants)) } else { Err(ApiError::invalid(errors)) }
}

fn scope(all_tenants: Option<bool>) -> Scope {
    if all_tenants == Some(true) { Scope::All } else { Scope::Tenant }
}

/// Names of workers are names of machines: for super administrators.
fn job(record: Record, caller: &Actor) -> Job {
    let sees_workers = caller.role == Role::SuperAdmin;
    let attempts = record.history.into_iter().map(|attempt| Attempt {
        attempt: attempt.attempt,
        worker: attempt.worker.filter(|_| sees_workers),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
        outcome: attempt.outcome,
        error: attempt.error,
    });
    Job {
        id: record.id.0,
        tenant_id: TenantId(record.tenant_id),
        kind: record.kind,
        payload: Any(record.payload),
        state: record.state.into(),
        priority: record.priority,
        run_at: record.run_at,
        unique_key: record.unique_key,
        attempts: record.attempts,
        max_attempts: record.max_attempts,
        crashes: record.crashes,
        last_error: record.last_error,
        trace_id: record.trace_id,
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        history: attempts.collect(),
    }
}
