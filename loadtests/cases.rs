//! What is run: a server, requests for it, and the level that must answer them.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use deadpool_redis::redis::cmd;
use rand::seq::IndexedRandom;
use tokio::process::Command;

use crate::{
    Result, Settings,
    process::{Process, free_address, program},
    servers::{Database, Servers, User},
    table::{Run, Table},
    wrk::{self, Order, Requests},
};

/// Users who are asked for again and again, unless there are fewer.
const HOT: usize = 5_000;
/// The part of the look-ups that the level of a case must have answered. In the millisecond that a process must remember a
/// user, somebody else may ask for the same one.
const SHARE: f64 = 0.95;
/// Nothing leaves the process's memory while we measure.
const FROM_MEMORY: [(&str, &str); 1] = [("CACHE_LOCAL_TTL", "10m")];
/// Memory is forgotten at once.
const FROM_REDIS: [(&str, &str); 1] = [("CACHE_LOCAL_TTL", "1ms")];
/// So is what was written to Redis.
const FROM_POSTGRES: [(&str, &str); 2] = [("CACHE_LOCAL_TTL", "1ms"), ("CACHE_TTL", "1ms")];

pub(crate) struct Case {
    pub(crate) name: String,
    server: Kind,
    pub(crate) tokens: PathBuf,
    pub(crate) requests: PathBuf,
    warm: Warm,
    /// A part of the connections is used: one in so many.
    one_in: u64,
    /// The row of the case whose load is halved here.
    half_of: Option<usize>,
}

