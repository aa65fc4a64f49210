//! Spans of calls to Redis. They tell what is called, never a key or a value.

use tenantry_trace::{Kind, Span};

use crate::Unreachable;

/// The span of a call or of several at once, by the name that calls have in the metrics.
pub(super) fn begin(call: &'static str) -> Span {
    let mut span = Span::child(Kind::Client, "EVALSHA");
    if let Some(span) = span.recorded() {
        let (command, script) = match call {
            "read" => ("HMGET", None),
            "follow" => ("GET", None),
            "point" => ("SET", None),
            "unlink" => ("DEL", None),
            script => ("EVALSHA", Some(script)),
        };
        span.set("db.system.name", "redis");
        span.set("db.operation.name", command);
        match script {
            Some(script) => {
                span.name = format!("{command} {script}").into();
                span.set("db.stored_procedure.name", script);
            }
            None => span.name = command.into(),
        }
    }
    span
}

pub(super) fn end<T>(span: &mut Span, result: &Result<T, Unreachable>) {
    match result {
        Ok(_) => {}
        Err(Unreachable::TimedOut) => span.fail("timeout"),
        Err(_) => span.fail("failed"),
    }
}
