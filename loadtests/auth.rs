//! What signing in costs and what it does to others, what a token costs, what the walls cost: `make load-auth`.

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Result, Settings,
    figures::Figures,
    process::{Process, free_address},
    rate::{Answered, Ask, Turn, as_fast_as_can_be, ask, ask_apart},
    servers::{Database, Servers},
    walls,
    wrk::{self, Order, Requests},
};

/// Of all seeded people.
pub(crate) const PASSWORD: &str = "Tenantry-Demo-1";
/// Look-ups a second, beside sign-ins; a small part of what can be done.
const LOOK_UPS: f64 = 500.0;
/// The flood is so many times what can be hashed.
const FLOOD: f64 = 20.0;
/// Of the load generator, for sign-ins: what waits for a hash, and what is refused meanwhile.
const CONNECTIONS: usize = 256;

/// Whether Linux gives sessions equal parts of a processor, whatever the priorities of those in them. PostgreSQL makes a session of
/// each backend.
const AUTOGROUP: &str = "/proc/sys/kernel/sched_autogroup_enabled";
/// The beginning of a flood.
const BEGINNING: Duration = Duration::from_secs(1);

const SIGN_IN: &str = "sign-in";
const READS: &str = "look-ups in the process's memory beside sign-ins";
const TOKENS: &str = "processor time of a thousand requests";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let size = settings.users.unwrap_or(20_000);
    let database = servers.database("many", 10, size).await?;
    let people = Arc::new(people(&database)?);
    let mut figures = Figures::new("what signing in, a token and the walls cost", settings);
    figures.note(&format!("{size} users in 10 tenants; the load generator uses the same processors"));
    figures.note(&format!("look-ups: {LOOK_UPS} a second; the flood: {FLOOD} times what can be hashed"));
    servers.step_back()?;
    figures.note("PostgreSQL, Redis and the flood are let run after the service");
    figures.note(match Turn::can_be_first() {
        true => "whoever looks up beside the flood is let run first",
        false => {
            "NOT run as root: whoever looks up beside the flood waits for a processor as the service does"
        }
    });
    if fs::read_to_string(AUTOGROUP).is_ok_and(|on| on.trim() == "0") {
        figures.note("kernel.sched_autogroup_enabled = 0");
    } else {
        figures.note(
            "kernel.sched_autogroup_enabled = 1: each backend of PostgreSQL has as much of a processor as all else together",
        );
    }
    figures.note("times are from when a request was due, whether or not others had been answered");
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}: sign-in", settings.rounds);
        sign_in(&mut figures, settings, servers, &database, &people).await?;
        eprintln!("round {round} of {}: tokens", settings.rounds);
        tokens(&mut figures, settings, servers, &database, &people, round).await?;
        eprintln!("round {round} of {}: walls", settings.rounds);
        let rows = Arc::new(people.iter().map(|person| (person.tenant, person.id)).collect());
        let (owner, app) = servers.urls("many");
        walls::measure(&mut figures, servers, [&owner, &app], &rows, time(settings)).await?;
    }
    Ok(figures)
}

#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) tenant: Uuid,
    pub(crate) id: Uuid,
    pub(crate) email: String,
    /// Of the tenant's administrator, and its line in the file of tokens.
    pub(crate) token: String,
    line: usize,
}

pub(crate) fn people(database: &Database) -> Result<Vec<Person>> {
    let tokens = fs::read_to_string(&database.tokens)?;
    let tokens: Vec<_> = tokens.lines().collect();
    let person = |user: &crate::servers::User| -> Result<Person> {
        let token = *tokens.get(user.token - 1).ok_or("no token")?;
        let tenant = part(token, 1)?["tid"].as_str().ok_or("no tenant")?.parse()?;
        let (email, token) = (user.email.clone(), token.to_owned());
        Ok(Person { tenant, id: user.id, email, token, line: user.token })
    };
    database.users.iter().map(person).collect()
}

