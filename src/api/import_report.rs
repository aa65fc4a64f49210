//! The report of an import: what became of each row, streamed, in memory that does not grow with it.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use poem::{Body, IntoResponse, Response};
use poem_openapi::{
    ApiResponse, Enum,
    registry::{MetaMediaType, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::Type,
};
use serde::Serialize;
use serde_json::Value;
use tenantry_accounts::{
    Actor, App, ImportId, UserId,
    imports::{self, Reported},
};

use super::{csv, params};
use crate::error::sources;

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub(crate) enum ReportFormat {
    /// A JSON object a line.
    Ndjson,
    /// Comma-separated values with a header.
    Csv,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case", rename = "ImportOutcome")]
pub(crate) enum ReportOutcome {
    /// It has not been worked on yet.
    Pending,
    /// A user was made; in a dry run: would be.
    Created,
    /// Somebody has the address.
    Exists,
    /// The address stands further up, too.
    Repeated,
    /// The row cannot be read, or fields are wrong.
    Invalid,
    /// Whoever began the import may not give this role, bring hashes of passwords, or say that addresses are verified.
    Forbidden,
    /// Every seat of the plan is used.
    NoSeat,
    /// The import ended before.
    Cancelled,
}

macro_rules! named {
    ($type:ty: [$($name:literal => $value:expr),*] $message:literal) => {
        impl params::Value for $type {
            fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
                match text {
                    $($name => Ok($value),)*
                    _ => Err(("not_allowed", $message)),
                }
            }

            fn schema() -> MetaSchemaRef {
                <$type as Type>::schema_ref()
            }

            fn register(registry: &mut Registry) {
                <$type as Type>::register(registry);
            }
        }
    };
}
named!(ReportFormat: ["ndjson" => Self::Ndjson, "csv" => Self::Csv] "Must be ndjson or csv");
named!(ReportOutcome: ["pending" => Self::Pending, "created" => Self::Created, "exists" => Self::Exists, "repeated" => Self::Repeated,
    "invalid" => Self::Invalid, "forbidden" => Self::Forbidden, "no_seat" => Self::NoSeat, "cancelled" => Self::Cancelled]
    "Must be one of pending, created, exists, repeated, invalid, forbidden, no_seat, cancelled");

/// What became of a row, as it is told.
#[derive(Debug, Serialize)]
pub(crate) struct ReportRow {
    row: i32,
    line: i32,
    pub(crate) outcome: ReportOutcome,
    email: Option<String>,
    user_id: Option<UserId>,
    errors: Vec<Value>,
}

impl From<Reported> for ReportRow {
    fn from(row: Reported) -> Self {
        use ReportOutcome as O;
        let error = |field: &str, code: &str, message: &str| {
            vec![serde_json::json!({"field": field, "code": code, "message": message})]
        };
        let (outcome, errors) = match row.outcome.as_deref() {
            None => (O::Pending, vec![]),
            Some("created") => (O::Created, vec![]),
            Some("exists") => {
                (O::Exists, error("/email", "email_taken", "User with this email already exists"))
            }
            Some("repeated") => (O::Repeated, error("/email", "repeated", "This address is there already")),
            Some("role_forbidden") => {
                (O::Forbidden, error("/role", "forbidden", "Your role does not allow this"))
            }
            Some("hash_forbidden") => {
                let message = "API keys make users who choose a password by mail";
                (O::Forbidden, error("/password_hash", "forbidden", message))
            }
            Some("verified_forbidden") => {
                let message = "Whether an address is verified is for whoever runs the service to say";
                (O::Forbidden, error("/email_verified", "forbidden", message))
            }
            Some("no_seat") => {
                let message = "Every seat of the plan is used; delete users or change the plan";
                (O::NoSeat, error("", "no_seat_left", message))
            }
            Some("cancelled") => (O::Cancelled, error("", "cancelled", "The import ended before")),
            Some(_) => {
                let errors = row.errors.and_then(|errors| serde_json::from_value(errors).ok());
                (O::Invalid, errors.unwrap_or_default())
            }
        };
        Self { row: row.number, line: row.line, outcome, email: row.email, user_id: row.user, errors }
    }
}

impl ReportRow {
    /// What the header of the CSV names.
    const HEADER: [&str; 8] = ["row", "line", "outcome", "email", "user_id", "code", "field", "message"];

    /// Appends the row.
    pub(crate) fn write(&self, format: ReportFormat, out: &mut Vec<u8>) {
        match format {
            ReportFormat::Ndjson => {
                // Strings and numbers always serialise.
                out.extend(serde_json::to_vec(self).unwrap_or_default());
                out.push(b'\n');
            }
            ReportFormat::Csv => self.write_csv(out),
        }
    }

    fn write_csv(&self, out: &mut Vec<u8>) {
        let all = |name: &str| {
            let texts = self.errors.iter().filter_map(|error| error[name].as_str());
            texts.collect::<Vec<_>>().join("; ")
        };
        let outcome = serde_json::to_value(self.outcome).unwrap_or_default();
        let cells = [
            &self.row.to_string(),
            &self.line.to_string(),
            outcome.as_str().unwrap_or_default(),
            self.email.as_deref().unwrap_or_default(),
            &self.user_id.map(|id| id.to_string()).unwrap_or_default(),
            &all("code"),
            &all("field"),
            &all("message"),
        ];
        csv::line(out, cells);
    }
}

/// A report, written as it is read.
pub(crate) struct ReportStream {
    id: ImportId,
    format: ReportFormat,
    body: Body,
}

/// The rows of an import that is there.
pub(super) fn stream(
    app: App,
    actor: Actor,
    id: ImportId,
    format: ReportFormat,
    outcome: Option<ReportOutcome>,
) -> ReportStream {
    let mut start = vec![];
    format.begin(&mut start);
    let parts = stream::try_unfold((0, start), move |(mut last, mut part)| {
        let app = app.clone();
        async move {
            loop {
                let rows = imports::report(&app, actor, id, last).await.map_err(|error| {
                    // What was sent so far cannot be taken back: it breaks off, and the client sees that.
                    tracing::warn!("a report breaks off: {}", sources(&error));
                    io::Error::other("the report broke off")
                })?;
                let Some(end) = rows.last() else {
                    // The header alone, where there is nothing else.
                    let rest = (!part.is_empty()).then(|| (Bytes::from(part), (last, vec![])));
                    return Ok::<_, io::Error>(rest);
                };
                last = end.number;
                for row in rows.into_iter().map(ReportRow::from) {
                    if outcome.is_none_or(|wanted| wanted == row.outcome) {
                        row.write(format, &mut part);
                    }
                }
                if !part.is_empty() {
                    return Ok(Some((Bytes::from(part), (last, vec![]))));
                }
            }
        }
    });
    ReportStream { id, format, body: Body::from_bytes_stream(parts) }
}

impl ReportFormat {
    /// What comes before the first row.
    pub(crate) fn begin(self, out: &mut Vec<u8>) {
        if self == Self::Csv {
            csv::line(out, ReportRow::HEADER);
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

impl IntoResponse for ReportStream {
    fn into_response(self) -> Response {
        let file = format!("attachment; filename=\"import-{}.{}\"", self.id, self.format.extension());
        Response::builder()
            .content_type(self.format.content_type())
            .header("Content-Disposition", file)
            .header("Cache-Control", "no-store")
            .body(self.body)
    }
}

impl ApiResponse for ReportStream {
    fn meta() -> MetaResponses {
        let content = |content_type| MetaMediaType {
            content_type,
            schema: MetaSchemaRef::Inline(Box::new(MetaSchema::new("string"))),
        };
        MetaResponses {
            responses: vec![MetaResponse {
                description: "Success",
                status: Some(200),
                status_range: None,
                content: vec![content("application/x-ndjson"), content("text/csv")],
                headers: vec![],
            }],
        }
    }

    fn register(_: &mut Registry) {}
}
