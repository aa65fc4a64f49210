//! What stands around every program that judges the service: how it ends, and where it leaves what it has to show.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::Result;

/// Runs it until somebody stops it; what it started is stopped when it is dropped. It says how many checks failed: exit code 1
/// if any did, 2 when the run itself failed.
pub(crate) async fn to_exit_code(name: &str, run: impl Future<Output = Result<usize>>) -> ExitCode {
    let result = match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            result = run => result,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("terminated".into()),
        },
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error}");
            let mut source: Option<&dyn Error> = error.source();
            while let Some(cause) = source {
                eprintln!("{name}:   because {cause}");
                source = cause.source();
            }
            ExitCode::from(2)
        }
    }
}

/// A program that was built beside this one.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let program = folder()?.join(name);
    if program.is_file() {
        Ok(program)
    } else {
        Err(format!("{name} is not built: this is run by `make`").into())
    }
}

/// An empty folder for the logs of processes, where they are found after the run.
pub(crate) fn logs(name: &str) -> Result<PathBuf> {
    let logs = folder()?.join(name);
    // There may be none of an earlier run.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs)?;
    Ok(logs)
}

/// Where programs are built; ours are examples, in a folder below it.
pub(crate) fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().and_then(Path::parent).ok_or("this program is in no folder")?.to_owned())
}

/// Settings of `--set`, as they are written there.
pub(crate) fn set(written: &[String]) -> Result<Vec<(String, String)>> {
    let parts =
        |setting: &String| setting.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    written.iter().map(|setting| parts(setting).ok_or("--set takes NAME=VALUE".into())).collect()
}
