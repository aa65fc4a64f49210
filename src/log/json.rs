//! Lines of the log as JSON: time, level, what is said, from where, and the span that it is about, `{"timestamp":...,"level":"INFO",
//! "message":...,"target":...,"span":{...,"name":"request"}}`. Written at once and not by way of values: each request has a line.

use std::fmt::{self, Debug, Write};

use tenantry_trace::Work;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::Record,
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields, format::Writer},
    registry::LookupSpan,
};

use crate::clock;

/// The format.
pub(super) struct Json;

impl<S> FormatEvent<S, Self> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, Self>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        line.write_str(r#"{"timestamp":""#)?;
        line.write_str(std::str::from_utf8(clock::now::<6>().as_ref()).unwrap_or_default())?;
        line.write_str(r#"","level":""#)?;
        line.write_str(metadata.level().as_str())?;
        line.write_char('"')?;
        let mut members = Members { out: &mut line, is_first: false, result: Ok(()) };
        event.record(&mut members);
        members.result?;
        line.write_str(r#","target":"#)?;
        text(&mut line, metadata.target())?;
        let parent = event.parent().and_then(|id| context.span(id));
        if let Some(span) = parent.or_else(|| context.lookup_current()) {
            line.write_str(r#","span":{"#)?;
            if let Some(fields) = span.extensions().get::<FormattedFields<Self>>()
                && !fields.is_empty()
            {
                line.write_str(fields)?;
                line.write_char(',')?;
            }
            line.write_str(r#""name":"#)?;
            text(&mut line, span.name())?;
            line.write_char('}')?;
        } else {
            tenantry_trace::look(|work| request(&mut line, work)).unwrap_or(Ok(()))?;
        }
        line.write_str("}\n")
    }
}

/// The request that something is said of, as a span. (That of the subscriber is filled anew for each.)
pub(super) fn request(line: &mut impl Write, work: &Work) -> fmt::Result {
    let Some(id) = work.request_id() else { return Ok(()) };
    line.write_str(r#","span":{"request.id":""#)?;
    Escaped(&mut *line).write_str(id)?;
    line.write_str(r#"","trace.id":""#)?;
    write!(line, "{}", work.trace().trace_id())?;
    line.write_str(r#"","span.id":""#)?;
    write!(line, "{}", work.trace().span_id())?;
    line.write_str(r#"","name":"request"}"#)
}

/// Members of an object, without its braces.
impl<'writer> FormatFields<'writer> for Json {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, fields: R) -> fmt::Result {
        let mut members = Members { out: &mut out, is_first: true, result: Ok(()) };
        fields.record(&mut members);
        members.result
    }

    fn add_fields(&self, current: &'writer mut FormattedFields<Self>, fields: &Record<'_>) -> fmt::Result {
        let is_first = current.fields.is_empty();
        let mut members = Members { out: &mut current.fields, is_first, result: Ok(()) };
        fields.record(&mut members);
        members.result
    }
}

struct Members<'a, W> {
    out: &'a mut W,
    is_first: bool,
    result: fmt::Result,
}

impl<W: Write> Members<'_, W> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut W) -> fmt::Result) {
        let write = || {
            if !std::mem::take(&mut self.is_first) {
                self.out.write_char(',')?;
            }
            text(self.out, field.name().strip_prefix("r#").unwrap_or(field.name()))?;
            self.out.write_char(':')?;
            value(self.out)
        };
        if self.result.is_ok() {
            self.result = write();
        }
    }
}

impl<W: Write> Visit for Members<'_, W> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers.
        self.member(field, |out| match value.is_finite() {
            true => write!(out, "{value}"),
            false => out.write_str("null"),
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |out| text(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |out| {
            out.write_char('"')?;
            write!(Escaped(&mut *out), "{value:?}")?;
            out.write_char('"')
        });
    }
}

/// A string.
fn text(out: &mut impl Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    Escaped(&mut *out).write_str(text)?;
    out.write_char('"')
}

/// Writes what is in a string.
pub(super) struct Escaped<'a, W>(pub(super) &'a mut W);

impl<W: Write> Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // All bytes are looked at in any case, which compilers do many at a time: nearly always there is nothing to escape.
        if !text.bytes().fold(false, |found, byte| found | must_be_escaped(byte)) {
            return self.0.write_str(text);
        }
        let mut rest = text;
        while let Some(at) = rest.bytes().position(must_be_escaped) {
            self.0.write_str(&rest[..at])?;
            match rest.as_bytes()[at] {
                b'"' => self.0.write_str("\\\"")?,
                b'\\' => self.0.write_str("\\\\")?,
                b'\n' => self.0.write_str("\\n")?,
                control => write!(self.0, "\\u{control:04x}")?,
            }
            rest = &rest[at + 1..];
        }
        self.0.write_str(rest)
    }
}

fn must_be_escaped(byte: u8) -> bool {
    (byte < 0x20) | (byte == b'"') | (byte == b'\\')
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::{Value, json};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_is_json_whatever_is_said() {
        let kept = Kept::default();
        let logs = tracing_subscriber::fmt().fmt_fields(Json).event_format(Json).with_writer(kept.clone());
        let every: String = (0..0x80).map(char::from).chain(['\u{e9}', '\u{2028}', '\u{1f600}']).collect();
        tracing::subscriber::with_default(logs.finish(), || {
            let span = tracing::info_span!("work", of.text = %every, later = tracing::field::Empty);
            span.record("later", 7);
            let none: Option<u8> = None;
            tracing::warn!(parent: &span, a.text = every.as_str(), nothing = none, debug = ?"\"", yes = true, nan = f64::NAN, half = 0.5, less = -1, "{every}");
            tracing::info_span!("empty").in_scope(|| tracing::info!("said"));
            tracing::error!(only = 1_u64);
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("timestamp").unwrap();
            assert_eq!(time.as_str().map(str::len), Some(27));
        }
        let target = module_path!();
        assert_eq!(
            lines,
            [
                json!({
                    "level": "WARN", "message": every, "a.text": every, "debug": "\"\\\"\"", "yes": true, "nan": null,
                    "half": 0.5, "less": -1, "target": target,
                    "span": {"name": "work", "of.text": every, "later": 7},
                }),
                json!({"level": "INFO", "message": "said", "target": target, "span": {"name": "empty"}}),
                json!({"level": "ERROR", "only": 1, "target": target}),
            ]
        );
    }
}
