//! What the cold path and changes cost: round trips, counted between the program and its servers; processor time, log of
//! changes and times of answers at half of what can be done: `make load-writes`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::cmd;
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    Result, Settings,
    auth::{PASSWORD, Person, people},
    connection::Connection,
    figures::Figures,
    rate::{Ask, as_fast_as_can_be, ask, percentile},
    servers::{Database, Servers},
    turns::{Turns, usual},
};

const USERS: u64 = 200_000;
/// Of the load generator.
const CONNECTIONS: usize = 32;
/// How often round trips are counted; who is lucky gets between what the process asks for by itself.
const TRIES: u64 = 15;
/// After an answer, for what is done beside it.
const SETTLED: Duration = Duration::from_millis(60);
/// Nothing of what is looked up is remembered by the process, and nobody is refused.
const DIFFERENT: [(&str, &str); 5] = [
    ("CACHE_LOCAL_TTL", "1ms"),
    ("RATE_LIMIT_REGISTER", "off"),
    ("RATE_LIMIT_LOGIN", "off"),
    ("RATE_LIMIT_CALLER", "off"),
    ("RATE_LIMIT_IP", "off"),
];

type Next = fn(&Person, u64) -> Ask;

const CASES: [(&str, u16, Next); 6] = [
    ("a cold look-up", 200, |who, _| Ask::get(path(who), &who.token)),
    ("a change of a name", 200, |who, n| {
        Ask::send("PATCH", &path(who), &who.token, &json!({"name": format!("Name {n}")}))
    }),
    ("a new user", 201, |who, _| {
        let body = json!({"email": format!("{}@example.org", Uuid::now_v7()), "name": "New"});
        Ask::send("POST", "/api/v1/users", &who.token, &body)
    }),
    ("a new user with a password", 201, |who, _| {
        let body = json!({"email": format!("{}@example.org", Uuid::now_v7()), "name": "New", "password": "Correct-Horse-1"});
        Ask::send("POST", "/api/v1/users", &who.token, &body)
    }),
    ("a new tenant", 201, |_, _| {
        let slug = format!("t{}", Uuid::now_v7().simple());
        let body = json!({"tenant": {"name": "Acme", "slug": slug}, "email": "ada@example.org", "name": "Ada",
                          "password": "Correct-Horse-1"});
        Ask::send("POST", "/api/v1/auth/register", "", &body)
    }),
    ("a sign-in", 200, |who, _| {
        let body = json!({"tenant": who.tenant, "email": who.email, "password": PASSWORD});
        Ask::send("POST", "/api/v1/auth/login", "", &body)
    }),
];

fn path(who: &Person) -> String {
    format!("/api/v1/users/{}", who.id)
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let size = settings.users.unwrap_or(USERS);
    let database = servers.database("writes", 10, size).await?;
    let people = Arc::new(people(&database)?);
    let mut figures = Figures::new("what the cold path and changes cost", settings);
    figures.note(&format!("{size} users in 10 tenants, each asked for in turn; {CONNECTIONS} connections, on the same processors"));
    figures.note("round trips and statements are the least (to Redis: the usual) of several requests, one after the other; the one that wakes workers, for which nobody waits, is among them");
    figures.note("processor time and log are of requests as fast as can be; p50 and p99 at half of that rate, from when a request was due");
    // Users in turn, through all cases and rounds: nobody is warm.
    let turn = Arc::new(AtomicU64::new(0));
    for round in 1..=settings.rounds {
        for (name, expected, next) in CASES {
            eprintln!("round {round} of {}: {name}", settings.rounds);
            cmd("FLUSHALL").exec_async(&mut servers.redis().await?).await?;
            let (people, turn) = (people.clone(), turn.clone());
            let next = move |_| {
                let n = turn.fetch_add(1, Ordering::Relaxed);
                next(&people[usize::try_from(n).unwrap_or_default() % people.len()], n)
            };
            round_trips(&mut figures, servers, &database, name, expected, &next).await?;
            under_load(&mut figures, settings, servers, &database, name, expected, next).await?;
        }
    }
    Ok(figures)
}