fn part(token: &str, n: usize) -> Result<Value> {
    let part = token.split('.').nth(n).ok_or("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

fn time(settings: &Settings) -> Duration {
    Duration::from_secs(settings.seconds)
}

async fn start(servers: &Servers, database: &Database, different: &[(&str, &str)]) -> Result<Process> {
    // Whoever measures comes from one address and signs in as few people; what limits do is not asked here.
    let limits = [("RATE_LIMIT_IP", "off"), ("RATE_LIMIT_LOGIN", "off")];
    servers.tenantry(database, "api", &[&limits, different].concat(), "auth").await
}

/// Signs everybody in by turns.
fn login(people: &Arc<Vec<Person>>) -> impl Fn(u64) -> Ask + Send + Sync + 'static {
    let people = people.clone();
    move |n| {
        let person = &people[usize::try_from(n).unwrap_or_default() % people.len()];
        let body = json!({"tenant": person.tenant, "email": person.email, "password": PASSWORD});
        Ask::send("POST", "/api/v1/auth/login", "", &body)
    }
}

/// Looks up a thousand people by turns, who stay in memory.
fn look_up(people: &Arc<Vec<Person>>) -> impl Fn(u64) -> Ask + Send + Sync + 'static {
    let people = people.clone();
    move |n| {
        let person = &people[usize::try_from(n).unwrap_or_default() % people.len().min(1_000)];
        Ask::get(format!("/api/v1/users/{}", person.id), &person.token)
    }
}

