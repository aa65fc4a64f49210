use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// What a job is about. The strings are stored and used by other programs: they are for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// See [`VerifyEmail`](crate::VerifyEmail).
    VerifyEmail,
    /// See [`ResetPasswordEmail`](crate::ResetPasswordEmail).
    ResetPasswordEmail,
    /// See [`InvitationEmail`](crate::InvitationEmail).
    InvitationEmail,
    /// See [`AddressNoticeEmail`](crate::AddressNoticeEmail).
    AddressNoticeEmail,
    /// See [`SecondFactorNoticeEmail`](crate::SecondFactorNoticeEmail).
    SecondFactorNoticeEmail,
    /// See [`InvalidateUser`](crate::InvalidateUser).
    InvalidateUser,
    /// See [`EraseUser`](crate::EraseUser).
    EraseUser,
    /// See [`SyncSubscription`](crate::SyncSubscription).
    SyncSubscription,
    /// See [`CreateCustomer`](crate::CreateCustomer).
    CreateCustomer,
    /// See [`SyncCustomer`](crate::SyncCustomer).
    SyncCustomer,
    /// See [`SyncSeats`](crate::SyncSeats).
    SyncSeats,
    /// See [`EndSubscriptions`](crate::EndSubscriptions).
    EndSubscriptions,
    /// See [`StripeReconcile`](crate::StripeReconcile).
    StripeReconcile,
    /// See [`StripeBackfill`](crate::StripeBackfill).
    StripeBackfill,
    /// See [`ImportUsers`](crate::ImportUsers).
    ImportUsers,
    /// See [`PruneJobs`](crate::PruneJobs).
    PruneJobs,
    /// See [`PurgeDeleted`](crate::PurgeDeleted).
    PurgeDeleted,
    /// See [`PurgeTenants`](crate::PurgeTenants).
    PurgeTenants,
    /// See [`RotateAudit`](crate::RotateAudit).
    RotateAudit,
    /// See [`RollUpUsers`](crate::RollUpUsers).
    RollUpUsers,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: &'static [Kind] = &[
        Kind::VerifyEmail,
        Kind::ResetPasswordEmail,
        Kind::InvitationEmail,
        Kind::AddressNoticeEmail,
        Kind::SecondFactorNoticeEmail,
        Kind::InvalidateUser,
        Kind::EraseUser,
        Kind::SyncSubscription,
        Kind::CreateCustomer,
        Kind::SyncCustomer,
        Kind::SyncSeats,
        Kind::EndSubscriptions,
        Kind::StripeReconcile,
        Kind::StripeBackfill,
        Kind::ImportUsers,
        Kind::PruneJobs,
        Kind::PurgeDeleted,
        Kind::PurgeTenants,
        Kind::RotateAudit,
        Kind::RollUpUsers,
    ];

    /// The kind as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::VerifyEmail => "verify_email",
            Kind::ResetPasswordEmail => "reset_password_email",
            Kind::InvitationEmail => "invitation_email",
            Kind::AddressNoticeEmail => "address_notice_email",
            Kind::SecondFactorNoticeEmail => "second_factor_notice_email",
            Kind::InvalidateUser => "invalidate_user",
            Kind::EraseUser => "erase_user",
            Kind::SyncSubscription => "sync_subscription",
            Kind::CreateCustomer => "create_customer",
            Kind::SyncCustomer => "sync_customer",
            Kind::SyncSeats => "sync_seats",
            Kind::EndSubscriptions => "end_subscriptions",
            Kind::StripeReconcile => "stripe_reconcile",
            Kind::StripeBackfill => "stripe_backfill",
            Kind::ImportUsers => "import_users",
            Kind::PruneJobs => "prune_jobs",
            Kind::PurgeDeleted => "purge_deleted",
            Kind::PurgeTenants => "purge_tenants",
            Kind::RotateAudit => "rotate_audit",
            Kind::RollUpUsers => "roll_up_users",
        }
    }

    /// How jobs of this kind are run.
    pub const fn policy(self) -> Policy {
        match self {
            // Twenty-five attempts last well over an hour: a mail server may be away that long.
            Kind::VerifyEmail
            | Kind::ResetPasswordEmail
            | Kind::InvitationEmail
            | Kind::AddressNoticeEmail
            | Kind::SecondFactorNoticeEmail => Policy {
                max_attempts: 25,
                timeout: Duration::from_secs(30),
                concurrency: 16,
                reserved: 4,
                backoff: Backoff {
                    least: Duration::ZERO,
                    base: Duration::from_secs(2),
                    cap: Duration::from_secs(600),
                },
            },
            // Each second for as long as it takes: waiting longer would only show stale data longer.
            Kind::InvalidateUser => Policy {
                max_attempts: 86_400,
                timeout: Duration::from_secs(10),
                concurrency: 64,
                reserved: 4,
                backoff: Backoff::every(Duration::from_secs(1)),
            },
            // For as long as it takes: what somebody asked us to forget is not given up.
            Kind::EraseUser => Policy {
                max_attempts: 86_400,
                timeout: Duration::from_secs(300),
                concurrency: 2,
                reserved: 0,
                backoff: Backoff {
                    least: Duration::from_secs(1),
                    base: Duration::from_secs(1),
                    cap: Duration::from_secs(60),
                },
            },
            // A hundred attempts last for more than a day: Stripe may be away that long, and events come only once.
            Kind::SyncSubscription
            | Kind::CreateCustomer
            | Kind::SyncCustomer
            | Kind::SyncSeats
            | Kind::EndSubscriptions => Policy {
                max_attempts: 100,
                timeout: Duration::from_secs(60),
                concurrency: 16,
                reserved: 2,
                backoff: Backoff {
                    least: Duration::ZERO,
                    base: Duration::from_secs(2),
                    cap: Duration::from_secs(1800),
                },
            },
            // Walks through all of Stripe's: they stop after half a minute and go on where they were.
            Kind::StripeReconcile | Kind::StripeBackfill => Policy {
                max_attempts: 10,
                timeout: Duration::from_secs(120),
                concurrency: 1,
                reserved: 0,
                backoff: Backoff {
                    least: Duration::from_secs(1),
                    base: Duration::from_secs(10),
                    cap: Duration::from_secs(600),
                },
            },
            // They stop after half a minute and go on where they were. Two at a time leave the database to others.
            Kind::ImportUsers => Policy {
                max_attempts: 50,
                timeout: Duration::from_secs(120),
                concurrency: 2,
                reserved: 0,
                backoff: Backoff {
                    least: Duration::from_secs(1),
                    base: Duration::from_secs(2),
                    cap: Duration::from_secs(600),
                },
            },
            // They come round again by themselves, or are asked for again by whoever reads what they count.
            Kind::PruneJobs
            | Kind::PurgeDeleted
            | Kind::PurgeTenants
            | Kind::RotateAudit
            | Kind::RollUpUsers => Policy {
                max_attempts: 10,
                timeout: Duration::from_secs(60),
                concurrency: 1,
                reserved: 0,
                backoff: Backoff {
                    least: Duration::from_secs(1),
                    base: Duration::from_secs(10),
                    cap: Duration::from_secs(600),
                },
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Kind::ALL.iter().copied().find(|kind| kind.as_str() == name).ok_or(UnknownKind)
    }
}

/// There is no kind of job of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownKind;

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unknown kind of job; the kinds are ")?;
        f.write_str(&Kind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "))
    }
}

impl std::error::Error for UnknownKind {}

/// How jobs of one kind are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// A job that failed this often is dead. `tenantry.job_kinds` says the same.
    pub max_attempts: u32,
    /// An attempt that takes longer has failed.
    pub timeout: Duration,
    /// How many of this kind one worker process runs at once.
    pub concurrency: usize,
    /// How many places of its own this kind has in a worker process, beside those that all kinds share: however long
    /// other jobs take, these start at once.
    pub reserved: usize,
    /// How long a failed job waits for its next attempt.
    pub backoff: Backoff,
}

/// A delay drawn evenly from `least` to `base * 2^(attempt - 1)`, at most `cap`: "full jitter", as in the AWS
/// Builders' Library, so that jobs that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The shortest delay.
    pub least: Duration,
    /// The longest delay after the first failure.
    pub base: Duration,
    /// The longest delay there is.
    pub cap: Duration,
}

impl Backoff {
    /// The same delay each time.
    pub const fn every(delay: Duration) -> Self {
        Self { least: delay, base: delay, cap: delay }
    }
}
