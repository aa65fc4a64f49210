//! `/users/{id}/data` and `/users/{id}/erase`.

use poem::web::Data;
use poem_openapi::{OpenApi, param::Path};
use tenantry_accounts::{
    UserId,
    privacy::{self, Erasure, PersonalData},
};

use super::{
    Tag,
    envelope::{Answer, Envelope},
    precondition::Precondition,
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct Privacy;

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl Privacy {
    /// Get all that is held of a user
    ///
    /// For themselves, and for administrators, of deleted users too. By where it is held, with what becomes of it when the user is
    /// erased. Passwords and other secrets are not told, only that there are some.
    #[oai(path = "/:id/data", method = "get", operation_id = "getUserData")]
    async fn data(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
    ) -> Result<Answer<PersonalData>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&privacy::data(&state.app, *caller, id.0).await?)))
    }

    /// Erase a user
    ///
    /// For administrators, of deleted users too. Address, name, sessions and all that is found by them are gone when this is
    /// answered, and the user cannot be restored. A worker erases the copies: `finished_at` says when there were none left. Ask
    /// again to learn it: a second time changes nothing.
    #[oai(path = "/:id/erase", method = "post", operation_id = "eraseUser")]
    async fn erase(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// Refuse with 412 unless this is the current version.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Answer<Erasure>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&privacy::erase(&state.app, *caller, id.0, if_match.versions()).await?)))
    }
}
