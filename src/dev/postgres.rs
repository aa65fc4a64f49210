//! A private PostgreSQL: a cluster of its own, reached through a socket in a folder closed to others.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{io::AsyncWriteExt, process::Command};
use tracing::warn;

use super::{
    binaries::{self, Installed},
    error::{Doing, ServerError},
    home::Home,
    process::{self, Plan, Server},
};

/// The owner may create roles and owns the database, as on a managed server; only `postgres` is a superuser.
/// It makes the application's role itself: from PostgreSQL 16 on, one may change only the roles that one has made.
/// One statement a line: that is how the single-user mode reads them.
const FIRST_STATEMENTS: &str = "\
create role tenantry_owner login createrole;
set role tenantry_owner;
create role tenantry login noinherit;
reset role;
create database tenantry owner tenantry_owner;
";

/// A StartupMessage of protocol 3.0 for `user=postgres`; `R` is the answer once logins are accepted.
const GREETING: (&[u8], u8) = (b"\0\0\0\x17\0\x03\0\0user\0postgres\0\0", b'R');

/// Counts statements, for tests that say how many a request may cost. It comes with PostgreSQL's contrib modules.
/// Each test database has statements of its own, and none may be forgotten for another.
const COUNTED: [&str; 2] = ["shared_preload_libraries=pg_stat_statements", "pg_stat_statements.max=50000"];

/// What a cluster is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Use {
    /// The data outlives a power cut.
    Dev,
    /// Fast, many connections, thrown away.
    Test,
}

/// Starts the private PostgreSQL of `home`; the first time it makes the cluster, the roles and the database.
pub async fn start(home: &Home, purpose: Use) -> Result<Server, ServerError> {
    let cluster = home.data.join("postgres");
    let installed = binaries::postgres(&cluster).await?;
    if !cluster.exists() {
        make_cluster(home, &installed, &cluster).await?;
    }
    let sockets = home.sockets.display();
    let mut settings = vec![
        format!("unix_socket_directories={sockets}"),
        "unix_socket_permissions=0700".into(),
        "listen_addresses=".into(),
        "port=5432".into(),
        "timezone=UTC".into(),
        "log_timezone=UTC".into(),
        // Details of errors quote rows.
        "log_error_verbosity=terse".into(),
        "jit=off".into(),
    ];
    settings.extend(match purpose {
        Use::Dev => ["max_connections=100".into(), "fsync=on".into()].to_vec(),
        Use::Test => ["max_connections=300", "fsync=off", "synchronous_commit=off", "full_page_writes=off"]
            .into_iter()
            .chain(COUNTED)
            .map(String::from)
            .collect(),
    });
    let mut arguments = vec!["-D".into(), cluster.display().to_string()];
    arguments.extend(settings.into_iter().flat_map(|setting| ["-c".into(), setting]));
    Server::start(Plan {
        name: "postgres",
        home: home.clone(),
        program: installed.program("postgres"),
        arguments,
        socket: home.sockets.join(".s.PGSQL.5432"),
        greeting: GREETING,
        stop: "INT",
    })
    .await
}

/// For the application: neither superuser nor owner, so row-level security holds.
pub fn app_url(home: &Home) -> String {
    url(home, "tenantry")
}

/// For migrations: owns the database and may create roles.
pub fn owner_url(home: &Home) -> String {
    url(home, "tenantry_owner")
}

/// For whoever looks into the server itself.
pub fn superuser_url(home: &Home) -> String {
    url(home, "postgres")
}

fn url(home: &Home, user: &str) -> String {
    format!("postgresql://{user}@/tenantry?host={}", home.sockets.display())
}

/// Under another name until it is complete: a kill in between leaves nothing that looks like a cluster.
async fn make_cluster(home: &Home, installed: &Installed, cluster: &Path) -> Result<(), ServerError> {
    remove_unfinished(home);
    let unfinished = home.data.join(format!("postgres-{}.unfinished", std::process::id()));
    let ctype = if cfg!(target_os = "macos") { "UTF-8" } else { "C.UTF-8" };
    let mut initdb = home.user.command(installed.program("initdb"), &home.data);
    initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
    initdb.arg(format!("--lc-ctype={ctype}")).arg("-D").arg(&unfinished);
    run(home, initdb, "").await?;

    let mut single = home.user.command(installed.program("postgres"), &home.data);
    single.args(["--single", "-D"]).arg(&unfinished);
    single.args(["-c", "exit_on_error=on", "-c", "fsync=off", "-c", "log_checkpoints=off", "postgres"]);
    run(home, single, FIRST_STATEMENTS).await?;

    fs::rename(&unfinished, cluster).doing("rename", unfinished)
}

/// What earlier starts left when they were killed; if their initdb still writes there, the next start gets it.
fn remove_unfinished(home: &Home) {
    for entry in fs::read_dir(&home.data).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "unfinished")
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            warn!("an unfinished cluster stays behind in {}: {error}", entry.path().display());
        }
    }
}

async fn run(home: &Home, mut command: Command, input: &str) -> Result<(), ServerError> {
    let program = PathBuf::from(command.as_std().get_program());
    home.log_output(&mut command, "postgres")?;
    let mut child = command.stdin(Stdio::piped()).kill_on_drop(true).spawn().doing("run", &program)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await.doing("talk to", &program)?;
    }
    if child.wait().await.doing("wait for", program)?.success() {
        return Ok(());
    }
    let log = home.log("postgres");
    Err(ServerError::Start { name: "postgres", tail: process::tail(&log), log })
}
