//! What an API key may be used for.

use poem_openapi::Enum;
use serde::{Deserialize, Serialize};

/// What an API key may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, Enum)]
#[oai(rename = "ApiKeyScope")]
pub enum Scope {
    /// Look users up and list them.
    #[serde(rename = "users:read")]
    #[oai(rename = "users:read")]
    UsersRead,
    /// Create, change and delete users. Those who are created choose their password by mail.
    #[serde(rename = "users:write")]
    #[oai(rename = "users:write")]
    UsersWrite,
    /// List invitations.
    #[serde(rename = "invitations:read")]
    #[oai(rename = "invitations:read")]
    InvitationsRead,
    /// Invite people, and take invitations back.
    #[serde(rename = "invitations:write")]
    #[oai(rename = "invitations:write")]
    InvitationsWrite,
    /// Read the metadata of users and of the tenant, private ones too, and find users by it.
    #[serde(rename = "metadata:read")]
    #[oai(rename = "metadata:read")]
    MetadataRead,
    /// Change the metadata of users and of the tenant.
    #[serde(rename = "metadata:write")]
    #[oai(rename = "metadata:write")]
    MetadataWrite,
    /// Read the tenant.
    #[serde(rename = "tenant:read")]
    #[oai(rename = "tenant:read")]
    TenantRead,
    /// Change the tenant's name and settings.
    #[serde(rename = "tenant:write")]
    #[oai(rename = "tenant:write")]
    TenantWrite,
    /// See subscriptions.
    #[serde(rename = "billing:read")]
    #[oai(rename = "billing:read")]
    BillingRead,
    /// See jobs.
    #[serde(rename = "jobs:read")]
    #[oai(rename = "jobs:read")]
    JobsRead,
    /// Push, retry and cancel jobs.
    #[serde(rename = "jobs:write")]
    #[oai(rename = "jobs:write")]
    JobsWrite,
    /// Read the audit trail.
    #[serde(rename = "audit:read")]
    #[oai(rename = "audit:read")]
    AuditRead,
    /// Ask whether a token is valid.
    #[serde(rename = "introspect")]
    #[oai(rename = "introspect")]
    Introspect,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::UsersRead,
        Self::UsersWrite,
        Self::InvitationsRead,
        Self::InvitationsWrite,
        Self::MetadataRead,
        Self::MetadataWrite,
        Self::TenantRead,
        Self::TenantWrite,
        Self::BillingRead,
        Self::JobsRead,
        Self::JobsWrite,
        Self::AuditRead,
        Self::Introspect,
    ];

    /// As stored and as written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsersRead => "users:read",
            Self::UsersWrite => "users:write",
            Self::InvitationsRead => "invitations:read",
            Self::InvitationsWrite => "invitations:write",
            Self::MetadataRead => "metadata:read",
            Self::MetadataWrite => "metadata:write",
            Self::TenantRead => "tenant:read",
            Self::TenantWrite => "tenant:write",
            Self::BillingRead => "billing:read",
            Self::JobsRead => "jobs:read",
            Self::JobsWrite => "jobs:write",
            Self::AuditRead => "audit:read",
            Self::Introspect => "introspect",
        }
    }

    /// The scope of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}
