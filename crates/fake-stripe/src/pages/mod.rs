//! The pages that people see: checkout, the billing portal, and all that there is.

mod checkout;
mod overview;
mod portal;
mod words;

use std::sync::LazyLock;

use askama::Template;
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::{
    Method,
    header::{
        CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

use crate::{
    Shared,
    error::Error,
    server::{Answer, Asked, with},
};

const HTML: &str = "text/html; charset=utf-8";

pub(crate) const STYLE: &str = include_str!("../../templates/style.css");

/// Nothing but the one style and forms; the hash lets the style in and no other.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    )
});

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    style: &'static str,
    text: &'a str,
}

pub(crate) fn answer(shared: &Shared, asked: &Asked) -> Answer {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    let state = &mut shared.lock();
    let answer = match (asked.method == Method::POST, parts.as_slice()) {
        (false, [""]) => Ok(overview::page(state)),
        (true, [""]) => overview::act(state, asked),
        (false, ["c", "pay", id]) => checkout::page(state, id, None),
        (true, ["c", "pay", id]) => checkout::pay(state, id, asked),
        (false, ["p", "session", id]) => portal::page(state, id, None),
        (true, ["p", "session", id]) => portal::change(state, id, asked),
        _ => Err(Error::no_route(asked.method.as_str(), &asked.path)),
    };
    answer.unwrap_or_else(|error| html(error.status, &Message { style: STYLE, text: error.message() }, None))
}

/// A page whose forms stay here, or lead to `next` as well.
fn html(status: u16, template: &impl Template, next: Option<&str>) -> Answer {
    let mut answer = match template.render() {
        Ok(html) => with(status, HTML, html),
        Err(error) => with(500, "text/plain; charset=utf-8", error.to_string()),
    };
    // Browsers hold where a form leads in the end against the policy of its page.
    let policy = match next.and_then(origin) {
        Some(origin) => format!("{} {origin}", *POLICY),
        None => POLICY.clone(),
    };
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.headers_mut().insert(name, value);
        }
    };
    set(CONTENT_SECURITY_POLICY, &policy);
    set(X_CONTENT_TYPE_OPTIONS, "nosniff");
    // Whoever has the address of a session may use it.
    set(REFERRER_POLICY, "same-origin");
    answer
}

/// Scheme, host and port, in the form that a policy takes; else the scheme.
fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    let scheme = if scheme == "https" { "https" } else { "http" };
    // It knows no addresses in brackets, and nobody's name before an @.
    if authority.bytes().all(plain) {
        Some(format!("{scheme}://{authority}"))
    } else {
        Some(format!("{scheme}:"))
    }
}

fn go(to: &str) -> Answer {
    let mut answer = with(303, HTML, String::new());
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_takes_no_more_than_an_origin() {
        for (url, wanted) in [
            ("https://example.org/ok?a=b", "https://example.org"),
            ("http://127.0.0.1:8080?x", "http://127.0.0.1:8080"),
            ("http://[::1]:8080/", "http:"),
            ("https://a;script-src/'*'", "https:"),
            ("https://a@b/", "https:"),
        ] {
            assert_eq!(origin(url).unwrap(), wanted, "{url}");
        }
    }
}
