//! The scenario of `loadtests/k6/mixed.js`, run by k6.

use std::{fmt, fs, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    Result, Settings,
    auth::PASSWORD,
    process::{Process, cpu_of_ended_children, tool},
    servers::{Database, Servers},
};

/// k6 needs more of a processor than the service.
const RATE: u32 = 100;

/// What k6 has to say, by scenario.
pub(crate) struct Summary {
    rows: Vec<(String, [f64; 4])>,
    requests: f64,
    /// Seconds: k6, the service.
    cpu: [f64; 2],
    holds: bool,
}

impl Summary {
    pub(super) fn holds(&self) -> bool {
        self.holds
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [k6, ours] = self.cpu;
        writeln!(
            f,
            "k6, loadtests/k6/mixed.js: {RATE} iterations a second, {} requests; CPU of k6 {k6:.2} s, ours {ours:.2} s{}",
            self.requests,
            if self.holds { "" } else { "  OVER ITS THRESHOLDS" }
        )?;
        writeln!(f, "{:14} {:>9} {:>9} {:>9} {:>9}", "", "p50 ms", "p90 ms", "p99 ms", "most ms")?;
        for (name, [p50, p90, p99, most]) in &self.rows {
            writeln!(f, "{name:14} {p50:9.2} {p90:9.2} {p99:9.2} {most:9.2}")?;
        }
        Ok(())
    }
}

pub(super) fn check() -> Result<()> {
    tool("k6", "k6", "load").map(drop)
}

pub(super) async fn run(
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    node: &Process,
) -> Result<Summary> {
    let summary = servers.folder.join("k6.json");
    let tenant = &database.users.first().ok_or("no users")?.tenant;
    let (own, ours) = (cpu_of_ended_children()?, node.cpu()?);
    let mut command = Command::new(tool("k6", "k6", "load")?);
    command
        .args(["run", "--quiet", "--no-usage-report", "--summary-mode=legacy", "--summary-export"])
        .arg(&summary);
    let duration = format!("{}s", settings.seconds);
    for (name, value) in [
        ("URL", format!("http://{}", node.address)),
        ("TENANT", tenant.clone()),
        ("EMAIL", "admin@example.org".into()),
        ("PASSWORD", PASSWORD.into()),
        ("RATE", RATE.to_string()),
        ("DURATION", duration),
    ] {
        command.arg("-e").arg(format!("{name}={value}"));
    }
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/loadtests/k6/mixed.js"));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    // 99: a threshold was passed.
    if !output.status.success() && output.status.code() != Some(99) {
        return Err(format!("k6: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let cpu = [cpu_of_ended_children()? - own, node.cpu()? - ours];
    let json: Value = serde_json::from_slice(&fs::read(&summary)?)?;
    let metrics = json["metrics"].as_object().ok_or("k6 says nothing")?;
    let rows = metrics.iter().filter_map(|(name, values)| {
        let scenario = name.strip_prefix("http_req_duration{scenario:")?.strip_suffix('}')?;
        Some((
            scenario.to_owned(),
            ["med", "p(90)", "p(99)", "max"].map(|stat| values[stat].as_f64().unwrap_or(f64::NAN)),
        ))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Err("k6 says nothing of its scenarios".into());
    }
    let requests = metrics.get("http_reqs").and_then(|all| all["count"].as_f64()).unwrap_or_default();
    Ok(Summary { rows, requests, cpu, holds: output.status.success() })
}
