//! [W3C Trace Context](https://www.w3.org/TR/trace-context-2/): what happens for one request, here and elsewhere, has one trace
//! id. It comes in a header of the request, is in its log lines, goes into the jobs that it enqueues and from there into theirs.
//!
//! Values are small and copied, since every request has one. Log lines have the ids of a span in their fields `trace.id` and
//! `span.id`. Spans of traces that are [sampled](Sampler) go to whoever has [asked for them](install); where nobody has, none is made.
#![warn(missing_docs)]

mod database;
mod sampler;
mod span;

use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::Rng;
use tracing::Instrument;

pub use self::{
    database::InDatabase,
    sampler::{Sampler, UnknownSampler},
    span::{Finished, Kind, Span, Value, install},
};

/// Where one is in a trace: which it is, and which span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    trace: TraceId,
    span: SpanId,
    /// Who has called the span, as far as that was told.
    parent: Option<SpanId>,
    flags: u8,
}

/// Names a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

/// Names a span in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(u64);

/// Somebody records this trace.
const SAMPLED: u8 = 0b01;
/// The last seven bytes of the trace's id, at the least, are random (Level 2).
const RANDOM: u8 = 0b10;

impl Trace {
    /// A new trace. Whether it is recorded the [`Sampler`] says; where nothing is, that is for others to say.
    pub fn begin() -> Self {
        let trace = TraceId(rand::rng().random_range(1..=u128::MAX));
        let begun = Self { trace, span: SpanId::random(), parent: None, flags: RANDOM };
        span::sampler().map_or(begun, |sampler| begun.sampled(sampler.begins(trace)))
    }

    /// A span that this one has called.
    pub fn child(self) -> Self {
        Self { span: SpanId::random(), parent: Some(self.span), ..self }
    }

    /// A span that was called from outside by this one. Whether it is recorded is for our [`Sampler`] to say, who may believe the
    /// caller or not.
    pub fn received(self) -> Self {
        let child = self.child();
        span::sampler().map_or(child, |sampler| child.sampled(sampler.follows(self.is_sampled(), child.span)))
    }

    fn sampled(self, sampled: bool) -> Self {
        Self { flags: if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..self }
    }

    /// Whether somebody records this trace.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags as `traceparent` has them.
    pub fn flags(self) -> u8 {
        self.flags
    }

    /// Which span has called this one; none: it is the first.
    pub fn parent_id(self) -> Option<SpanId> {
        self.parent
    }

    /// Which trace it is.
    pub fn trace_id(self) -> TraceId {
        self.trace
    }

    /// Which span it is.
    pub fn span_id(self) -> SpanId {
        self.span
    }
}

impl TraceId {
    /// As it goes over the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl SpanId {
    /// As it goes over the wire.
    pub fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    fn random() -> Self {
        Self(rand::rng().random_range(1..=u64::MAX))
    }
}

/// The text is no `traceparent`; then there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTrace;

impl FromStr for Trace {
    type Err = NoTrace;

    /// Reads a `traceparent`, also of versions to come, which may have more after a hyphen. Flags that we do not know are left
    /// out.
    fn from_str(text: &str) -> Result<Self, NoTrace> {
        let (known, more) = text.as_bytes().split_at_checked(LENGTH).ok_or(NoTrace)?;
        let [a, b, b'-', known @ ..] = known else { return Err(NoTrace) };
        let version = hex(&[*a, *b]).ok_or(NoTrace)?;
        let ends = more.is_empty() || version > 0 && more[0] == b'-';
        let (trace, known) = known.split_at(32);
        let (span, flags) = known.split_at(17);
        let (b"-", span) = span.split_at(1) else { return Err(NoTrace) };
        let [b'-', flags @ ..] = flags else { return Err(NoTrace) };
        let (trace, span) = (hex(trace).ok_or(NoTrace)?, hex(span).ok_or(NoTrace)?);
        let flags = hex(flags).ok_or(NoTrace)?;
        if version == 0xff || !ends || trace == 0 || span == 0 {
            return Err(NoTrace);
        }
        // Each has as many digits as fit.
        let flags = flags as u8 & (SAMPLED | RANDOM);
        Ok(Self { trace: TraceId(trace), span: SpanId(span as u64), parent: None, flags })
    }
}

