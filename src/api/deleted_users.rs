//! `/users/deleted` and `/users/{id}/restore`.

use chrono::{DateTime, Utc};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::Path,
    param::Query,
    registry::{MetaSchema, MetaSchemaRef},
};
use tenantry_accounts::{
    UserId,
    users::{self, DeletedBefore, DeletedUser},
};
use uuid::Uuid;

use super::{
    Tag,
    envelope::{Cursor, Envelope, etag},
    params::{Limit, Param, Value},
    precondition::Precondition,
    users::UserChanged,
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct DeletedUsers;

#[derive(ApiResponse)]
enum DeletedPage {
    /// A part of the list.
    #[oai(status = 200)]
    Page(Envelope<Vec<DeletedUser>, Cursor>),
}

/// Where a part of the list begins: when the last one of the part before was deleted, in microseconds, and their id.
pub(crate) struct DeletedCursor(DeletedBefore);

impl DeletedCursor {
    fn after(user: &DeletedUser) -> String {
        format!("{}.{}", user.deleted_at.timestamp_micros(), user.user.id)
    }
}

impl Value for DeletedCursor {
    fn parse(text: &str) -> Result<Self, (&'static str, &'static str)> {
        let parsed = || {
            let (micros, id) = text.split_once('.')?;
            let deleted_at = DateTime::<Utc>::from_timestamp_micros(micros.parse().ok()?)?;
            Some(Self(DeletedBefore { deleted_at, id: Uuid::try_parse(id).ok()? }))
        };
        parsed().ok_or(("invalid_cursor", "Must be the next_cursor of an answer"))
    }

    fn schema() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")))
    }
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl DeletedUsers {
    /// List deleted users
    ///
    /// For administrators. Those who may be restored, who was deleted last comes first; not those who were erased.
    #[oai(path = "/deleted", method = "get", operation_id = "listDeletedUsers")]
    async fn list(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// `next_cursor` of the part before.
        cursor: Query<Param<DeletedCursor>>,
        /// How many a part holds.
        limit: Query<Param<Limit>>,
    ) -> Result<DeletedPage, ApiError> {
        let mut errors = vec![];
        let before = cursor.0.take("cursor", &mut errors).map(|cursor| cursor.0);
        let limit = limit.0.take("limit", &mut errors).map_or(10, |limit| limit.0);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let mut found = users::deleted(&state.app, *caller, before, limit + 1).await?;
        let most = usize::try_from(limit).unwrap_or(0);
        let more = found.len() > most;
        found.truncate(most);
        let next_cursor = found.last().filter(|_| more).map(DeletedCursor::after);
        Ok(DeletedPage::Page(Envelope::page(&found, &Cursor { limit, next_cursor })))
    }

    /// Restore a user
    ///
    /// For administrators, within 30 days of the deletion. The user takes a seat and has the address again: 409 `email_taken` where
    /// it is somebody else's by now, 409 `no_seat_left` where every seat is used. Password, second factor and sessions stay
    /// gone: the user gets a mail to choose a password. Who was erased is not found.
    #[oai(path = "/:id/restore", method = "post", operation_id = "restoreUser")]
    async fn restore(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Refuse with 412 unless this is the current version.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<UserChanged, ApiError> {
        let user = users::restore(&state.app, *caller, id.0, if_match.versions()).await?;
        Ok(UserChanged::Changed(Envelope::of(&user), etag(user.version)))
    }
}
