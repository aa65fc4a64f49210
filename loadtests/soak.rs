//! Memory with a hundred thousand users cached, and over half an hour under load: `make soak`.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use reqwest::Client;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    Result, Settings,
    figures::Figures,
    plot::{Curve, Panel, svg},
    process::{Process, free_address},
    provenance::provenance,
    rate::{Answered, Ask, ask},
    servers::{Database, Servers},
};

/// As many as `CACHE_LOCAL_ENTRIES` has by default.
const USERS: u64 = 100_000;
/// Requests a second.
const RATE: f64 = 500.0;
const CONNECTIONS: usize = 64;
/// How often memory is looked at.
const SAMPLES: u32 = 360;
/// Of those, how many the table has.
const SHOWN: usize = 30;
/// What the last quarter may have more than the second one: an allocator keeps what it has split.
const FLAT: f64 = 1.05;
const MIB: f64 = 1024.0 * 1024.0;

const MEMORY: &str = "memory (VmRSS)";
const CURVE: &str = "memory over time";
const REQUESTS: &str = "requests";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let users = settings.users.unwrap_or(USERS);
    let mut figures = Figures::new("memory of a process, with users cached and over time", settings);
    figures.note(&format!(
        "{users} users of one tenant in the process; then {RATE} requests a second: of twenty one changes a user, one lists, the others look users up"
    ));
    let database = servers.database("soak", 1, users + 1).await?;
    let token = fs::read_to_string(&database.tokens)?.lines().next().ok_or("no token")?.to_owned();
    let metrics = free_address()?;
    let listen = metrics.to_string();
    let settings_of_it = [
        ("METRICS_LISTEN", listen.as_str()),
        // Long enough that all are there at once.
        ("CACHE_LOCAL_TTL", "1h"),
        ("RATE_LIMIT_CALLER", "off"),
    ];
    let node = servers.tenantry(&database, "api", &settings_of_it, "soak").await?;
    figures.add(MEMORY, "started", "MiB", node.memory()? / MIB);
    cache_all(&node, metrics, &database, &token).await?;
    figures.add(MEMORY, format!("{users} users cached"), "MiB", node.memory()? / MIB);

    let time = Duration::from_secs(settings.seconds);
    let load = ask(node.address, RATE, time, CONNECTIONS, mixed(&database, &token));
    let (answers, curve) = tokio::join!(load, memory_over(time, &node));
    let (answers, curve) = (answers?, curve?);
    let quarter = |n: usize| median(&curve[curve.len() * n / 4..curve.len() * (n + 1) / 4]);
    let growth = quarter(3) / quarter(1);
    figures.add(MEMORY, "the last quarter of the time, times the second", "", growth);
    figures.add(MEMORY, "the most (VmHWM)", "MiB", node.peak_memory()? / MIB);
    requests(&mut figures, &answers);
    for (at, bytes) in curve.iter().step_by((curve.len() / SHOWN).max(1)) {
        figures.add(CURVE, format!("after {:5.0} s", at.as_secs_f64()), "MiB", bytes / MIB);
    }
    node.stop().await?;
    if let Some(folder) = &settings.plots {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("soak.svg"), plot(&curve, users))?;
    }
    if growth > FLAT {
        return Err(format!("memory grows: {growth:.3} times\n{figures}").into());
    }
    Ok(figures)
}

/// A hundred at a time, until (nearly) all are there: whom Redis is not quick enough for is not.
async fn cache_all(node: &Process, metrics: SocketAddr, database: &Database, token: &str) -> Result<()> {
    let client = Client::new();
    let url = format!("http://{}/api/v1/users/batch-get", node.address);
    for _ in 0..5 {
        for users in database.users.chunks(100) {
            let ids: Vec<_> = users.iter().map(|user| user.id).collect();
            let request = client.post(&url).bearer_auth(token).json(&json!({"ids": ids}));
            request.send().await?.error_for_status()?;
        }
        let text = client.get(format!("http://{metrics}/metrics")).send().await?.text().await?;
        let entries = text.lines().find_map(|line| line.strip_prefix("tenantry_cache_local_entries "));
        let entries: f64 = entries.ok_or("entries are not counted")?.parse()?;
        if entries >= database.users.len() as f64 * 0.99 {
            return Ok(());
        }
    }
    Err("the users cannot be cached".into())
}

/// Of twenty requests one changes, one lists, the others look up; users in turn, by steps that meet all of them.
fn mixed(database: &Database, token: &str) -> impl Fn(u64) -> Ask + Send + Sync + 'static {
    let ids: Vec<_> = database.users.iter().map(|user| user.id).collect();
    let token = token.to_owned();
    move |n| {
        let id = ids[usize::try_from(n).unwrap_or_default() * 7_919 % ids.len()];
        match n % 20 {
            0 => Ask::send(
                "PATCH",
                &format!("/api/v1/users/{id}"),
                &token,
                &json!({"name": format!("Name {n}")}),
            ),
            1 => Ask::get("/api/v1/users?limit=20&cursor=first".into(), &token),
            _ => Ask::get(format!("/api/v1/users/{id}"), &token),
        }
    }
}

/// Bytes, by when.
async fn memory_over(time: Duration, node: &Process) -> Result<Vec<(Duration, f64)>> {
    let (start, mut curve) = (Instant::now(), vec![]);
    let mut tick = interval(time / SAMPLES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < time {
        tick.tick().await;
        curve.push((start.elapsed(), node.memory()?));
    }
    Ok(curve)
}

fn plot(curve: &[(Duration, f64)], users: u64) -> String {
    let points = curve.iter().map(|(at, bytes)| (at.as_secs_f64() / 60.0, bytes / MIB)).collect();
    let panel = Panel {
        title: format!("Resident memory with {users} users cached"),
        x: "minutes",
        y: "MiB",
        logarithmic: false,
        curves: vec![Curve { name: format!("{RATE} requests a second"), points }],
    };
    svg(&[panel], &format!("loadtests/soak.txt; {}", provenance()))
}

fn median(samples: &[(Duration, f64)]) -> f64 {
    crate::lists::median(&samples.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>())
}

fn requests(figures: &mut Figures, answers: &[Answered]) {
    let mut times: Vec<_> = answers.iter().map(|answer| answer.after.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    figures.add(REQUESTS, "asked", "", answers.len() as f64);
    let mut failed = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.status != Some(200)) {
        *failed.entry(answer.status).or_insert(0_u32) += 1;
    }
    figures.add(REQUESTS, "failed", "", failed.values().sum::<u32>().into());
    for (status, count) in failed {
        let with = status.map_or("without an answer".to_owned(), |status| format!("with {status}"));
        figures.add(REQUESTS, format!("failed {with}"), "", count.into());
    }
    figures.add(REQUESTS, "p50", "ms", at(0.5));
    figures.add(REQUESTS, "p99", "ms", at(0.99));
}
