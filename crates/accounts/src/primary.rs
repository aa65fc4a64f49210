//! Which server may be asked: the primary of the newest timeline that this process has heard of, and no other.
//!
//! After a fail-over the old primary may go on answering for a while. Whoever asked it would be told rows that were
//! overtaken, and would store them for everybody under the new timeline. Two rules keep it out, at every check-out of a
//! connection: a new connection must lead to a server that is as new as the newest that is known ([`Primary::admit`]), and
//! one that was opened before that was known is not used again ([`Primary::stands`]). That suffices for reads, since a
//! look-up takes its era of the cache before it checks a connection out: it may read on a newer server than its era says,
//! never on an older one. A write has its connection first, so it asks once more before COMMIT.

use std::time::Instant;

use tenantry_cache::Cache;
use tokio_postgres::{Client, error::SqlState};

/// Tells the primary from what was one.
#[derive(Clone, Debug)]
pub struct Primary {
    cache: Cache,
    /// The operator says which epoch it is: servers are not asked for their timeline.
    is_told: bool,
}

/// Why a server or a connection is not used.
#[derive(Debug, thiserror::Error)]
pub enum NotPrimary {
    /// It replays the changes of another server, and may be behind.
    #[error("this server is a standby: the address must lead to the primary")]
    Standby,
    /// Another server has been promoted since.
    #[error("this server is on timeline {timeline}, another was on {known}: an old primary")]
    Old {
        /// What this one says.
        timeline: String,
        /// What another has said.
        known: String,
    },
    /// The connection is from before the fail-over.
    #[error("this connection was opened before the fail-over and may lead to the old primary")]
    Overtaken,
    /// The provider hides the name of the current WAL file.
    #[error(
        "this server does not tell its timeline ({0}): set DATABASE_EPOCH to a number, and raise it after each fail-over \
         and restore"
    )]
    Hidden(tokio_postgres::Error),
    /// The statement failed otherwise.
    #[error("the server could not be asked for its timeline")]
    Database(#[source] tokio_postgres::Error),
}

impl Primary {
    /// What `cache` has learned counts; with `is_told` its epoch is the operator's and servers are not asked for theirs.
    pub fn new(cache: Cache, is_told: bool) -> Self {
        Self { cache, is_told }
    }

    /// Asks a server whether it may be used. A timeline that is newer than those known is the cache's epoch from then on.
    ///
    /// # Errors
    /// [`NotPrimary`].
    pub async fn admit(&self, client: &Client) -> Result<(), NotPrimary> {
        let Some(timeline) = timeline(client, self.is_told).await? else { return Ok(()) };
        self.cache.set_epoch(&timeline);
        let known = self.cache.epoch();
        if known == timeline { Ok(()) } else { Err(NotPrimary::Old { timeline, known }) }
    }

    /// Whether a connection that was opened then may be used still.
    ///
    /// # Errors
    /// [`NotPrimary::Overtaken`].
    pub fn stands(&self, opened: Instant) -> Result<(), NotPrimary> {
        // Equal is from before: its server was asked for its timeline after it was opened.
        if opened > self.cache.epoch_began() { Ok(()) } else { Err(NotPrimary::Overtaken) }
    }
}

/// The timeline of a primary: the first eight digits of the name of the file that its log of changes is written to. With
/// `is_told` it is not asked for that.
///
/// # Errors
/// [`NotPrimary`].
pub async fn timeline(client: &Client, is_told: bool) -> Result<Option<String>, NotPrimary> {
    // One statement in each case; the functions must not even be named where they are forbidden.
    let sql = match is_told {
        true => "select pg_is_in_recovery(), null",
        false => {
            "select pg_is_in_recovery(),
               case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end"
        }
    };
    let answer = client.query_typed_one(sql, &[]).await.map_err(|error| match error.code() {
        Some(code)
            if [
                SqlState::INSUFFICIENT_PRIVILEGE,
                SqlState::UNDEFINED_FUNCTION,
                SqlState::FEATURE_NOT_SUPPORTED,
            ]
            .contains(code) =>
        {
            NotPrimary::Hidden(error)
        }
        _ => NotPrimary::Database(error),
    })?;
    match answer.try_get(0).map_err(NotPrimary::Database)? {
        true => Err(NotPrimary::Standby),
        false => answer.try_get(1).map_err(NotPrimary::Database),
    }
}
