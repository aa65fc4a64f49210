//! `/users/imports`.

use poem::{Body, Request, RequestBody, web::Data};
use poem_openapi::{
    ApiRequest, ApiResponse, OpenApi,
    param::{Path, Query},
    payload::{ParsePayload, Payload},
    registry::{MetaSchema, MetaSchemaRef},
};
use tenantry_accounts::{
    Actor, Error, ImportId,
    idempotency::Namer,
    imports::{self as house, Format, Import, Options},
    users::Role,
};

use super::{
    Tag,
    envelope::{Answer, Cursor, Deleted, Envelope},
    idempotency::{Keep, Kept, KeyOfStream, Repeatable},
    import_report::{self, ReportFormat, ReportOutcome, ReportStream},
    params::{IdCursor, Limit, Param, Value},
    precondition::Precondition,
};
use crate::{
    caller::Caller,
    error::{ApiError, Code},
    imports::{self, Columns, Received, Wanted},
    state::State,
};

pub(crate) struct Imports;

/// The rows, read as they come.
#[derive(ApiRequest)]
enum Upload {
    /// A header, and a line a row.
    Csv(CsvRows),
    /// A JSON object a line.
    Ndjson(NdjsonRows),
}

/// A body of this type, in UTF-8.
macro_rules! rows {
    ($name:ident, $content_type:literal) => {
        struct $name(Body);

        impl Payload for $name {
            const CONTENT_TYPE: &'static str = $content_type;

            fn check_content_type(content_type: &str) -> bool {
                is(content_type, $content_type)
            }

            fn schema_ref() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema::new_with_format("string", "binary")))
            }
        }

        impl ParsePayload for $name {
            const IS_REQUIRED: bool = true;

            async fn from_request(_: &Request, body: &mut RequestBody) -> poem::Result<Self> {
                Ok(Self(body.take()?))
            }
        }
    };
}
rows!(CsvRows, "text/csv");
rows!(NdjsonRows, "application/x-ndjson");

/// Whether that is the type, and no other encoding than UTF-8 is named.
fn is(content_type: &str, wanted: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_type = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(wanted));
    let utf8 =
        |charset: &str| ["utf-8", "utf8", "us-ascii"].iter().any(|one| charset.eq_ignore_ascii_case(one));
    let charset = parts.filter_map(|parameter| parameter.split_once('='));
    let mut charset = charset.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    is_type && charset.all(|(_, charset)| utf8(charset.trim().trim_matches('"')))
}

#[derive(ApiResponse)]
enum ImportCreated {
    /// All rows were received; workers make the users.
    #[oai(status = 202)]
    Accepted(
        Envelope<Import>,
        /// Where it is told how far it is.
        #[oai(header = "Location")]
        String,
    ),
}

impl Keep<Import> for ImportCreated {
    fn keep(&self, _: &Import) -> Kept {
        let Self::Accepted(envelope, location) = self;
        Kept::answer(202, None, Some(location), envelope.body())
    }
}

#[derive(ApiResponse)]
enum ImportPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<Import>, Cursor>),
}

impl Value for Columns {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        text.parse().map_err(|message| ("invalid_columns", message))
    }

    fn schema() -> MetaSchemaRef {
        let example = Some("email:mail,name:full_name".into());
        MetaSchemaRef::Inline(Box::new(MetaSchema { example, ..MetaSchema::new("string") }))
    }
}

#[OpenApi(prefix_path = "/users/imports", tag = "Tag::Users")]
impl Imports {
    /// Import users
    ///
    /// Any number of them up to a million, out of a file of up to `IMPORT_MAX_BYTES` (256 MiB), as CSV with a header or as JSON, an
    /// object a line. Fields of a row: `email`, `name`, and, all optional, `role`, `password_hash` (of Argon2 or scrypt in the PHC
    /// string format, or of bcrypt; not with an API key), `email_verified` (of super administrators only), `is_active` and
    /// `created_at`. What is received is staged; when all of it is there, 202 says where it is told how far workers have come. A
    /// row that is wrong stops nothing: the report says what became of each. Addresses that somebody has are skipped. Seats are
    /// given from the top. A tenant has at most five imports under way. It ends when whoever began it may no longer act, and when
    /// they sign out. For administrators.
    #[oai(path = "/", method = "post", operation_id = "createImport")]
    #[expect(clippy::too_many_arguments, reason = "each is a parameter of the operation")]
    async fn create(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice.
        #[oai(name = "Idempotency-Key")]
        key: KeyOfStream,
        /// Only say what would become of each row.
        dry_run: Query<Param<bool>>,
        /// Which of your columns are which of our fields, as `ours:theirs,...`; all others are then passed over. When left out,
        /// they are named as the fields are.
        columns: Query<Param<Columns>>,
        /// Of rows that name none; `user` when left out, and at most your own.
        role: Query<Param<Role>>,
        /// Whether each new user gets a mail: to choose a password, or, where a hash came along, to verify the address. None
        /// does when it is left out.
        invite: Query<Param<bool>>,
        rows: Upload,
    ) -> Result<Repeatable<ImportCreated>, ApiError> {
        let mut errors = vec![];
        let dry_run = dry_run.0.take("dry_run", &mut errors).unwrap_or(false);
        let columns = columns.0.take("columns", &mut errors);
        let role = role.0.take("role", &mut errors).unwrap_or(Role::User);
        let invite = invite.0.take("invite", &mut errors).unwrap_or(false);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        if role > caller.rank() || role == Role::SuperAdmin {
            return Err(ApiError::new(Code::Forbidden, "Your role does not allow to give this role"));
        }
        let (format, body) = match rows {
            Upload::Csv(CsvRows(body)) => (Format::Csv, body),
            Upload::Ndjson(NdjsonRows(body)) => (Format::Ndjson, body),
        };
        let options = Options { format, dry_run, invite };
        let wanted = Wanted { options, role, columns, most: state.config.import_max_bytes };
        let (state, actor) = (state.clone(), *caller);
        // Whether the client waits or not: what is staged becomes an import, or goes.
        let receiving = async move { receive(&state, actor, wanted, key, body).await };
        let received = tokio::spawn(tenantry_trace::carried(receiving));
        received.await.map_err(|_| ApiError::internal())?
    }

