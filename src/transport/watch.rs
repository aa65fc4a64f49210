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
