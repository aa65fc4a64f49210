//! Who asks, and whether they are let in.

use poem::http::HeaderMap;
use tenantry_accounts::{ApiKeyId, UserId, api_keys::Presented};
use tenantry_cache::planted::{self, Bug};

use super::asked::{Asked, Counts};
use crate::{
    caller::{self, Credential},
    error::ApiError,
    limits::Verdict,
    state::State,
};

/// What came of it, for headers and the log.
#[derive(Default)]
pub(super) struct Admission {
    pub(super) verdict: Verdict,
    pub(super) user: Option<UserId>,
    pub(super) api_key: Option<ApiKeyId>,
}

impl Admission {
    pub(super) fn is_known(&self) -> bool {
        self.user.is_some() || self.api_key.is_some()
    }
}

/// Finds out who asks, counts it against the limits, and refuses what is too much.
pub(super) async fn admit(
    state: &State,
    asked: &Asked,
    headers: &HeaderMap,
    admission: &mut Admission,
) -> Result<Credential, ApiError> {
    let (mut credential, unknown_key) = at_hand(state, headers);
    if asked.is_preflight {
        return Ok(credential);
    }
    let verdict = &mut admission.verdict;
    let counted = asked.counts == Counts::Always || asked.counts == Counts::Unsigned && credential.is_none();
    if let (Some(address), true) = (asked.client.address, counted) {
        state.limits.count_address(address, verdict);
    }
    if let Some(key) = unknown_key.filter(|_| verdict.is_admitted()) {
        // Counted first: whoever makes keys up has us ask the database no more often than anybody without one.
        let found = Box::pin(state.api_keys.look_up(&state.app, &key)).await?;
        credential = found.map_or(Credential::None, Credential::Key);
    }
    (admission.user, admission.api_key) = credential.names();
    if asked.counts != Counts::Never && verdict.is_admitted() {
        state.limits.count_caller(&credential, verdict).await;
    }
    verdict.result()?;
    // Nobody is let in on the word of a token or a key that may have been revoked longer ago than is allowed.
    let lag = state.app.revocations.lag();
    let knows = lag <= state.config.revocation_max_lag || planted::bug(Bug::AnswersBlindly);
    if !knows && !credential.is_none() {
        let message = "Whether you are still signed in cannot be told at the moment";
        return Err(ApiError::unavailable(message, 1));
    }
    Ok(credential)
}

/// What the request came with as far as this process knows by itself, and the key that it would have to ask for.
fn at_hand(state: &State, headers: &HeaderMap) -> (Credential, Option<Presented>) {
    let Some(text) = caller::bearer(headers) else { return (Credential::None, None) };
    let revocations = &state.app.revocations;
    if !Presented::looks_like_one(text) {
        let claims = state.tokens.verify(text).filter(|claims| revocations.stands(&claims.basis()));
        return (claims.map_or(Credential::None, Credential::Token), None);
    }
    let Some(key) = Presented::parse(text) else { return (Credential::None, None) };
    match state.api_keys.remembered(revocations, &key) {
        Some(known) => (Credential::Key(known), None),
        None => (Credential::None, Some(key)),
    }
}
