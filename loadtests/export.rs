//! What an export costs, by how many users the tenant has: `make load-export`. Each size is a database of its own, and each export
//! is asked of a process that has just started, so that the most memory it ever had is that of the export.

use std::{
    fs,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use tokio::process::Command;

use crate::{
    Result, Settings,
    figures::Figures,
    lists::fill,
    process::{Process, free_address, program},
    servers::{Database, Servers},
};

/// Of tenants, up to the most that are asked for.
const SIZES: [u64; 2] = [1_000, 100_000];
const FORMATS: [&str; 2] = ["ndjson", "csv"];

/// A database with one tenant.
struct Tenant {
    users: u64,
    token: String,
    database: Database,
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let most = settings.users.unwrap_or(SIZES[SIZES.len() - 1]);
    let sizes = SIZES.into_iter().filter(|size| *size < most).chain([most]);
    let mut figures = Figures::new("what an export costs, by how many users the tenant has", settings);
    figures.note("one client that takes what comes; each export by a process of its own; memory: VmHWM");
    let mut tenants = vec![];
    for users in sizes {
        eprintln!("making {users} users in one tenant");
        let name = format!("export_{users}");
        let database = servers.database(&name, 1, 1).await?;
        fill(&servers.urls(&name).0, users).await?;
        let token = fs::read_to_string(&database.tokens)?.lines().next().ok_or("no token")?.to_owned();
        tenants.push(Tenant { users, token, database });
    }
    for round in 1..=settings.rounds {
        for format in FORMATS {
            for tenant in &tenants {
                eprintln!("round {round} of {}: {format} of {} users", settings.rounds, tenant.users);
                tenant.export(&mut figures, servers, format).await?;
            }
        }
    }
    Ok(figures)
}

impl Tenant {
    async fn export(&self, figures: &mut Figures, servers: &Servers, format: &'static str) -> Result<()> {
        let node = self.node(servers).await?;
        let client = Client::new();
        // What a process has before: connections, keys, the token.
        let me = format!("http://{}/api/v1/users/me", node.address);
        client.get(me).bearer_auth(&self.token).send().await?.error_for_status()?;
        let at_rest = node.peak_memory()?;
        let [_, before] = servers.cpu()?;
        let start = Instant::now();
        let url = format!("http://{}/api/v1/users/export?format={format}", node.address);
        let mut response = client.get(url).bearer_auth(&self.token).send().await?;
        if response.status() != StatusCode::OK {
            return Err(format!("{format}: {}", response.text().await?).into());
        }
        // How many lines had come, and when.
        let (mut lines, mut bytes, mut came) = (0, 0, vec![]);
        while let Some(chunk) = response.chunk().await? {
            lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
            bytes += chunk.len();
            came.push((lines, start.elapsed()));
        }
        let took = start.elapsed().as_secs_f64();
        let [_, after] = servers.cpu()?;
        let heads = u64::from(format == "csv");
        if lines != self.users + heads {
            return Err(format!("{format}: {lines} lines of {} users", self.users).into());
        }
        let users = self.users;
        let mut add =
            |name: &str, unit, value| figures.add(format, format!("{users} users: {name}"), unit, value);
        add("users a second", "", users as f64 / took);
        add("size", "MB", bytes as f64 / 1e6);
        if users >= 100_000 {
            add("users a second, the first tenth", "", rate(&came, 0, users / 10));
            add("users a second, the last tenth", "", rate(&came, users - users / 10, users));
        }
        add("PostgreSQL for 1,000 users", "ms", (after - before) / users as f64 * 1e6);
        add("memory before", "MB", at_rest / 1e6);
        add("memory at its peak", "MB", node.peak_memory()? / 1e6);
        node.stop().await
    }

    async fn node(&self, servers: &Servers) -> Result<Process> {
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command
            .arg("api")
            .env_clear()
            .envs(self.database.settings.iter().cloned())
            .current_dir(&servers.folder);
        command.env("LISTEN", address.to_string()).env("RATE_LIMIT_IP", "off");
        Process::start(command, address, &servers.folder.join(format!("export_{}.log", self.users))).await
    }
}

/// Users a second from the one of the number `from` to that of the number `to`.
fn rate(came: &[(u64, Duration)], from: u64, to: u64) -> f64 {
    let at = |n: u64| came.iter().find(|(lines, _)| *lines >= n).map_or(f64::NAN, |(_, at)| at.as_secs_f64());
    let (begin, end) = (if from == 0 { 0.0 } else { at(from) }, at(to));
    (to - from) as f64 / (end - begin)
}
