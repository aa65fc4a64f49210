use std::{any::Any, time::Duration};

use futures_util::future::BoxFuture;
use tenantry_trace::{Trace, Work};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{Leased, Outcome, span, store::Store};

/// Runs the handler on `job` in a task of its own and stores the outcome. A panic or a time-out is a failure of the
/// job and of nothing else; a lease that is lost ends the attempt. Dropping this stops the handler at its next await.
pub(crate) async fn attempt<H>(
    store: &Store,
    tasks: &TaskTracker,
    handler: &H,
    job: Leased,
    lost: CancellationToken,
) where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
{
    // What it enqueues goes on in the same trace.
    let trace = job.trace.map_or_else(Trace::begin, Trace::child);
    let span = info_span!(
        "job", trace.id = %trace.trace_id(), span.id = %trace.span_id(),
        job.id = %job.id, job.kind = %job.kind, job.attempt = job.attempt, tenant.id = %job.tenant
    );
    let mut recorded = span::attempts(trace, &job);
    let ended = async {
        tokio::select! {
            outcome = outcome(tasks, handler.clone(), job.clone()) => settle(store, &job, &outcome, &lost).await,
            () = lost.cancelled() => lease_lost(&job),
        }
    };
    let outcome = tenantry_trace::within(Work::new(trace), ended).instrument(span).await;
    span::ended(&mut recorded, outcome);
}

async fn outcome<H>(tasks: &TaskTracker, handler: H, job: Leased) -> Outcome
where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
{
    let limit = job.kind.policy().timeout;
    let task = tasks.spawn(tenantry_trace::carried(async move { handler(job).await }));
    match tokio::time::timeout(limit, AbortOnDropHandle::new(task)).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(stopped)) => Outcome::Retry(match stopped.try_into_panic() {
            Ok(panic) => format!("panicked: {}", message(panic.as_ref())),
            Err(_) => "the handler was stopped".to_owned(),
        }),
        Err(_) => Outcome::Retry(format!("took longer than {} s", limit.as_secs_f64())),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Stores the outcome, for as long as that takes while the database is away: otherwise the job would run again. Says as what it is
/// counted.
pub(crate) async fn settle(
    store: &Store,
    job: &Leased,
    outcome: &Outcome,
    lost: &CancellationToken,
) -> &'static str {
    let mut pause = Duration::from_millis(50);
    loop {
        match store.settle(job, outcome).await {
            Ok(Some(state)) => return settled(job, outcome, &state),
            Ok(None) => return lease_lost(job),
            Err(cause) if cause.passes() => warn!(error = ?cause, "storing the outcome failed, trying again"),
            Err(cause) => {
                error!(error = ?cause, "storing the outcome was refused; the job runs again when its lease ends");
                return count(job.kind, "unsettled");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_secs(1)),
            () = lost.cancelled() => return lease_lost(job),
        }
    }
}

fn settled(job: &Leased, outcome: &Outcome, state: &str) -> &'static str {
    match (state, outcome) {
        ("done", _) => info!("done"),
        ("cancelled", Outcome::Cancel(reason)) => info!("cancelled: {reason}"),
        ("dead", Outcome::Dead(reason) | Outcome::Retry(reason)) => error!("dead: {reason}"),
        ("failed", Outcome::Retry(reason)) => warn!("failed, to be tried again: {reason}"),
        _ => info!("is {state}"),
    }
    let counted = match state {
        "done" => "done",
        "cancelled" => "cancelled",
        "dead" => "dead",
        "failed" => "failed",
        _ => "snoozed",
    };
    count(job.kind, counted)
}

fn lease_lost(job: &Leased) -> &'static str {
    warn!("the lease is lost: another worker has the job, or it was cancelled");
    count(job.kind, "lost")
}

/// Counts it, and says as what.
pub(crate) fn count(kind: tenantry_jobs::Kind, outcome: &'static str) -> &'static str {
    metrics::counter!("tenantry_jobs_total", "kind" => kind.as_str(), "outcome" => outcome).increment(1);
    outcome
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use futures_util::FutureExt;
    use tenantry_jobs::Kind;
    use uuid::Uuid;

    use super::*;
    use crate::JobId;

    fn job() -> Leased {
        Leased {
            id: JobId(Uuid::now_v7()),
            tenant: Uuid::nil(),
            kind: Kind::InvalidateUser,
            payload: serde_json::json!({}),
            attempt: 1,
            max_attempts: 3,
            created_at: Utc::now(),
            lease: Uuid::new_v4(),
            trace: None,
            suspect: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_takes_too_long_has_failed() {
        let tasks = TaskTracker::new();
        let ended = outcome(&tasks, |_| std::future::pending().boxed(), job()).await;

        assert_eq!(ended, Outcome::Retry("took longer than 10 s".to_owned()));
        tasks.close();
        tasks.wait().await;
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_with_its_message() {
        let at_call = outcome(&TaskTracker::new(), |_| panic!("at the call"), job()).await;
        let inside = outcome(&TaskTracker::new(), |_| async { panic!("inside {}", 1) }.boxed(), job()).await;

        assert_eq!(at_call, Outcome::Retry("panicked: at the call".to_owned()));
        assert_eq!(inside, Outcome::Retry("panicked: inside 1".to_owned()));
    }
}
