//! Of what, when and where a result was measured.

use std::process::Command;

/// Date, commit, machine and system, for the head of a page.
pub(crate) fn provenance() -> String {
    format!(
        "{}, commit {}; {}; {}",
        chrono::Utc::now().format("%Y-%m-%d"),
        said("git", &["describe", "--always", "--dirty", "--exclude=*"]),
        machine(),
        said("uname", &["-sr"]),
    )
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} cores of {}", model.map_or("an unknown kind", |(_, model)| model))
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
