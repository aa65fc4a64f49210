//! `/auth`.

use poem::{Request, Response, handler, http::header, web::Data};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path},
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::Serialize;
use tenantry_accounts::{
    SessionId,
    fields::{Email, NewPassword, Secret},
    recovery,
    second_factor::Code,
    sessions::{self, Origin, Session, SignedIn},
    users::User,
    verification,
};

use super::{
    Tag,
    body::{Body, body, wrong},
    envelope::{Answer, Created, Deleted, Envelope, Later},
    idempotency::{IdempotencyKey, Repeatable},
    introspection::{self, Introspection},
    precondition::Precondition,
    schema::shown,
    tenants::{SignUp, SignedUp, sign_up},
};
use crate::{caller::Caller, error::ApiError, layers::Client, limits::What, state::State};

pub(crate) struct Auth;

body! {
    /// Who signs in.
    pub(crate) struct Login from "x-tenant-id" as "tenant" {
        /// The user's address.
        email: Email,
        /// The user's password.
        password: Secret,
        /// Where the user has a second factor: six digits of the authenticator app, or a recovery code. Each works once.
        code: Option<Code>,
        /// The tenant's id or slug; may come as `X-Tenant-ID` instead.
        tenant: Reference,
    }
}

body! {
    /// What renews a session.
    pub(crate) struct Refresh {
        /// The refresh token of the last answer. It works once.
        refresh_token: Secret,
    }
}

body! {
    /// Which session ends.
    pub(crate) struct Logout {
        /// Ends the session of this token as well, should it be another one of yours.
        refresh_token: Option<Secret>,
    }
}

body! {
    /// A new password.
    pub(crate) struct ChangePassword {
        /// The password until now.
        current_password: Secret,
        /// The password from now on.
        new_password: NewPassword,
    }
}

body! {
    /// Whom to send a mail.
    pub(crate) struct Addressee from "x-tenant-id" as "tenant" {
        /// The address.
        email: Email,
        /// The tenant's id or slug; may come as `X-Tenant-ID` instead.
        tenant: Reference,
    }
}

body! {
    /// A new password for whoever has the token of a mail.
    pub(crate) struct ResetPassword {
        /// What the link in the mail carries.
        token: Secret,
        /// The password from now on.
        password: NewPassword,
    }
}

body! {
    /// A token from a mail.
    pub(crate) struct VerifyEmail {
        /// What the link in the mail carries.
        token: Secret,
    }
}

body! {
    /// A token that somebody came with.
    pub(crate) struct Introspect {
        /// An access token or an API key.
        token: Secret,
    }
}

/// A tenant's id or slug.
#[derive(Debug)]
pub(crate) struct Reference(pub(super) String);

impl super::body::Field for Reference {
    fn parse(
        value: Option<serde_json::Value>,
        at: &str,
        errors: &mut Vec<crate::error::FieldError>,
    ) -> Option<Self> {
        match value {
            None => {
                errors.push(wrong(at, "missing", "Say which tenant, by id or slug, here or as X-Tenant-ID"));
                None
            }
            Some(serde_json::Value::String(text))
                if (1..=100).contains(&text.len()) && !text.contains('\0') =>
            {
                Some(Self(text))
            }
            _ => {
                errors.push(wrong(at, "wrong_type", "Must be a tenant's id or slug"));
                None
            }
        }
    }
}

// Not required: it may come as a header.
shown!(Reference, required: false, schema: MetaSchemaRef::Inline(Box::new(MetaSchema {
    min_length: Some(1),
    max_length: Some(100),
    ..MetaSchema::new("string")
})));

/// A session that has begun or has been renewed.
#[derive(Serialize, Object)]
pub(crate) struct SignedInSession {
    /// The access token: send it as `Authorization: Bearer`.
    token: String,
    /// Always `Bearer`.
    token_type: String,
    /// How long the access token works, in seconds.
    expires_in: u64,
    /// Renews the access token. Keep it where scripts of others cannot read it.
    refresh_token: String,
    user: User,
}

/// Sessions that have not ended.
#[derive(Serialize, Object)]
pub(crate) struct SessionList {
    /// The newest first; at most 100.
    sessions: Vec<Session>,
}

