//! What limits cost: look-ups in memory without any, with those that the process counts, with all; and how many decisions Redis
//! makes in a second, which is what an attempt asks for.

use std::time::{Duration, Instant};

use deadpool_redis::redis::Script;
use futures_util::future::try_join_all;
use tokio::process::Command;

use crate::{
    Result, Settings,
    figures::Figures,
    process::{Process, cpu, free_address, program},
    servers::{Database, Servers},
    wrk::{self, Order, Requests},
};

const COST: &str = "processor time of a thousand look-ups in the process's memory";
const CALLS: &str = "calls to Redis of a thousand of them, the process's own and those for leases";
const ALONE: &str = "decisions of the script in Redis, 64 at a time on one connection";
const KEYS: usize = 10_000;
const HIGH: &str = "1000000000/15m";

/// In the order in which each adds to the one before it.
const VARIANTS: [(&str, [(&str, &str); 2]); 3] = [
    ("without limits", [("RATE_LIMIT_CALLER", "off"), ("RATE_LIMIT_TENANT_ENTERPRISE", "off")]),
    ("by caller", [("RATE_LIMIT_CALLER", HIGH), ("RATE_LIMIT_TENANT_ENTERPRISE", "off")]),
    ("by caller and tenant", [("RATE_LIMIT_CALLER", HIGH), ("RATE_LIMIT_TENANT_ENTERPRISE", HIGH)]),
];

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let database = servers.database("limits", 10, settings.users.unwrap_or(1_000)).await?;
    let mut figures = Figures::new("what limits of requests cost", settings);
    figures.note("ten tenants; the load generator uses the same processors");
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        let mut costs = [0.0; VARIANTS.len()];
        // There and back, so that a machine that becomes slower in a round does so for all of them.
        for nth in (0..VARIANTS.len()).chain((0..VARIANTS.len()).rev()) {
            costs[nth] += look_ups(settings, servers, &database, nth, &mut figures).await? / 2.0;
        }
        for (nth, (name, _)) in VARIANTS.iter().enumerate() {
            figures.add(COST, *name, "ms", costs[nth]);
        }
        for (nth, (name, _)) in VARIANTS.iter().enumerate().skip(1) {
            figures.add(COST, format!("{name}: more than without"), "ms", costs[nth] - costs[0]);
            figures.add(COST, format!("{name}: times those without"), "", costs[nth] / costs[0]);
        }
        decisions(settings, servers, &mut figures).await?;
    }
    Ok(figures)
}

/// Milliseconds of a thousand.
async fn look_ups(
    settings: &Settings,
    servers: &Servers,
    database: &Database,
    nth: usize,
    figures: &mut Figures,
) -> Result<f64> {
    let (name, limits) = VARIANTS[nth];
    let address = free_address()?;
    let mut command = Command::new(program("tenantry")?);
    command.arg("api").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
    command.env("LISTEN", address.to_string()).env("CACHE_LOCAL_TTL", "10m").envs(limits.iter().copied());
    let process = Process::start(command, address, &servers.folder.join("limits.log")).await?;
    let lines: Vec<_> = database
        .users
        .iter()
        .take(1_000)
        .map(|user| format!("{} GET /api/v1/users/{}", user.token, user.id))
        .collect();
    let requests = Requests {
        tokens: database.tokens.clone(),
        lines: servers.write(&lines)?,
        order: Order::Random,
        pause: Duration::ZERO,
    };
    wrk::run(process.address, &requests, settings.connections, Duration::from_secs(1)).await?;
    let (before, calls) = (process.cpu()?, servers.redis_calls().await?);
    let time = Duration::from_secs(settings.seconds);
    let seen = wrk::run(process.address, &requests, settings.connections, time).await?;
    let cost = (process.cpu()? - before) * 1e3 / seen.requests * 1e3;
    let calls = (servers.redis_calls().await? - calls) / seen.requests * 1e3;
    process.stop().await?;
    figures.add(CALLS, name, "", calls);
    Ok(cost)
}

/// As a process asks, of ten thousand keys in turn.
async fn decisions(settings: &Settings, servers: &Servers, figures: &mut Figures) -> Result<()> {
    let script = Script::new(include_str!("../src/limits/limit.lua"));
    let connection = servers.redis().await?;
    let (begun, end) = (Instant::now(), Instant::now() + Duration::from_secs(settings.seconds));
    let pid = servers.redis_pid()?;
    let before = cpu(pid)?;
    let asking = (0..64_usize).map(|task| {
        let (script, mut connection) = (&script, connection.clone());
        async move {
            let mut count = 0_usize;
            while Instant::now() < end {
                let mut call = script.key(format!("l:load:{:032x}", (task + count * 64) % KEYS));
                // Ten in ten minutes, one is wanted, and nothing is known or owed.
                for argument in [60_000_000_i64, 600_000_000, 1, 0, 0, 0, 600_001, 10_000] {
                    call.arg(argument);
                }
                let answer: Vec<i64> = call.invoke_async(&mut connection).await?;
                let [_taken, _until, _now, _born] = answer[..] else { return Err("no decision".into()) };
                count += 1;
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(count)
        }
    });
    let count: usize = try_join_all(asking).await?.iter().sum();
    figures.add(ALONE, "decisions", "1/s", count as f64 / begun.elapsed().as_secs_f64());
    figures.add(
        ALONE,
        "processor time of Redis for a thousand",
        "ms",
        (cpu(pid)? - before) * 1e6 / count as f64,
    );
    Ok(())
}
