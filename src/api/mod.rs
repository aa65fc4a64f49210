//! The routes, by noun.

mod api_keys;
mod audit;
mod auth;
mod billing;
mod board;
pub(crate) mod body;
pub(crate) mod bulk;
pub(crate) mod csv;
mod deleted_users;
mod docs;
pub(crate) mod envelope;
pub(crate) mod export;
mod files;
pub(crate) mod health;
pub(crate) mod idempotency;
pub(crate) mod import_report;
mod imports;
mod introspection;
mod invitations;
mod jobs;
pub(crate) mod json;
pub(crate) mod merge_patch;
mod metadata;
pub(crate) mod pages;
mod params;
mod precondition;
mod privacy;
mod projects;
pub(crate) mod schema;
mod tenants;
mod totp;
mod user_lists;
mod user_stats;
mod users;
mod webhooks;

use poem::{Endpoint, EndpointExt, IntoEndpoint, Response, Route, get};
use poem_openapi::{OpenApiService, Tags};

use crate::{openapi, state::State};

/// Groups of operations.
#[derive(Tags)]
enum Tag {
    /// Signing up, signing in, showing that an address is one's own.
    Authentication,
    /// The users of a tenant.
    Users,
    /// People who were asked to join a tenant.
    Invitations,
    /// How programs ask.
    #[oai(rename = "API keys")]
    ApiKeys,
    /// What a tenant pays for, by Stripe.
    Billing,
    /// Work that is done after the change that asked for it: mails, caches, Stripe.
    Jobs,
    /// Tenants: the customers of the service.
    Tenants,
    /// Who did what.
    Audit,
}

/// All operations under `/api/v1`.
pub(crate) type Api = (
    auth::Auth,
    totp::Totp,
    OfUsers,
    invitations::Invitations,
    api_keys::ApiKeys,
    tenants::Tenants,
    audit::Audit,
    billing::BillingApi,
    webhooks::Webhooks,
    jobs::Jobs,
);

/// Those of users, since a tuple has no room for all.
type OfUsers = (
    users::Users,
    bulk::BulkUsers,
    imports::Imports,
    export::ExportUsers,
    deleted_users::DeletedUsers,
    privacy::Privacy,
    user_stats::UserStats,
    projects::Projects,
    metadata::MetadataApi,
);

pub(crate) fn service() -> OpenApiService<Api, ()> {
    OpenApiService::new(
        (
            auth::Auth,
            totp::Totp,
            (
                users::Users,
                bulk::BulkUsers,
                imports::Imports,
                export::ExportUsers,
                deleted_users::DeletedUsers,
                privacy::Privacy,
                user_stats::UserStats,
                projects::Projects,
                metadata::MetadataApi,
            ),
            invitations::Invitations,
            api_keys::ApiKeys,
            tenants::Tenants,
            audit::Audit,
            billing::BillingApi,
            webhooks::Webhooks,
            jobs::Jobs,
        ),
        "SaaS Platform API",
        env!("CARGO_PKG_VERSION"),
    )
    .description("Multi-tenant SaaS application backend")
    .server("/api/v1")
}

/// Every path of the API's listener.
pub(crate) fn routes(state: &State) -> impl Endpoint<Output = Response> + use<> {
    let document = openapi::json();
    let mut routes = Route::new()
        .nest("/api/v1", service())
        .at("/.well-known/jwks.json", get(auth::jwks))
        .at("/health", get(health::alive))
        .at("/health/ready", get(health::ready))
        .at("/openapi.json", get(docs::document(document)))
        .at("/verify-email", get(pages::verify_email).post(pages::post_verify_email))
        .at("/reset-password", get(pages::reset_password).post(pages::post_reset_password))
        .at("/accept-invitation", get(pages::accept_invitation).post(pages::post_accept_invitation));
    routes = board::mount(routes);
    if state.config.docs {
        routes = docs::mount(routes);
    }
    routes.into_endpoint().map_to_response()
}