async fn sign_in(
    figures: &mut Figures,
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    people: &Arc<Vec<Person>>,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let metrics = free_address()?.to_string();
    let different = [("CACHE_LOCAL_TTL", "10m"), ("METRICS_LISTEN", metrics.as_str())];
    let process = start(servers, database, &different).await?;
    let address = process.address;
    // Warm: pools, statements, what is looked up.
    ask(address, LOOK_UPS, Duration::from_secs(3), CONNECTIONS, look_up(people)).await?;
    as_fast_as_can_be(address, Duration::from_secs(1), 2 * cores, login(people)).await?;

    let before = process.cpu()?;
    let (done, took) = as_fast_as_can_be(address, time(settings), 2 * cores, login(people)).await?;
    let used = process.cpu()? - before;
    if done == 0 {
        return Err("nobody could sign in".into());
    }
    let capacity = done as f64 / took.as_secs_f64();
    figures.add(SIGN_IN, "as many as can be", "1/s", capacity);
    figures.add(SIGN_IN, "of each processor", "1/s", capacity / cores as f64);
    figures.add(SIGN_IN, "processor time of one", "ms", used / done as f64 * 1e3);
    let half = ask(address, capacity / 2.0, time(settings), CONNECTIONS, login(people)).await?;
    let signed_in = with_status(&half, 200);
    if signed_in.len() < half.len() * 99 / 100 {
        return Err(format!("at half load {} of {} could sign in", signed_in.len(), half.len()).into());
    }
    figures.add(SIGN_IN, "half as many: p50", "ms", millis(&signed_in, 0.5));
    figures.add(SIGN_IN, "half as many: p99", "ms", millis(&signed_in, 0.99));

    let idle =
        ask_apart(Turn::First, address, LOOK_UPS, time(settings), CONNECTIONS, look_up(people)).await?;
    let (before, statements) = (look_ups_done(&metrics).await?, servers.cpu()?[1]);
    let reads = ask_apart(Turn::First, address, LOOK_UPS, time(settings), CONNECTIONS, look_up(people));
    let logins =
        ask_apart(Turn::Last, address, FLOOD * capacity, time(settings), 2 * CONNECTIONS, login(people));
    let (reads, flood) = tokio::try_join!(reads, logins)?;
    let after = look_ups_done(&metrics).await?;
    let postgres = servers.cpu()?[1] - statements;
    for (what, answers) in [("idle", &idle), ("flood", &reads)] {
        let found = with_status(answers, 200);
        if found.len() != answers.len() {
            return Err(format!(
                "{what}: {} of {} look-ups failed",
                answers.len() - found.len(),
                answers.len()
            )
            .into());
        }
    }
    let (idle, reads) = (with_status(&idle, 200), with_status(&reads, 200));
    let (first, later): (Vec<_>, Vec<_>) = reads.iter().copied().partition(|read| read.due < BEGINNING);
    for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
        figures.add(READS, format!("alone: {name}"), "ms", millis(&idle, part));
        figures.add(READS, format!("in a flood of sign-ins: {name}"), "ms", millis(&reads, part));
    }
    figures.add(READS, "in a flood of sign-ins: p99 of its first second", "ms", millis(&first, 0.99));
    figures.add(READS, "in a flood of sign-ins: p99 from then on", "ms", millis(&later, 0.99));
    for (name, answers) in [("alone", &idle), ("in a flood of sign-ins", &reads)] {
        let mut late: Vec<_> = answers.iter().map(|answer| answer.late).collect();
        late.sort_unstable();
        let p99 = late.get(late.len() * 99 / 100).map_or(f64::NAN, |late| late.as_secs_f64() * 1e3);
        figures.add(READS, format!("{name}: how late the client itself was, p99, not counted"), "ms", p99);
    }
    let within: Vec<_> =
        after.iter().zip(&before).map(|((le, after), (_, before))| (le, after - before)).collect();
    let all = within.last().map_or(0.0, |&(_, all)| all);
    let p99 = within.iter().find(|&&(_, within)| within >= all * 0.99).map_or(f64::NAN, |&(le, _)| le * 1e3);
    figures.add(READS, "in a flood of sign-ins: p99 as the process has it, at most", "ms", p99);
    figures.add(READS, "in a flood of sign-ins: PostgreSQL's processor time", "s", postgres);
    figures.add(
        READS,
        "p99 in the flood, times that alone (promised: 3)",
        "",
        millis(&reads, 0.99) / millis(&idle, 0.99),
    );
    figures.add(
        READS,
        "p99 from the second second on, times that alone",
        "",
        millis(&later, 0.99) / millis(&idle, 0.99),
    );

    let (signed_in, refused) = (with_status(&flood, 200), with_status(&flood, 503));
    let of = |part: usize, all: usize| part as f64 / all.max(1) as f64 * 100.0;
    figures.add(READS, "the flood", "1/s", flood.len() as f64 / time(settings).as_secs_f64());
    figures.add(READS, "of it: signed in", "1/s", signed_in.len() as f64 / time(settings).as_secs_f64());
    figures.add(READS, "of it: signed in, p99", "ms", millis(&signed_in, 0.99));
    figures.add(READS, "of it: refused with 503", "%", of(refused.len(), flood.len()));
    let polite = refused.iter().filter(|answer| answer.retry_after).count();
    figures.add(READS, "of the refusals: with Retry-After", "%", of(polite, refused.len()));
    let quick = refused.iter().filter(|answer| answer.after <= Duration::from_millis(50)).count();
    figures.add(READS, "of the refusals: within 50 ms", "%", of(quick, refused.len()));
    figures.add(READS, "of the refusals: p99", "ms", millis(&refused, 0.99));
    figures.add(
        READS,
        "of it: answered otherwise",
        "%",
        of(flood.len() - signed_in.len() - refused.len(), flood.len()),
    );
    process.stop().await
}

/// How many look-ups have taken no longer than each of the bounds of the process's histogram, in seconds.
async fn look_ups_done(metrics: &str) -> Result<Vec<(f64, f64)>> {
    const BUCKET: &str = r#"tenantry_http_request_duration_seconds_bucket{route="/api/v1/users/{id}",le=""#;
    let page = reqwest::get(format!("http://{metrics}/metrics")).await?.text().await?;
    let buckets = page.lines().filter_map(|line| line.strip_prefix(BUCKET)?.split_once("\"} "));
    let buckets: Vec<_> = buckets
        .map(|(le, count)| Ok::<_, std::num::ParseFloatError>((le.parse()?, count.parse()?)))
        .collect::<std::result::Result<_, _>>()?;
    if buckets.is_empty() { Err("the process tells nothing of look-ups".into()) } else { Ok(buckets) }
}

fn with_status(answers: &[Answered], status: u16) -> Vec<Answered> {
    let mut found: Vec<_> = answers.iter().copied().filter(|answer| answer.status == Some(status)).collect();
    found.sort_by_key(|answer| answer.after);
    found
}

