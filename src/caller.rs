//! Who asks. A handler takes a [`Caller`] as an argument, so that none can forget to ask.

use std::{ops::Deref, sync::Arc};

use poem::{
    PathPattern, Request, RequestBody,
    http::{HeaderMap, HeaderName, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};
use tenantry_accounts::{self as accounts, Actor, ApiKeyId, Network, TenantId, UserId, tenants, users::Role};

use crate::{
    access_token::Claims,
    api_key::ApiKey,
    error::{ApiError, Code},
    layers::Client,
    operations::{Operation, Who},
    state::State,
};

const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");

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
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
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
        let Some(operation) = Operation::routed(request) else {
            let pattern = request.data::<PathPattern>().map(|pattern| &*pattern.0);
            tracing::error!("the table of operations says nothing of {pattern:?}");
            return Err(ApiError::internal().into());
        };
        let state = request.data::<State>().ok_or_else(ApiError::internal)?;
        let from = request.data::<Client>().copied().and_then(Client::network);
        let credential = request.data::<Credential>().unwrap_or(&Credential::None);
        Ok(Self::admit(state, operation, credential, from, request.headers()).await?)
    }
}

impl Caller {
    /// Whoever came with this credential, if the table of operations lets them in, in the tenant that they ask for.
    ///
    /// # Errors
    /// When it does not, or they may not ask for that tenant.
    pub(crate) async fn admit(
        state: &State,
        operation: Operation,
        credential: &Credential,
        from: Option<Network>,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        if let Credential::Token(claims) = credential
            && claims.setup_only()
            && !operation.while_setting_up
        {
            return Err(ApiError::setup_required());
        }
        match may(operation.who, credential)? {
            Known::User(claims) => {
                let Some(wanted) = elsewhere(headers, claims.tid, &claims.slug) else {
                    return Ok(Self(claims.actor(from)));
                };
                // In a place of its own, so that those who stay at home do not carry it along.
                Box::pin(enter(state, claims, from, wanted)).await.map(Self)
            }
            Known::Key(key) => {
                let (tenant, slug) = key.tenant();
                match elsewhere(headers, tenant, slug) {
                    None => Ok(Self(key.actor(from))),
                    Some(_) => Err(another_tenant("API key")),
                }
            }
        }
    }
}

/// Who is let in.
enum Known<'a> {
    User(&'a Claims),
    Key(&'a ApiKey),
}

/// Refuses those whom the table of operations does not let in.
fn may(who: Who, credential: &Credential) -> Result<Known<'_>, ApiError> {
    match (credential, who) {
        (_, Who::Public) => {
            tracing::error!("a public operation asks who calls it");
            Err(ApiError::internal())
        }
        (Credential::None, _) => Err(ApiError::unauthenticated()),
        (Credential::Token(claims), Who::Role(role, _)) if claims.role >= role => Ok(Known::User(claims)),
        (Credential::Token(_), _) => Err(accounts::Error::Forbidden.into()),
        (Credential::Key(key), Who::Role(_, Some(scope)) | Who::Key(scope)) if key.may(scope) => {
            Ok(Known::Key(key))
        }
        (Credential::Key(_), Who::Role(_, Some(scope)) | Who::Key(scope)) => {
            let message = format!("The API key lacks the scope {}", scope.as_str());
            Err(ApiError::new(Code::Forbidden, message))
        }
        (Credential::Key(_), _) => {
            Err(ApiError::new(Code::Forbidden, "This takes a signed-in user, not an API key"))
        }
    }
}

/// Leads to another tenant than that of the token, which is for super administrators only.
async fn enter(
    state: &State,
    claims: &Claims,
    from: Option<Network>,
    wanted: &str,
) -> Result<Actor, ApiError> {
    if claims.role != Role::SuperAdmin {
        return Err(another_tenant("access token"));
    }
    let actor = Actor { tenant: tenants::find(&state.app, wanted).await?, ..claims.actor(from) };
    if actor.tenant != actor.home {
        tenants::enter(&state.app, actor).await?;
    }
    Ok(actor)
}

/// What `X-Tenant-ID` says, if that is another tenant than `tenant`.
fn elsewhere<'a>(headers: &'a HeaderMap, tenant: TenantId, slug: &str) -> Option<&'a str> {
    let mut lines = headers.get_all(TENANT).iter().map(|line| line.to_str().unwrap_or_default());
    lines.find(|wanted| *wanted != slug && wanted.parse() != Ok(tenant))
}

fn another_tenant(than: &str) -> ApiError {
    ApiError::new(Code::Forbidden, format!("X-Tenant-ID names another tenant than the {than}"))
}
