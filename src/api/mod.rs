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
pub(crate) mod look_up;
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

use std::collections::HashMap;

use futures_util::future::BoxFuture;
use poem::{EndpointExt, IntoEndpoint, Request, Response, Route, endpoint::BoxEndpoint, get, http::Method};
use poem_openapi::{
    OpenApi, OpenApiService, Tags,
    registry::{MetaApi, Registry},
};

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

pub(crate) fn service() -> OpenApiService<Whole<Api>, ()> {
    OpenApiService::new(
        Whole((
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
        )),
        "SaaS Platform API",
        env!("CARGO_PKG_VERSION"),
    )
    .description("Multi-tenant SaaS application backend")
    .server(PREFIX)
}

/// Where the operations are.
pub(crate) const PREFIX: &str = "/api/v1";

/// Operations at their whole paths. (Nested below another route, poem would match each path twice, and write URL and pattern anew
/// for each request.)
pub(crate) struct Whole<T>(T);

impl<T: OpenApi> OpenApi for Whole<T> {
    fn meta() -> Vec<MetaApi> {
        T::meta()
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn add_routes(self, routes: &mut HashMap<String, HashMap<Method, BoxEndpoint<'static>>>) {
        let mut below = HashMap::new();
        self.0.add_routes(&mut below);
        routes.extend(below.into_iter().map(|(path, methods)| (format!("{PREFIX}{path}"), methods)));
    }
}

/// Every path of the API's listener.
pub(crate) struct Routes {
    operations: BoxEndpoint<'static>,
    pages: BoxEndpoint<'static>,
}

impl Routes {
    pub(crate) fn new(state: &State) -> Self {
        Self { operations: service().into_endpoint(), pages: pages(state).boxed() }
    }

    /// Answers a request.
    pub(crate) fn call(&self, request: Request) -> BoxFuture<'_, poem::Result<Response>> {
        let is_operation = request.uri().path().starts_with(PREFIX);
        if is_operation { self.operations.call(request) } else { self.pages.call(request) }
    }
}

/// What is no operation.
fn pages(state: &State) -> Route {
    let document = openapi::json();
    let mut routes = Route::new()
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
    routes
}
