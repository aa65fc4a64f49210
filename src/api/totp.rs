//! `/auth/totp`, and `/users/{id}/totp`: the second factor.

use poem::web::Data;
use poem_openapi::{ApiResponse, Object, OpenApi, param::Path};
use serde::Serialize;
use tenantry_accounts::{
    UserId,
    fields::Secret,
    second_factor::{self, Code, Enrolment, Status},
};

use super::{
    Tag,
    body::{Body, body},
    envelope::{Answer, Deleted, Envelope},
    precondition::Precondition,
};
use crate::{caller::Caller, error::ApiError, state::State};

pub(crate) struct Totp;

body! {
    /// Who sets a second factor up.
    pub(crate) struct StartTotp {
        /// Your password.
        current_password: Secret,
    }
}

body! {
    /// What proves that the authenticator app has the secret.
    pub(crate) struct ConfirmTotp {
        /// Six digits of the app.
        code: Code,
    }
}

body! {
    /// Password and second factor.
    pub(crate) struct BothFactors {
        /// Your password.
        current_password: Secret,
        /// Six digits of the app, or a recovery code.
        code: Code,
    }
}

/// What goes into an authenticator app. Not shown again.
#[derive(Serialize, Object)]
pub(crate) struct TotpSecret {
    /// The secret in base32, for typing.
    secret: String,
    /// The same as `otpauth://totp/...`, for a QR code: SHA-1, 6 digits, 30 seconds.
    uri: String,
}

/// Codes that work once each in place of one of the app. Not shown again.
#[derive(Serialize, Object)]
#[oai(rename = "NewRecoveryCodes")]
pub(crate) struct RecoveryCodes {
    /// Ten of them. Blanks, hyphens and the case of letters do not matter.
    recovery_codes: Vec<String>,
}

#[derive(ApiResponse)]
enum SecretShown {
    /// The secret, which is pending until a code has proven it.
    #[oai(status = 200)]
    Shown(
        Envelope<TotpSecret>,
        /// Secrets are kept by nobody on the way.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

#[derive(ApiResponse)]
enum CodesShown {
    /// The recovery codes.
    #[oai(status = 200)]
    Shown(
        Envelope<RecoveryCodes>,
        /// Secrets are kept by nobody on the way.
        #[oai(header = "Cache-Control")]
        String,
    ),
}

impl CodesShown {
    fn of(recovery_codes: Vec<String>) -> Self {
        Self::Shown(Envelope::of(&RecoveryCodes { recovery_codes }), "no-store".into())
    }
}

#[OpenApi(tag = "Tag::Authentication")]
impl Totp {
    /// Get your second factor
    ///
    /// Whether there is one, whether your tenant requires one, and how many recovery codes are left.
    #[oai(path = "/auth/totp", method = "get", operation_id = "getTotp")]
    async fn get(&self, state: Data<&State>, caller: Caller) -> Result<Answer<Status>, ApiError> {
        Ok(Answer::Ok(Envelope::of(&second_factor::status(&state.app, *caller).await?)))
    }

    /// Set up a second factor
    ///
    /// Makes a secret for your authenticator app. It counts once you have proven it with a code, within an hour; until then
    /// the next takes its place. Five wrong codes end it.
    #[oai(path = "/auth/totp", method = "post", operation_id = "startTotp")]
    async fn start(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<StartTotp>,
    ) -> Result<SecretShown, ApiError> {
        let start = second_factor::start(&state.app, *caller, body.0.current_password);
        let Enrolment { secret, uri } = state.limits.attempts.with_password(&caller, start).await??;
        Ok(SecretShown::Shown(Envelope::of(&TotpSecret { secret, uri }), "no-store".into()))
    }

    /// Prove a second factor
    ///
    /// From now on signing in asks for a code. Your other sessions end. Renew this session: its next access token says that
    /// you have a second factor.
    #[oai(path = "/auth/totp/confirm", method = "post", operation_id = "confirmTotp")]
    async fn confirm(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<ConfirmTotp>,
    ) -> Result<CodesShown, ApiError> {
        Ok(CodesShown::of(second_factor::confirm(&state.app, *caller, body.0.code).await?))
    }

    /// Remove your second factor
    ///
    /// Your other sessions end. Renew this one: access tokens made before are void.
    #[oai(path = "/auth/totp/disable", method = "post", operation_id = "disableTotp")]
    async fn disable(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<BothFactors>,
    ) -> Result<Deleted, ApiError> {
        let BothFactors { current_password, code } = body.0;
        let disable = second_factor::disable(&state.app, *caller, current_password, code);
        state.limits.attempts.with_password(&caller, disable).await??;
        Ok(Deleted::Deleted)
    }

    /// Get new recovery codes
    ///
    /// Those before are void.
    #[oai(path = "/auth/totp/recovery-codes", method = "post", operation_id = "renewRecoveryCodes")]
    async fn renew_recovery_codes(
        &self,
        state: Data<&State>,
        caller: Caller,
        body: Body<BothFactors>,
    ) -> Result<CodesShown, ApiError> {
        let BothFactors { current_password, code } = body.0;
        let renew = second_factor::renew_recovery_codes(&state.app, *caller, current_password, code);
        let codes = state.limits.attempts.with_password(&caller, renew).await??;
        Ok(CodesShown::of(codes))
    }

    /// Remove a user's second factor
    ///
    /// For administrators, when a user has lost it. All sessions of the user end, and a mail tells them. Your own you remove
    /// with a code.
    #[oai(path = "/users/:id/totp", method = "delete", operation_id = "resetUserTotp")]
    async fn reset(
        &self,
        state: Data<&State>,
        caller: Caller,
        /// The user's id.
        id: Path<UserId>,
        /// It has no versions: 412 unless this is `*`.
        #[oai(name = "If-Match")]
        if_match: Precondition,
    ) -> Result<Deleted, ApiError> {
        if_match.of_no_version()?;
        second_factor::reset(&state.app, *caller, id.0).await?;
        Ok(Deleted::Deleted)
    }
}