/// How long a `traceparent` of version 00 is.
pub const LENGTH: usize = 55;

/// The number that lower-case digits write, and nothing else.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

impl Trace {
    /// As a `traceparent` of version 00.
    pub fn text(self) -> [u8; LENGTH] {
        let mut text = *b"00-................................-................-..";
        digits(&mut text[3..35], &self.trace.0.to_be_bytes());
        digits(&mut text[36..52], &self.span.0.to_be_bytes());
        digits(&mut text[53..], &[self.flags]);
        text
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(&self.text(), f)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        digits(&mut text, &self.0.to_be_bytes());
        written(&text, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 16];
        digits(&mut text, &self.0.to_be_bytes());
        written(&text, f)
    }
}

/// Writes all digits of a number: each request has several such numbers, and the standard library takes its time.
fn digits(text: &mut [u8], number: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for (two, byte) in text.chunks_exact_mut(2).zip(number) {
        two.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn written(text: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str(std::str::from_utf8(text).unwrap_or_default())
}

/// What tasks work for: a request, an attempt of a job. Clones are of the same.
#[derive(Debug, Clone)]
pub struct Work(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    trace: Trace,
    request: Option<Box<str>>,
    /// Microseconds.
    in_database: AtomicU64,
}

impl Work {
    /// Of this span.
    pub fn new(trace: Trace) -> Self {
        Self::of(trace, None)
    }

    /// Of this span, for the request of this id.
    pub fn request(trace: Trace, id: &str) -> Self {
        Self::of(trace, Some(id.into()))
    }

    fn of(trace: Trace, request: Option<Box<str>>) -> Self {
        Self(Arc::new(Parts { trace, request, in_database: AtomicU64::new(0) }))
    }

    /// Where it is in a trace.
    pub fn trace(&self) -> Trace {
        self.0.trace
    }

    /// The id of the request that it is for.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request.as_deref()
    }

    /// Does something of it at once.
    pub fn during<T>(&self, something: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), something)
    }

    /// How long its tasks have been in the database so far, those that were spawned by [`carried`] included.
    pub fn in_database(&self) -> Duration {
        Duration::from_micros(self.0.in_database.load(Relaxed))
    }
}

tokio::task_local! {
    static CURRENT: Work;
}

/// The trace that this task works for; none: it works for none.
pub fn current() -> Option<Trace> {
    CURRENT.try_with(|work| work.0.trace).ok()
}

/// Shows `look` the work that this task does, if it does any.
pub fn look<T>(look: impl FnOnce(&Work) -> T) -> Option<T> {
    CURRENT.try_with(look).ok()
}

/// Does something of `work`.
pub fn within<F: Future>(work: Work, something: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(work, something)
}

/// `something` as it is to be spawned: of the work that this task does, and in its span.
pub fn carried<F: Future + Send + 'static>(something: F) -> impl Future<Output = F::Output> + Send + 'static {
    Carrier::here().carry(something).in_current_span()
}

/// The work that a task does, for others who do a part of it in tasks of theirs.
#[derive(Debug, Clone)]
pub struct Carrier(Option<Work>);

impl Carrier {
    /// What this task works for.
    pub fn here() -> Self {
        Self(CURRENT.try_with(Work::clone).ok())
    }

