//! What an import sends, from bytes to staged rows: read as it comes, in memory that does not grow with it. The API and the
//! command line share it.

mod columns;
mod csv;
#[cfg(any(test, feature = "laws"))]
pub(crate) mod laws;
mod ndjson;
mod row;

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tenantry_accounts::{
    self as accounts, Actor, App, ImportId,
    imports::{self, Format, MOST_ROWS, Options, Sent},
    users::Role,
};
use tokio::time::timeout;

pub(crate) use self::columns::Columns;
use self::row::Rows;
use crate::error::{FieldError, sources};

/// How many rows are staged at once.
const BATCH: usize = 1_000;
/// The longest row, in bytes.
const LONGEST_ROW: usize = 16 * 1024;
/// How long the sender may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// So often it is noted that the sender is there, be it slow.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What is wanted of an import, and how its rows are to be read.
pub(crate) struct Wanted {
    pub(crate) options: Options,
    /// Of rows that name none.
    pub(crate) role: Role,
    /// None: they are named as our fields are.
    pub(crate) columns: Option<Columns>,
    /// How many bytes may come.
    pub(crate) most: u64,
}

/// What has been received.
pub(crate) struct Received {
    pub(crate) id: ImportId,
    /// Of all bytes.
    pub(crate) digest: [u8; 32],
}

/// How much has been received so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) bytes: u64,
    pub(crate) rows: i32,
}

/// Why nothing was made of what was sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    House(#[from] accounts::Error),
    /// More bytes than may come.
    #[error("there is more of it than IMPORT_MAX_BYTES")]
    TooLarge,
    #[error("there are more than {MOST_ROWS} rows; split the file")]
    TooManyRows,
    /// The line.
    #[error("line {0} is not UTF-8; save the file as UTF-8")]
    NotUtf8(i32),
    /// The header lacks columns, or has some that are not known.
    #[error("the header does not do: {}", said(.0))]
    Header(Vec<FieldError>),
    #[error("there are no rows")]
    Empty,
    /// It broke off.
    #[error("reading broke off: {0}")]
    Broken(io::Error),
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
}

fn said(errors: &[FieldError]) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// Stages all rows that come. When something is in the way nothing of them is left.
pub(crate) async fn receive(
    app: &App,
    by: Actor,
    wanted: Wanted,
    bytes: impl Stream<Item = io::Result<Bytes>>,
    progress: impl FnMut(Progress),
) -> Result<Received, Refused> {
    let id = imports::begin(app, by, wanted.options).await?;
    let receiver = Receiver {
        app,
        by,
        id,
        most: wanted.most,
        reader: Reader::of(wanted),
        received: Progress::default(),
        batch: vec![],
        staged_at: Instant::now(),
        progress,
    };
    match receiver.run(bytes).await {
        Ok(digest) => Ok(Received { id, digest }),
        Err(refused) => {
            discard(app, by, id).await;
            Err(refused)
        }
    }
}

/// Removes what was staged; nobody waits for it where the database does not answer. If it cannot be removed within a minute, it
/// is by the next purge.
pub(crate) async fn discard(app: &App, by: Actor, id: ImportId) {
    if imports::discard(app, by.tenant, id).await.is_ok() {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        for tries in 1.. {
            tokio::time::sleep(Duration::from_secs(2)).await;
            match imports::discard(&app, by.tenant, id).await {
                Ok(()) => return,
                Err(_) if tries < 30 => {}
                Err(error) => {
                    let error = sources(&error);
                    return tracing::warn!(
                        "rows of an import that came to nothing are left for later: {error}"
                    );
                }
            }
        }
    });
}

/// The digest of what comes, of which nothing is kept.
pub(crate) async fn digest(
    bytes: impl Stream<Item = io::Result<Bytes>>,
    most: u64,
) -> Result<[u8; 32], Refused> {
    let (mut bytes, mut seen, mut digest) = (std::pin::pin!(bytes), 0, Sha256::new());
    while let Some(chunk) = next(&mut bytes, &mut seen, most).await? {
        digest.update(&chunk);
    }
    Ok(digest.finalize().into())
}

