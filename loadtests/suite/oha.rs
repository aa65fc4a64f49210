//! The same requests at the same rate by oha, a load generator of others: what it sees should be what this program has seen.
//!
//! It sends one token and one body, so it stands for one of the callers, and asks for its paths by chance.

use std::{fs, net::SocketAddr, path::Path, process::Stdio};

use serde_json::Value;
use tokio::process::Command;

use super::Seen;
use crate::{Result, process::tool, rate::Ask};

pub(super) fn check() -> Result<()> {
    tool("oha", "oha", "load").map(drop)
}

/// Asks `count` times, `rate` times a second. Times are from when a request was due.
pub(super) async fn ask(
    folder: &Path,
    address: SocketAddr,
    [rate, count]: [u64; 2],
    connections: usize,
    asks: &[Ask],
    expected: &[u16],
) -> Result<Seen> {
    let first = asks.first().ok_or("nothing to ask for")?;
    let urls = folder.join("oha.urls");
    fs::write(&urls, asks.iter().map(|ask| format!("http://{address}{}\n", ask.path)).collect::<String>())?;
    let mut command = Command::new(tool("oha", "oha", "load")?);
    command.args(["--no-tui", "--output-format", "json", "--latency-correction"]);
    command.args(["-q", &rate.to_string(), "-n", &count.to_string(), "-c", &connections.to_string()]);
    command.args(["-t", "10s", "-m", first.method, "-H", &format!("Authorization: Bearer {}", first.token)]);
    if !first.body.is_empty() {
        command.args(["-T", "application/json", "-d", &first.body]);
    }
    command.arg("--urls-from-file").arg(&urls);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if !output.status.success() {
        return Err(format!("oha: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let json: Value = serde_json::from_slice(&output.stdout)?;
    // By status, and by error where there was no answer.
    let mut seen = Seen { asked: 0, wrong: 0, times: [f64::NAN; 4], cpu: [0.0; 4] };
    for what in ["statusCodeDistribution", "errorDistribution"] {
        for (what, count) in json[what].as_object().into_iter().flatten() {
            let count: usize =
                count.as_u64().and_then(|count| count.try_into().ok()).ok_or("oha counts otherwise")?;
            seen.asked += count;
            if !expected.iter().any(|status| status.to_string() == *what) {
                seen.wrong += count;
            }
        }
    }
    let milliseconds = |value: &Value| value.as_f64().map_or(f64::NAN, |seconds| seconds * 1e3);
    let within = |part: &str| milliseconds(&json["latencyPercentiles"][part]);
    seen.times = [within("p50"), within("p90"), within("p99"), milliseconds(&json["summary"]["slowest"])];
    if seen.asked == 0 { Err("oha asked for nothing".into()) } else { Ok(seen) }
}
