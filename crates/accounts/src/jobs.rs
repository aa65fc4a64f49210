//! Jobs as people see them and act on them: who may, and within which tenant. What a job is, the queue knows.

use std::time::Duration;

use chrono::{DateTime, Utc};
use deadpool_postgres::Client;
use serde_json::{Value, json};
use tenantry_jobs::Kind;
pub use tenantry_queue::{
    JobId,
    admin::{Attempt, Change, Filter, Record, State},
};
use tenantry_queue::{Options, admin};
use tokio_postgres::error::SqlState;

use crate::{
    Actor, App, Error, Result, TenantId,
    audit::{self, By},
    db::{self, Transaction},
    idempotency::Once,
    users::Role,
};

/// Kinds that administrators of a tenant may push: what these do is harmless however often it is done.
pub const PUSHED_BY_TENANTS: &[Kind] = &[Kind::VerifyEmail, Kind::InvitationEmail, Kind::SyncSubscription];

/// Kinds that they may cancel: those whose work is theirs to do without. By the others people learn of what was done to their
/// accounts, caches of what is void, and we of what is no longer paid for.
const CANCELLED_BY_TENANTS: &[Kind] = &[Kind::VerifyEmail, Kind::InvitationEmail];

/// The tenants whose jobs are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The actor's, or the one that a super administrator acts in.
    Tenant,
    /// All; for super administrators.
    All,
}

/// At most `limit` jobs, the newest first.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(
    app: &App,
    actor: Actor,
    scope: Scope,
    filter: Filter<'_>,
    limit: u32,
) -> Result<Vec<Record>> {
    let mut client = app.db.client().await?;
    let tx = begin(&mut client, actor, scope).await?;
    let tenant = (scope == Scope::Tenant).then_some(actor.tenant.0);
    let jobs = admin::list(&tx, &Filter { tenant, ..filter }, limit).await?;
    tx.commit().await?;
    Ok(jobs)
}

/// How many jobs there are, by kind and state.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn counts(app: &App, actor: Actor, scope: Scope) -> Result<Vec<admin::Count>> {
    let mut client = app.db.client().await?;
    let tx = begin(&mut client, actor, scope).await?;
    let tenant = (scope == Scope::Tenant).then_some(actor.tenant.0);
    let counts = admin::counts(&tx, tenant).await?;
    tx.commit().await?;
    Ok(counts)
}

/// One job.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoJob`].
pub async fn show(app: &App, actor: Actor, scope: Scope, id: JobId) -> Result<Record> {
    let mut client = app.db.client().await?;
    let tx = begin(&mut client, actor, scope).await?;
    let job = admin::show(&tx, id).await?.ok_or(Error::NoJob)?;
    tx.commit().await?;
    Ok(job)
}

/// A job to be enqueued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What it is about.
    pub kind: Kind,
    /// Its arguments.
    pub payload: Value,
    /// The earliest time it runs; none: now.
    pub run_at: Option<DateTime<Utc>>,
    /// Higher goes first.
    pub priority: i32,
    /// While a job of the tenant and kind with this key waits, that one is returned and none is made.
    pub unique_key: Option<String>,
}

/// Enqueues a job for the actor's tenant.
///
/// # Errors
/// [`Error::Forbidden`] unless the kind is one that the actor may push; [`Error::WrongPayload`] says what is wrong;
/// [`Error::InFlight`].
pub async fn push(app: &App, actor: Actor, job: NewJob, once: Once<Record>) -> Result<Record> {
    actor.require(Role::Admin)?;
    if actor.role < Role::SuperAdmin && !PUSHED_BY_TENANTS.contains(&job.kind) {
        return Err(Error::Forbidden);
    }
    let plain = job.unique_key.is_none() && job.run_at.is_none() && job.priority == 0;
    if actor.role < Role::SuperAdmin && job.kind == Kind::SyncSubscription && !plain {
        // One that waits for years under the key of a subscription would swallow every one that its events make.
        let message = "unique_key, run_at and priority of sync_subscription are the service's own";
        return Err(Error::WrongPayload(message.into()));
    }
    let app = app.clone();
    crate::to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        let once = once.begin(&tx).await?;
        let id = enqueue(&tx, actor.tenant, &job).await?;
        let record = admin::show(&tx, id).await?.ok_or(Error::NoJob)?;
        let detail = json!({"kind": job.kind});
        audit::record(&tx, actor.tenant, actor, "job.pushed", id.0, detail).await?;
        once.end(&app, &tx, &record).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(record)
    })
    .await
}

