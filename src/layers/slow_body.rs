//! Whether a request waits for its own body: then it is the client that is slow, and not we.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

/// What is known of a body while it is read elsewhere.
#[derive(Clone, Default)]
pub(crate) struct Awaited(Arc<AtomicBool>);

impl Awaited {
    /// Whether whoever reads the body waits for more of it.
    pub(crate) fn now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Watches `body` being read.
    pub(crate) fn watch<R>(&self, body: R) -> Watched<R> {
        Watched { body, awaited: self.clone() }
    }
}

/// A body that is watched.
pub(crate) struct Watched<R> {
    body: R,
    awaited: Awaited,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.body).poll_read(context, buffer);
        self.awaited.0.store(read.is_pending(), Ordering::Relaxed);
        read
    }
}
