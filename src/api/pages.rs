//! The small pages that links in mails lead to while `APP_URL` is unset. Opening one changes nothing, because mail
//! scanners open links, too; its one form posts.

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};
use poem::{
    Response, handler,
    http::StatusCode,
    web::{Data, Form, Query},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tenantry_accounts::{
    Error,
    fields::{FromText, Secret},
    verification,
};

use crate::state::State;

const STYLE: &str = include_str!("pages/style.css");

/// Nothing but the one style and the one form; the hash lets the style in and no other.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

#[derive(Template)]
#[template(path = "verify_email.html")]
struct VerifyEmail {
    style: &'static str,
    step: Step,
}

enum Step {
    Ask(String),
    Done,
    Failed,
    Later,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    token: String,
}

#[handler]
pub(super) fn verify_email(Query(Parameters { token }): Query<Parameters>) -> Response {
    page(StatusCode::OK, Step::Ask(token))
}

#[handler]
pub(super) async fn post_verify_email(
    state: Data<&State>,
    Form(Parameters { token }): Form<Parameters>,
) -> Response {
    let Ok(token) = Secret::from_text(&token) else {
        return page(StatusCode::UNPROCESSABLE_ENTITY, Step::Failed);
    };
    match verification::redeem(&state.app, &token).await {
        Ok(_) => page(StatusCode::OK, Step::Done),
        Err(Error::InvalidToken) => page(StatusCode::UNPROCESSABLE_ENTITY, Step::Failed),
        Err(error) => {
            tracing::warn!("a link could not be checked: {}", crate::error::sources(&error));
            page(StatusCode::SERVICE_UNAVAILABLE, Step::Later)
        }
    }
}

fn page(status: StatusCode, step: Step) -> Response {
    match (VerifyEmail { style: STYLE, step }).render() {
        Ok(html) => Response::builder()
            .status(status)
            .content_type("text/html; charset=utf-8")
            .header("Content-Security-Policy", POLICY.as_str())
            .header("Cache-Control", "no-store")
            .body(html),
        Err(error) => {
            tracing::error!("a page could not be rendered: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into()
        }
    }
}
