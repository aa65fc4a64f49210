//! `/users/export`: a stream of which no more than a page is ever in memory. The next page is read when the client has taken the
//! one before.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::stream::unfold;
use poem::{Body, IntoResponse, Response, web::Data};
use poem_openapi::{
    ApiResponse, Enum, OpenApi,
    param::{Header, Query},
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
};
use tenantry_accounts::{
    self as accounts, TenantId,
    users::{self, Export, Filter, Role, User},
};

use super::{
    Tag, csv,
    params::{Param, Search},
};
use crate::{
    caller::Caller,
    error::{ApiError, sources},
    state::State,
};
use tenantry_trace::Carrier;

pub(crate) struct ExportUsers;

/// So many exports of a tenant may be under way in a process.
const AT_ONCE: usize = 2;

/// A client that takes nothing for so long gives up its place when another comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an export is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum, clap::ValueEnum)]
#[oai(rename_all = "snake_case")]
pub(crate) enum Format {
    /// A JSON object a line (application/x-ndjson).
    Ndjson,
    /// Comma-separated values (RFC 4180). Cells that begin like a formula begin with an apostrophe.
    Csv,
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl ExportUsers {
    /// Export users
    ///
    /// For administrators. All users that the filters let through, inactive ones too, in the order of their ids, as a stream: of
    /// any size in little memory, on either side. It is read page by page, so it shows no single moment: whoever is changed
    /// while it runs is shown before or after the change, and nobody comes twice.
    ///
    /// **It is whole only if the response ends as HTTP has it end.** Should anything fail on the way, or the caller no longer
    /// be an administrator, the connection is cut off and clients report an error.
    #[oai(path = "/export", method = "get", operation_id = "exportUsers")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn export(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// `ndjson` or `csv`; when left out, `Accept: text/csv` asks for CSV.
        format: Query<Param<Format>>,
        /// Part of the name or the address, in any case; two characters, the beginning of the address or of a word of the name.
        search: Query<Param<Search>>,
        /// Users of this role only.
        role: Query<Param<Role>>,
        /// Only active users, or only inactive ones; both when left out.
        is_active: Query<Param<bool>>,
        /// Only users who have shown to receive mail at their address, or only those who have not.
        email_verified: Query<Param<bool>>,
        /// Users who were made at this time or later.
        created_after: Query<Param<DateTime<Utc>>>,
        /// Users who were made before this time.
        created_before: Query<Param<DateTime<Utc>>>,
        /// `text/csv` for CSV, unless `format` says otherwise.
        #[oai(name = "Accept")]
        accept: Header<Option<String>>,
    ) -> Result<Download, ApiError> {
        let mut errors = vec![];
        let format = format.0.take("format", &mut errors);
        let filter = Filter {
            search: search.0.take("search", &mut errors).map(|search| search.0),
            role: role.0.take("role", &mut errors),
            is_active: is_active.0.take("is_active", &mut errors),
            email_verified: email_verified.0.take("email_verified", &mut errors),
            created_after: created_after.0.take("created_after", &mut errors),
            created_before: created_before.0.take("created_before", &mut errors),
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let format = format.unwrap_or_else(|| Format::accepted(accept.0.as_deref().unwrap_or_default()));
        let place = state.exports.enter(caller.tenant)?;
        let mut export = users::export(&state.app, *caller, filter, format.name()).await?;
        // What fails at once is told as any other failure.
        let first = format.write(&export.page().await?.unwrap_or_default(), true);
        Ok(Download { format, first, export, place })
    }
}

impl Format {
    fn accepted(accept: &str) -> Self {
        if accept.contains("text/csv") { Self::Csv } else { Self::Ndjson }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }

