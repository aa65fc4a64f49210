use std::{io, path::PathBuf};

/// Why the private servers cannot be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{0} is not installed, or not where it was looked for: run scripts/setup")]
    Missing(&'static str),
    #[error("PG_BIN is {0}, but initdb and postgres are not both there")]
    WrongBin(PathBuf),
    #[error(
        "{data} was made by PostgreSQL {made_by}, and the installed ones are {found}: install PostgreSQL \
         {made_by}, or start over with `tenantry dev --fresh`"
    )]
    OtherVersion { data: PathBuf, made_by: u32, found: String },
    #[error("another tenantry is using {0}: stop that one first")]
    Busy(PathBuf),
    #[error("{path} belongs to user id {owner}: work as that user, or remove it and start over")]
    Foreign { path: PathBuf, owner: u32 },
    #[error(
        "user id {uid}, who runs the servers, cannot get to {path}: let them through the folders above it, or \
             remove it and start over"
    )]
    Unreachable { path: PathBuf, uid: u32 },
    #[error("{link} leads to {target}, which is gone: remove {link} to start over with empty servers")]
    Vanished { link: PathBuf, target: PathBuf },
    #[error("no folder for sockets: neither TMPDIR nor /tmp is short enough and open to user id {0}")]
    NoSocketFolder(u32),
    #[error(
        "no unprivileged user to run the servers as: create one named postgres (servers refuse to run as root)"
    )]
    NoUser,
    #[error("{name} does not start; {log} ends with:\n{tail}")]
    Start { name: &'static str, log: PathBuf, tail: String },
    #[error("the fake Stripe: {0}")]
    Stripe(#[source] io::Error),
    #[error("the fake Stripe refuses this: {0}")]
    Refused(String),
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// Adds to an I/O error what was being done, and to what.
pub(super) trait Doing<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ServerError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ServerError> {
        self.map_err(|source| ServerError::Io { action, path: path.into(), source })
    }
}