    /// `something`, wherever it is done, as a part of that work.
    pub async fn carry<F: Future>(self, something: F) -> F::Output {
        match self.0 {
            Some(work) => within(work, something).await,
            None => something.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read(text: &str) -> Option<String> {
        text.parse::<Trace>().ok().map(|trace| trace.to_string())
    }

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        assert_eq!(read(SENT).as_deref(), Some(SENT));
        let trace: Trace = SENT.parse().unwrap();
        assert_eq!(trace.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(trace.span_id().to_string(), "b7ad6b7169203331");
        let child = trace.child();
        assert_eq!(child.trace_id(), trace.trace_id());
        assert_ne!(child.span_id(), trace.span_id());
        assert_eq!((child.parent_id(), trace.parent_id()), (Some(trace.span_id()), None));
        // Where nothing is exported the caller's word is handed on.
        assert!(trace.received().is_sampled());
    }

    #[test]
    fn flags_that_nobody_knows_yet_are_left_out() {
        assert_eq!(read(&SENT.replace("-01", "-ff")), Some(SENT.replace("-01", "-03")));
        assert_eq!(read(&SENT.replace("-01", "-fc")), Some(SENT.replace("-01", "-00")));
    }

    #[test]
    fn versions_to_come_are_read_as_far_as_we_know_them() {
        for more in ["", "-", "-what-the-future-will-be-like"] {
            assert_eq!(read(&format!("cc{}{more}", &SENT[2..])).as_deref(), Some(SENT), "{more:?}");
        }
        assert_eq!(read(&format!("cc{}.more", &SENT[2..])), None);
    }

    #[test]
    fn what_is_no_traceparent_is_none() {
        let trace = &SENT[3..35];
        let wrong = [
            String::new(),
            "00".into(),
            SENT[..54].into(),
            format!("{SENT}-more"),
            format!("{SENT} "),
            format!("{SENT}-"),
            format!("ff{}", &SENT[2..]),
            SENT.to_uppercase(),
            SENT.replace(trace, &"0".repeat(32)),
            SENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            SENT.replacen('-', "_", 1),
            SENT.replace("-b7", "_b7"),
            SENT.replace("-01", ".01"),
            SENT.replace("-01", "-0g"),
            SENT.replace("0af7", "+af7"),
            // As many bytes, and not on the edge of a character.
            SENT.replace("331-01", "33\u{e9}-0"),
        ];
        for wrong in wrong {
            assert_eq!(read(&wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_new_trace_is_one_that_others_read() {
        let (one, other) = (Trace::begin(), Trace::begin());
        assert_ne!(one.trace_id(), other.trace_id());
        assert_eq!(one.to_string().parse(), Ok(one));
        assert!(one.to_string().ends_with("-02"), "random, and not recorded");
    }

    #[tokio::test]
    async fn a_task_works_for_the_trace_it_was_spawned_by() {
        let trace = Trace::begin();
        let (spawned, forgotten) = within(Work::new(trace), async {
            let spawned = tokio::spawn(carried(async { current() }));
            (spawned.await.unwrap(), tokio::spawn(async { current() }).await.unwrap())
        })
        .await;
        assert_eq!((spawned, forgotten, current()), (Some(trace), None, None));
    }

    #[tokio::test]
    async fn what_is_done_for_a_request_knows_it() {
        let work = Work::request(Trace::begin(), "r-1");
        let id = || look(|work| work.request_id().map(str::to_owned));
        let spawned =
            within(work.clone(), async { tokio::spawn(carried(async move { id() })).await.unwrap() });
        assert_eq!(spawned.await, Some(Some("r-1".into())));
        assert_eq!((work.during(id), id()), (Some(Some("r-1".into())), None));
    }

    #[tokio::test]
    async fn work_knows_how_long_it_was_in_the_database() {
        let work = Work::new(Trace::begin());
        let busy = async || {
            let _in = InDatabase::waiting();
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        busy().await;
        assert_eq!(work.in_database(), Duration::ZERO, "that was for nobody");
        within(work.clone(), async {
            busy().await;
            tokio::spawn(carried(async move { busy().await })).await.unwrap();
        })
        .await;
        assert!(work.in_database() >= Duration::from_millis(4));
    }
}
