//! The house: tenants, users, sessions: their rules and their SQL. It knows no requests and no runners; what must
//! happen together happens in one transaction here, jobs included.
#![warn(missing_docs)]

pub mod api_keys;
pub mod audit;
pub mod billing;
pub mod db;
pub mod encryption;
mod error;
pub mod feed;
pub mod fields;
mod id;
pub mod idempotency;
pub mod imports;
pub mod introspection;
pub mod invitations;
pub mod jobs;
#[cfg(any(test, feature = "laws"))]
#[doc(hidden)]
pub mod laws;
mod mail_tokens;
pub mod metadata;
mod network;
pub mod notices;
pub mod passwords;
pub mod primary;
pub mod privacy;
pub mod recovery;
pub mod revocations;
mod schema;
pub mod second_factor;
pub mod sessions;
pub mod tenants;
pub mod tokens;
pub mod users;
pub mod verification;

use std::{ops::Deref, sync::Arc, time::Duration};

pub use error::{Error, Result};
pub use id::{ApiKeyId, ImportId, InvitationId, SessionId, SubscriptionId, TenantId, UserId};
pub use network::Network;
use tenantry_cache::Cache;

/// What every part of the house works with. Cheap to clone: look-ups take it along.
#[derive(Clone)]
pub struct App(Arc<House>);

impl App {
    /// Of these parts.
    pub fn new(house: House) -> Self {
        Self(Arc::new(house))
    }
}

impl Deref for App {
    type Target = House;

    fn deref(&self) -> &House {
        &self.0
    }
}

/// The parts of an [`App`].
#[derive(Clone)]
pub struct House {
    /// The primary.
    pub db: db::Db,
    /// User look-ups.
    pub cache: Cache,
    /// The one place that hashes passwords.
    pub passwords: Arc<passwords::Hasher>,
    /// What encrypts secrets that must be read again. Empty where nobody signs in: in workers and commands.
    pub encryption: Arc<encryption::Encryption>,
    /// What this node knows to be void.
    pub revocations: Arc<revocations::Revocations>,
    /// In which tenants super administrators have been noted lately.
    pub entries: Arc<tenants::Entries>,
    /// Lists that this node has read lately.
    pub lists: Arc<users::Lists>,
    /// Rules that an operator may set.
    pub settings: Arc<Settings>,
}

/// Rules that an operator may set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seats of a tenant by plan; none: without limit.
    pub seats: tenants::Seats,
    /// How long an access token lives.
    pub access_token_ttl: Duration,
    /// How long a session lives, at most.
    pub session_ttl: Duration,
    /// How long the link in a verification mail works.
    pub verification_ttl: Duration,
    /// How long the link works by which one chooses another password.
    pub reset_ttl: Duration,
    /// How long an invitation may be accepted.
    pub invitation_ttl: Duration,
    /// Whether only verified people may sign in.
    pub require_verified_email: bool,
    /// Name of the product; may be empty.
    pub product: String,
    /// How long a closed tenant may be opened again.
    pub tenant_grace: Duration,
    /// How long audit events are kept, at least.
    pub audit_retention: Duration,
    /// Billing by Stripe; none: there is none.
    pub billing: Option<billing::Settings>,
}

/// What a mail is made of that carries a token.
pub struct Letter {
    /// Where it goes.
    pub to: fields::Email,
    /// Whom it greets.
    pub name: String,
    /// The tenant's name.
    pub tenant_name: String,
    /// What its link carries; empty where there is none.
    pub token: String,
}

/// Who asks, and for which tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Actor {
    /// The tenant the request is for.
    pub tenant: TenantId,
    /// The actor's own tenant: another one for super administrators and operators only.
    pub home: TenantId,
    /// Who it is.
    pub who: Who,
    /// What the actor may do.
    pub role: users::Role,
    /// Where the request came from; none where that is not known.
    pub from: Option<Network>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A user who has signed in.
    User(SignedInUser),
    /// A program, by a key of its tenant.
    ApiKey(ApiKeyId),
    /// Whoever may run this program on the service's own database.
    Operator,
}

/// A user as an access token knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedInUser {
    /// The user.
    pub id: UserId,
    /// `users.auth_version` when the token was made: changes are refused once the row says another.
    pub version: i64,
    /// The session of the token.
    pub session: SessionId,
}

impl Actor {
    /// Whoever runs this program on the service's own database, within `tenant`.
    pub fn operator(tenant: TenantId) -> Self {
        let (home, who, role) = (TenantId::SYSTEM, Who::Operator, users::Role::SuperAdmin);
        Self { tenant, home, who, role, from: None }
    }

    /// Refuses unless the actor is at least `role`.
    pub fn require(&self, role: users::Role) -> Result<()> {
        if self.role >= role { Ok(()) } else { Err(Error::Forbidden) }
    }

    /// The highest role that the actor may give to others, and whose holders it may change. A key gives no more than the
    /// least: whoever holds it could otherwise make an administrator, and be free of its scopes.
    pub fn rank(&self) -> users::Role {
        match self.who {
            Who::ApiKey(_) => users::Role::User,
            Who::User(_) | Who::Operator => self.role,
        }
    }

    /// The user who asks; programs and operators are none.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn user(&self) -> Result<SignedInUser> {
        match self.who {
            Who::User(user) => Ok(user),
            Who::ApiKey(_) | Who::Operator => Err(Error::Forbidden),
        }
    }

    /// Names the user or the key; operators have no name.
    pub fn id(&self) -> Option<uuid::Uuid> {
        match self.who {
            Who::User(user) => Some(user.id.0),
            Who::ApiKey(key) => Some(key.0),
            Who::Operator => None,
        }
    }

    /// Whether the actor is this user of the tenant the request is for.
    pub fn is(&self, id: UserId) -> bool {
        self.home == self.tenant && self.user().is_ok_and(|user| user.id == id)
    }
}

/// Runs `work` to its end even when the client goes away: a change is whole or not at all, and so is its cache entry.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let work = tenantry_cache::of_this_request(tenantry_trace::carried(work));
    tokio::spawn(work).await.map_err(|_| Error::Internal("a change panicked"))?
}
