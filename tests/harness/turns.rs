//! Between a process and a server: counts how often the one waits for the other. An answer is held back for a moment, so that
//! whatever is asked without waiting for it has been asked by then, and counts as the same round trip.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// For how long an answer is held back.
const HELD: Duration = Duration::from_millis(3);

/// Listens on a socket and forwards to another. Ends when dropped.
pub(crate) struct Turns {
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    turns: AtomicU64,
    statements: AtomicU64,
}

impl Turns {
    pub(crate) fn start(listen: &Path, server: PathBuf) -> io::Result<Self> {
        let (listener, counts) = (UnixListener::bind(listen)?, Arc::new(Counts::default()));
        let counting = counts.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away refuses by closing.
                if let Ok(server) = UnixStream::connect(&server).await {
                    forward(client, server, &counting);
                }
            }
        });
        Ok(Self { counts, accepting })
    }

    /// Round trips so far, over all connections.
    pub(crate) fn turns(&self) -> u64 {
        self.counts.turns.load(Ordering::Relaxed)
    }

    /// How many statements were executed so far, where the server is PostgreSQL.
    pub(crate) fn statements(&self) -> u64 {
        self.counts.statements.load(Ordering::Relaxed)
    }
}

/// What was counted most often of the same thing. Calls of many requests share a connection to Redis: there a look after the server
/// may be counted as well, and may also hide a call that goes out while it is not answered.
pub(crate) fn usual(counts: &[u64]) -> u64 {
    let times = |count: &u64| counts.iter().filter(|other| *other == count).count();
    counts.iter().copied().max_by_key(|count| (times(count), std::cmp::Reverse(*count))).unwrap_or_default()
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn forward(client: UnixStream, server: UnixStream, counts: &Arc<Counts>) {
    let ((questions, to_client), (answers, to_server)) = (client.into_split(), server.into_split());
    // Whether there was an answer since something was asked last.
    let answered = Arc::new(AtomicBool::new(true));
    tokio::spawn(ask(questions, to_server, answered.clone(), counts.clone()));
    let (queue, queued) = mpsc::unbounded_channel();
    tokio::spawn(hear(answers, queue));
    tokio::spawn(answer(queued, to_client, answered));
}

async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    answered: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let (mut bytes, mut messages) = (vec![0; 64 * 1024], Messages::default());
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if answered.swap(false, Ordering::AcqRel) {
            counts.turns.fetch_add(1, Ordering::Relaxed);
        }
        counts.statements.fetch_add(messages.statements(&bytes[..read]), Ordering::Relaxed);
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

async fn hear(mut from: OwnedReadHalf, queue: mpsc::UnboundedSender<(Instant, Vec<u8>)>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if queue.send((Instant::now() + HELD, bytes[..read].to_vec())).is_err() {
            return;
        }
    }
}

async fn answer(
    mut queued: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    answered: Arc<AtomicBool>,
) {
    while let Some((due, bytes)) = queued.recv().await {
        sleep_until(due).await;
        // Before it is there: what is asked next may be so at once.
        answered.store(true, Ordering::Release);
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// What a client of PostgreSQL says, cut anywhere: messages of a type and a length, but for the first one, which has no type.
#[derive(Default)]
struct Messages {
    head: Vec<u8>,
    /// Of the body, that is yet to come.
    rest: usize,
    started: bool,
}

impl Messages {
    /// How many statements begin to be executed in these bytes.
    fn statements(&mut self, mut bytes: &[u8]) -> u64 {
        let mut found = 0;
        while !bytes.is_empty() {
            let skipped = self.rest.min(bytes.len());
            self.rest -= skipped;
            bytes = &bytes[skipped..];
            let Some((byte, more)) = bytes.split_first() else { break };
            self.head.push(*byte);
            bytes = more;
            let typed = usize::from(self.started);
            if let Some(length) = self.head.get(typed..typed + 4) {
                let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
                // Execute, and the simple Query.
                found += u64::from(self.started && [b'E', b'Q'].contains(&self.head[0]));
                self.rest = length.saturating_sub(4);
                self.started = true;
                self.head.clear();
            }
        }
        found
    }
}
