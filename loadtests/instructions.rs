//! What a look-up costs in instructions and allocations, under valgrind: `make load-instructions`. They do not depend on what else
//! the machine does, as times do. What the kernel does is not counted.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use tokio::process::Command;

use crate::{
    Result, Settings,
    cases::{self, Case},
    figures::Figures,
    process::{Process, free_address},
    servers::Servers,
    wrk::{self, Order, Requests},
};

/// How many functions of each server are shown.
const SHOWN: usize = 30;
const INSTRUCTIONS: &str = "instructions a request";
const ALLOCATIONS: &str = "allocations a request";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<String> {
    let mut figures = Figures::new("what a look-up costs in instructions, beside a bare server", settings);
    figures.note("counted by callgrind, in user space only");
    let levels = cases::levels(settings, servers).await?;
    let mut profiles = String::new();
    for round in 1..=settings.rounds {
        for (bare, ours) in &levels {
            let mut of_bare = f64::NAN;
            for case in [bare, ours] {
                eprintln!("round {round} of {}: {}", settings.rounds, case.name);
                let cost = under_valgrind(case, settings, servers).await?;
                figures.add(INSTRUCTIONS, &case.name, "", cost.instructions);
                figures.add(ALLOCATIONS, &case.name, "", cost.allocations);
                if of_bare.is_nan() {
                    of_bare = cost.instructions;
                } else {
                    let name = format!("{}: times bare", case.name);
                    figures.add(INSTRUCTIONS, name, "", cost.instructions / of_bare);
                }
                if round == settings.rounds {
                    profiles += &format!("\n## {}: where they are spent\n{}", case.name, cost.profile);
                }
            }
        }
    }
    Ok(format!("{figures}{profiles}"))
}

struct Cost {
    instructions: f64,
    allocations: f64,
    /// The functions in which most are spent, with what one request spends there.
    profile: String,
}

async fn under_valgrind(case: &Case, settings: &Settings, servers: &Servers) -> Result<Cost> {
    let counts = servers.folder.join("callgrind.out");
    let counted = format!("--callgrind-out-file={}", counts.display());
    let process = case.start(servers, free_address()?, &["valgrind", "--tool=callgrind", &counted]).await?;
    let send = async |lines: &Path, order, seconds| {
        let (tokens, lines) = (case.tokens.clone(), lines.to_owned());
        let requests = Requests { tokens, lines, order, pause: Duration::ZERO };
        wrk::run(process.address, &requests, settings.connections, Duration::from_secs(seconds)).await
    };
    send(case.first(), Order::OnceFrom(1), settings.seconds).await?;
    control(&process, "--zero").await?;
    let seen = send(&case.requests, Order::Random, settings.seconds).await?;
    control(&process, "--dump").await?;
    process.stop().await?;
    let dump = servers.folder.join("callgrind.out.1");
    let (profile, cost) = (annotated(&dump).await?, read(&fs::read_to_string(&dump)?)?);
    fs::remove_file(dump)?;
    let each = |all: u64| all as f64 / seen.requests;
    let profile = profile.into_iter().take(SHOWN);
    let profile = profile.map(|(all, name)| format!("{:8.0}  {name}\n", each(all))).collect();
    Ok(Cost { instructions: each(cost.0), allocations: each(cost.1), profile })
}

async fn control(process: &Process, what: &str) -> Result<()> {
    let pid = process.pid()?.to_string();
    let output = Command::new("callgrind_control").args([what, &pid]).output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.contains("OK") {
        return Ok(());
    }
    Err(format!("callgrind_control {what} says: {said}").into())
}

/// Instructions in all, and calls of allocators.
fn read(dump: &str) -> Result<(u64, u64)> {
    const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];
    let (mut names, mut called) = (HashMap::new(), "");
    let (mut instructions, mut allocations) = (None, 0);
    for line in dump.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or(line.strip_prefix("fn=")) {
            // A name is written once and has a number from then on.
            let (number, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(number, name);
            }
            if line.starts_with('c') {
                called = names.get(number).copied().unwrap_or_default();
            }
        } else if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATORS.contains(&called.trim_start_matches("mi_"))
        {
            allocations += calls.split(' ').next().unwrap_or_default().parse::<u64>()?;
        } else if let Some(totals) = line.strip_prefix("totals: ") {
            instructions = Some(totals.trim().parse()?);
        }
    }
    Ok((instructions.ok_or("callgrind counted nothing")?, allocations))
}

/// Functions by the instructions that they spend themselves.
async fn annotated(dump: &Path) -> Result<Vec<(u64, String)>> {
    let output = Command::new("callgrind_annotate").arg("--threshold=100").arg(dump).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let function = |line: &str| {
        let (count, rest) = line.trim().split_once(" (")?;
        let (_, name) = rest.split_once(") ")?;
        let name = name.trim().split(" [").next()?.split_once(':').map_or(name, |(_, name)| name);
        Some((count.replace(',', "").parse().ok()?, name.split(" [").next()?.to_owned()))
    };
    // The first is their sum.
    Ok(text.lines().filter_map(function).skip(1).collect())
}