enum Kind {
    /// The bare server, which answers with these bytes; with `redis` it gets them from there.
    Bare { body: String, redis: bool },
    /// The API, and who must answer so many look-ups a request.
    Api { settings: Vec<(&'static str, String)>, level: &'static str, reads: f64 },
}

/// What is done before a run.
enum Warm {
    /// So many requests of this file are sent, each once.
    Fill(PathBuf, usize),
    /// The first of the requests are sent. There are so many, and each is sent once in all rounds.
    Once(usize),
}

/// Each level beside a bare server.
pub(crate) async fn lookup(settings: &Settings, servers: &Servers) -> Result<(Table, Vec<Case>)> {
    let size = settings.users.unwrap_or(400_000);
    let database = servers.database("many", 10, size).await?;
    let (hot, cold) = database.users.split_at(HOT);
    let body = answer(servers, &database).await?;
    let ids: Vec<_> = hot.iter().map(by_id).collect();
    let addresses: Vec<_> = hot.iter().map(by_address).collect();
    let batches = batches(hot);

    let files = Files { servers, database: &database };
    let bare = |name, redis| files.bare(name, body.clone(), redis);
    let hits = |name, settings: &[_], level, lines: &[String], first: &[String]| {
        files.case(name, settings, level, lines, first)
    };
    let mut cases = vec![
        bare("bare poem, the same bytes", false)?,
        bare("bare poem, one GET from Redis", true)?,
        hits("by id, in the process", &FROM_MEMORY, "local", &ids, &ids)?,
        hits("by id, in Redis", &FROM_REDIS, "redis", &ids, &ids)?,
        files.once("by id, in PostgreSQL", cold)?,
        hits("by address, in Redis", &FROM_REDIS, "redis", &addresses, &[&ids[..], &addresses].concat())?,
        hits("100 by id, in the process", &FROM_MEMORY, "local", &batches, &ids)?.of(100.0),
        hits("100 by id, in Redis, connections / 4", &FROM_REDIS, "redis", &batches, &ids)?.of(100.0),
        hits("by id, in the process, half load", &FROM_MEMORY, "local", &ids, &ids)?,
    ];
    // With all of them, each batch would wait for longer than a request may wait for Redis.
    cases[7].one_in = 4;
    cases[8].half_of = Some(2);
    let mut table = Table::new("what a look-up costs beside a bare server", settings, cases.len());
    table.note(format!(
        "{size} users in 10 tenants, made in {:.0?}; {HOT} of them are asked for by chance, the others once each",
        database.seeded_in
    ));
    for (row, baseline) in [(2, 0), (3, 1), (4, 1), (5, 1), (6, 0), (7, 1), (8, 0)] {
        table.compare(row, baseline);
    }
    Ok((table, cases))
}

/// The levels that answer without PostgreSQL, each with what it is compared with: bare servers, and ours.
/// So many users, of whom so many are asked for.
pub(crate) async fn levels(
    settings: &Settings,
    servers: &Servers,
    [users, asked]: [usize; 2],
) -> Result<[(Case, Case); 2]> {
    let database = servers.database("few", 10, settings.users.unwrap_or(users as u64)).await?;
    let body = answer(servers, &database).await?;
    let ids: Vec<_> = database.users.iter().take(asked).map(by_id).collect();
    let files = Files { servers, database: &database };
    Ok([
        (
            files.bare("bare poem, the same bytes", body.clone(), false)?,
            files.case("by id, in the process", &FROM_MEMORY, "local", &ids, &ids)?,
        ),
        (
            files.bare("bare poem, one GET from Redis", body, true)?,
            files.case("by id, in Redis", &FROM_REDIS, "redis", &ids, &ids)?,
        ),
    ])
}

/// A thousand users beside a million.
pub(crate) async fn scale(settings: &Settings, servers: &Servers) -> Result<(Table, Vec<Case>)> {
    let size = settings.users.unwrap_or(1_000_000);
    let few = servers.database("few", 1, 1_000).await?;
    let many = servers.database("many", 100, size).await?;
    // As many who are asked for again and again, and more.
    let (same, more) = (few.users.len(), 20 * few.users.len());
    let all = many.users.len();
    let mut cases = vec![];
    let mut compared = vec![];
    for (level, settings, asked) in [
        ("local", &FROM_MEMORY[..], [same, more]),
        ("redis", &FROM_REDIS[..], [same, more]),
        ("postgres", &FROM_POSTGRES[..], [same, all]),
    ] {
        let baseline = cases.len();
        for (database, asked) in [(&few, same), (&many, asked[0]), (&many, asked[1])] {
            let ids: Vec<_> = database.users.iter().take(asked).map(by_id).collect();
            let name = format!("{level}, any of {asked} users of {}", database.users.len());
            // Nothing can be kept from before where everybody is read from PostgreSQL.
            let first = if level == "postgres" { &ids[..same.min(ids.len())] } else { &ids };
            if cases.len() > baseline {
                compared.push((cases.len(), baseline));
            }
            cases.push(Files { servers, database }.case(&name, settings, level, &ids, first)?);
        }
    }
    let mut table =
        Table::new("what a look-up costs with many users beside a thousand", settings, cases.len());
    table.note(format!("{size} users in 100 tenants, made in {:.0?}; 1000 in one", many.seeded_in));
    for (row, baseline) in compared {
        table.compare(row, baseline);
    }
    Ok((table, cases))
}

/// Writes requests where wrk finds them.
struct Files<'a> {
    servers: &'a Servers,
    database: &'a Database,
}