    /// List imports
    ///
    /// Those under way, and those that ended within seven days, the newest first. For administrators.
    #[oai(path = "/", method = "get", operation_id = "listImports")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
        /// Where the part begins: `next_cursor` of the one before.
        cursor: Query<Param<IdCursor>>,
    ) -> Result<ImportPage, ApiError> {
        let mut errors = vec![];
        let before = cursor.0.take("cursor", &mut errors).map(|cursor| ImportId(cursor.0));
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        // One more than asked for tells whether there is a next part.
        let found = house::list(&state.app, *caller, before, limit + 1).await?;
        let (found, cursor) = Cursor::cut(found, limit, |last| last.id.0);
        Ok(ImportPage::Page(Envelope::page(&found, &cursor)))
    }

    /// Get an import
    ///
    /// How far it has come, how fast it goes, and about how long it will take. For administrators.
    #[oai(path = "/:id", method = "get", operation_id = "getImport")]
    async fn get(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The import's id.
        id: Path<ImportId>,
    ) -> Result<Answer<Import>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&house::get(&state.app, *caller, id.0).await?)))
    }

    /// Get what became of each row
    ///
    /// In their order, streamed: of each its number, the line that it began in, the outcome, the address, the user who was made,
    /// and what is wrong. Rows that have not been worked on are `pending`. The report is kept for seven days after the import has
    /// ended. For administrators.
    #[oai(path = "/:id/report", method = "get", operation_id = "getImportReport")]
    async fn report(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The import's id.
        id: Path<ImportId>,
        /// How it is written: `ndjson` (when left out) or `csv`. In CSV, cells that a spreadsheet would take for a formula begin
        /// with an apostrophe.
        format: Query<Param<ReportFormat>>,
        /// Rows with this outcome only.
        outcome: Query<Param<ReportOutcome>>,
    ) -> Result<ReportStream, ApiError> {
        let mut errors = vec![];
        let format = format.0.take("format", &mut errors).unwrap_or(ReportFormat::Ndjson);
        let outcome = outcome.0.take("outcome", &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        house::get(&state.app, *caller, id.0).await?;
        Ok(import_report::stream(state.app.clone(), *caller, id.0, format, outcome))
    }

    /// Cancel or delete an import
    ///
    /// One that is under way stops: what was made stays, and the rows that are left are `cancelled`. One that has ended is
    /// forgotten with its report. For administrators.
    #[oai(path = "/:id", method = "delete", operation_id = "deleteImport")]
    async fn delete(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The import's id.
        id: Path<ImportId>,
        /// It has no versions: 412 unless this is `*`.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        if_match.of_no_version()?;
        house::delete(&state.app, *caller, id.0).await?;
        Ok(Deleted::Deleted)
    }
}

/// Stages what comes, and hands it to the workers, unless the same request was answered before.
async fn receive(
    state: &State,
    by: Actor,
    wanted: Wanted,
    key: KeyOfStream,
    body: Body,
) -> Result<Repeatable<ImportCreated>, ApiError> {
    let (namer, bytes, most) = (Namer::Actor(by), body.into_bytes_stream(), wanted.most);
    // What the fingerprint is of, beside the body.
    let asked = format!("createImport {:?} {:?} {:?}", wanted.options, wanted.role, wanted.columns);
    let answer = |import: &Import| {
        let location = format!("/api/v1/users/imports/{}", import.id);
        ImportCreated::Accepted(Envelope::of(import), location)
    };
    if key.is_known(state, namer).await? {
        let key = key.of(&asked, imports::digest(bytes, most).await?);
        // It may be known no longer by now; then nothing was staged.
        return key.once(state, namer, answer, |_| async { Err(Error::InFlight) }).await;
    }
    let Received { id, digest } = imports::receive(&state.app, by, wanted, bytes, |_| {}).await?;
    let key = key.of(&asked, digest);
    let made = key.once(state, namer, answer, |once| house::finish(&state.app, by, id, once)).await;
    if !made.as_ref().is_ok_and(Repeatable::is_first) {
        imports::discard(&state.app, by, id).await;
    }
    made
}
