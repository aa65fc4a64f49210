//! What a connection is doing, as far as its deadlines go: the header of a request comes, requests are under way, nothing is
//! asked, or the client takes no answer. It is noted in passing, in a few atomic numbers; whoever waits for a deadline looks
//! at them when it has come, and no timer is set anew for each request.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::Settings;

/// How long a client may take nothing of an answer that is there.
const STALL: Duration = Duration::from_secs(60);

pub(super) struct Watch {
    began: Instant,
    header_timeout: Duration,
    keep_alive: Duration,
    /// How many requests are under way, until the last byte of their answers has been handed over,
    requests: AtomicU32,
    /// and for how many of them it is our turn: the client is not waited for.
    working: AtomicU32,
    /// Whether there ever was one.
    asked: AtomicBool,
    /// Whether it is HTTP/2, where bytes may come that belong to no request.
    multiplexed: AtomicBool,
    // Moments are milliseconds since the connection began and one more; nought: not now.
    /// Since when a header has been coming.
    header: AtomicU64,
    /// When a request last began or ended, or a part of an answer was handed over.
    active: AtomicU64,
    /// Since when the client takes nothing.
    stalled: AtomicU64,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Header,
    Idle,
    Stalled,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
        }
    }
}

impl Watch {
    pub(super) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            header_timeout: settings.header_timeout,
            keep_alive: settings.keep_alive,
            requests: AtomicU32::new(0),
            working: AtomicU32::new(0),
            asked: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            // Whoever connects has something to say.
            header: AtomicU64::new(1),
            active: AtomicU64::new(1),
            stalled: AtomicU64::new(0),
        })
    }

    /// A request is under way until what this returns goes.
    pub(super) fn request(self: &Arc<Self>, multiplexed: bool) -> Busy {
        self.requests.fetch_add(1, Relaxed);
        self.working.fetch_add(1, Relaxed);
        self.asked.store(true, Relaxed);
        self.header.store(0, Relaxed);
        if multiplexed {
            self.multiplexed.store(true, Relaxed);
        }
        Busy { watch: self.clone(), is_working: true }
    }

    /// Whether there ever was a request.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Relaxed) > 0
    }

    /// When to look again, and what is wrong if nothing has happened by then; none: something is under way, whose deadline is
    /// its own.
    pub(super) fn deadline(&self) -> (Instant, Option<Reason>) {
        let (stalled, header, active) =
            (self.stalled.load(Relaxed), self.header.load(Relaxed), self.active.load(Relaxed));
        if stalled > 0 {
            (self.moment(stalled) + STALL, Some(Reason::Stalled))
        } else if self.working.load(Relaxed) > 0 {
            (Instant::now() + self.header_timeout.min(self.keep_alive), None)
        } else if self.is_busy() {
            // By HTTP/2 a client that takes nothing blocks its streams and not the socket.
            (self.moment(active) + STALL, Some(Reason::Stalled))
        } else if header > 0 {
            (self.moment(header) + self.header_timeout, Some(Reason::Header))
        } else {
            (self.moment(active) + self.keep_alive, Some(Reason::Idle))
        }
    }

    fn moment(&self, noted: u64) -> Instant {
        self.began + Duration::from_millis(noted - 1)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn has_read(&self) {
        let idle = self.requests.load(Relaxed) == 0 && self.header.load(Relaxed) == 0;
        if idle && !self.multiplexed.load(Relaxed) {
            self.header.store(self.now(), Relaxed);
        }
    }

    /// What is written may be no part of an answer: whoever pings by HTTP/2 is answered, and is idle all the same.
    fn has_written(&self, wrote: bool) {
        if wrote {
            self.stalled.store(0, Relaxed);
        } else if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(self.now(), Relaxed);
        }
    }
}

/// A request is under way. At first it is our turn.
pub(super) struct Busy {
    watch: Arc<Watch>,
    is_working: bool,
}

impl Busy {
    /// Whose turn it is: ours until there is a part of the answer, the client's until it wants the next one.
    fn turn(&mut self, ours: bool) {
        if ours != self.is_working {
            self.is_working = ours;
            match ours {
                true => self.watch.working.fetch_add(1, Relaxed),
                false => self.watch.working.fetch_sub(1, Relaxed),
            };
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.turn(false);
        self.watch.active.store(self.watch.now(), Relaxed);
        self.watch.requests.fetch_sub(1, Relaxed);
    }
}

/// The body of an answer, whose request is under way until it has been handed over.
pub(super) struct Answer<B> {
    body: B,
    busy: Busy,
    /// Whether the body has ended: it is not asked again, as coders do after an empty one, or a stream would panic.
    is_over: bool,
}

impl<B> Answer<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, busy, is_over: false }
    }
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.is_over = matches!(frame, Poll::Ready(None));
        if frame.is_ready() {
            self.busy.watch.active.store(self.busy.watch.now(), Relaxed);
        }
        self.busy.turn(frame.is_pending());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A socket whose watch notes what comes and goes.
