//! Whether the time of an answer tells who exists. Somebody who does and somebody who does not are asked about in turns, so
//! that a machine which is slower for a while is so for both; the median of one kind is compared with that of the other.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    Result, Settings,
    process::{Process, free_address, program},
    servers::{Database, Servers, User},
    table,
};

/// How far the medians may be apart.
const APART: f64 = 0.05;
/// Pairs that are asked about before: connections are opened and statements prepared.
const BEFORE: u64 = 20;
/// Users of the one tenant; each is asked about again and again.
const USERS: u64 = 200;

/// What is asked about somebody.
struct Question {
    name: &'static str,
    path: &'static str,
    answer: StatusCode,
    body: fn(tenant: &str, email: &str) -> Value,
}

const QUESTIONS: [Question; 2] = [
    Question {
        name: "sign in with a wrong password",
        path: "login",
        answer: StatusCode::UNAUTHORIZED,
        body: |tenant, email| json!({"tenant": tenant, "email": email, "password": "Wrong-Horse-1"}),
    },
    Question {
        name: "ask for a mail to choose a password",
        path: "forgot-password",
        answer: StatusCode::ACCEPTED,
        body: |tenant, email| json!({"tenant": tenant, "email": email}),
    },
];

/// The report.
pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<String> {
    let database = servers.database("people", 1, settings.users.unwrap_or(USERS)).await?;
    let how = format!("{} pairs each, in turns, medians", settings.pairs);
    let mut page = table::head("whether the time of an answer tells who exists", &how);
    writeln!(page, "# They may be {:.0} % apart.\n", APART * 100.0)?;
    writeln!(page, "{:36}  known ms  unknown ms  ratio", "")?;
    let process = start(servers, &database).await?;
    for question in QUESTIONS {
        eprintln!("{} pairs: {}", settings.pairs, question.name);
        let [known, unknown] = question.medians(&process, &database, settings.pairs).await?;
        let ratio = known.as_secs_f64() / unknown.as_secs_f64();
        let verdict = if (ratio - 1.0).abs() <= APART { "" } else { "  TOO FAR APART" };
        let [known, unknown] = [known, unknown].map(|time| time.as_secs_f64() * 1e3);
        writeln!(page, "{:36}  {known:8.3}  {unknown:10.3}  {ratio:.3}{verdict}", question.name)?;
    }
    process.stop().await?;
    Ok(page)
}

async fn start(servers: &Servers, database: &Database) -> Result<Process> {
    let address = free_address()?;
    let mut command = Command::new(program("tenantry")?);
    command.arg("api").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
    command.env("LISTEN", address.to_string()).env("RATE_LIMIT_LOGIN", "off").env("RATE_LIMIT_IP", "off");
    Process::start(command, address, &servers.folder.join("enumeration.log")).await
}

impl Question {
    /// Of people who exist, and of people who do not.
    async fn medians(&self, process: &Process, database: &Database, pairs: u64) -> Result<[Duration; 2]> {
        let client = reqwest::Client::new();
        let mut times = [vec![], vec![]];
        for n in 0..BEFORE + pairs {
            let User { email, tenant, .. } =
                database.users.get(n as usize % database.users.len()).ok_or("no users")?;
            // As often as the known one, and as long.
            let unknown = email.replacen("user", "none", 1);
            // Each of the two is the first as often as the other.
            for kind in if n % 2 == 0 { [0, 1] } else { [1, 0] } {
                let body = (self.body)(tenant, if kind == 0 { email } else { &unknown });
                let url = format!("http://{}/api/v1/auth/{}", process.address, self.path);
                let start = Instant::now();
                let answer = client.post(url).json(&body).send().await?;
                let status = answer.status();
                answer.bytes().await?;
                let took = start.elapsed();
                if status != self.answer {
                    return Err(format!("{}: answered with {status}", self.name).into());
                }
                if n >= BEFORE {
                    times[kind].push(took);
                }
            }
        }
        Ok(times.map(|mut times| {
            times.sort();
            times.get(times.len() / 2).copied().unwrap_or_default()
        }))
    }
}
