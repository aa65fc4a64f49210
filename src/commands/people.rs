//! What the commands for tenants and users share: values, passwords and errors as people type and read them.

use std::io::{BufRead, IsTerminal, stdin};

use chrono::{DateTime, Utc};
use tenantry_accounts::{
    App, Error,
    fields::{FromText, NewPassword},
    passwords::StoredHash,
};

use crate::{config::Config, error::sources, state};

pub(super) type Failed = Box<dyn std::error::Error>;
type Result<T> = std::result::Result<T, Failed>;

/// The house, of which every connection may be used: the first one only tells where the database stands.
pub(super) async fn app(config: &Config) -> Result<App> {
    let app = state::app(config)?;
    drop(app.db.client().await.map_err(|error| sources(&error))?);
    Ok(app)
}

/// A value that was typed; what is wrong is said, and never the value.
pub(super) fn field<T: FromText>(name: &str, text: &str) -> Result<T> {
    T::from_text(text).map_err(|problems| {
        let messages: Vec<_> = problems.iter().map(|problem| problem.message).collect();
        format!("{name}: {}", messages.join("; ")).into()
    })
}

/// The password that somebody chooses: out of a pipe, or typed twice without being shown. None where there is no terminal, or
/// nothing is typed: then it is chosen by mail.
pub(super) fn password(from_pipe: bool) -> Result<Option<NewPassword>> {
    if from_pipe {
        return from_stdin().map(Some);
    }
    if !stdin().is_terminal() {
        return Ok(None);
    }
    let first = rpassword::prompt_password("Password (empty: chosen by mail): ")?;
    if first.is_empty() {
        return Ok(None);
    }
    let password = field("password", &first)?;
    match rpassword::prompt_password("Once more: ")? == first {
        true => Ok(Some(password)),
        false => Err("the two passwords differ; nothing was done".into()),
    }
}

/// The password in the first line of standard input.
pub(super) fn from_stdin() -> Result<NewPassword> {
    field("--password-stdin", &line()?)
}

/// The hash in the first line of standard input, where, unlike on a command line, nobody else sees it.
pub(super) fn hash_from_stdin() -> Result<StoredHash> {
    line()?.trim().parse().map_err(|problem| format!("--password-hash-stdin: {problem}").into())
}

fn line() -> Result<String> {
    let mut line = String::new();
    stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(super) fn said(error: &Error) -> Failed {
    match error {
        Error::EmailTaken => {
            "another user or an open invitation of the tenant has this address; nothing was done".into()
        }
        Error::NoSeat => "every seat of the plan is used; delete users or change the plan".into(),
        Error::LastAdmin => "a tenant keeps at least one active administrator; nothing was done".into(),
        error => sources(error).into(),
    }
}
