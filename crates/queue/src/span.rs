//! Spans of jobs: one of whoever enqueues, one of each attempt. They tell no argument of a job.

use tenantry_jobs::Kind;
use tenantry_trace::{Kind as Side, Span, Trace};

use crate::Leased;

/// So many jobs are enqueued by the work of this task. They have the trace of that work, which is not this span's child.
pub(crate) fn enqueues(kind: Kind, jobs: usize) -> Span {
    let mut span = Span::child(Side::Producer, "send");
    if let Some(span) = span.recorded() {
        span.name = format!("send {kind}").into();
        span.set("messaging.system", "tenantry");
        span.set("messaging.operation.name", "send");
        span.set("messaging.operation.type", "send");
        span.set("messaging.destination.name", kind.as_str());
        if jobs > 1 {
            span.set("messaging.batch.message_count", i64::try_from(jobs).unwrap_or(i64::MAX));
        }
    }
    span
}

/// An attempt at a job.
pub(crate) fn attempts(trace: Trace, job: &Leased) -> Span {
    let mut span = Span::of(trace, Side::Consumer, "process");
    if let Some(span) = span.recorded() {
        span.name = format!("process {}", job.kind).into();
        span.set("messaging.system", "tenantry");
        span.set("messaging.operation.name", "process");
        span.set("messaging.operation.type", "process");
        span.set("messaging.destination.name", job.kind.as_str());
        span.set("messaging.message.id", job.id.to_string());
        span.set("tenantry.job.attempt", i64::from(job.attempt));
    }
    span
}

/// How an attempt ended, as it is counted.
pub(crate) fn ended(span: &mut Span, outcome: &'static str) {
    span.set("tenantry.job.outcome", outcome);
    if !["done", "snoozed", "cancelled"].contains(&outcome) {
        span.fail(outcome);
    }
}
