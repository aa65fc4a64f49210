//! What it costs to make a thousand users: in one request, again by its key, and one by one; and what look-ups beside it see.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use crate::{
    Result, Settings,
    figures::Figures,
    process::{Process, free_address, program},
    rate::{ask, look_ups},
    servers::{Database, Servers},
};

/// How many users are made at once, which is as many as may be.
const USERS: usize = 1_000;
/// How often in a round.
const TIMES: usize = 5;
/// Requests under way where users are made one by one.
const AT_ONCE: usize = 8;
/// Look-ups a second, beside it; a small part of what can be done.
const LOOK_UPS: f64 = 200.0;

const ALL: &str = "a thousand users in one request";
const EACH: &str = "a thousand users one by one";
const READS: &str = "look-ups beside it, from the process's memory";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let database = servers.database("bulk", 1, settings.users.unwrap_or(20_000)).await?;
    let mut figures = Figures::new("what it costs to make a thousand users", settings);
    figures.note(&format!("one by one: {AT_ONCE} requests under way; look-ups: {LOOK_UPS} a second"));
    figures.note("users have no passwords and get a mail to choose one; nobody sends it here");
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        let service = Service::start(servers, &database).await?;
        service.in_one(&mut figures, servers).await?;
        service.one_by_one(&mut figures, servers).await?;
        service.look_ups(&mut figures, settings, &database).await?;
        service.process.stop().await?;
    }
    Ok(figures)
}

struct Service {
    process: Process,
    client: Client,
    token: String,
}

/// What was used until now: seconds of the process, of Redis, of PostgreSQL, and calls to Redis.
struct Used([f64; 4]);

impl Service {
    async fn start(servers: &Servers, database: &Database) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg("api").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
        command.env("LISTEN", address.to_string()).env("CACHE_LOCAL_TTL", "10m");
        let process = Process::start(command, address, &servers.folder.join("bulk.log")).await?;
        let tokens = std::fs::read_to_string(&database.tokens)?;
        let token = tokens.lines().next().ok_or("no token")?.to_owned();
        let service = Self { process, client: Client::new(), token };
        // Connections are opened and statements prepared.
        for _ in 0..AT_ONCE {
            service.bulk(&users(2), "").await?;
        }
        Ok(service)
    }

    async fn in_one(&self, figures: &mut Figures, servers: &Servers) -> Result<()> {
        let mut times = vec![];
        let before = self.used(servers).await?;
        for _ in 0..TIMES {
            let key = Uuid::new_v4().to_string();
            let users = users(USERS);
            let took = self.bulk(&users, &key).await?;
            times.push((took, self.bulk(&users, &key).await?));
        }
        let used = self.used(servers).await?.since(&before);
        let sum = |of: fn(&(Duration, Duration)) -> Duration| times.iter().map(of).sum::<Duration>();
        let mean = |sum: Duration| sum.as_secs_f64() * 1e3 / TIMES as f64;
        figures.add(ALL, "time", "ms", mean(sum(|(first, _)| *first)));
        figures.add(ALL, "time when it is sent again, by its key", "ms", mean(sum(|(_, again)| *again)));
        used.add_to(figures, ALL, TIMES as f64);
        Ok(())
    }

    async fn one_by_one(&self, figures: &mut Figures, servers: &Servers) -> Result<()> {
        let (before, start) = (self.used(servers).await?, Instant::now());
        let made = stream::iter(users(USERS)).map(|user| self.post("/api/v1/users", user, ""));
        let made: Vec<_> = made.buffer_unordered(AT_ONCE).collect().await;
        let took = start.elapsed();
        for answer in made {
            let (status, body) = answer?;
            if status != StatusCode::CREATED {
                return Err(format!("a user was not made: {status} {body}").into());
            }
        }
        figures.add(EACH, "time", "ms", took.as_secs_f64() * 1e3);
        self.used(servers).await?.since(&before).add_to(figures, EACH, 1.0);
        Ok(())
    }

    /// Alone, and while one thousand after the other are made.
    async fn look_ups(&self, figures: &mut Figures, settings: &Settings, database: &Database) -> Result<()> {
        let look_up = look_ups(database, &self.token);
        let time = Duration::from_secs(settings.seconds);
        let reads = || ask(self.process.address, LOOK_UPS, time, 64, look_up.clone());
        // Each is in memory from here on.
        ask(self.process.address, LOOK_UPS, Duration::from_secs(5), 64, look_up.clone()).await?;
        let alone = reads().await?;
        let end = Instant::now() + time;
        let bulk = async {
            let mut made = 0;
            while Instant::now() < end {
                self.bulk(&users(USERS), "").await?;
                made += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(made)
        };
        let (beside, made) = tokio::try_join!(reads(), bulk)?;
        for (name, mut answers) in [("alone", alone), ("while users are made", beside)] {
            if answers.iter().any(|answer| answer.status != Some(200)) {
                return Err(format!("look-ups {name} failed").into());
            }
            answers.sort_by_key(|answer| answer.after);
            for (part, of) in [("p50", 0.5), ("p99", 0.99)] {
                let at = ((answers.len() - 1) as f64 * of) as usize;
                figures.add(READS, format!("{name}: {part}"), "ms", answers[at].after.as_secs_f64() * 1e3);
            }
        }
        figures.add(READS, "users made meanwhile", "1/s", (made * USERS) as f64 / time.as_secs_f64());
        Ok(())
    }

    /// How long it took to make them all.
    async fn bulk(&self, users: &[Value], key: &str) -> Result<Duration> {
        let start = Instant::now();
        let (status, body) =
            self.post("/api/v1/users/bulk", json!({"users": users, "atomic": true}), key).await?;
        let took = start.elapsed();
        if status != StatusCode::MULTI_STATUS || body["data"]["created"] != users.len() {
            return Err(format!("not all were made: {status} {}", body["error"]).into());
        }
        Ok(took)
    }

    async fn post(&self, path: &str, body: Value, key: &str) -> Result<(StatusCode, Value)> {
        let mut request = self.client.post(format!("http://{}{path}", self.process.address));
        if !key.is_empty() {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.bearer_auth(&self.token).json(&body).send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    async fn used(&self, servers: &Servers) -> Result<Used> {
        let [redis, postgres] = servers.cpu()?;
        Ok(Used([self.process.cpu()?, redis, postgres, servers.redis_calls().await?]))
    }
}

impl Used {
    fn since(mut self, before: &Self) -> Self {
        self.0.iter_mut().zip(before.0).for_each(|(now, then)| *now -= then);
        self
    }

    fn add_to(&self, figures: &mut Figures, section: &'static str, times: f64) {
        let [ours, redis, postgres, calls] = self.0.map(|used| used / times);
        figures.add(section, "processor time: ours", "ms", ours * 1e3);
        figures.add(section, "processor time: Redis", "ms", redis * 1e3);
        figures.add(section, "processor time: PostgreSQL", "ms", postgres * 1e3);
        figures.add(section, "calls to Redis", "", calls);
    }
}

/// So many whom nobody has made yet.
fn users(n: usize) -> Vec<Value> {
    let batch = Uuid::now_v7().simple();
    (0..n)
        .map(|n| json!({"email": format!("u{n}-{batch}@example.org"), "name": format!("User {n}")}))
        .collect()
}
