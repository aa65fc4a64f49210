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
    fields::{FromText, Name, NewPassword, Problem, Secret},
    idempotency::Once,
    invitations, recovery, verification,
};

use crate::{error::PERSONAL_PASSWORD, layers::Client, state::State};

const STYLE: &str = include_str!("pages/style.css");

/// Nothing but the one style and the one form; the hash lets the style in and no other.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

/// What a page is for.
struct About {
    path: &'static str,
    title: &'static str,
    ask: &'static str,
    asks_name: bool,
    asks_password: bool,
    button: &'static str,
    done: &'static str,
}

/// Whether the page at a path has a form, which is posted to it.
pub(crate) fn have_form(path: &str) -> bool {
    [VERIFY_EMAIL, RESET_PASSWORD, ACCEPT_INVITATION].iter().any(|page| page.path == path)
}

const VERIFY_EMAIL: About = About {
    path: "/verify-email",
    title: "Verify your email address",
    ask: "Press the button to confirm that this address is yours.",
    asks_name: false,
    asks_password: false,
    button: "Verify my address",
    done: "Your email address is verified. You can close this page.",
};

const RESET_PASSWORD: About = About {
    path: "/reset-password",
    title: "Choose a password",
    ask: "At least 8 characters, with an uppercase letter, a lowercase letter and a digit.",
    asks_name: false,
    asks_password: true,
    button: "Use this password",
    done: "Sign in with your new password. You can close this page.",
};

const ACCEPT_INVITATION: About = About {
    path: "/accept-invitation",
    title: "You are invited",
    ask: "Choose a password: at least 8 characters, with an uppercase letter, a lowercase letter and a digit.",
    asks_name: true,
    asks_password: true,
    button: "Join",
    done: "You can sign in now. You can close this page.",
};

#[derive(Template)]
#[template(path = "link.html")]
struct Page {
    style: &'static str,
    about: &'static About,
    step: Step,
}

enum Step {
    Ask { token: String, name: String, wrong: Vec<&'static str> },
    Done,
    Failed,
    Later,
}

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
}

#[handler]
pub(super) fn verify_email(Query(parameters): Query<Parameters>) -> Response {
    ask(&VERIFY_EMAIL, parameters)
}

#[handler]
pub(super) fn reset_password(Query(parameters): Query<Parameters>) -> Response {
    ask(&RESET_PASSWORD, parameters)
}

#[handler]
pub(super) fn accept_invitation(Query(parameters): Query<Parameters>) -> Response {
    ask(&ACCEPT_INVITATION, parameters)
}

#[handler]
pub(super) async fn post_verify_email(
    state: Data<&State>,
    client: Data<&Client>,
    Form(form): Form<Parameters>,
) -> Response {
    let Ok(token) = Secret::from_text(&form.token) else { return failed(&VERIFY_EMAIL) };
    ended(&VERIFY_EMAIL, verification::redeem(&state.app, &token, client.network()).await)
}

#[handler]
pub(super) async fn post_reset_password(
    state: Data<&State>,
    client: Data<&Client>,
    Form(form): Form<Parameters>,
) -> Response {
    let Ok(token) = Secret::from_text(&form.token) else { return failed(&RESET_PASSWORD) };
    match NewPassword::from_text(&form.password) {
        Ok(password) => {
            let reset = recovery::reset(&state.app, token, password, client.network()).await;
            chosen(&RESET_PASSWORD, form, reset)
        }
        Err(problems) => again(&RESET_PASSWORD, form, &problems),
    }
}

#[handler]
pub(super) async fn post_accept_invitation(
    state: Data<&State>,
    client: Data<&Client>,
    Form(form): Form<Parameters>,
) -> Response {
    let Ok(token) = Secret::from_text(&form.token) else { return failed(&ACCEPT_INVITATION) };
    match (Name::from_text(&form.name), NewPassword::from_text(&form.password)) {
        (Ok(name), Ok(password)) => {
            let accepted =
                invitations::accept(&state.app, token, name, password, client.network(), Once::unnamed())
                    .await;
            chosen(&ACCEPT_INVITATION, form, accepted)
        }
        (name, password) => {
            let problems = [name.err(), password.err()].into_iter().flatten().flatten();
            again(&ACCEPT_INVITATION, form, &problems.collect::<Vec<_>>())
        }
    }
}

fn ask(about: &'static About, Parameters { token, name, .. }: Parameters) -> Response {
    page(StatusCode::OK, about, Step::Ask { token, name, wrong: vec![] })
}

fn again(
    about: &'static About,
    Parameters { token, name, .. }: Parameters,
    problems: &[Problem],
) -> Response {
    let wrong = problems.iter().map(|problem| problem.message).collect();
    page(StatusCode::UNPROCESSABLE_ENTITY, about, Step::Ask { token, name, wrong })
}

fn failed(about: &'static About) -> Response {
    page(StatusCode::UNPROCESSABLE_ENTITY, about, Step::Failed)
}

/// As [`ended`], where a password was chosen that may not do for whoever the link is for.
fn chosen<T>(about: &'static About, form: Parameters, result: Result<T, Error>) -> Response {
    match result {
        Err(Error::PersonalPassword) => {
            again(about, form, &[Problem { code: "too_personal", message: PERSONAL_PASSWORD }])
        }
        result => ended(about, result),
    }
}

fn ended<T>(about: &'static About, result: Result<T, Error>) -> Response {
    match result {
        Ok(_) => page(StatusCode::OK, about, Step::Done),
        Err(Error::InvalidToken | Error::EmailTaken) => failed(about),
        Err(error) => {
            tracing::warn!("a link could not be checked: {}", crate::error::sources(&error));
            page(StatusCode::SERVICE_UNAVAILABLE, about, Step::Later)
        }
    }
}

fn page(status: StatusCode, about: &'static About, step: Step) -> Response {
    match (Page { style: STYLE, about, step }).render() {
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
