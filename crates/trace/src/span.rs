//! Spans: what was done in a trace, from when to when.

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Instant, SystemTime},
};

use crate::{Sampler, Trace, current};

/// Who gets the spans of this process.
static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    sampler: Sampler,
    sink: Box<dyn Fn(Finished) + Send + Sync>,
}

/// From here on what `sampler` takes is recorded, and `sink` gets each span as it ends. It is called where the work is done, so it
/// must not wait. Once in a process; false when somebody has before.
pub fn install(sampler: Sampler, sink: impl Fn(Finished) + Send + Sync + 'static) -> bool {
    EXPORT.set(Export { sampler, sink: Box::new(sink) }).is_ok()
}

/// Which traces are recorded; none where nobody gets them.
pub(crate) fn sampler() -> Option<Sampler> {
    EXPORT.get().map(|export| export.sampler)
}

/// Which side of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// We serve a request.
    Server,
    /// We ask somebody and wait.
    Client,
    /// We leave work for later.
    Producer,
    /// We do work that was left.
    Consumer,
}

/// What an attribute says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(Cow<'static, str>),
    /// A whole number.
    Number(i64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A span that has ended. Names and keys are those of OpenTelemetry's semantic conventions where there are such.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Which span of which trace it is, and its parent.
    pub trace: Trace,
    /// Which side of a call.
    pub kind: Kind,
    /// One of few: nothing that differs by request.
    pub name: Cow<'static, str>,
    /// From when.
    pub start: SystemTime,
    /// To when.
    pub end: SystemTime,
    /// What it was. Never a secret, an address of mail, a value of a statement or a key of the cache.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub failed: bool,
}

/// A span that is under way, if it is recorded; it ends when it is dropped. Where nothing is recorded it costs a look at a static.
#[must_use]
#[derive(Debug, Default)]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    span: Finished,
    since: Instant,
}

impl Span {
    /// Something that is done for the work of this task, which called it.
    pub fn child(kind: Kind, name: &'static str) -> Self {
        if EXPORT.get().is_none() {
            return Self(None);
        }
        match current() {
            Some(trace) if trace.is_sampled() => Self::of(trace.child(), kind, name),
            _ => Self(None),
        }
    }

    /// The work of `trace` itself.
    pub fn of(trace: Trace, kind: Kind, name: &'static str) -> Self {
        if EXPORT.get().is_none_or(|export| export.sampler.is_off()) || !trace.is_sampled() {
            return Self(None);
        }
        let start = SystemTime::now();
        let (name, attributes) = (name.into(), Vec::with_capacity(8));
        let span = Finished { trace, kind, name, start, end: start, attributes, failed: false };
        Self(Some(Box::new(Open { span, since: Instant::now() })))
    }

    /// What is known of it, if it is recorded.
    pub fn recorded(&mut self) -> Option<&mut Finished> {
        self.0.as_mut().map(|open| &mut open.span)
    }

    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = self.recorded() {
            span.set(key, value);
        }
    }

    /// It failed, of this; one of few words.
    pub fn fail(&mut self, of: impl Into<Value>) {
        if let Some(span) = self.recorded() {
            span.fail(of);
        }
    }
}

impl Finished {
    /// Says something about it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    /// It failed, of this; one of few words. Of several failures the first one counts: others may be its echo.
    pub fn fail(&mut self, of: impl Into<Value>) {
        if !std::mem::replace(&mut self.failed, true) {
            self.set("error.type", of);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let (Some(open), Some(export)) = (self.0.take(), EXPORT.get()) {
            let mut span = open.span;
            // By a clock that is not set back meanwhile.
            span.end = span.start + open.since.elapsed();
            (export.sink)(span);
        }
    }
}