#[derive(ApiResponse)]
enum SessionBegun {
    /// Signed in.
    #[oai(status = 200)]
    Begun(
        Envelope<SignedInSession>,
        /// Tokens are kept by nobody on the way.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

#[derive(ApiResponse)]
enum Introspected {
    /// What the token says, if it is valid.
    #[oai(status = 200)]
    Answer(
        Envelope<Introspection>,
        /// It may be another answer a moment later.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

#[OpenApi(prefix_path = "/auth", tag = "Tag::Authentication")]
impl Auth {
    /// Sign up
    ///
    /// Makes a tenant and its first administrator, who may sign in at once. The verification mail is sent when this
    /// succeeds, and only then.
    #[oai(path = "/register", method = "post", operation_id = "register")]
    async fn register(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        /// Names this request: sent again within a day it is answered as before, and nothing happens twice. It has to be as hard
        /// to guess as a UUID of chance.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<SignUp>,
    ) -> Result<Repeatable<Created<SignedUp>>, ApiError> {
        sign_up(&state, &client, key, body.0).await
    }

    /// Sign in
    ///
    /// Wrong tenant, wrong address, wrong password, a suspended tenant and an inactive user get the same answer, and are
    /// counted by tenant and address: too many get 429 for a while.
    ///
    /// Users with a second factor are told so once the password is right (`second_factor_required`): send the same again
    /// with `code`. Where the tenant requires a second factor and the user has none, the session may only set one up; other
    /// requests are refused (`second_factor_setup_required`).
    #[oai(path = "/login", method = "post", operation_id = "login")]
    async fn login(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        request: &Request,
        /// The tenant's id or slug, unless `tenant` is in the body.
        #[oai(name = "X-Tenant-ID")]
        _tenant: Header<Option<String>>,
        body: Body<Login>,
    ) -> Result<SessionBegun, ApiError> {
        let Login { email, password, code, tenant: Reference(tenant) } = body.0;
        let origin = Origin { user_agent: user_agent(request), address: client.address };
        let turn = state.app.passwords.turn()?;
        let named = state.limits.tenant(&state.app, &tenant).await?;
        let attempt = state.limits.attempts.count(What::SignIn(&named, email.as_str())).await?;
        let session = sessions::login(&state.app, turn, &tenant, &email, password, code, origin).await;
        attempt.end(&session).await;
        Ok(SessionBegun::Begun(Envelope::of(&answer(&state, session?)?), "no-store".into()))
    }

    /// Renew a session
    ///
    /// Uses the refresh token up and gives the next. The same token again within 10 seconds gives the same next one, since
    /// two tabs may renew at once. Later it must have been copied, and the session ends.
    #[oai(path = "/refresh", method = "post", operation_id = "refreshSession")]
    async fn refresh(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        body: Body<Refresh>,
    ) -> Result<SessionBegun, ApiError> {
        let session = sessions::renew(&state.app, body.0.refresh_token, client.network()).await?;
        Ok(SessionBegun::Begun(Envelope::of(&answer(&state, session)?), "no-store".into()))
    }

    /// Sign out
    ///
    /// Ends your session: its access tokens are refused here at once and elsewhere within a second.
    #[oai(path = "/logout", method = "post", operation_id = "logout")]
    async fn logout(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<Logout>,
    ) -> Result<Deleted, ApiError> {
        sessions::log_out(&state.app, *caller, body.0.refresh_token).await?;
        Ok(Deleted::Deleted)
    }

    /// Sign out everywhere
    ///
    /// Ends all of your sessions, this one included.
    #[oai(path = "/logout-all", method = "post", operation_id = "logoutEverywhere")]
    async fn logout_all(&self, state: Data<&State>, caller: Caller) -> Result<Deleted, ApiError> {
        sessions::log_out_everywhere(&state.app, *caller).await?;
        Ok(Deleted::Deleted)
    }

    /// List your sessions
    ///
    /// Those that have not ended, the newest first.
    #[oai(path = "/sessions", method = "get", operation_id = "listSessions")]
    async fn sessions(&self, state: Data<&State>, caller: Caller) -> Result<Answer<SessionList>, ApiError> {
        let sessions = sessions::list(&state.app, *caller).await?;
        Ok(Answer::Ok(Envelope::of(&SessionList { sessions })))
    }

    /// End one of your sessions
    ///
    /// Its refresh token stops working at once, and so do its access tokens.
    #[oai(path = "/sessions/:id", method = "delete", operation_id = "deleteSession")]
    async fn delete_session(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The session's id.
        id: Path<SessionId>,
        /// It has no versions: 412 unless this is `*`.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        if_match.of_no_version()?;
        sessions::revoke(&state.app, *caller, id.0).await?;
        Ok(Deleted::Deleted)
    }

    /// Change your password
    ///
    /// Your other sessions end, and links that were mailed to reset the password are void.
    #[oai(path = "/change-password", method = "post", operation_id = "changePassword")]
    async fn change_password(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<ChangePassword>,
    ) -> Result<Deleted, ApiError> {
        let ChangePassword { current_password, new_password } = body.0;
        let change = sessions::change_password(&state.app, *caller, current_password, new_password);
        let changed = state.limits.attempts.with_password(&caller, change).await?;
        changed.map_err(|error| ApiError::from(error).at("/new_password"))?;
        Ok(Deleted::Deleted)
    }

    /// Send the verification mail again
    ///
    /// The answer is the same whether somebody has the address or not.
    #[oai(path = "/resend-verification", method = "post", operation_id = "resendVerification")]
    async fn resend_verification(
        &self,
        state: Data<&State>,
        /// The tenant's id or slug, unless `tenant` is in the body.
        #[oai(name = "X-Tenant-ID")]
        _tenant: Header<Option<String>>,
        body: Body<Addressee>,
    ) -> Result<Later, ApiError> {
        let Addressee { email, tenant: Reference(tenant) } = body.0;
        let named = state.limits.tenant(&state.app, &tenant).await?;
        state.limits.attempts.count(What::Resend(&named, email.as_str())).await?;
        verification::resend(&state.app, &tenant, &email).await?;
        Ok(Later::accepted())
    }

    /// Ask for a link to choose another password
    ///
    /// The link is mailed to the address. The answer is the same whether somebody has it or not.
    #[oai(path = "/forgot-password", method = "post", operation_id = "forgotPassword")]
    async fn forgot_password(
        &self,
        state: Data<&State>,
        /// The tenant's id or slug, unless `tenant` is in the body.
        #[oai(name = "X-Tenant-ID")]
        _tenant: Header<Option<String>>,
        body: Body<Addressee>,
    ) -> Result<Later, ApiError> {
        let Addressee { email, tenant: Reference(tenant) } = body.0;
        let named = state.limits.tenant(&state.app, &tenant).await?;
        state.limits.attempts.count(What::Forgot(&named, email.as_str())).await?;
        recovery::forgot(&state.app, &tenant, &email).await?;
        Ok(Later::accepted())
    }

    /// Choose another password
    ///
    /// Takes the token of the mail; it works once. Every session of the user ends.
    #[oai(path = "/reset-password", method = "post", operation_id = "resetPassword")]
    async fn reset_password(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        body: Body<ResetPassword>,
    ) -> Result<Deleted, ApiError> {
        let ResetPassword { token, password } = body.0;
        recovery::reset(&state.app, token, password, client.network()).await?;
        Ok(Deleted::Deleted)
    }

    /// Ask whether a token is valid
    ///
    /// For services that would rather ask than verify access tokens themselves (RFC 7662): with an API key that has the
    /// scope `introspect`. The database is asked, so what was revoked is told at once. Of tokens of other tenants, and of
    /// what is no token, nothing is told but that it is not valid.
    #[oai(path = "/introspect", method = "post", operation_id = "introspectToken")]
    async fn introspect(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<Introspect>,
    ) -> Result<Introspected, ApiError> {
        let found = introspection::ask(&state, *caller, &body.0.token).await?;
        Ok(Introspected::Answer(Envelope::of(&found), "no-store".into()))
    }

    /// Verify an address
    ///
    /// Takes the token of a verification mail; it works once. If the mail went to an address that the user wants to have,
    /// it is theirs from now on.
    #[oai(path = "/verify-email", method = "post", operation_id = "verifyEmail")]
    async fn verify_email(
        &self,
        state: Data<&State>,
        client: Data<&Client>,
        body: Body<VerifyEmail>,
    ) -> Result<Answer<User>, ApiError> {
        let user = verification::redeem(&state.app, &body.0.token, client.network()).await?;
        Ok(Answer::Ok(Envelope::of(&user)))
    }
}

fn answer(state: &State, session: SignedIn) -> Result<SignedInSession, ApiError> {
    let token = state.tokens.issue(&session).map_err(|error| {
        tracing::error!("an access token could not be signed: {error}");
        ApiError::internal()
    })?;
    Ok(SignedInSession {
        token,
        token_type: "Bearer".into(),
        expires_in: state.tokens.ttl().as_secs(),
        refresh_token: session.refresh_token.text,
        user: session.user,
    })
}

/// The public keys, for those who verify access tokens themselves (RFC 7517).
#[handler]
pub(super) fn jwks(state: Data<&State>) -> Response {
    Response::builder()
        .content_type("application/json")
        .header("Cache-Control", "public, max-age=60")
        .body(state.tokens.jwks().to_string())
}

/// What a session is known by in the list of them.
fn user_agent(request: &Request) -> String {
    let line = request.headers().get(header::USER_AGENT).and_then(|line| line.to_str().ok());
    line.unwrap_or_default().chars().take(200).collect()
}
