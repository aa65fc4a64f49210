//! The note on the door: the kinds of job that exist and their arguments.
//!
//! Producers depend on this crate and on nothing of the workers. A payload holds ids, not copies: the worker reads
//! the truth when it runs, and a job may run twice. To add a kind, add a struct that is a [`Job`], a variant of
//! [`Kind`] with its [`Policy`], and a row in `tenantry.job_kinds`; tests compare the three.
#![warn(missing_docs)]

mod kind;
mod payload;
#[cfg(feature = "schema")]
pub mod schema;

pub use kind::{Backoff, Kind, Policy, UnknownKind};
pub use payload::{
    AddressNoticeEmail, CreateCustomer, EndSubscriptions, EraseUser, ImportUsers, InvalidateUser,
    InvitationEmail, Job, PruneJobs, PurgeDeleted, PurgeTenants, ResetPasswordEmail, RollUpUsers,
    RotateAudit, SecondFactorEvent, SecondFactorNoticeEmail, Stale, StripeBackfill, StripeReconcile,
    SyncCustomer, SyncSeats, SyncSubscription, VerifyEmail,
};
