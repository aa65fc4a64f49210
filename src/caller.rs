//! Who asks. A handler takes a [`Caller`] as an argument, so that none can forget to ask.

use std::{ops::Deref, sync::Arc};

use poem::{PathPattern, Request, RequestBody, http::header};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use tenantry_accounts::{self as accounts, Actor, ApiKeyId, TenantId, UserId, tenants, users::Role};

use crate::{
    access_token::Claims,
    api_key::ApiKey,
    error::{ApiError, Code},
    layers::Client,
    operations::{self, Who},
    state::State,
};

/// Who asks, be it a signed-in user or an API key, and the tenant the request is for.
pub(crate) struct Caller(Actor);

impl Deref for Caller {
    type Target = Actor;

    fn deref(&self) -> &Actor {
        &self.0
    }
}

/// What a request came with, where it is valid; put there by the layers, which count those that have none.
#[derive(Clone)]
pub(crate) enum Credential {
    None,
    Token(Arc<Claims>),
    Key(Arc<ApiKey>),
}

impl Credential {
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The user or the key, for the log.
    pub(crate) fn names(&self) -> (Option<UserId>, Option<ApiKeyId>) {
        match self {
            Self::None => (None, None),
            Self::Token(claims) => (Some(claims.sub), None),
            Self::Key(key) => (None, Some(key.id())),
        }
    }
}

/// The bearer token of a request.
pub(crate) fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
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
                description: Some(
                    "An access token from `POST /auth/login`, or an API key from `POST /api-keys`.",
                ),
                name: None,
                key_in: None,
                scheme: Some("bearer"),
                bearer_format: Some("JWT or tk_..."),
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
        let from = request.data::<Client>().and_then(Client::network);
        let credential = request.data::<Credential>();
        if let Some(Credential::Token(claims)) = credential
            && claims.setup_only()
            && !operations::while_setting_up(request)
        {
            return Err(ApiError::setup_required().into());
        }
        admit(request, credential.unwrap_or(&Credential::None))?;
        match credential {
            Some(Credential::Token(claims)) => {
                let actor = Actor { tenant: tenant(request, claims).await?, ..claims.actor(from) };
                if actor.tenant != actor.home {
                    let state = request.data::<State>().ok_or_else(ApiError::internal)?;
                    tenants::enter(&state.app, actor).await.map_err(ApiError::from)?;
                }
                Ok(Self(actor))
            }
            Some(Credential::Key(key)) => {
                let (tenant, slug) = key.tenant();
                match elsewhere(request, tenant, slug) {
                    None => Ok(Self(key.actor(from))),
                    Some(_) => Err(another_tenant("API key").into()),
                }
            }
            Some(Credential::None) | None => Err(ApiError::unauthenticated().into()),
        }
    }
}

/// Refuses those whom the table of operations does not let in.
fn admit(request: &Request, credential: &Credential) -> Result<(), ApiError> {
    let who = match operations::of_request(request) {
        Some(who) if who != Who::Public => who,
        _ => {
            let pattern = request.data::<PathPattern>().map(|pattern| &*pattern.0);
            tracing::error!("the table of operations says nothing of callers at {pattern:?}");
            return Err(ApiError::internal());
        }
    };
    match (credential, who) {
        (Credential::None, _) => Err(ApiError::unauthenticated()),
        (Credential::Token(claims), Who::Role(role, _)) if claims.role >= role => Ok(()),
        (Credential::Token(_), _) => Err(accounts::Error::Forbidden.into()),
        (Credential::Key(key), Who::Role(_, Some(scope)) | Who::Key(scope)) if key.may(scope) => Ok(()),
        (Credential::Key(_), Who::Role(_, Some(scope)) | Who::Key(scope)) => {
            let message = format!("The API key lacks the scope {}", scope.as_str());
            Err(ApiError::new(Code::Forbidden, message))
        }
        (Credential::Key(_), _) => {
            Err(ApiError::new(Code::Forbidden, "This takes a signed-in user, not an API key"))
        }
    }
}

/// The tenant the request is for: that of the token. `X-Tenant-ID` leads elsewhere for super administrators only.
async fn tenant(request: &Request, claims: &Claims) -> poem::Result<TenantId> {
    let Some(wanted) = elsewhere(request, claims.tid, &claims.slug) else { return Ok(claims.tid) };
    if claims.role != Role::SuperAdmin {
        return Err(another_tenant("access token").into());
    }
    let state = request.data::<State>().ok_or_else(ApiError::internal)?;
    Ok(tenants::find(&state.app, wanted).await.map_err(ApiError::from)?)
}

/// What `X-Tenant-ID` says, if that is another tenant than `tenant`.
fn elsewhere<'a>(request: &'a Request, tenant: TenantId, slug: &str) -> Option<&'a str> {
    let mut lines =
        request.headers().get_all("x-tenant-id").iter().map(|line| line.to_str().unwrap_or_default());
    lines.find(|wanted| *wanted != slug && wanted.parse() != Ok(tenant))
}

fn another_tenant(than: &str) -> ApiError {
    ApiError::new(Code::Forbidden, format!("X-Tenant-ID names another tenant than the {than}"))
}
