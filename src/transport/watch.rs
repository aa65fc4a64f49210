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

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::Settings;

/// How long a client may take nothing of an answer that it is sent.
const STALL: Duration = Duration::from_secs(60);

pub(super) struct Watch {
    began: Instant,
    header_timeout: Duration,
    keep_alive: Duration,
    /// How many requests are under way.
    requests: AtomicU32,
    /// Whether it is HTTP/2, where bytes may come that belong to no request.
    multiplexed: AtomicBool,
    // Moments are milliseconds since the connection began and one more; nought: not now.
    /// Since when a header has been coming.
    header: AtomicU64,
    /// When something was last sent, or a request ended.
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
        self.header.store(0, Relaxed);
        if multiplexed {
            self.multiplexed.store(true, Relaxed);
        }
        Busy(self.clone())
    }

    /// When to look again, and what is wrong if nothing has happened by then; none: something is under way, whose deadline is
    /// its own.
    pub(super) fn deadline(&self) -> (Instant, Option<Reason>) {
        let (stalled, header, active) =
            (self.stalled.load(Relaxed), self.header.load(Relaxed), self.active.load(Relaxed));
        if stalled > 0 {
            (self.moment(stalled) + STALL, Some(Reason::Stalled))
        } else if self.requests.load(Relaxed) > 0 {
            (Instant::now() + self.header_timeout.min(self.keep_alive), None)
        } else if header > 0 {
            // A body that is being sent takes its time, whatever the client sends meanwhile.
            (self.moment(header.max(active)) + self.header_timeout, Some(Reason::Header))
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

    fn has_written(&self, wrote: bool) {
        if wrote {
            self.active.store(self.now(), Relaxed);
            self.stalled.store(0, Relaxed);
        } else if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(self.now(), Relaxed);
        }
    }
}

/// A request is under way.
pub(super) struct Busy(Arc<Watch>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.active.store(self.0.now(), Relaxed);
        self.0.requests.fetch_sub(1, Relaxed);
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
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
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
        theirs.write_all(b"ping").await.unwrap();
        ours.read_u32().await.unwrap();
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_long_as_long_as_it_is_taken() {
        let (mut ours, mut theirs, watch) = watched();
        // The header of the answer is there, and the body goes on.
        drop(watch.request(false));
        for _ in 0..10 {
            advance(IDLE / 2).await;
            ours.write_all(b"body").await.unwrap();
            theirs.read_u32().await.unwrap();
        }
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
        ours.write_all(b"body").await.unwrap();
        let write = tokio::spawn(async move { ours.write_all(b"more").await });
        tokio::task::yield_now().await;
        advance(STALL / 2).await;
        assert_eq!(left(&watch), (STALL / 2, Some(Reason::Stalled)));
        theirs.read_u64().await.unwrap();
        write.await.unwrap().unwrap();
        assert_eq!(left(&watch), (IDLE, Some(Reason::Idle)));
    }
}