async fn round_trips(
    figures: &mut Figures,
    servers: &Servers,
    database: &Database,
    name: &'static str,
    expected: u16,
    next: &impl Fn(u64) -> Ask,
) -> Result<()> {
    let (postgres, url) = between_postgres(servers, database)?;
    let socket = servers.redis_url().strip_prefix("redis+unix://").map(PathBuf::from).ok_or("no socket")?;
    let proxied = servers.folder.join(format!("{}.redis", short_id()));
    let redis = Turns::start(&proxied, socket)?;
    let redis_url = format!("redis+unix://{}", proxied.display());
    let ways = [("DATABASE_URL", url.as_str()), ("REDIS_URL", &redis_url), ("DATABASE_POOL", "2")];
    let node = servers.tenantry(database, "api", &[&DIFFERENT[..], &ways].concat(), "writes").await?;
    let mut connection = Connection::new(node.address);
    let counts = || [postgres.turns(), postgres.statements(), redis.turns()];
    let (mut least, mut calls) = ([u64::MAX; 2], vec![]);
    for n in 0..TRIES {
        let Ask { method, path, token, body, .. } = next(n);
        let before = counts();
        let answer = connection.ask(method, &path, &token, &body).await?;
        if answer.status != expected {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&answer.body)).into());
        }
        calls.push(redis.turns() - before[2]);
        sleep(SETTLED).await;
        let after = counts();
        least = std::array::from_fn(|n| least[n].min(after[n] - before[n]));
    }
    let whats = ["round trips to PostgreSQL", "statements", "round trips to Redis"];
    for (what, count) in whats.into_iter().zip([least[0], least[1], usual(&calls)]) {
        figures.add(name, what, "", count as f64);
    }
    node.stop().await
}

/// A way to PostgreSQL that is counted, and the address of it.
fn between_postgres(servers: &Servers, database: &Database) -> Result<(Turns, String)> {
    let url = database.settings.iter().find(|(name, _)| *name == "DATABASE_URL").ok_or("no address")?;
    let (before, sockets) = url.1.split_once("host=").ok_or("no socket")?;
    let folder = servers.folder.join(short_id());
    std::fs::create_dir(&folder)?;
    let socket = PathBuf::from(sockets).join(".s.PGSQL.5432");
    let turns = Turns::start(&folder.join(".s.PGSQL.5432"), socket)?;
    Ok((turns, format!("{before}host={}", folder.display())))
}

/// The path of a socket may not be long.
fn short_id() -> String {
    Uuid::new_v4().simple().to_string()[..8].to_owned()
}

async fn under_load(
    figures: &mut Figures,
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    name: &'static str,
    expected: u16,
    next: impl Fn(u64) -> Ask + Clone + Send + Sync + 'static,
) -> Result<()> {
    let time = Duration::from_secs(settings.seconds);
    let node = servers.tenantry(database, "api", &DIFFERENT, "writes").await?;
    let client = servers.superuser("writes").await?;
    // PostgreSQL 18 has moved the count of fsyncs.
    let log = async || -> Result<[f64; 2]> {
        let sql = "select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8,
                     coalesce((to_jsonb(w) ->> 'wal_sync')::float8, 'nan') from pg_stat_wal w";
        let row = client.query_one(sql, &[]).await?;
        Ok([row.try_get(0)?, row.try_get(1)?])
    };
    // Connections are opened, statements prepared.
    as_fast_as_can_be(node.address, Duration::from_millis(500), CONNECTIONS, next.clone()).await?;
    let costs = || -> Result<[f64; 3]> {
        let [redis, postgres] = servers.cpu()?;
        Ok([node.cpu()?, redis, postgres])
    };
    let (cpu_before, log_before, begun) = (costs()?, log().await?, Instant::now());
    let (done, took) = as_fast_as_can_be(node.address, time, CONNECTIONS, next.clone()).await?;
    let (cpu_after, log_after) = (costs()?, log().await?);
    if done == 0 {
        return Err(format!("{name}: nothing was answered as it should be in {:?}", begun.elapsed()).into());
    }
    let (done, rate) = (done as f64, done as f64 / took.as_secs_f64());
    figures.add(name, "requests a second", "1/s", rate);
    for (n, who) in ["ours", "Redis", "PostgreSQL"].into_iter().enumerate() {
        let each = (cpu_after[n] - cpu_before[n]) * 1e3 / done;
        figures.add(name, format!("processor time of 1,000: {who}"), "s", each);
    }
    figures.add(name, "log of changes, each", "bytes", (log_after[0] - log_before[0]) / done);
    figures.add(name, "fsyncs, each", "", (log_after[1] - log_before[1]) / done);

    let answers = ask(node.address, rate / 2.0, time, CONNECTIONS * 4, next).await?;
    let wrong = answers.iter().filter(|answer| answer.status != Some(expected)).count();
    if wrong > 0 {
        return Err(
            format!("{name}: {wrong} of {} were not answered as they should be", answers.len()).into()
        );
    }
    figures.add(name, "p50 at half of it", "ms", percentile(&answers, 0.5));
    figures.add(name, "p99 at half of it", "ms", percentile(&answers, 0.99));
    node.stop().await
}
