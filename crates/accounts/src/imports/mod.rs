//! Imports: any number of users out of a file. What is sent is staged row by row, and worked on a batch at a time by whichever
//! worker is free. How far an import has come is a part of each batch's transaction, so that it is resumed where it was.

mod actor;
mod end;
mod report;
mod upload;
mod work;

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use serde::Serialize;
use tokio_postgres::Row;

pub use end::{delete, purge};
pub use report::{Reported, report};
pub use upload::{Content, Sent, Staged, begin, discard, finish, stage};
pub use work::{Step, step};

use crate::{
    Actor, App, Error, ImportId, Result, TenantId,
    db::{self, Transaction},
    users::Role,
};

/// How many imports of a tenant may be under way at once.
pub const MOST_AT_ONCE: i64 = 5;
/// How many rows an import may have.
pub const MOST_ROWS: u32 = 1_000_000;
/// How many rows of imports a tenant may have in all, those that have ended included for as long as they are kept.
pub const MOST_KEPT: i64 = 3_000_000;
/// For how many days an import and its report are kept when it has ended.
pub const DAYS_KEPT: u32 = 7;

/// How what is sent is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "ImportFormat")]
pub enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

impl Format {
    fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

/// What is wanted of an import.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How the rows are written.
    pub format: Format,
    /// Whether it only says what would become of each row.
    pub dry_run: bool,
    /// Whether each new user gets a mail: to choose a password, or, where a hash came along, to verify the address.
    pub invite: bool,
}

/// What an import is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "ImportState")]
pub enum State {
    /// Rows are being received.
    Uploading,
    /// All rows are there and wait for a worker.
    Queued,
    /// Rows are being worked on.
    Running,
    /// Every row has an outcome.
    Done,
    /// Somebody stopped it. Users who had been made stay.
    Cancelled,
    /// It could not go on; `reason` says why. Users who had been made stay.
    Failed,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Uploading, Self::Queued, Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether no more users are made.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }

    fn named(name: &str) -> Result<Self> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == name);
        state.ok_or(Error::Internal("a stored state has no name"))
    }
}

/// An import, and how far it has come.
#[derive(Debug, Clone, PartialEq, Serialize, Object)]
pub struct Import {
    /// Names the import within the tenant.
    pub id: ImportId,
    /// What it is about.
    pub state: State,
    /// Why it failed: `revoked` (whoever began it may no longer act), `tenant_closed`, or `abandoned` (it did not move for a
    /// day); null unless it has.
    #[oai(nullable)]
    pub reason: Option<String>,
    /// How the rows were written.
    pub format: Format,
    /// Whether it only says what would become of each row; then `created` says how many users would be made.
    pub dry_run: bool,
    /// Whether each new user gets a mail.
    pub invite: bool,
    /// How many rows were received.
    pub total: i32,
    /// How many of them have an outcome.
    pub done: i32,
    /// How many users were made.
    pub created: i32,
    /// How many addresses were somebody's already, or stood further up.
    pub skipped: i32,
    /// How many rows were wrong, asked for what whoever began it may not do, or found no seat.
    pub failed: i32,
    /// Rows a second of late; null until some were worked on.
    #[oai(nullable)]
    pub rate: Option<f64>,
    /// About how many seconds the others will take at this rate; null where that is not known.
    #[oai(nullable)]
    pub eta_seconds: Option<f64>,
    /// When the first row was received.
    pub created_at: DateTime<Utc>,
    /// When the first rows were worked on; null: not yet.
    #[oai(nullable)]
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended; null: not yet.
    #[oai(nullable)]
    pub finished_at: Option<DateTime<Utc>>,
    /// When it is removed with its report; null: it has not ended.
    #[oai(nullable)]
    pub keep_until: Option<DateTime<Utc>>,
}

/// The columns of an [`Import`], in every statement that reads one as `i`.
const COLUMNS: &str = "i.id, i.state, i.reason, i.format, i.dry_run, i.invite, i.total, i.created, i.skipped, i.failed, \
                       i.lately_rows, i.lately_took, i.created_at, i.started_at, i.finished_at, i.keep_until";

impl TryFrom<&Row> for Import {
    type Error = Error;

    fn try_from(row: &Row) -> Result<Self> {
        let state = State::named(row.try_get("state")?)?;
        let [total, created, skipped, failed] =
            ["total", "created", "skipped", "failed"].map(|name| row.try_get::<_, i32>(name));
        let (total, created, skipped, failed) = (total?, created?, skipped?, failed?);
        let done = created + skipped + failed;
        let (rows, took): (f64, f64) = (row.try_get("lately_rows")?, row.try_get("lately_took")?);
        let rate = (took > 0.0 && rows > 0.0).then(|| rows / took);
        Ok(Self {
            id: ImportId(row.try_get("id")?),
            state,
            reason: row.try_get("reason")?,
            format: if row.try_get::<_, &str>("format")? == "csv" { Format::Csv } else { Format::Ndjson },
            dry_run: row.try_get("dry_run")?,
            invite: row.try_get("invite")?,
            total,
            done,
            created,
            skipped,
            failed,
            rate,
            eta_seconds: rate.filter(|_| state == State::Running).map(|rate| f64::from(total - done) / rate),
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
            keep_until: row.try_get("keep_until")?,
        })
    }
}

/// An import of the actor's tenant.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoImport`].
pub async fn get(app: &App, actor: Actor, id: ImportId) -> Result<Import> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let import = find(&tx, actor.tenant, id).await?;
    tx.commit().await?;
    Ok(import)
}

async fn find(tx: &Transaction<'_>, tenant: TenantId, id: ImportId) -> Result<Import> {
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.user_imports i
             where i.tenant_id = $1 and i.id = $2 and (i.keep_until is null or i.keep_until > now())"
        ))
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &id.0]).await?.ok_or(Error::NoImport)?;
    Import::try_from(&row)
}

/// Up to `limit` imports of the actor's tenant, the newest first, from before the one that is named.
///
/// # Errors
/// [`Error::Forbidden`].
pub async fn list(app: &App, actor: Actor, before: Option<ImportId>, limit: i64) -> Result<Vec<Import>> {
    actor.require(Role::Admin)?;
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, actor.tenant).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS} from tenantry.user_imports i
             where i.tenant_id = $1 and i.id < $2 and (i.keep_until is null or i.keep_until > now())
             order by i.id desc limit $3"
        ))
        .await?;
    let before = before.map_or(uuid::Uuid::max(), |before| before.0);
    let rows = tx.query(&statement, &[&actor.tenant.0, &before, &limit]).await?;
    tx.commit().await?;
    rows.iter().map(Import::try_from).collect()
}
