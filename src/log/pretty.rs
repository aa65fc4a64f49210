//! Lines for people: as the subscriber writes them, and behind what is said the id of the request that it is said of.

use std::fmt;

use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FormatFields,
        format::{DefaultFields, Writer},
    },
};

/// The format of what is said.
#[derive(Default)]
pub(super) struct Pretty(DefaultFields);

impl<'writer> FormatFields<'writer> for Pretty {
    fn format_fields<R: RecordFields>(&self, mut out: Writer<'writer>, fields: R) -> fmt::Result {
        self.0.format_fields(out.by_ref(), fields)?;
        let id = tenantry_trace::look(|work| work.request_id().map(str::to_owned)).flatten();
        id.map_or(Ok(()), |id| write!(out, " request.id={id}"))
    }
}
