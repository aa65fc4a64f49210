//! Spans as OTLP has them.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status, span::SpanKind, status::StatusCode},
};
use tenantry_trace::{Finished, Kind, Value};

use crate::Service;

/// Whose spans they are, as each message says it.
pub(crate) struct Resource {
    resource: resource::v1::Resource,
    scope: InstrumentationScope,
}

impl Resource {
    pub(crate) fn new(service: &Service) -> Self {
        let attributes = [
            ("service.name", service.name.clone()),
            ("service.version", service.version.to_owned()),
            ("service.instance.id", service.instance.clone()),
        ];
        let attributes = attributes.map(|(key, text)| attribute(key, Value::from(text)));
        Self {
            resource: resource::v1::Resource { attributes: attributes.into(), ..Default::default() },
            scope: InstrumentationScope {
                name: "tenantry".into(),
                version: service.version.into(),
                ..Default::default()
            },
        }
    }

    /// The message that hands these over.
    pub(crate) fn hand_over(&self, spans: Vec<Finished>) -> ExportTraceServiceRequest {
        let spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: spans.into_iter().map(span).collect(),
            ..Default::default()
        };
        let spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            ..Default::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![spans] }
    }
}

fn span(span: Finished) -> Span {
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    };
    // Who serves or works off what was left is called by another process; the rest is called from here.
    let remote = matches!(span.kind, Kind::Server | Kind::Consumer) && span.trace.parent_id().is_some();
    let known = SpanFlags::ContextHasIsRemoteMask as u32;
    let remote = if remote { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    let code = if span.failed { StatusCode::Error } else { StatusCode::Unset };
    Span {
        trace_id: span.trace.trace_id().to_bytes().into(),
        span_id: span.trace.span_id().to_bytes().into(),
        parent_span_id: span.trace.parent_id().map(|id| id.to_bytes().into()).unwrap_or_default(),
        flags: u32::from(span.trace.flags()) | known | remote,
        name: span.name.into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.into_iter().map(|(key, value)| attribute(key, value)).collect(),
        status: Some(Status { code: code.into(), ..Default::default() }),
        ..Default::default()
    }
}

fn attribute(key: &str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.into_owned()),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn nanos(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
