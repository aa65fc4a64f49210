//! What a look-up costs in instructions and allocations, under valgrind: `make load-instructions`. They do not depend on what else
//! the machine does, as times do. What the kernel does is not counted.

use std::{cmp::Reverse, collections::HashMap, fs, path::Path, time::Duration};

use tokio::process::Command;

use crate::{
    Result, Settings,
    cases::{self, Case},
    figures::Figures,
    process::{Process, free_address},
    servers::Servers,
    wrk::{self, Order, Requests},
};

/// Who is in the database, and who of them is asked for: so few that all can be before it is measured.
const USERS: [usize; 2] = [1_000, 100];
/// How many functions of each server are shown.
const SHOWN: usize = 30;
/// So many requests are sent before it is measured: buffers have grown, and what is asked for is where it should be.
const LEAST: f64 = 2_000.0;
const INSTRUCTIONS: &str = "instructions a request";
const ALLOCATIONS: &str = "allocations a request";

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<String> {
    let mut figures = Figures::new("what a look-up costs in instructions, beside a bare server", settings);
    figures.note("counted by callgrind, in user space only");
    let levels = cases::levels(settings, servers, USERS).await?;
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
    let mut sent = 0.0;
    // It takes its time to start.
    while sent < LEAST {
        sent += send(case.first(), Order::Random, 1).await?.requests;
    }
    control(&process, "--zero").await?;
    let seen = send(&case.requests, Order::Random, settings.seconds).await?;
    control(&process, "--dump").await?;
    process.stop().await?;
    let dump = fs::read_to_string(servers.folder.join("callgrind.out.1"))?;
    let counts = Counts::read(&dump)?;
    let each = |all: u64| all as f64 / seen.requests;
    let mut own: Vec<_> = counts.own.into_iter().collect();
    own.sort_by_key(|(name, spent)| (Reverse(*spent), *name));
    let shown = own.into_iter().take(SHOWN);
    let profile = shown.map(|(name, spent)| format!("{:8.0}  {name}\n", each(spent))).collect();
    Ok(Cost { instructions: each(counts.instructions), allocations: each(counts.allocations), profile })
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

/// What callgrind has counted.
#[derive(Default)]
struct Counts<'a> {
    instructions: u64,
    allocations: u64,
    /// What functions spend themselves, by name.
    own: HashMap<&'a str, u64>,
}

impl<'a> Counts<'a> {
    /// Reads a dump; its format is in valgrind's manual.
    fn read(dump: &'a str) -> Result<Self> {
        // As mimalloc calls what Rust asks it for.
        const ALLOCATORS: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];
        let (mut counts, mut names) = (Self::default(), HashMap::new());
        let (mut function, mut called, mut is_call) = ("", "", false);
        // A name is written once and has a number from then on.
        let mut named = |text: &'a str| match text.split_once(' ') {
            Some((number, name)) => {
                names.insert(number, name);
                name
            }
            None => names.get(text).copied().unwrap_or_default(),
        };
        for line in dump.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = named(name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                called = named(name);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                is_call = true;
                if ALLOCATORS.contains(&called) {
                    counts.allocations += calls.split(' ').next().unwrap_or_default().parse::<u64>()?;
                }
            } else if let Some(totals) = line.strip_prefix("totals: ") {
                counts.instructions = totals.trim().parse()?;
            } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
                // The line after a call is what was spent in there.
                if !std::mem::take(&mut is_call)
                    && let Some((_, spent)) = line.split_once(' ')
                {
                    *counts.own.entry(function).or_default() += spent.parse::<u64>()?;
                }
            }
        }
        if counts.instructions == 0 { Err("callgrind counted nothing".into()) } else { Ok(counts) }
    }
}
