//! HAProxy before the processes: it sends requests to those that say they are ready.

use std::{
    fmt::Write,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    Result,
    cluster::{status, until},
    servers::free_address,
};

pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    /// Where it says what it thinks of the processes.
    stats: SocketAddr,
    child: Child,
}

impl Balancer {
    /// In front of these. It tries nothing again: what it sends to a process is answered by that, or not at all.
    pub(crate) async fn start(nodes: &[SocketAddr], folder: &Path) -> Result<Self> {
        let (address, stats) = (free_address()?, free_address()?);
        let mut text = format!(
            "global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 1s\n  timeout client 30s\n  timeout server 30s\n  \
             retries 0\nfrontend clients\n  bind {address}\n  default_backend nodes\n\
             frontend stats\n  bind {stats}\n  stats enable\n  stats uri /\nbackend nodes\n  option httpchk GET /health/ready\n  default-server inter 200ms fastinter 100ms fall 1 rise 1\n"
        );
        for (n, node) in nodes.iter().enumerate() {
            writeln!(text, "  server node-{n} {node} check")?;
        }
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, text)?;
        let mut command = Command::new("haproxy");
        command
            .env("PATH", format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("-db").arg("-f").arg(&file);
        let log = std::fs::File::create(folder.join("haproxy.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let balancer = Self { address, stats, child: command.spawn().map_err(missing)? };
        until("the balancer answers", Duration::from_secs(20), async || {
            status(address, "/health").await == 200
        })
        .await?;
        Ok(balancer)
    }

    /// Waits until requests are sent to this process.
    pub(crate) async fn sends_to(&self, node: usize) -> Result<()> {
        let line = format!("nodes,node-{node},");
        until("the balancer takes the process in", Duration::from_secs(60), async || {
            let Ok(answer) = reqwest::get(format!("http://{}/;csv", self.stats)).await else { return false };
            let page = answer.text().await.unwrap_or_default();
            page.lines().any(|of| of.starts_with(&line) && of.contains(",UP,"))
        })
        .await
    }
}

fn missing(error: std::io::Error) -> String {
    format!("haproxy cannot be run ({error}): scripts/setup test installs it")
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // It has ended already if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
