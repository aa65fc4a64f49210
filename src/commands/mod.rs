//! The command line.

mod cache;
mod check;
mod dev;
mod import;
mod jobs;
mod limits;
mod people;
mod seed;
mod stripe;
mod tenants;
mod token;
mod users;

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{
    CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::Resettable,
    error::{ContextKind, ContextValue},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    log::Log,
    migrate, openapi, server,
    state::{self, State},
};

/// The accounts backend that a SaaS team would otherwise write itself.
///
/// Every setting is a flag, an environment variable and a line of .env. Start with `tenantry dev`.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    config: Config,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Everything in one process, with a private PostgreSQL and Redis and a fake Stripe where none are given
    Dev(dev::Dev),
    /// API and workers in one process
    All,
    /// API only
    Api,
    /// Workers only
    Worker,
    /// Apply migrations, as the owner of the schema
    Migrate {
        /// Only say what is pending; exit code 1 if anything is
        #[arg(long)]
        check: bool,
    },
    /// Print the OpenAPI document
    Openapi {
        /// Its form
        #[arg(long, value_enum, default_value_t = Format::Json)]
        format: Format,
    },
    /// Make tenants and users for load tests and demonstrations
    Seed(seed::Seed),
    /// Print an access token of a user, without a password
    Token(token::Token),
    /// Tenants: list, show, create, change, suspend, close and reopen
    Tenants(tenants::Tenants),
    /// Users of a tenant: list, show, create, import, change, deactivate, delete, restore, export and erase; the first super administrator
    Users(users::Users),
    /// Look into the cache in Redis, compare it with the database, drop entries
    Cache(cache::Cache),
    /// The queue: list, show, retry, cancel, purge and push jobs
    Jobs(jobs::Jobs),
    /// Limits of requests: show what is left of a key's, give it all back
    Limits(limits::Limits),
    /// Stripe: take in all that it has, compare, link customers
    Stripe(stripe::Stripe),
    /// Say of each dependency and setting whether it will do, and what to do if not
    Check,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

pub(crate) type Result = std::result::Result<(), Box<dyn Error>>;

/// The whole program.
pub fn main() -> ExitCode {
    // Before the arguments are read, since variables stand in for flags.
    if let Err(error) = dotenvy::dotenv()
        && !error.not_found()
    {
        eprintln!("tenantry: .env cannot be read: {error}");
        return ExitCode::FAILURE;
    }
    let cli = Cli::read();
    let runtime = match server::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tenantry: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenantry: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    /// Reads flags and variables; what is wrong ends the program and says so. A variable that is empty is as one that is
    /// not set: compose files and unit files write them so.
    pub fn read() -> Self {
        let command = Self::command().mut_args(|arg| match arg.get_env().and_then(std::env::var_os) {
            Some(value) if value.is_empty() => arg.env(Resettable::Reset),
            _ => arg,
        });
        let cli = command.clone().try_get_matches().and_then(|matches| Self::from_arg_matches(&matches));
        cli.unwrap_or_else(|error| {
            let _ = error.print();
            if let Some(variable) = variable_of(&error, &command) {
                eprintln!("This setting is also the variable {variable}.");
            }
            std::process::exit(error.exit_code())
        })
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// In words for the one who typed it.
    pub async fn run(self) -> Result {
        let _log = Log::begin(&self.config, matches!(self.command, Command::Dev(_)))?;
        let config = self.config;
        match self.command {
            Command::Dev(dev) => dev.run(config).await,
            Command::All => serve(config, true).await,
            Command::Api => serve(config, false).await,
            Command::Worker => work(config).await,
            Command::Migrate { check } => migrate(&config, check).await,
            Command::Openapi { format } => {
                print!(
                    "{}",
                    match format {
                        Format::Json => openapi::json(),
                        Format::Yaml => openapi::yaml(),
                    }
                );
                Ok(())
            }
            Command::Seed(seed) => seed.run(config).await,
            Command::Token(token) => token.run(config).await,
            Command::Tenants(tenants) => tenants.run(config).await,
            Command::Users(users) => users.run(config).await,
            Command::Cache(cache) => cache.run(config).await,
            Command::Jobs(jobs) => jobs.run(config).await,
            Command::Limits(limits) => limits.run(config).await,
            Command::Stripe(stripe) => stripe.run(config).await,
            Command::Check => check::run(config).await,
        }
    }
}

/// The variable of the setting that an error is about; clap itself names the flag only.
fn variable_of(error: &clap::Error, command: &clap::Command) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let name = flag.trim_start_matches("--").split([' ', '=']).next()?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    Some(arg.get_env()?.to_string_lossy().into_owned())
}

async fn serve(config: Config, workers: bool) -> Result {
    server::metrics();
    // What is wrong with them is said before anybody is waited for.
    config.traces()?;
    let state = State::new(config.clone())?;
    server::check_database(&config).await?;
    state.check_encryption().await?;
    let stop = stopping(Some((state.leaving.clone(), config.shutdown_delay)))?;
    server::run(state, workers, stop, |_| {}).await?;
    Ok(())
}

async fn work(config: Config) -> Result {
    server::metrics();
    config.traces()?;
    let app = state::app(&config)?;
    server::check_database(&config).await?;
    server::run_workers(app, config, stopping(None)?).await?;
    Ok(())
}

async fn migrate(config: &Config, check: bool) -> Result {
    if check {
        let pending = migrate::pending(config.owner_url()?).await?;
        for migration in &pending {
            println!("pending: {migration}");
        }
        if !pending.is_empty() {
            return Err(format!("{} pending; apply with `tenantry migrate`", pending.len()).into());
        }
        println!("nothing is pending");
        return Ok(());
    }
    let applied = migrate::run(config.owner_url()?, config.database_url()?).await?;
    for migration in &applied {
        println!("applied: {migration}");
    }
    println!("{} applied, the database is up to date", applied.len());
    Ok(())
}

/// Is cancelled by SIGTERM or Ctrl-C. A second Ctrl-C ends the process at once. SIGTERM, which is how a deployment stops a
/// process, is heard by `leaving` at once and counts after its time: until then balancers send requests.
pub(crate) fn stopping(leaving: Option<(CancellationToken, Duration)>) -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        let terminated = async {
            term.recv().await;
            if let Some((leaving, delay)) = leaving {
                tracing::info!(
                    "not ready from now on; requests are taken for {} yet",
                    humantime::format_duration(delay)
                );
                leaving.cancel();
                sleep(delay).await;
            }
        };
        tokio::select! { () = terminated => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping: what has begun is finished first; Ctrl-C again stops at once");
        stopped.cancel();
        interrupt.recv().await;
        Log::flush();
        std::process::exit(130);
    });
    Ok(stop)
}
