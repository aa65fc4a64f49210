//! Jobs that ask Stripe.

mod backfill;
mod contact;
mod customer;
mod ending;
mod oldest;
mod reconcile;
mod seats;
mod subscription;
mod walk;

use std::time::Duration;

use tenantry_queue::Outcome;
use tenantry_stripe::{Client, Error};

pub(crate) use backfill::run as backfill;
pub(crate) use contact::forget_contact;
pub use customer::{ask_for, customer};
pub(crate) use customer::{create as create_customer, sync as sync_customer};
pub(crate) use ending::run as end_subscriptions;
pub use reconcile::begin_events;
pub(crate) use reconcile::run as reconcile;
pub(crate) use seats::run as sync_seats;
pub(crate) use subscription::run as sync_subscription;
pub use walk::{Seen, step};

use crate::Handlers;

/// Why what needs both Stripe and the database is not finished.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// Stripe did not answer as it should.
    #[error(transparent)]
    Stripe(#[from] Error),
    /// The database did not.
    #[error(transparent)]
    Accounts(#[from] tenantry_accounts::Error),
}

impl Handlers {
    /// The way out to Stripe.
    fn stripe(&self) -> Result<&Client, Outcome> {
        // Another worker may have it, and an event comes only once.
        let none = || Outcome::Retry("STRIPE_SECRET_KEY is not set for this worker".into());
        self.stripe.as_ref().ok_or_else(none)
    }
}

/// What becomes of a job whose question Stripe did not answer.
fn unanswered(error: &Error) -> Outcome {
    match error {
        // Stripe is well, and only wants us to wait: that is no failure of the job.
        Error::Limited(wait) => Outcome::Snooze(*wait),
        Error::KeyBusy => Outcome::Snooze(Duration::from_secs(1)),
        Error::Unavailable(_) | Error::Failed(_) | Error::KeyUsed | Error::Unreadable(_) => {
            Outcome::Retry(error.to_string())
        }
        // A key that was taken back or lacks a right may be mended by the operator, so these are tried again as well.
        Error::Refused { status: 401 | 403, .. } => Outcome::Retry(error.to_string()),
        Error::Refused { .. } => Outcome::Dead(error.to_string()),
    }
}

fn unfinished(error: &Unfinished) -> Outcome {
    match error {
        Unfinished::Stripe(error) => unanswered(error),
        Unfinished::Accounts(error) => failed(error),
    }
}

fn failed(error: &tenantry_accounts::Error) -> Outcome {
    Outcome::Retry(error.to_string())
}
