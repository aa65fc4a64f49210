//! What can go wrong in the house. Which status that is, is decided in one file of the front door.

use std::sync::Arc;

use crate::{metadata::Refusal, primary::NotPrimary, users::Refused};

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
    /// The password is right, and a code is needed beside it.
    #[error("a second factor is needed")]
    SecondFactorRequired,
    /// The password is right; the code beside it is wrong, or was used.
    #[error("the second factor is wrong")]
    SecondFactorRefused,
    /// A code that a signed-in user was asked for is wrong, or was used.
    #[error("the code is wrong")]
    WrongCode,
    /// Too many codes were wrong: none is looked at for so many seconds.
    #[error("the second factor is locked for {0} s")]
    SecondFactorLocked(u64),
    /// The user has a second factor already.
    #[error("there is a second factor already")]
    SecondFactorOn,
    /// The user has no second factor, or none that waits to be proven.
    #[error("there is no second factor")]
    NoSecondFactor,
    /// Who requires a second factor of a tenant's users has none.
    #[error("the administrator has no second factor")]
    SecondFactorMissing,
    /// The password that was chosen is little more than the address, the name or the tenant of its owner.
    #[error("the password is too much like what everybody knows")]
    PersonalPassword,
    /// The refresh token is unknown, used or expired, or its session has ended.
    #[error("the session has ended")]
    SessionEnded,
    /// No such session of this user, or it has ended.
    #[error("no such session")]
    NoSession,
    /// No such invitation of this tenant, or it is no longer open.
    #[error("no such invitation")]
    NoInvitation,
    /// No such import of this tenant, or it is kept no longer, or it was stopped while its rows were sent.
    #[error("no such import")]
    NoImport,
    /// The tenant has as many imports under way, or rows of them kept, as it may have.
    #[error("too many imports")]
    TooManyImports,
    /// No such API key of this tenant, or it has been revoked.
    #[error("no such API key")]
    NoApiKey,
    /// Another key of the tenant has this name.
    #[error("the name is taken")]
    NameTaken,
    /// The tenant has as many API keys as it may have.
    #[error("too many API keys")]
    TooManyKeys,
    /// The user is in as many projects as one may be.
    #[error("too many projects")]
    TooManyProjects,
    /// The metadata cannot be kept as it would be.
    #[error("the metadata cannot be kept")]
    Metadata(Refusal),
    /// No such subscription of this tenant.
    #[error("no such subscription")]
    NoSubscription,
    /// The customer pays for another tenant.
    #[error("the customer pays for another tenant")]
    CustomerTaken,
    /// Stripe has deleted the customer, for good.
    #[error("stripe has deleted the customer")]
    CustomerDeleted,
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
    /// Some of the users that were to be made together cannot be, so none was.
    #[error("not all of the users can be made")]
    NotAll(Refused),
    /// Another request was named by this idempotency key.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The request with this idempotency key is having its effect.
    #[error("a request with this idempotency key is under way")]
    InFlight,
    /// The cursor is none that this service has made for this list.
    #[error("the cursor is not valid here")]
    WrongCursor,
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
