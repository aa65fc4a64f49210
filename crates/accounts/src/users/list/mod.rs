//! Lists of users, page by page or part by part. Each costs the same however many users the tenant has: sorted ones are read
//! off the ends of indexes (`sorted.rs`), searches look for a bounded number of matches (`search.rs`), and totals are counted
//! up to a bound (`total.rs`).

mod position;
mod search;
mod shared;
mod sorted;
mod total;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use poem_openapi::Enum;
use serde::Serialize;
use tokio_postgres::types::ToSql;

pub use position::Position;
pub use shared::Lists;
pub(super) use sorted::Combinations;
pub use total::Total;

use super::{COLUMNS, Figures, Role, User, figures};
use crate::{App, Result, TenantId, db};

/// Pages reach so many users and no further: the database would read all those before. Parts have no such end.
pub const DEEPEST: i64 = 10_000;

/// Which users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Filter {
    /// Part of the name or the address, in any case; of two characters, the beginning of the address or of a word of the name.
    pub search: Option<String>,
    /// Of this role only.
    pub role: Option<Role>,
    /// Active ones, inactive ones, or (none) both.
    pub is_active: Option<bool>,
    /// Those who have shown to receive mail at their address, those who have not, or (none) both.
    pub email_verified: Option<bool>,
    /// Made then or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Made before.
    pub created_before: Option<DateTime<Utc>>,
}

/// What users are sorted by; ties by id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Enum)]
#[oai(rename_all = "snake_case")]
pub enum SortBy {
    /// When they were made.
    CreatedAt,
    /// Their address.
    Email,
    /// Their name.
    Name,
    /// When they last signed in; those who never did come last.
    LastLoginAt,
}

/// Which end comes first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Enum)]
#[oai(rename_all = "snake_case")]
pub enum Order {
    /// Smallest first.
    Asc,
    /// Largest first.
    Desc,
}

/// A list as a whole: who is in it, and in what order. Of a search the best matches come first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Selection {
    /// Who.
    pub filter: Filter,
    /// In what order.
    pub sort_by: SortBy,
    /// From which end.
    pub order: Order,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// After so many, and how many there are in all.
    Page {
        /// At most [`DEEPEST`], the users of the page included.
        offset: i64,
    },
    /// From the beginning, or after this place. Whoever is made, changed or deleted meanwhile moves nobody else.
    After(Option<Position>),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The list.
    pub selection: Selection,
    /// The part of it.
    pub part: Part,
    /// How many users at most.
    pub limit: i64,
    /// Whether with the figures of each.
    pub figures: bool,
}

/// A part of a list, of one moment.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// The users.
    pub users: Vec<User>,
    /// Those of each user, in the order of the users; empty unless they were asked for.
    pub figures: Vec<Figures>,
    /// How many there are in all; for pages.
    pub total: Option<Total>,
    /// Where the next part begins; none for pages, and after the last part.
    pub next: Option<Position>,
}

/// Part of a list of the users of `tenant`. Those who ask for the same within a second share one answer, unless this process
/// has changed a user of the tenant since; with `anew` the database is asked in any case.
///
/// # Errors
/// When the database cannot be asked.
pub async fn list(app: &App, tenant: TenantId, wanted: Wanted, anew: bool) -> Result<Arc<List>> {
    if anew {
        return Ok(Arc::new(read(app, tenant, &wanted).await?));
    }
    let (reader, epoch) = (app.clone(), app.cache.epoch_began());
    let read = move |wanted| async move { read(&reader, tenant, &wanted).await };
    app.lists.share(tenant, epoch, wanted, read).await
}

async fn read(app: &App, tenant: TenantId, wanted: &Wanted) -> Result<List> {
    let mut client = app.db.client().await?;
    let tx = db::as_reader(&mut client, tenant).await?;
    let mut list = match &wanted.selection.filter.search {
        Some(needle) => search::read(&tx, tenant, wanted, needle).await?,
        None => sorted::read(&tx, tenant, wanted).await?,
    };
    if wanted.figures {
        list.figures = figures::of(&tx, tenant, &list.users).await?;
    }
    tx.commit().await?;
    Ok(list)
}

impl SortBy {
    /// From a closed list, never from the request's text.
    fn column(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::Email => "email",
            Self::Name => "name",
            Self::LastLoginAt => "last_login_at",
        }
    }
}

impl Order {
    fn direction(self) -> &'static str {
        match self {
            Self::Asc => "asc",
            Self::Desc => "desc",
        }
    }

    /// What is true of those who come later.
    fn later(self) -> &'static str {
        match self {
            Self::Asc => ">",
            Self::Desc => "<",
        }
    }
}

impl Wanted {
    /// How many rows to read and how many to skip: of a part one more than it holds, which tells whether there is another.
    fn window(&self) -> (i64, i64) {
        match self.part {
            Part::Page { offset } => (self.limit, offset),
            Part::After(_) => (self.limit + 1, 0),
        }
    }

    fn after(&self) -> Option<&Position> {
        match &self.part {
            Part::Page { .. } => None,
            Part::After(position) => position.as_ref(),
        }
    }
}

impl List {
    /// A part out of the rows of its [window](Wanted::window), each with its rank where a search has one.
    fn part(wanted: &Wanted, mut users: Vec<(User, Option<i32>)>) -> Self {
        let most = usize::try_from(wanted.limit).unwrap_or(0);
        let more = users.len() > most;
        users.truncate(most);
        let last = users.last().filter(|_| more);
        let next = last.map(|(user, rank)| Position::of(user, wanted.selection.sort_by, *rank));
        Self { users: users.into_iter().map(|(user, _)| user).collect(), figures: vec![], total: None, next }
    }
}

/// The values of a statement, as its text names them.
#[derive(Default)]
struct Values<'a>(Vec<&'a (dyn ToSql + Sync)>);

impl<'a> Values<'a> {
    fn name(&mut self, value: &'a (dyn ToSql + Sync)) -> String {
        self.0.push(value);
        format!("${}", self.0.len())
    }
}
