//! A job queue in PostgreSQL.
//!
//! [`enqueue`] writes a job in the caller's transaction; it exists when that commits. [`run`] leases due jobs and
//! hands each to a handler. A lease belongs to one job and is extended while its attempt lasts; the job of a worker
//! that died is leased to another one when the lease has run out, and from then on the first can no longer finish
//! it. A job runs at least once, so handlers are idempotent; [`complete`] makes the effect and the end of the job
//! one transaction, so that a database effect happens exactly once.
//!
//! apalis is the worker's runtime (monitor, worker, restarts, shutdown) over a `Backend` of ours. The lower-level
//! trait, not `Persistence`: with that one no lease is extended and no result stored while its buffer holds jobs, an
//! error of the database ends the worker, and a shutdown during a fetch forgets what was fetched.
//!
//! Tenants take turns within a kind and priority. A job whose worker died while it ran is run alone in its process from
//! then on, until an attempt of it ends; three times that this kills the worker make it a dead letter.
#![warn(missing_docs)]

pub mod admin;
mod attempt;
mod enqueue;
mod job;
mod nudge;
mod registry;
mod room;
mod source;
mod span;
mod step;
mod store;
mod worker;

pub use enqueue::{Options, enqueue, enqueue_many, enqueue_with, push};
pub use job::{CompleteError, JobId, Leased, Outcome, complete};
pub use nudge::Nudge;
pub use step::run_due;
pub use store::{StoreError, discard, oldest_waiting, prune};
pub use worker::{RunError, Settings, run};
