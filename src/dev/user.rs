//! Who the servers run as. PostgreSQL refuses to run as root, so root hands both to an unprivileged user.

use std::{io, path::Path, process::Stdio};

use tokio::{net::UnixStream, process::Command};

use super::error::ServerError;

#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// We are root and become this user for each server.
    pub(super) dropped: bool,
}

impl User {
    /// Ourselves; or, as root, whoever owns `owner` (the data of an earlier start), else `postgres` or `nobody`.
    pub(super) async fn for_servers(owner: Option<(u32, u32)>) -> Result<User, ServerError> {
        let (uid, gid) = ourselves().map_err(|_| ServerError::NoUser)?;
        if uid != 0 {
            return Ok(User { uid, gid, dropped: false });
        }
        let (uid, gid) = match owner.filter(|(uid, _)| *uid != 0) {
            Some(owner) => owner,
            None => match look_up("postgres").await {
                Some(found) => found,
                None => look_up("nobody").await.ok_or(ServerError::NoUser)?,
            },
        };
        Ok(User { uid, gid, dropped: true })
    }

    /// A command of this user in a process group of its own: Ctrl-C in the terminal reaches us alone, and we
    /// stop the servers in order. Settings of the caller's own PostgreSQL (`PGPORT`, ...) do not leak in.
    pub(super) fn command(&self, program: impl AsRef<Path>, folder: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(folder).process_group(0).stdin(Stdio::null()).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        if self.dropped {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether this user can really work in `folder`: each folder above it must let them through.
    pub(super) async fn can_enter(&self, folder: &Path) -> bool {
        let mut probe = self.command("/bin/sh", Path::new("/"));
        probe.args(["-c", r#"cd -- "$1" && test -w ."#, "sh"]).arg(folder);
        probe.stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().await.is_ok_and(|status| status.success())
    }
}

/// Our effective user and group, as the kernel tells the other end of a socket.
fn ourselves() -> io::Result<(u32, u32)> {
    let credentials = UnixStream::pair()?.0.peer_cred()?;
    Ok((credentials.uid(), credentials.gid()))
}

async fn look_up(name: &str) -> Option<(u32, u32)> {
    let number = async |flag| {
        let output = Command::new("id").args([flag, name]).stderr(Stdio::null()).output().await.ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((number("-u").await?, number("-g").await?))
}
