//! What can go wrong in the house. Which status that is, is decided in one file of the front door.

use std::sync::Arc;

use crate::primary::NotPrimary;

/// The result of most things here.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in the words of the domain.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// No such user in this tenant, or it is deleted.
    #[error("no such user")]
    NoUser,
    /// No such tenant, or it is deleted.
    #[error("no such tenant")]
    NoTenant,
    /// A user of the tenant has this address already.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// Another tenant has this slug.
    #[error("the slug is taken")]
    SlugTaken,
    /// Every seat of the tenant is used.
    #[error("no seat is free")]
    NoSeat,
    /// The change would leave the tenant without an active administrator.
    #[error("the last administrator stays")]
    LastAdmin,
    /// The caller's role does not allow it.
    #[error("the role of the caller does not allow this")]
    Forbidden,
    /// The actor has been deactivated, deleted or given another role since signing in.
    #[error("the caller may no longer act")]
    Revoked,
    /// E-mail, password or tenant are not those of a user who may sign in. Deliberately not more than that.
    #[error("wrong e-mail, password or tenant")]
    WrongCredentials,
    /// No such job of this tenant.
    #[error("no such job")]
    NoJob,
    /// The job is in this state, in which what was asked for cannot be done.
    #[error("the job is {0}")]
    JobState(&'static str),
    /// The payload lacks the shape of its kind; the text names keys and types, never values.
    #[error("{0}")]
    WrongPayload(Arc<str>),
    /// The password that was to be changed is another one.
    #[error("the current password is wrong")]
    WrongPassword,
    /// The refresh token is unknown, used or expired, or its session has ended.
    #[error("the session has ended")]
    SessionEnded,
    /// No such session of this user, or it has ended.
    #[error("no such session")]
    NoSession,
    /// No such invitation of this tenant, or it is no longer open.
    #[error("no such invitation")]
    NoInvitation,
    /// No such API key of this tenant, or it has been revoked.
    #[error("no such API key")]
    NoApiKey,
    /// Another key of the tenant has this name.
    #[error("the name is taken")]
    NameTaken,
    /// The tenant has as many API keys as it may have.
    #[error("too many API keys")]
    TooManyKeys,
    /// No such subscription of this tenant.
    #[error("no such subscription")]
    NoSubscription,
    /// The customer pays for another tenant.
    #[error("the customer pays for another tenant")]
    CustomerTaken,
    /// The address must be verified first (`REQUIRE_VERIFIED_EMAIL`).
    #[error("the e-mail address is not verified")]
    NotVerified,
    /// The token of a mail is unknown, used, expired or void.
    #[error("the token is not valid")]
    InvalidToken,
    /// `If-Match` named another version than the row's.
    #[error("the version has changed")]
    VersionChanged,
    /// `X-Min-Version` is newer than the row.
    #[error("this version does not exist yet")]
    VersionNotReached,
    /// More work waits than can be done soon; nothing was changed.
    #[error("too much work is waiting")]
    Busy,
    /// PostgreSQL could not be reached, or the pool stayed empty.
    #[error("the database is not available")]
    Unavailable(#[source] Arc<deadpool_postgres::PoolError>),
    /// The server that was asked is not the primary, or no longer.
    #[error("the database server may not be used")]
    NotPrimary(#[source] Arc<NotPrimary>),
    /// PostgreSQL refused a statement.
    #[error("a database statement failed")]
    Database(#[source] Arc<tokio_postgres::Error>),
    /// Something that cannot happen did.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<NotPrimary> for Error {
    fn from(error: NotPrimary) -> Self {
        Self::NotPrimary(Arc::new(error))
    }
}

impl From<deadpool_postgres::PoolError> for Error {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}