impl Files<'_> {
    fn bare(&self, name: &str, body: String, redis: bool) -> Result<Case> {
        let requests = self.servers.write(&["1 GET /".to_owned()])?;
        let warm = Warm::Fill(requests.clone(), 1);
        self.made(name, Kind::Bare { body, redis }, requests, warm)
    }

    /// `lines` by chance, after each of `first`, all answered by `level`.
    fn case(
        &self,
        name: &str,
        settings: &[(&'static str, &str)],
        level: &'static str,
        lines: &[String],
        first: &[String],
    ) -> Result<Case> {
        let warm = Warm::Fill(self.servers.write(first)?, first.len());
        self.made(name, self.api(settings, level), self.servers.write(lines)?, warm)
    }

    /// Each of `users` once, so that nobody but the database knows them.
    fn once(&self, name: &str, users: &[User]) -> Result<Case> {
        let lines: Vec<_> = users.iter().map(by_id).collect();
        self.made(name, self.api(&[], "postgres"), self.servers.write(&lines)?, Warm::Once(lines.len()))
    }

    fn api(&self, different: &[(&'static str, &str)], level: &'static str) -> Kind {
        let mut settings = self.database.settings.clone();
        settings.extend(different.iter().map(|&(variable, value)| (variable, value.to_owned())));
        Kind::Api { settings, level, reads: 1.0 }
    }

    fn made(&self, name: &str, server: Kind, requests: PathBuf, warm: Warm) -> Result<Case> {
        let tokens = self.database.tokens.clone();
        Ok(Case { name: name.to_owned(), server, tokens, requests, warm, one_in: 1, half_of: None })
    }
}

impl Case {
    /// With so many look-ups in a request.
    fn of(mut self, look_ups: f64) -> Self {
        if let Kind::Api { reads, .. } = &mut self.server {
            *reads = look_ups;
        }
        self
    }

    /// Starts the server, warms it, measures one run, and stops it. Redis is empty at first.
    pub(crate) async fn run(
        &self,
        settings: &Settings,
        servers: &Servers,
        round: usize,
        table: &Table,
    ) -> Result<Run> {
        cmd("FLUSHALL").exec_async(&mut servers.redis().await?).await?;
        let (metrics, connections) = (free_address()?, (settings.connections / self.one_in).max(1));
        let process = self.start(servers, metrics, &[]).await?;
        let send = |lines: PathBuf, order, pause, seconds| {
            let requests = Requests { tokens: self.tokens.clone(), lines, order, pause };
            let address = process.address;
            async move { wrk::run(address, &requests, connections, Duration::from_secs(seconds)).await }
        };
        let order = match &self.warm {
            Warm::Fill(file, lines) => {
                let mut sent = 0;
                while sent < *lines {
                    let order = Order::OnceFrom(1 + sent);
                    sent += send(file.clone(), order, Duration::ZERO, 1).await?.requests as usize;
                }
                Order::Random
            }
            Warm::Once(lines) => {
                let first = 1 + (round - 1) * lines / settings.rounds;
                let sent = send(self.requests.clone(), Order::OnceFrom(first), Duration::ZERO, 1).await?;
                // Those that were under way at the end have been sent, too.
                Order::OnceFrom(first + sent.requests as usize + connections as usize)
            }
        };
        // Half of the rate: as many connections, each of which pauses for what its request would take at that rate.
        let full =
            self.half_of.and_then(|row| table.last(row)).map(|run| run.requests / run.time.as_secs_f64());
        let pause =
            full.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(connections as f64 / (rate / 2.0)));

        let before = Counts::take(&process, servers, metrics, self.level()).await?;
        let seen = send(self.requests.clone(), order, pause, settings.seconds).await?;
        let after = Counts::take(&process, servers, metrics, self.level()).await?;
        process.stop().await?;
        let share = match &self.server {
            Kind::Bare { .. } => None,
            Kind::Api { level, reads, .. } => {
                let share = (after.by_level - before.by_level) / (seen.requests * reads);
                if share < SHARE {
                    return Err(
                        format!("{level} answered {:.1} % of the look-ups only", share * 100.0).into()
                    );
                }
                // Answers that were on their way when wrk stopped were counted here and not there.
                Some(share.min(1.0))
            }
        };
        Ok(Run {
            requests: seen.requests,
            time: seen.time,
            p50: seen.p50,
            p99: seen.p99,
            cpu: std::array::from_fn(|n| after.cpu[n] - before.cpu[n]),
            redis_calls: after.redis_calls - before.redis_calls,
            share,
        })
    }

    fn level(&self) -> &'static str {
        match self.server {
            Kind::Bare { .. } => "none",
            Kind::Api { level, .. } => level,
        }
    }

    /// The first requests, after which the level in question answers.
    pub(crate) fn first(&self) -> &Path {
        match &self.warm {
            Warm::Fill(file, _) => file,
            Warm::Once(_) => &self.requests,
        }
    }

    /// Starts the server by the command `under`; none: by itself.
    pub(crate) async fn start(
        &self,
        servers: &Servers,
        metrics: SocketAddr,
        under: &[&str],
    ) -> Result<Process> {
        let address = free_address()?;
        let begin = |name| -> Result<Command> {
            let [first, more @ ..] = under else { return Ok(Command::new(program(name)?)) };
            let mut command = Command::new(first);
            command.args(more).arg(program(name)?);
            Ok(command)
        };
        let command = match &self.server {
            Kind::Bare { body, redis } => {
                let mut command = begin("bare")?;
                command.args([&address.to_string(), body]);
                command.args(redis.then(|| servers.redis_url()));
                command
            }
            Kind::Api { settings, .. } => {
                let mut command = begin("tenantry")?;
                command.arg("api").env_clear().envs(env::var_os("PATH").map(|path| ("PATH", path)));
                command.envs(settings.iter().cloned()).current_dir(&servers.folder);
                command.env("LISTEN", address.to_string()).env("METRICS_LISTEN", metrics.to_string());
                command
            }
        };
        Process::start(command, address, &servers.folder.join("access.log")).await
    }
}

/// What has been counted so far.
struct Counts {
    /// Of the server, Redis and PostgreSQL.
    cpu: [f64; 3],
    redis_calls: f64,
    by_level: f64,
}

impl Counts {
    /// `level` is the one that look-ups are counted of.
    async fn take(process: &Process, servers: &Servers, metrics: SocketAddr, level: &str) -> Result<Self> {
        let [redis, postgres] = servers.cpu()?;
        let label = format!("level=\"{level}\"");
        let mut by_level = 0.0;
        if level != "none" {
            let page = reqwest::get(format!("http://{metrics}/metrics")).await?.text().await?;
            let is_it =
                |line: &&str| line.starts_with("tenantry_cache_reads_total{") && line.contains(&label);
            for line in page.lines().filter(is_it) {
                by_level += line.rsplit(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        }
        let redis_calls = servers.redis_calls().await?;
        Ok(Self { cpu: [process.cpu()?, redis, postgres], redis_calls, by_level })
    }
}

/// What the API answers to a look-up, for the bare server to answer the same.
async fn answer(servers: &Servers, database: &Database) -> Result<String> {
    let user = database.users.first().ok_or("no users")?;
    let files = Files { servers, database };
    let case = files.once("an answer", &database.users[..1])?;
    let process = case.start(servers, free_address()?, &[]).await?;
    let tokens = fs::read_to_string(&database.tokens)?;
    let token = tokens.lines().nth(user.token - 1).ok_or("no token")?;
    let url = format!("http://{}/api/v1/users/{}", process.address, user.id);
    let answer = reqwest::Client::new().get(url).bearer_auth(token).send().await?.error_for_status()?;
    let body = answer.text().await?;
    process.stop().await?;
    Ok(body)
}

fn by_id(user: &User) -> String {
    format!("{} GET /api/v1/users/{}", user.token, user.id)
}

fn by_address(user: &User) -> String {
    format!("{} GET /api/v1/users/lookup?email={}", user.token, user.email)
}

/// Batches of a hundred of one tenant.
fn batches(users: &[User]) -> Vec<String> {
    let mates: Vec<_> = users.iter().filter(|user| user.token == 1).collect();
    let batch = |_| {
        let ids: Vec<_> = mates.choose_multiple(&mut rand::rng(), 100).map(|user| user.id).collect();
        format!("1 POST /api/v1/users/batch-get {}", serde_json::json!({"ids": ids}))
    };
    (0..200).map(batch).collect()
}
