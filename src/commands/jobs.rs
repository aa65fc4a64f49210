//! `tenantry jobs`: the queue from the shell, as the system, for all tenants.

use std::{io::IsTerminal, time::Duration};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use indicatif::ProgressBar;
use serde_json::Value;
use tenantry_accounts::{
    Actor, App, Error, TenantId,
    idempotency::Once,
    jobs::{self, Action, Filter, JobId, NewJob, State},
    tenants,
};
use tenantry_jobs::Kind;
use tenantry_queue::admin;
use uuid::Uuid;

use super::Result;
use crate::{config::Config, error::sources, state};

#[derive(Args, Debug)]
pub(super) struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List jobs, the newest first
    List {
        /// In this state only
        #[arg(long, value_parser = one_state)]
        state: Option<State>,
        /// Of this kind only
        #[arg(long)]
        kind: Option<String>,
        /// Of this tenant only, by slug or id
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// How many, at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Count jobs by kind and state
    Count {
        /// Of this tenant only, by slug or id
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Show a job, with the attempts that did not succeed
    Show {
        /// Its id
        id: Uuid,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Try a job again, at once and with all its attempts; or all dead jobs of a kind
    Retry {
        /// Its id
        #[arg(required_unless_present = "dead", conflicts_with = "dead")]
        id: Option<Uuid>,
        /// All dead jobs of this kind
        #[arg(long, value_name = "KIND", value_parser = one_kind)]
        dead: Option<Kind>,
        /// Of this tenant only, by slug or id; with --dead
        #[arg(long, value_name = "TENANT", requires = "dead")]
        tenant: Option<String>,
    },
    /// Cancel a job that waits or runs
    Cancel {
        /// Its id
        id: Uuid,
        /// Why
        #[arg(long, default_value = "cancelled by an operator")]
        reason: String,
    },
    /// Remove jobs that have ended
    Purge {
        /// How they ended: done, cancelled or dead, separated by commas
        #[arg(long, value_delimiter = ',', required = true, value_parser = one_end, value_name = "STATES")]
        state: Vec<State>,
        /// Only those that ended longer ago than this
        #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
        older_than: Duration,
        /// Of this tenant only, by slug or id
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
    },
    /// Enqueue a job, and print its id
    Push {
        /// What it is about
        #[arg(value_parser = one_kind)]
        kind: Kind,
        /// Its arguments, as openapi/jobs.schema.json describes them
        json: String,
        /// Whose job it is, by slug or id; `system` for work that belongs to no customer
        #[arg(long, value_name = "TENANT")]
        tenant: String,
        /// The earliest time it runs, as RFC 3339 has it
        #[arg(long, value_name = "TIME")]
        run_at: Option<DateTime<Utc>>,
        /// How long it waits
        #[arg(long = "in", value_parser = humantime::parse_duration, value_name = "TIME", conflicts_with = "run_at")]
        delay: Option<Duration>,
        /// Higher goes first
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i32,
        /// While a job of the tenant and kind with this key waits, its id is printed and none is made
        #[arg(long, value_name = "KEY")]
        unique_key: Option<String>,
    },
}

fn one_state(name: &str) -> std::result::Result<State, String> {
    name.parse().map_err(|_| "the states are pending, running, done, failed, dead, cancelled".into())
}

fn one_end(name: &str) -> std::result::Result<State, String> {
    match name.trim().parse() {
        Ok(state @ (State::Done | State::Cancelled | State::Dead)) => Ok(state),
        _ => Err("jobs have ended when they are done, cancelled or dead".into()),
    }
}

fn one_kind(name: &str) -> std::result::Result<Kind, String> {
    name.parse().map_err(|error: tenantry_jobs::UnknownKind| error.to_string())
}

impl Jobs {
    pub(super) async fn run(self, config: Config) -> Result {
        let app = state::app(&config)?;
        match self.command {
            Command::List { state, kind, tenant, limit, json } => {
                let tenant = tenant_of(&app, tenant.as_deref()).await?.map(|tenant| tenant.0);
                list(&app, Filter { tenant, state, kind: kind.as_deref(), before: None }, limit, json).await
            }
            Command::Count { tenant } => count(&app, tenant.as_deref()).await,
            Command::Show { id, json } => show(&app, id, json).await,
            Command::Retry { id: Some(id), .. } => {
                change(&app, id, Action::Retry, "", "will be tried again").await
            }
            Command::Retry { dead, tenant, .. } => {
                let Some(kind) = dead else { return Err("say which job".into()) };
                let tenant = tenant_of(&app, tenant.as_deref()).await?;
                let bar = bar("tried again");
                let all = jobs::redrive(&app, kind, tenant, |n| bar.set_position(n)).await?;
                bar.finish_and_clear();
                println!("{all} dead {kind} jobs are tried again");
                Ok(())
            }
            Command::Cancel { id, reason } => change(&app, id, Action::Cancel, &reason, "is cancelled").await,
            Command::Purge { state, older_than, tenant } => {
                let tenant = tenant_of(&app, tenant.as_deref()).await?;
                let bar = bar("removed");
                let all = jobs::purge(&app, &state, older_than, tenant, |n| bar.set_position(n)).await?;
                bar.finish_and_clear();
                println!("{all} jobs are removed");
                Ok(())
            }
            Command::Push { kind, json, tenant, run_at, delay, priority, unique_key } => {
                let payload: Value = serde_json::from_str(&json).map_err(|error| format!("JSON: {error}"))?;
                let run_at = run_at.or(delay.map(|delay| Utc::now() + delay));
                push(&app, &tenant, NewJob { kind, payload, run_at, priority, unique_key }).await
            }
        }
    }
}

async fn tenant_of(
    app: &App,
    tenant: Option<&str>,
) -> std::result::Result<Option<TenantId>, Box<dyn std::error::Error>> {
    let Some(tenant) = tenant else { return Ok(None) };
    match tenants::find(app, tenant).await {
        Ok(id) => Ok(Some(id)),
        Err(tenantry_accounts::Error::NoTenant) => Err(format!("there is no tenant {tenant:?}").into()),
        Err(error) => Err(sources(&error).into()),
    }
}

/// Silent unless somebody watches.
fn bar(done: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    let template = format!("{{spinner}} {{human_pos}} {done}, {{per_sec}}");
    if let Ok(style) = indicatif::ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar
}

async fn list(app: &App, filter: Filter<'_>, limit: u32, json: bool) -> Result {
    let mut client = app.db.client().await?;
    let tx = jobs::as_operator(&mut client).await?;
    let found = admin::list(&tx, &filter, limit).await?;
    tx.commit().await?;
    if !json {
        println!(
            "{:<36}  {:<9}  {:<20}  {:>8}  {:<20}  {:<36}  last error",
            "id", "state", "kind", "attempts", "run at", "tenant"
        );
    }
    for job in &found {
        if json {
            println!("{}", serde_json::to_string(job)?);
        } else {
            println!(
                "{:<36}  {:<9}  {:<20}  {:>8}  {:<20}  {:<36}  {}",
                job.id,
                job.state,
                job.kind,
                format!("{}/{}", job.attempts, job.max_attempts),
                job.run_at.format("%Y-%m-%dT%H:%M:%SZ"),
                job.tenant_id,
                job.last_error.as_deref().unwrap_or("-")
            );
        }
    }
    Ok(())
}

async fn count(app: &App, tenant: Option<&str>) -> Result {
    let tenant = tenant_of(app, tenant).await?;
    let mut client = app.db.client().await?;
    let tx = jobs::as_operator(&mut client).await?;
    let counts = admin::counts(&tx, tenant.map(|tenant| tenant.0)).await?;
    tx.commit().await?;
    println!("{:<24}  {:<9}  {:>10}  oldest is due", "kind", "state", "jobs");
    for count in counts {
        let oldest = count.oldest_run_at.map_or("-".into(), |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string());
        println!("{:<24}  {:<9}  {:>10}  {oldest}", count.kind, count.state, count.jobs);
    }
    Ok(())
}

async fn show(app: &App, id: Uuid, json: bool) -> Result {
    let mut client = app.db.client().await?;
    let tx = jobs::as_operator(&mut client).await?;
    let job = admin::show(&tx, JobId(id)).await?.ok_or_else(|| format!("there is no job {id}"))?;
    tx.commit().await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&job)?);
        return Ok(());
    }
    let time = |at: Option<DateTime<Utc>>| at.map_or("-".into(), |at| at.to_rfc3339());
    println!("id          {}", job.id);
    println!("tenant      {}", job.tenant_id);
    println!("kind        {}", job.kind);
    println!("payload     {}", job.payload);
    println!("state       {}", job.state);
    println!("priority    {}", job.priority);
    println!("unique key  {}", job.unique_key.as_deref().unwrap_or("-"));
    println!("attempts    {} of {}, {} crashes", job.attempts, job.max_attempts, job.crashes);
    println!("trace       {}", job.trace_id.as_deref().unwrap_or("-"));
    println!("enqueued    {}", job.created_at.to_rfc3339());
    println!("run at      {}", job.run_at.to_rfc3339());
    println!("started     {}", time(job.started_at));
    println!("finished    {}", time(job.finished_at));
    println!("worker      {}", job.leased_by.as_deref().unwrap_or("-"));
    println!("last error  {}", job.last_error.as_deref().unwrap_or("-"));
    for attempt in &job.history {
        println!(
            "attempt {}   {} to {}, {}: {}",
            attempt.attempt,
            time(attempt.started_at),
            attempt.ended_at.to_rfc3339(),
            attempt.outcome,
            attempt.error.as_deref().unwrap_or("-")
        );
    }
    Ok(())
}

async fn change(app: &App, id: Uuid, action: Action, reason: &str, done: &str) -> Result {
    match jobs::operate(app, JobId(id), action, reason).await {
        Ok(was) => {
            println!("job {id} was {was} and {done}");
            Ok(())
        }
        Err(Error::JobState(state)) => {
            Err(format!("job {id} is {state}: only others can be changed so; nothing was done").into())
        }
        Err(Error::NoJob) => Err(format!("there is no job {id}").into()),
        Err(error) => Err(sources(&error).into()),
    }
}

async fn push(app: &App, tenant: &str, job: NewJob) -> Result {
    let tenant = tenant_of(app, Some(tenant)).await?.ok_or("--tenant: say whose job it is")?;
    let pushed = jobs::push(app, Actor::operator(tenant), job, Once::unnamed())
        .await
        .map_err(|error| sources(&error))?;
    println!("{}", pushed.id);
    Ok(())
}
