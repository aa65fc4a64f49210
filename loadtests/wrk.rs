//! The load generator: wrk with a script that takes its requests from a file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use crate::Result;

/// What wrk saw.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) requests: f64,
    pub(crate) time: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Requests to send.
pub(crate) struct Requests {
    /// A token a line.
    pub(crate) tokens: PathBuf,
    /// A request a line; see `requests.lua`.
    pub(crate) lines: PathBuf,
    pub(crate) order: Order,
    /// Of each connection, between two requests.
    pub(crate) pause: Duration,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Order {
    Random,
    /// From this line on, each once.
    OnceFrom(usize),
}

pub(crate) fn check() -> Result<()> {
    match std::process::Command::new("wrk").arg("--version").output() {
        Ok(_) => Ok(()),
        Err(_) => Err("wrk is missing: install the package of that name (apt-get install wrk)".into()),
    }
}

/// Sends `requests` to `address` for some time. An answer that is neither 2xx nor 3xx is an error.
pub(crate) async fn run(
    address: SocketAddr,
    requests: &Requests,
    connections: u64,
    time: Duration,
) -> Result<Seen> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("loadtests/requests.lua");
    let (order, from) = match requests.order {
        Order::Random => ("random", 1),
        Order::OnceFrom(line) => ("once", line),
    };
    let output = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{}s", time.as_secs()),
            "--timeout",
            "10s",
            "--latency",
            "-s",
        ])
        .arg(script)
        .arg(format!("http://{address}/"))
        .arg("--")
        .args([&requests.tokens, &requests.lines])
        .args([order, &from.to_string(), &requests.pause.as_millis().to_string()])
        .kill_on_drop(true)
        .output()
        .await?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find_map(|line| line.strip_prefix("measured "));
    let numbers: Vec<u64> = line.unwrap_or_default().split(' ').map_while(|n| n.parse().ok()).collect();
    let [requests, time, p50, p99, 0] = numbers[..] else { return Err(format!("wrk says: {said}").into()) };
    Ok(Seen {
        requests: requests as f64,
        time: Duration::from_micros(time),
        p50: Duration::from_micros(p50),
        p99: Duration::from_micros(p99),
    })
}