/// The next bytes, as long as they are not too many.
async fn next(
    bytes: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    seen: &mut u64,
    most: u64,
) -> Result<Option<Bytes>, Refused> {
    let chunk = timeout(SILENCE, bytes.next()).await.map_err(|_| Refused::Silent)?;
    let Some(chunk) = chunk.transpose().map_err(Refused::Broken)? else { return Ok(None) };
    *seen += chunk.len() as u64;
    if *seen > most { Err(Refused::TooLarge) } else { Ok(Some(chunk)) }
}

struct Receiver<'a, P> {
    app: &'a App,
    by: Actor,
    id: ImportId,
    most: u64,
    reader: Reader,
    received: Progress,
    batch: Vec<Sent>,
    staged_at: Instant,
    progress: P,
}

impl<P: FnMut(Progress)> Receiver<'_, P> {
    async fn run(mut self, bytes: impl Stream<Item = io::Result<Bytes>>) -> Result<[u8; 32], Refused> {
        let (mut bytes, mut digest) = (std::pin::pin!(bytes), Sha256::new());
        while let Some(chunk) = next(&mut bytes, &mut self.received.bytes, self.most).await? {
            digest.update(&chunk);
            self.reader.feed(&chunk, &mut self.batch)?;
            self.stage(BATCH).await?;
        }
        self.reader.end(&mut self.batch)?;
        self.stage(1).await?;
        if self.received.rows == 0 { Err(Refused::Empty) } else { Ok(digest.finalize().into()) }
    }

    /// Stages the rows there are, if they are at least so many or it is time to say that we are there.
    async fn stage(&mut self, least: usize) -> Result<(), Refused> {
        if self.batch.last().is_some_and(|row| row.number.cast_unsigned() > MOST_ROWS) {
            return Err(Refused::TooManyRows);
        }
        if self.batch.len() >= least {
            for rows in self.batch.chunks(BATCH) {
                self.received.rows = imports::stage(self.app, self.by, self.id, rows).await?.total;
            }
        } else if self.staged_at.elapsed() > SIGN_OF_LIFE {
            self.received.rows = imports::stage(self.app, self.by, self.id, &self.batch).await?.total;
        } else {
            (self.progress)(self.received);
            return Ok(());
        }
        self.batch.clear();
        self.staged_at = Instant::now();
        (self.progress)(self.received);
        Ok(())
    }
}

/// Makes rows of bytes, which may be cut anywhere.
enum Reader {
    Csv(Box<csv::Reader>),
    Ndjson(ndjson::Reader),
}

impl Reader {
    fn of(wanted: Wanted) -> Self {
        let rows = Rows::new(wanted.role);
        match wanted.options.format {
            Format::Csv => Self::Csv(Box::new(csv::Reader::new(rows, wanted.columns))),
            Format::Ndjson => Self::Ndjson(ndjson::Reader::new(rows, wanted.columns)),
        }
    }

    fn feed(&mut self, bytes: &[u8], sent: &mut Vec<Sent>) -> Result<(), Refused> {
        match self {
            Self::Csv(reader) => reader.feed(bytes, sent),
            Self::Ndjson(reader) => reader.feed(bytes, sent),
        }
    }

    fn end(&mut self, sent: &mut Vec<Sent>) -> Result<(), Refused> {
        match self {
            Self::Csv(reader) => reader.end(sent),
            Self::Ndjson(reader) => reader.end(sent),
        }
    }
}

/// What some programs put before UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A row that is too long, be it as a line or as cells.
fn too_long() -> FieldError {
    let message = "The row is longer than 16 KiB; if it is not, a quote before it is not closed";
    crate::api::body::wrong("", "too_long", message)
}
