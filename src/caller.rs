//! Who asks. A handler takes a [`Caller`] as an argument, so that none can forget to ask.

use std::{ops::Deref, sync::Arc};

use poem::{PathPattern, Request, RequestBody};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use tenantry_accounts::{self as accounts, Actor, TenantId, tenants, users::Role};

use crate::{
    access_token::Claims,
    error::{ApiError, Code},
    layers::Client,
    operations::{self, Who},
    state::State,
};

/// A signed-in user and the tenant the request is for.
pub(crate) struct Caller(Actor);

impl Deref for Caller {
    type Target = Actor;

    fn deref(&self) -> &Actor {
        &self.0
    }
}

/// The access token of the request, if it carries a valid one; put there by the layers, which count those that do not.
#[derive(Clone)]
pub(crate) struct Credential(pub(crate) Option<Arc<Claims>>);

/// The bearer token of a request.
pub(crate) fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        registry.create_security_scheme(
            "bearer",
            MetaSecurityScheme {
                ty: "http",
                description: Some("An access token from `POST /auth/login`."),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: Some("JWT"),
                flows: None,
                openid_connect_url: None,
            },
        );
    }

    fn security_schemes() -> Vec<&'static str> {
        vec!["bearer"]
    }

    async fn from_request(
        request: &'a Request,
        _: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let claims = request.data::<Credential>().and_then(|credential| credential.0.as_deref());
        let claims = claims.ok_or_else(ApiError::unauthenticated)?;
        let from = request.data::<Client>().and_then(Client::network);
        let actor = Actor { tenant: tenant(request, claims).await?, ..claims.actor(from) };
        admit(request, &actor)?;
        if actor.tenant != actor.home {
            let state = request.data::<State>().ok_or_else(ApiError::internal)?;
            tenants::enter(&state.app, actor).await.map_err(ApiError::from)?;
        }
        Ok(Self(actor))
    }
}

/// Refuses those whom the table of operations does not let in.
fn admit(request: &Request, actor: &Actor) -> Result<(), ApiError> {
    match operations::of_request(request) {
        Some(Who::Role(role, _)) if actor.role >= role => Ok(()),
        Some(Who::Role(..) | Who::Key(_)) => Err(accounts::Error::Forbidden.into()),
        Some(Who::Public) | None => {
            let pattern = request.data::<PathPattern>().map(|pattern| &*pattern.0);
            tracing::error!("the table of operations says nothing of callers at {pattern:?}");
            Err(ApiError::internal())
        }
    }
}

/// The tenant the request is for: that of the token. `X-Tenant-ID` leads elsewhere for super administrators only.
async fn tenant(request: &Request, claims: &Claims) -> poem::Result<TenantId> {
    let lines = request.headers().get_all("x-tenant-id").iter().map(|line| line.to_str().unwrap_or_default());
    let mut elsewhere = lines.filter(|wanted| *wanted != claims.slug && wanted.parse() != Ok(claims.tid));
    let Some(wanted) = elsewhere.next() else { return Ok(claims.tid) };
    if claims.role != Role::SuperAdmin {
        return Err(
            ApiError::new(Code::Forbidden, "X-Tenant-ID names another tenant than the access token").into()
        );
    }
    let state = request.data::<State>().ok_or_else(ApiError::internal)?;
    Ok(tenants::find(&state.app, wanted).await.map_err(ApiError::from)?)
}
