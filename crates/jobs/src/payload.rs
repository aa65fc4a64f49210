use std::fmt::Debug;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::Kind;

/// The arguments of one kind of job, as they are stored: a JSON object.
pub trait Job: Serialize + DeserializeOwned + Debug + Send + Sync + 'static {
    /// The kind these are the arguments of.
    const KIND: Kind;
}

/// Send a user the link that proves the address is theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerifyEmail {
    /// Whose address is to be proven.
    pub user_id: Uuid,
}

impl Job for VerifyEmail {
    const KIND: Kind = Kind::VerifyEmail;
}

/// Send a user the link by which one chooses another password, or the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResetPasswordEmail {
    /// Who chooses a password. Where there is no such user, nothing is sent.
    pub user_id: Uuid,
}

impl Job for ResetPasswordEmail {
    const KIND: Kind = Kind::ResetPasswordEmail;
}

/// Send somebody who was invited the link by which they accept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InvitationEmail {
    /// The invitation.
    pub invitation_id: Uuid,
}

impl Job for InvitationEmail {
    const KIND: Kind = Kind::InvitationEmail;
}

/// Tell who reads mail at an address that its account is about to have another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressNoticeEmail {
    /// Row of `tenantry.address_notices`, which holds the address.
    pub notice_id: Uuid,
}

impl Job for AddressNoticeEmail {
    const KIND: Kind = Kind::AddressNoticeEmail;
}

/// Tell a user by mail what happened to their second factor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SecondFactorNoticeEmail {
    /// Whose it is. Where there is no such user, nothing is sent.
    pub user_id: Uuid,
    /// What happened.
    pub event: SecondFactorEvent,
}

impl Job for SecondFactorNoticeEmail {
    const KIND: Kind = Kind::SecondFactorNoticeEmail;
}

/// What happened to a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SecondFactorEvent {
    /// It was set up.
    Enabled,
    /// Its user removed it.
    Disabled,
    /// An administrator removed it.
    Reset,
    /// A recovery code was used.
    RecoveryCodeUsed,
    /// There are new recovery codes.
    RecoveryCodesRenewed,
    /// Somebody who has the password gave too many wrong codes.
    Locked,
}

impl SecondFactorEvent {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Enabled,
        Self::Disabled,
        Self::Reset,
        Self::RecoveryCodeUsed,
        Self::RecoveryCodesRenewed,
        Self::Locked,
    ];

    /// As it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Reset => "reset",
            Self::RecoveryCodeUsed => "recovery_code_used",
            Self::RecoveryCodesRenewed => "recovery_codes_renewed",
            Self::Locked => "locked",
        }
    }
}

/// Make sure that no cache keeps these users as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InvalidateUser {
    /// The users that changed, each with the version it has now.
    pub users: Vec<Stale>,
}

impl Job for InvalidateUser {
    const KIND: Kind = Kind::InvalidateUser;
}

/// A row of which every older copy is stale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stale {
    /// The row's id.
    pub id: Uuid,
    /// The oldest version that may still be shown.
    pub version: i64,
}

/// Erase what no key leads to of a user who was erased: copies in answers, in the audit trail, in jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EraseUser {
    /// Row of `tenantry.erasures`, which holds what is looked for.
    pub user_id: Uuid,
}

impl Job for EraseUser {
    const KIND: Kind = Kind::EraseUser;
}

/// Fetch a subscription from Stripe and apply what it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncSubscription {
    /// The subscription, as Stripe names it.
    pub subscription_id: String,
    /// Only if an event came since it was last fetched.
    #[serde(default)]
    pub if_dirty: bool,
}

impl Job for SyncSubscription {
    const KIND: Kind = Kind::SyncSubscription;
}

/// Make a customer in Stripe for the job's tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CreateCustomer {}

impl Job for CreateCustomer {
    const KIND: Kind = Kind::CreateCustomer;
}

/// Ask Stripe for the customer that pays for the job's tenant. When Stripe has deleted it, it is unlinked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncCustomer {
    /// The customer, as Stripe names it.
    pub customer_id: String,
}

impl Job for SyncCustomer {
    const KIND: Kind = Kind::SyncCustomer;
}

/// Let the quantity in Stripe follow the seats that the job's tenant uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SyncSeats {}

impl Job for SyncSeats {
    const KIND: Kind = Kind::SyncSeats;
}

/// Let what the job's tenant pays for end with the period that is paid, since the tenant has been closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndSubscriptions {}

impl Job for EndSubscriptions {
    const KIND: Kind = Kind::EndSubscriptions;
}

/// Take in events that Stripe could not deliver, and once a day compare every subscription. Comes round by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StripeReconcile {}

impl Job for StripeReconcile {
    const KIND: Kind = Kind::StripeReconcile;
}

/// Take in all customers and subscriptions that Stripe has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct StripeBackfill {}

impl Job for StripeBackfill {
    const KIND: Kind = Kind::StripeBackfill;
}

/// Make the users of an import, from where the last attempt stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImportUsers {
    /// The import.
    pub import_id: Uuid,
}

impl Job for ImportUsers {
    const KIND: Kind = Kind::ImportUsers;
}

/// Remove jobs that were done or cancelled a day ago. Comes round by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PruneJobs {}

impl Job for PruneJobs {
    const KIND: Kind = Kind::PruneJobs;
}

/// Remove users who were deleted a month ago, and API keys that ended then. Comes round by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PurgeDeleted {}

impl Job for PurgeDeleted {
    const KIND: Kind = Kind::PurgeDeleted;
}

/// Remove the closed tenants that may no longer be opened again. Comes round by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PurgeTenants {}

impl Job for PurgeTenants {
    const KIND: Kind = Kind::PurgeTenants;
}

/// Make room for the audit events of the months to come, and drop those that were kept long enough. Comes round by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RotateAudit {}

impl Job for RotateAudit {
    const KIND: Kind = Kind::RotateAudit;
}

/// Count the users of the job's tenant and their sign-ins, for `GET /users/stats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RollUpUsers {}

impl Job for RollUpUsers {
    const KIND: Kind = Kind::RollUpUsers;
}
