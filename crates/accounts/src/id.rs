//! Identifiers: UUIDv7, so that they sort by age, and a type each, so that a user's never passes for a tenant's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new one.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(s).map(Self)
            }
        }

        crate::schema::text_schema!($name, format: "uuid");
        crate::schema::json_text!($name);

        impl poem_openapi::types::ParseFromParameter for $name {
            fn parse_from_parameter(text: &str) -> poem_openapi::types::ParseResult<Self> {
                text.parse().map_err(|_| poem_openapi::types::ParseError::custom("is not a UUID"))
            }
        }
    };
}

id!(
    /// Names a tenant.
    TenantId
);
id!(
    /// Names a user, within a tenant.
    UserId
);
id!(
    /// Names a session, within a tenant.
    SessionId
);

id!(
    /// Names an invitation, within a tenant.
    InvitationId
);

id!(
    /// Names an API key, within a tenant.
    ApiKeyId
);

id!(
    /// Names an import of users, within a tenant.
    ImportId
);

id!(
    /// Names a subscription, within a tenant.
    SubscriptionId
);

impl TenantId {
    /// The tenant of super administrators and of work that belongs to no customer.
    pub const SYSTEM: Self = Self(Uuid::nil());
}
