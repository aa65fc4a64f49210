//! What it costs to import users: sending them, making them, a dry run, and what look-ups beside it see.

use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    Result, Settings,
    figures::Figures,
    process::{Process, free_address, program},
    rate::{ask, look_ups},
    servers::{Database, Servers},
};

/// How many users are imported, unless it is said.
const USERS: u64 = 100_000;
/// Look-ups a second, beside it; a small part of what can be done.
const LOOK_UPS: f64 = 200.0;

const WHOLE: &str = "an import, from the first byte to the last user";
const DRY: &str = "the same as a dry run, before";
const MEMORY: &str = "one process serves the API and works";
const READS: &str = "look-ups beside it, from the process's memory";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let users = settings.users.unwrap_or(USERS);
    let mut figures = Figures::new("what it costs to import users", settings);
    figures.note(&format!("{users} users in CSV, each with a bcrypt hash, into a tenant of 20,000; look-ups: {LOOK_UPS} a second"));
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        // Each round fills a database of its own.
        let database = servers.database(&format!("imports{round}"), 1, 20_000).await?;
        let service = Service::start(servers, &database).await?;
        service.alone(&mut figures, servers, users).await?;
        service.beside(&mut figures, settings, &database, users).await?;
        service.process.stop().await?;
    }
    Ok(figures)
}

struct Service {
    process: Process,
    client: Client,
    token: String,
}

/// How long the parts took.
struct Took {
    upload: Duration,
    work: Duration,
}

impl Service {
    async fn start(servers: &Servers, database: &Database) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg("all").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
        command.env("LISTEN", address.to_string()).env("CACHE_LOCAL_TTL", "10m");
        command.env("SMTP_URL", "smtp://127.0.0.1:1");
        let process = Process::start(command, address, &servers.folder.join("imports.log")).await?;
        let tokens = std::fs::read_to_string(&database.tokens)?;
        let token = tokens.lines().next().ok_or("no token")?.to_owned();
        Ok(Self { process, client: Client::new(), token })
    }

    async fn alone(&self, figures: &mut Figures, servers: &Servers, users: u64) -> Result<()> {
        // Connections are opened, statements prepared.
        self.import("warm", 1_000, "").await?;
        for (section, begin, query) in [(DRY, "dry", "?dry_run=true"), (WHOLE, "all", "")] {
            let (ours, [_, postgres]) = (self.process.cpu()?, servers.cpu()?);
            let Took { upload, work } = self.import(begin, users, query).await?;
            let whole = (upload + work).as_secs_f64();
            let rate = |time: Duration| users as f64 / time.as_secs_f64();
            figures.add(section, "time", "s", whole);
            figures.add(section, "users", "1/s", users as f64 / whole);
            figures.add(section, "of these: sending", "s", upload.as_secs_f64());
            figures.add(section, "rows received", "1/s", rate(upload));
            figures.add(section, "users made", "1/s", rate(work));
            let each = |used: f64| used * 1e6 / users as f64;
            figures.add(section, "processor time: ours, each", "us", each(self.process.cpu()? - ours));
            let [_, used] = servers.cpu()?;
            figures.add(section, "processor time: PostgreSQL, each", "us", each(used - postgres));
        }
        figures.add(
            MEMORY,
            "the most memory it has had (VmHWM)",
            "MiB",
            self.process.peak_memory()? / 1048576.0,
        );
        Ok(())
    }

    async fn beside(
        &self,
        figures: &mut Figures,
        settings: &Settings,
        database: &Database,
        users: u64,
    ) -> Result<()> {
        let look_up = look_ups(database, &self.token);
        let time = Duration::from_secs(settings.seconds);
        let reads = || ask(self.process.address, LOOK_UPS, time, 64, look_up.clone());
        // Each is in memory from here on.
        ask(self.process.address, LOOK_UPS, Duration::from_secs(5), 64, look_up.clone()).await?;
        let alone = reads().await?;
        let import = self.import("beside", users, "");
        tokio::pin!(import);
        let beside = tokio::select! {
            beside = reads() => beside?,
            took = &mut import => {
                let Took { upload, work } = took?;
                return Err(format!("the import ended within {:?}: measure for less time", upload + work).into());
            }
        };
        import.await?;
        for (name, mut answers) in [("alone", alone), ("while users are imported", beside)] {
            if answers.iter().any(|answer| answer.status != Some(200)) {
                return Err(format!("look-ups {name} failed").into());
            }
            answers.sort_by_key(|answer| answer.after);
            for (part, of) in [("p50", 0.5), ("p99", 0.99)] {
                let at = ((answers.len() - 1) as f64 * of) as usize;
                figures.add(READS, format!("{name}: {part}"), "ms", answers[at].after.as_secs_f64() * 1e3);
            }
        }
        Ok(())
    }

    /// Imports so many whom nobody has made yet.
    async fn import(&self, begin: &str, users: u64, query: &str) -> Result<Took> {
        // With 2^10 rounds; nobody signs in.
        const HASH: &str = "$2b$10$4Ci3dc/EI9eJTYG14S2efuDZj7xM3i6WqJDSUvmy7F9zSL5eR0Ih6";
        let rows = (0..users).map(|n| format!("{begin}-{n}@example.org,Person Number {n},{HASH}\n"));
        let body = "email,name,password_hash\n".to_owned() + &rows.collect::<String>();
        let start = Instant::now();
        let request = self.request(Method::POST, &format!("/api/v1/users/imports{query}"));
        let answer = request.header("Content-Type", "text/csv").body(body).send().await?;
        let (status, accepted): (_, Value) = (answer.status(), answer.json().await?);
        if status != StatusCode::ACCEPTED {
            return Err(format!("it was not accepted: {status} {}", accepted["error"]).into());
        }
        let upload = start.elapsed();
        let path = format!("/api/v1/users/imports/{}", accepted["data"]["id"].as_str().ok_or("no id")?);
        loop {
            let found: Value = self.request(Method::GET, &path).send().await?.json().await?;
            let import = &found["data"];
            if import["finished_at"].is_string() {
                if import["state"] != "done" || import["created"] != users {
                    return Err(format!("not all were made: {import}").into());
                }
                return Ok(Took { upload, work: start.elapsed() - upload });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.process.address);
        self.client.request(method, url).bearer_auth(&self.token)
    }
}