async fn enqueue(tx: &Transaction<'_>, tenant: TenantId, job: &NewJob) -> Result<JobId> {
    let NewJob { kind, payload, run_at, priority, unique_key } = job;
    let options = Options {
        run_at: *run_at,
        priority: *priority,
        unique_key: unique_key.as_deref(),
        ..Options::default()
    };
    tenantry_queue::push(tx, tenant.0, *kind, payload, options).await.map_err(|error| {
        match error.as_db_error() {
            Some(db) if *db.code() == SqlState::INVALID_PARAMETER_VALUE => {
                Error::WrongPayload(db.message().into())
            }
            // JSON may say it, and no text in the database can hold it.
            Some(db) if *db.code() == SqlState::UNTRANSLATABLE_CHARACTER => {
                Error::WrongPayload("payload must not contain NUL characters".into())
            }
            _ => error.into(),
        }
    })
}

/// What is done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Tries one that failed, was cancelled or is dead again, at once and with all its attempts.
    Retry,
    /// Ends one that waits or runs.
    Cancel,
}

/// Does something with a job; returns it as it is then.
///
/// # Errors
/// [`Error::Forbidden`], also for those below super administrators who would cancel a kind that they may not push;
/// [`Error::NoJob`]; [`Error::JobState`] when it is in a state in which this cannot be done.
pub async fn act(app: &App, actor: Actor, scope: Scope, id: JobId, action: Action) -> Result<Record> {
    let (_, record) = change(app, actor, scope, id, action, "cancelled by an administrator".into()).await?;
    Ok(record)
}

/// The same by an operator, whatever tenant the job is of, with a reason to cancel it; returns the state it was in.
///
/// # Errors
/// As [`act`].
pub async fn operate(app: &App, id: JobId, action: Action, reason: &str) -> Result<State> {
    let operator = Actor::operator(TenantId::SYSTEM);
    let (was, _) = change(app, operator, Scope::All, id, action, reason.to_owned()).await?;
    Ok(was)
}

async fn change(
    app: &App,
    actor: Actor,
    scope: Scope,
    id: JobId,
    action: Action,
    reason: String,
) -> Result<(State, Record)> {
    let app = app.clone();
    crate::to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = begin_change(&mut client, actor, scope).await?;
        let job = admin::show(&tx, id).await?.ok_or(Error::NoJob)?;
        let is_theirs = CANCELLED_BY_TENANTS.iter().any(|kind| kind.as_str() == job.kind);
        if action == Action::Cancel && actor.role < Role::SuperAdmin && !is_theirs {
            return Err(Error::Forbidden);
        }
        let (change, name) = match action {
            Action::Retry => (admin::retry(&tx, job.tenant_id, id).await?, "job.retried"),
            Action::Cancel => (admin::cancel(&tx, job.tenant_id, id, &reason).await?, "job.cancelled"),
        };
        let was = match change {
            Change::Made(was) => was,
            Change::Refused(state) => return Err(Error::JobState(state.as_str())),
            Change::NoJob => return Err(Error::NoJob),
        };
        let record = admin::show(&tx, id).await?.ok_or(Error::NoJob)?;
        let tenant = TenantId(job.tenant_id);
        audit::record(&tx, tenant, actor, name, id.0, json!({"kind": job.kind})).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok((was, record))
    })
    .await
}