/// The value below which that part of the sorted answers lies.
fn millis(sorted: &[Answered], part: f64) -> f64 {
    let place = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(place.saturating_sub(1)).map_or(f64::NAN, |answer| answer.after.as_secs_f64() * 1e3)
}

/// A public operation without a token, with one that is known, and with one that nobody has seen: the same answer, so the
/// difference is what a token costs. Then a look-up, which needs one.
async fn tokens(
    figures: &mut Figures,
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    people: &[Person],
    round: usize,
) -> Result<()> {
    let keys = "GET /.well-known/jwks.json";
    let none = servers.write(&[String::new()])?;
    let known: Vec<_> = (1..=10).map(|line| format!("{line} {keys}")).collect();
    let hot: Vec<_> = people.iter().take(1_000).collect();
    let look_ups: Vec<_> =
        hot.iter().map(|person| format!("{} GET /api/v1/users/{}", person.line, person.id)).collect();
    let mut cases = vec![
        ("a public operation, no token", none, vec![format!("1 {keys}")], Order::Random),
        ("a public operation, a token that is known", database.tokens.clone(), known, Order::Random),
        ("a look-up in memory, a token that is known", database.tokens.clone(), look_ups, Order::Random),
    ];
    let (mut public, mut most) = (f64::NAN, 0.0);
    for turn in 0..=cases.len() {
        if turn == cases.len() {
            // More than can be sent, since to verify each takes time as well.
            let count = (most * settings.seconds as f64 * 1.2) as usize + 1_000;
            let fresh = fresh(servers, people, count, round)?;
            let lines = (1..=fresh.len()).map(|line| format!("{line} {keys}")).collect();
            let tokens = servers.write(&fresh)?;
            cases.push((
                "a public operation, a token seen for the first time",
                tokens,
                lines,
                Order::OnceFrom(1),
            ));
        }
        let (name, tokens, lines, order) = &cases[turn];
        let process = start(servers, database, &[("CACHE_LOCAL_TTL", "10m")]).await?;
        let requests = Requests {
            tokens: tokens.clone(),
            lines: servers.write(lines)?,
            order: *order,
            pause: Duration::ZERO,
        };
        if *order == Order::Random {
            wrk::run(process.address, &requests, settings.connections, Duration::from_secs(1)).await?;
        }
        let before = process.cpu()?;
        let seen = wrk::run(process.address, &requests, settings.connections, time(settings)).await?;
        let cost = (process.cpu()? - before) * 1e3 / seen.requests * 1e3;
        process.stop().await?;
        if *order != Order::Random && seen.requests + settings.connections as f64 > lines.len() as f64 {
            return Err("too few tokens were signed".into());
        }
        figures.add(TOKENS, *name, "ms", cost);
        if turn == 0 {
            public = cost;
        } else {
            figures.add(TOKENS, format!("{name}: more than without"), "ms", cost - public);
        }
        most = f64::max(most, seen.requests / seen.time.as_secs_f64());
        figures.add(TOKENS, format!("{name}: requests"), "1/s", seen.requests / seen.time.as_secs_f64());
    }
    Ok(())
}

/// Valid tokens that no process has seen.
fn fresh(servers: &Servers, people: &[Person], count: usize, round: usize) -> Result<Vec<String>> {
    let token = &people.first().ok_or("no users")?.token;
    let (id, claims) = (part(token, 0)?["kid"].as_str().map(str::to_owned), part(token, 1)?);
    let key = EncodingKey::from_ed_pem(&fs::read(servers.folder.join("keys/first.pem"))?)?;
    let header = Header { kid: id, typ: Some("at+jwt".into()), ..Header::new(Algorithm::EdDSA) };
    let issued = claims["iat"].as_i64().ok_or("no iat")?;
    let sign = |n: usize| {
        let mut claims = claims.clone();
        // Nobody looks at it, and it makes each of them another one.
        claims["iat"] = (issued - i64::try_from(round * count + n).unwrap_or_default()).into();
        Ok(jsonwebtoken::encode(&header, &claims, &key)?)
    };
    (0..count).map(sign).collect()
}
