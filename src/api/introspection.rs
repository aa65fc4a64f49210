//! What is told about a token: `POST /auth/introspect`.

use poem_openapi::{Enum, Object};
use serde::Serialize;
use tenantry_accounts::{
    Actor, TenantId,
    api_keys::{Presented, Scope},
    fields::Secret,
    introspection,
    sessions::Method,
    users::Role,
};
use uuid::Uuid;

use crate::{error::ApiError, state::State};

/// A kind of token.
#[derive(Clone, Copy, Serialize, Enum)]
#[serde(rename_all = "snake_case")]
#[oai(rename_all = "snake_case")]
pub(super) enum TokenType {
    /// Of a signed-in user.
    AccessToken,
    /// Of a program.
    ApiKey,
}

/// What a token says (RFC 7662). Nothing but `active` where it is not valid.
#[derive(Default, Serialize, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct Introspection {
    /// Whether it is valid now.
    active: bool,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<TokenType>,
    /// The user or the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<Uuid>,
    /// The tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant_id: Option<TenantId>,
    /// The session of an access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<Uuid>,
    /// What the user may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    /// What the key may be used for.
    #[serde(skip_serializing_if = "Option::is_none")]
    scopes: Option<Vec<Scope>>,
    /// Whether the user's address was verified when the token was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
    /// How the user signed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    amr: Option<Vec<Method>>,
    /// When it was made, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    /// When it ends, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
}

/// What there is to say of `token` to `actor`, whose tenant must be the token's.
pub(super) async fn ask(state: &State, actor: Actor, token: &Secret) -> Result<Introspection, ApiError> {
    let text = token.expose();
    if Presented::looks_like_one(text) {
        return api_key(state, actor, text).await;
    }
    let claims =
        state.tokens.verify(text).filter(|claims| claims.tid == actor.tenant && !claims.setup_only());
    let Some(claims) = claims else { return Ok(Introspection::default()) };
    if !introspection::stands(&state.app, &claims.basis()).await? {
        return Ok(Introspection::default());
    }
    Ok(Introspection {
        active: true,
        token_type: Some(TokenType::AccessToken),
        sub: Some(claims.sub.0),
        tenant_id: Some(claims.tid),
        session_id: Some(claims.sid.0),
        role: Some(claims.role),
        email_verified: Some(claims.email_verified),
        amr: Some(claims.amr.clone()),
        iat: Some(claims.iat),
        exp: Some(claims.exp),
        ..Introspection::default()
    })
}

async fn api_key(state: &State, actor: Actor, text: &str) -> Result<Introspection, ApiError> {
    let Some(key) = Presented::parse(text).filter(|key| key.tenant() == actor.tenant) else {
        return Ok(Introspection::default());
    };
    let Some(key) = state.api_keys.look_up(&state.app, &key).await? else {
        return Ok(Introspection::default());
    };
    Ok(Introspection {
        active: true,
        token_type: Some(TokenType::ApiKey),
        sub: Some(key.id().0),
        tenant_id: Some(actor.tenant),
        scopes: Some(key.scopes().to_vec()),
        exp: Some(key.expires_at()),
        ..Introspection::default()
    })
}