/// Tries the dead jobs of a kind again, up to 1,000 of them, the oldest first; returns how many there were.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn retry_dead(app: &App, actor: Actor, scope: Scope, kind: Kind) -> Result<u64> {
    let app = app.clone();
    crate::to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = begin_change(&mut client, actor, scope).await?;
        let tenant = (scope == Scope::Tenant).then_some(actor.tenant.0);
        let retried = admin::redrive(&tx, kind, tenant, BATCH).await?;
        let detail = json!({"kind": kind, "jobs": retried});
        let subject = actor.tenant.0;
        audit::record(&tx, actor.tenant, actor, "job.dead_retried", subject, detail).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(retried)
    })
    .await
}

/// A transaction for the shell, which looks at all tenants.
///
/// # Errors
/// When the database cannot be asked.
pub async fn as_operator(client: &mut Client) -> Result<Transaction<'_>> {
    db::as_system(client).await
}

/// Tries all dead jobs of a kind again, in batches of a transaction each; `progress` learns how many there were so far.
///
/// # Errors
/// When the database cannot be asked.
pub async fn redrive(
    app: &App,
    kind: Kind,
    tenant: Option<TenantId>,
    mut progress: impl FnMut(u64),
) -> Result<u64> {
    batches(app, &mut progress, async |tx| {
        let some = admin::redrive(tx, kind, tenant.map(|tenant| tenant.0), BATCH).await?;
        if some > 0 {
            let (trail, detail) = (tenant.unwrap_or(TenantId::SYSTEM), json!({"kind": kind, "jobs": some}));
            audit::record(tx, trail, By::OPERATOR, "job.dead_retried", trail.0, detail).await?;
        }
        Ok(some)
    })
    .await
}

/// Removes all jobs that ended so in one of `states` longer than `keep` ago, in batches of a transaction each.
///
/// # Errors
/// When the database cannot be asked.
pub async fn purge(
    app: &App,
    states: &[State],
    keep: Duration,
    tenant: Option<TenantId>,
    mut progress: impl FnMut(u64),
) -> Result<u64> {
    batches(app, &mut progress, async |tx| {
        let some = admin::purge(tx, states, keep, tenant.map(|tenant| tenant.0), BATCH).await?;
        if some > 0 {
            let states: Vec<_> = states.iter().map(|state| state.as_str()).collect();
            let (trail, detail) =
                (tenant.unwrap_or(TenantId::SYSTEM), json!({"states": states, "jobs": some}));
            audit::record(tx, trail, By::OPERATOR, "job.purged", trail.0, detail).await?;
        }
        Ok(some)
    })
    .await
}

/// How many rows one transaction changes: locks are short, and whoever is stopped has done what it has said.
const BATCH: u32 = 1000;

async fn batches(
    app: &App,
    progress: &mut impl FnMut(u64),
    batch: impl AsyncFn(&Transaction<'_>) -> Result<u64>,
) -> Result<u64> {
    let mut client = app.db.client().await?;
    let mut all = 0;
    loop {
        let tx = db::as_system(&mut client).await?;
        let some = batch(&tx).await?;
        tx.commit().await?;
        app.db.nudge();
        all += some;
        progress(all);
        if some < u64::from(BATCH) {
            return Ok(all);
        }
    }
}

/// As [`begin`], for a change: refused when the actor may no longer act.
async fn begin_change(client: &mut Client, actor: Actor, scope: Scope) -> Result<Transaction<'_>> {
    match scope {
        Scope::Tenant => {
            actor.require(Role::Admin)?;
            db::as_actor(client, actor, actor.tenant).await
        }
        Scope::All => begin(client, actor, scope).await,
    }
}

async fn begin(client: &mut Client, actor: Actor, scope: Scope) -> Result<Transaction<'_>> {
    match scope {
        Scope::Tenant => {
            actor.require(Role::Admin)?;
            db::as_tenant(client, actor.tenant).await
        }
        Scope::All => {
            actor.require(Role::SuperAdmin)?;
            let tx = db::as_system(client).await?;
            db::stands(&tx, actor).await?;
            Ok(tx)
        }
    }
}