    /// Users as they are written, with what comes before the first of all.
    pub(crate) fn write(self, users: &[User], is_first: bool) -> Vec<u8> {
        let mut out = vec![];
        match self {
            Self::Ndjson => {
                for user in users {
                    // A vector takes all, and a user has nothing that JSON cannot say.
                    let _ = serde_json::to_writer(&mut out, user);
                    out.push(b'\n');
                }
            }
            Self::Csv => {
                if is_first {
                    csv::line(&mut out, COLUMNS);
                }
                users.iter().for_each(|user| csv::line(&mut out, cells(user).iter().map(String::as_str)));
            }
        }
        out
    }
}

const COLUMNS: [&str; 12] = [
    "id",
    "tenant_id",
    "email",
    "name",
    "role",
    "is_active",
    "email_verified",
    "pending_email",
    "last_login_at",
    "created_at",
    "updated_at",
    "version",
];

fn cells(user: &User) -> [String; COLUMNS.len()] {
    let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    [
        user.id.to_string(),
        user.tenant_id.to_string(),
        user.email.as_str().into(),
        user.name.clone(),
        user.role.as_str().into(),
        user.is_active.to_string(),
        user.email_verified.to_string(),
        user.pending_email.as_ref().map_or(String::new(), |email| email.as_str().into()),
        user.last_login_at.map_or(String::new(), time),
        time(user.created_at),
        time(user.updated_at),
        user.version.to_string(),
    ]
}

/// An export on its way to the client.
pub(crate) struct Download {
    format: Format,
    first: Vec<u8>,
    export: Export,
    place: Place,
}

impl IntoResponse for Download {
    fn into_response(self) -> Response {
        let Self { format, first, export, place } = self;
        let file = format!("attachment; filename=\"users.{}\"", format.name());
        // Pages are read when this is over, and belong to the request all the same.
        let work = Carrier::here();
        let pages = unfold((Some(first), export, place), move |(first, mut export, mut place)| {
            let work = work.clone();
            work.carry(async move {
                let page = match first {
                    Some(first) => Ok(Some(first)),
                    None => next(&mut export, &mut place, format).await,
                };
                match page {
                    Ok(page) => Some((Ok(page?), (None, export, place))),
                    // The connection breaks off, or by HTTP/2 the stream: what was sent must not look whole.
                    Err(error) => {
                        tracing::warn!("an export was cut off: {}", sources(&error));
                        Some((Err(io::Error::other("the export was cut off")), (None, export, place)))
                    }
                }
            })
        });
        Response::builder()
            .content_type(format.content_type())
            .header("content-disposition", file)
            .body(Body::from_bytes_stream(pages))
    }
}

/// The next page that has anybody in it.
async fn next(export: &mut Export, place: &mut Place, format: Format) -> accounts::Result<Option<Vec<u8>>> {
    loop {
        if !place.is_kept() {
            return Err(accounts::Error::Busy);
        }
        match export.page().await? {
            Some(users) if users.is_empty() => {}
            page => return Ok(page.map(|users| format.write(&users, false))),
        }
    }
}

impl ApiResponse for Download {
    fn meta() -> MetaResponses {
        let schema = || MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        let media = |content_type| MetaMediaType { content_type, schema: schema() };
        let response = MetaResponse {
            description: "The users, one a line.",
            status: Some(200),
            status_range: None,
            content: vec![media("application/x-ndjson"), media("text/csv")],
            headers: vec![],
        };
        MetaResponses { responses: vec![response] }
    }

    fn register(_: &mut Registry) {}
}

/// The exports that are under way in this process, by tenant: each by its number, with when its client took something last.
#[derive(Default)]
pub(crate) struct Exports(Mutex<HashMap<TenantId, HashMap<u64, Instant>>>);

/// One of them, until it is dropped, or others want its place while its client takes nothing.
struct Place {
    exports: Arc<Exports>,
    tenant: TenantId,
    number: u64,
}

impl Exports {
    fn enter(self: &Arc<Self>, tenant: TenantId) -> Result<Place, ApiError> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = all.entry(tenant).or_default();
        if under_way.len() >= AT_ONCE {
            under_way.retain(|_, took| took.elapsed() < PATIENCE);
        }
        if under_way.len() >= AT_ONCE {
            return Err(ApiError::too_many_exports());
        }
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        under_way.insert(number, Instant::now());
        Ok(Place { exports: self.clone(), tenant, number })
    }
}

impl Place {
    /// Whether nobody else has it by now. From here on the client has time again.
    fn is_kept(&mut self) -> bool {
        let mut all = self.exports.0.lock().unwrap_or_else(PoisonError::into_inner);
        let took = all.get_mut(&self.tenant).and_then(|under_way| under_way.get_mut(&self.number));
        took.map(|took| *took = Instant::now()).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.exports.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = all.get_mut(&self.tenant) {
            under_way.remove(&self.number);
            if under_way.is_empty() {
                all.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_whose_client_takes_nothing_is_given_to_others() {
        let (exports, tenant) = (Arc::new(Exports::default()), TenantId::generate());
        let mut places = [exports.enter(tenant), exports.enter(tenant)].map(Result::ok);
        assert!(exports.enter(tenant).is_err());
        assert!(exports.enter(TenantId::generate()).is_ok());
        let long_ago = Instant::now().checked_sub(PATIENCE + Duration::from_secs(1));
        let number = places[0].as_ref().map(|place| place.number);
        if let (Some(long_ago), Some(number), Ok(mut all)) = (long_ago, number, exports.0.lock()) {
            all.entry(tenant).or_default().insert(number, long_ago);
        }

        let third = exports.enter(tenant);

        assert!(third.is_ok());
        assert_eq!(
            places.each_mut().map(|place| place.as_mut().map(Place::is_kept)),
            [Some(false), Some(true)]
        );
        drop((places, third));
        assert!(exports.0.lock().is_ok_and(|all| all.is_empty()));
    }
}