pub(super) struct Watched<T> {
    pub(super) socket: T,
    pub(super) watch: Arc<Watch>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.watch.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.watch.has_written(poll.is_ready());
        poll
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.watch.has_written(poll.is_ready());
        poll
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream::unfold;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::mpsc,
        time::advance,
    };

    use super::*;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    fn watched() -> (Watched<DuplexStream>, DuplexStream, Arc<Watch>) {
        let watch = Watch::new(&Settings {
            header_timeout: HEADER,
            keep_alive: IDLE,
            connections: 1,
            connections_per_address: 1,
            proxies: vec![],
            tls: None,
            grace: Duration::ZERO,
        });
        let (ours, theirs) = duplex(4);
        (Watched { socket: ours, watch: watch.clone() }, theirs, watch)
    }

    /// In how long, and why.
    fn left(watch: &Watch) -> (Duration, Option<Reason>) {
        let (at, reason) = watch.deadline();
        (at - Instant::now(), reason)
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_has_its_time_from_its_first_byte_on() {
        let (mut ours, mut theirs, watch) = watched();
        advance(HEADER / 2).await;
        assert_eq!(left(&watch), (HEADER / 2, Some(Reason::Header)), "the first one from the beginning");
        drop(watch.request(false));
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
        advance(IDLE / 2).await;
        for _ in 0..2 {
            theirs.write_all(b"G").await.unwrap();
            ours.read_u8().await.unwrap();
            advance(HEADER / 4).await;
        }
        assert_eq!(left(&watch), (HEADER / 2, Some(Reason::Header)));
        let busy = watch.request(false);
        assert_eq!(left(&watch).1, None, "what is under way has a deadline of its own");
        advance(2 * IDLE).await;
        drop(busy);
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_between_requests_of_http2_is_no_header() {
        let (mut ours, mut theirs, watch) = watched();
        let (one, other) = (watch.request(true), watch.request(true));
        drop(one);
        assert_eq!(left(&watch).1, None);
        drop(other);
        advance(IDLE / 2).await;
        theirs.write_all(b"ping").await.unwrap();
        ours.read_u32().await.unwrap();
        ours.write_all(b"pong").await.unwrap();
        assert_eq!(left(&watch), (IDLE / 2, Some(Reason::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_takes_nothing_of_an_answer_is_not_waited_for() {
        let (mut ours, mut theirs, watch) = watched();
        let busy = watch.request(false);
        ours.write_all(b"body").await.unwrap();
        let write = tokio::spawn(async move { ours.write_all(b"more").await });
        tokio::task::yield_now().await;
        advance(STALL / 2).await;
        assert_eq!(left(&watch), (STALL / 2, Some(Reason::Stalled)));
        theirs.read_u64().await.unwrap();
        write.await.unwrap().unwrap();
        assert_eq!(left(&watch).1, None, "it is our turn");
        drop(busy);
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_as_long_as_we_need_and_a_stream_that_takes_nothing_may_not() {
        let (_ours, _theirs, watch) = watched();
        let (parts, body) = mpsc::channel::<Bytes>(1);
        let body = StreamBody::new(unfold(body, |mut parts| async {
            parts.recv().await.map(|part| (Ok::<_, io::Error>(Frame::data(part)), parts))
        }));
        let mut answer = Answer::new(Box::pin(body), watch.request(true));
        assert!(futures_util::poll!(answer.frame()).is_pending());
        advance(10 * IDLE).await;
        assert_eq!(left(&watch).1, None, "we look for the next part");
        parts.send(Bytes::from_static(b"part")).await.unwrap();
        assert!(answer.frame().await.is_some());
        advance(STALL / 2).await;
        assert_eq!(
            left(&watch),
            (STALL / 2, Some(Reason::Stalled)),
            "the client does not ask for the next one"
        );
        assert!(futures_util::poll!(answer.frame()).is_pending());
        assert_eq!(left(&watch).1, None);
        drop(answer);
        assert_eq!((left(&watch), watch.is_busy()), ((IDLE, Some(Reason::Idle)), false));
    }
}
