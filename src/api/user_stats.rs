//! `/users/stats`.

use poem::web::Data;
use poem_openapi::{ApiResponse, OpenApi};
use tenantry_accounts::users::stats::{self, Stats};

use super::{
    Tag,
    envelope::{Accepted, Envelope},
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct UserStats;

/// How long a first count of many users may take.
const SECONDS: u64 = 2;

#[derive(ApiResponse)]
enum StatsFound {
    /// The figures.
    #[oai(status = 200)]
    Counted(Envelope<Stats>),
    /// There are many users, and they are being counted for the first time: ask again.
    #[oai(status = 202)]
    BeingCounted(
        Envelope<Accepted>,
        /// Seconds to wait.
        #[oai(header = "Retry-After")]
        u64,
    ),
}

#[OpenApi(prefix_path = "/users", tag = "Tag::Users")]
impl UserStats {
    /// Get figures of all users
    ///
    /// How many users there are by role, by state and by verification, how many were made on each of the last 90 days, and how
    /// often anybody has signed in within 30 days; all of the moment `as_of`. They are counted again when somebody asks and
    /// something has happened since, after ten seconds at the earliest; of more than 10,000 users by a job, so that the next
    /// who ask have new ones. For administrators.
    #[oai(path = "/stats", method = "get", operation_id = "getUserStats")]
    async fn get(&self, state: Data<&State>, caller: Caller) -> Result<StatsFound, ApiError> {
        Ok(match stats::get(&state.app, caller.tenant).await? {
            Some(stats) => StatsFound::Counted(Envelope::of(&stats)),
            None => StatsFound::BeingCounted(Envelope::of(&Accepted {}), SECONDS),
        })
    }
}
