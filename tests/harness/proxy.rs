//! Between a process and a server: bytes of either direction can be slowed, held back or lost.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::Result;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flow {
    Open,
    /// They arrive so much later.
    Slow(Duration),
    /// They arrive when it is open again, also if whoever sent them has gone by then.
    Held,
    /// They never arrive; once it is open again, the connection breaks.
    Lost,
}

/// Both directions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) requests: Flow,
    pub(crate) answers: Flow,
}

impl Link {
    pub(crate) const OPEN: Self = Self { requests: Flow::Open, answers: Flow::Open };
    pub(crate) const LOST: Self = Self { requests: Flow::Lost, answers: Flow::Lost };
}

/// Listens on a socket and forwards to another. Ends when dropped.
pub(crate) struct Proxy {
    link: watch::Sender<Link>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) fn start(listen: &Path, server: PathBuf) -> Result<Self> {
        let (link, links) = watch::channel(Link::OPEN);
        let listener = UnixListener::bind(listen)?;
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, links) = (server.clone(), links.clone());
                tokio::spawn(async move {
                    // A server that is away refuses by closing.
                    if let Ok(server) = UnixStream::connect(&server).await {
                        forward(client, server, &links);
                    }
                });
            }
        });
        Ok(Self { link, accepting })
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn forward(client: UnixStream, server: UnixStream, links: &watch::Receiver<Link>) {
    let ((questions, client), (answers, server)) = (client.into_split(), server.into_split());
    one_way(questions, server, links.clone(), |link| link.requests);
    one_way(answers, client, links.clone(), |link| link.answers);
}

/// Two tasks and a queue: what comes later does not wait for the delay of what came before.
fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut links: watch::Receiver<Link>,
    flow: impl Fn(&Link) -> Flow + Copy + Send + Sync + 'static,
) {
    let (queue, mut queued) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    tokio::spawn(async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            if queue.send((Instant::now(), bytes[..read].to_vec())).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((came, bytes)) = queued.recv().await {
            let now = flow(&links.borrow_and_update());
            match now {
                Flow::Open => {}
                Flow::Slow(delay) => sleep_until(came + delay).await,
                Flow::Held => {
                    if links.wait_for(|link| flow(link) != Flow::Held).await.is_err() {
                        return;
                    }
                }
                Flow::Lost => {
                    let _ = links.wait_for(|link| flow(link) != Flow::Lost).await;
                    return;
                }
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
