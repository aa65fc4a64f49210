//! What things cost, on servers of its own: look-ups, signing in, making and importing users, lists, figures, exports (`make help`
//! lists them as `load-...`). And whether the time of an answer tells who exists:
//! `make bench-enumeration`.
//!
//! ```text
//! cargo build --release --bin tenantry --examples && target/release/examples/load lookup
//! ```
//!
//! Each case is run in turn, and all of them again in each round, so that a machine that is slower for a while is so for
//! all. A case fails when its look-ups were not answered by the level that it is about.

mod auth;
mod bulk;
mod cases;
#[path = "../tests/harness/connection.rs"]
mod connection;
mod enumeration;
mod export;
mod figures;
mod flame;
mod growth;
mod imports;
mod instructions;
mod limits;
mod lists;
mod plot;
mod process;
#[path = "../tests/harness/provenance.rs"]
mod provenance;
mod rate;
mod servers;
mod soak;
mod stats;
mod suite;
mod table;
#[path = "../tests/harness/turns.rs"]
mod turns;
mod walls;
mod writes;
mod wrk;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, ValueEnum};

use crate::{servers::Servers, table::Table};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How often a case is tried that fails. On a machine with too much to do, Redis may be too slow to be the one that answers.
const TRIES: usize = 6;

#[derive(Parser)]
pub(crate) struct Settings {
    /// What is measured
    #[arg(value_enum)]
    question: Question,
    /// How long each run lasts
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How many connections ask
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// How often each case is run
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// No more than the first so many cases
    #[arg(long, default_value_t = usize::MAX)]
    cases: usize,
    /// How many pairs of a known and an unknown person are asked about
    #[arg(long, default_value_t = 1_000)]
    pairs: u64,
    /// How many users there are where there are many
    #[arg(long)]
    users: Option<u64>,
    /// Where the page of the suite goes
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    /// The folder that plots go to
    #[arg(long, value_name = "FOLDER")]
    plots: Option<PathBuf>,
    /// The document that shows the table of the suite, between its two marks
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Where the table goes, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Question {
    /// Each level beside a bare server
    Lookup,
    /// The same in instructions, counted by valgrind
    Instructions,
    /// The same in processor time by function, the kernel's included, with flame graphs
    Flame,
    /// A thousand users beside a million
    Scale,
    /// People who exist beside people who do not
    Enumeration,
    /// Sign-in, look-ups beside it, tokens, and row-level security
    Auth,
    /// A thousand users in one request and one by one
    Bulk,
    /// A hundred thousand users out of a file
    Import,
    /// Lists and searches of a thousand users, and of up to a million
    Lists,
    /// Figures of a thousand users, and of up to a million
    Stats,
    /// Exports of a thousand users, and of up to a million
    Export,
    /// Limits of requests: none, by the process, all
    Limits,
    /// Memory with users cached, and over time
    Soak,
    /// Look-ups of a thousand users and of up to a million, by one process and by up to four
    Growth,
    /// The cold path and changes: round trips, processor time, log
    Writes,
    /// Requests of many kinds at constant rates, with thresholds
    Suite,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Settings::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: &Settings) -> Result<()> {
    use Question::{Auth, Flame, Instructions, Limits, Lookup, Scale};
    if matches!(settings.question, Lookup | Instructions | Flame | Scale | Auth | Limits) {
        wrk::check()?;
    }
    if matches!(settings.question, Flame) {
        flame::check()?;
    }
    let folder = std::env::temp_dir().join(format!("tenantry-load-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let servers = Servers::start(&folder).await?;
    let measured = tokio::select! {
        measured = measure(settings, &servers) => measured,
        _ = tokio::signal::ctrl_c() => Err("stopped".into()),
    };
    servers.stop().await?;
    fs::remove_dir_all(&folder)?;
    let page = measured?;
    print!("{page}");
    if let Some(report) = &settings.report {
        fs::write(report, &page)?;
    }
    // Not before it is in its file, and not where thresholds were passed: a test compares the two.
    if let Some(document) = &settings.readme {
        show(&page, document)?;
    }
    Ok(())
}

/// Puts the table between the marks of a document.
fn show(page: &str, document: &Path) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- suite -->\n", "<!-- /suite -->"];
    let text = fs::read_to_string(document)?;
    let (before, rest) = text.split_once(MARKS[0]).ok_or("the document has no place for the table")?;
    let (_, after) = rest.split_once(MARKS[1]).ok_or("the place for the table has no end")?;
    Ok(fs::write(document, format!("{before}{}```\n{page}```\n{}{after}", MARKS[0], MARKS[1]))?)
}

async fn measure(settings: &Settings, servers: &Servers) -> Result<String> {
    let (table, cases) = match settings.question {
        Question::Lookup => cases::lookup(settings, servers).await?,
        Question::Scale => cases::scale(settings, servers).await?,
        Question::Instructions => return instructions::measure(settings, servers).await,
        Question::Flame => return flame::measure(settings, servers).await,
        Question::Enumeration => return enumeration::measure(settings, servers).await,
        Question::Auth => return Ok(auth::measure(settings, servers).await?.to_string()),
        Question::Bulk => return Ok(bulk::measure(settings, servers).await?.to_string()),
        Question::Import => return Ok(imports::measure(settings, servers).await?.to_string()),
        Question::Lists => return Ok(lists::measure(settings, servers).await?.to_string()),
        Question::Stats => return Ok(stats::measure(settings, servers).await?.to_string()),
        Question::Limits => return Ok(limits::measure(settings, servers).await?.to_string()),
        Question::Suite => return Ok(suite::measure(settings, servers).await?.to_string()),
        Question::Soak => return Ok(soak::measure(settings, servers).await?.to_string()),
        Question::Growth => return Ok(growth::measure(settings, servers).await?.to_string()),
        Question::Writes => return Ok(writes::measure(settings, servers).await?.to_string()),
        Question::Export => return Ok(export::measure(settings, servers).await?.to_string()),
    };
    Ok(by_turns(settings, servers, table, &cases).await?.to_string())
}

async fn by_turns(
    settings: &Settings,
    servers: &Servers,
    mut table: Table,
    cases: &[cases::Case],
) -> Result<Table> {
    for round in 1..=settings.rounds {
        for (row, case) in cases.iter().enumerate().take(settings.cases) {
            eprintln!("round {round} of {}: {}", settings.rounds, case.name);
            let mut run = case.run(settings, servers, round, &table).await;
            for _ in 1..TRIES {
                let Err(error) = &run else { break };
                eprintln!("again, since {error}");
                run = case.run(settings, servers, round, &table).await;
            }
            match run {
                Ok(run) => table.add(row, &case.name, run),
                Err(error) => return Err(format!("{}: {error}; so far:\n{table}", case.name).into()),
            }
        }
    }
    Ok(table)
}
