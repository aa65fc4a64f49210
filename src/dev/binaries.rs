//! Where the servers' programs are: distributions do not put PostgreSQL's on the PATH.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::Command;

use super::error::ServerError;

/// Folders with a version in their name, as the distributions have them.
const PLACES: [(&str, &str, &str); 6] = [
    ("/usr/lib/postgresql", "", "bin"),         // Debian, Ubuntu
    ("/usr", "pgsql-", "bin"),                  // Fedora, Red Hat, with the packages of PostgreSQL itself
    ("/usr/lib", "postgresql", "bin"),          // openSUSE
    ("/usr/libexec", "postgresql", ""),         // Alpine
    ("/opt/homebrew/opt", "postgresql", "bin"), // macOS
    ("/usr/local/opt", "postgresql", "bin"),    // macOS on Intel
];

/// An installed PostgreSQL.
pub(super) struct Installed {
    folder: PathBuf,
    version: u32,
}

impl Installed {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The PostgreSQL that made `cluster`, or the newest one where there is no cluster yet.
pub(super) async fn postgres(cluster: &Path) -> Result<Installed, ServerError> {
    let found = match env::var_os("PG_BIN").map(PathBuf::from) {
        Some(folder) => vec![installed_in(&folder).await.ok_or(ServerError::WrongBin(folder))?],
        None => installed().await,
    };
    let Some(made_by) =
        fs::read_to_string(cluster.join("PG_VERSION")).ok().and_then(|v| v.trim().parse().ok())
    else {
        return found.into_iter().max_by_key(|one| one.version).ok_or(ServerError::Missing("PostgreSQL"));
    };
    let versions: BTreeSet<String> = found.iter().map(|one| one.version.to_string()).collect();
    found.into_iter().find(|one| one.version == made_by).ok_or_else(|| ServerError::OtherVersion {
        data: cluster.into(),
        made_by,
        found: versions.into_iter().collect::<Vec<_>>().join(", "),
    })
}

/// Redis, or Valkey, its twin in newer distributions.
pub(super) fn redis() -> Result<PathBuf, ServerError> {
    let found = ["redis-server", "valkey-server"].into_iter().find_map(|name| {
        search_path().into_iter().map(|folder| folder.join(name)).find(|program| program.is_file())
    });
    found.ok_or(ServerError::Missing("Redis"))
}

async fn installed() -> Vec<Installed> {
    let mut folders = search_path();
    for (parent, prefix, bin) in PLACES {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let versions = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        folders.extend(versions.map(|entry| entry.path().join(bin)));
    }
    let mut found = Vec::new();
    for folder in folders {
        found.extend(installed_in(&folder).await);
    }
    found
}

async fn installed_in(folder: &Path) -> Option<Installed> {
    if !folder.join("initdb").is_file() || !folder.join("postgres").is_file() {
        return None;
    }
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
    let output =
        Command::new(folder.join("postgres")).arg("--version").stderr(Stdio::null()).output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split(") ").nth(1)?.split(['.', ' ', 'b', 'r', '\n']).next()?.parse().ok()?;
    Some(Installed { folder: folder.into(), version })
}

/// The PATH, and where servers are that an ordinary user's PATH leaves out.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]).collect()
}
