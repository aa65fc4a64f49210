//! `tenantry stripe`: taking in all that Stripe has, comparing, linking customers.

mod progress;
mod status;
mod walk;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use clap::{Args, Subcommand};
use indicatif::HumanCount;
use tenantry_accounts::{
    Actor, App,
    billing::{
        customers,
        walk::{self as walks, Name},
    },
    tenants,
};
use tenantry_stripe::Client;
use tenantry_workers::stripe;

use self::walk::Walker;
use super::Result;
use crate::{config::Config, state};

#[derive(Args, Debug)]
pub(super) struct Stripe {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Take in every customer and subscription that Stripe has; goes on where the last one stopped
    Backfill {
        /// Begin anew
        #[arg(long)]
        restart: bool,
        #[command(flatten)]
        told: Told,
    },
    /// Take in events that were not delivered, and compare every subscription with what we have
    Reconcile {
        /// How far back to look for events; Stripe lists them for 30 days
        #[arg(long, default_value = "3d", value_parser = humantime::parse_duration, value_name = "TIME")]
        since: Duration,
        /// Go on where the last one stopped, instead of comparing all anew
        #[arg(long)]
        resume: bool,
        #[command(flatten)]
        told: Told,
    },
    /// Say that a customer of Stripe's pays for a tenant
    Link {
        /// The tenant's slug or id
        tenant: String,
        /// The customer, such as cus_123
        customer: String,
    },
    /// How far backfill and comparison have come, and which customers pay for nobody
    Status,
}

#[derive(Args, Debug)]
struct Told {
    /// How often to print how far it is, where the output is no terminal
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, value_name = "TIME")]
    every: Duration,
}

impl Stripe {
    pub(super) async fn run(self, config: Config) -> Result {
        let app = state::app(&config)?;
        let client = config.stripe()?.ok_or("STRIPE_SECRET_KEY is not set");
        match self.command {
            Command::Backfill { restart, told } => backfill(&app, &client?, restart, told.every).await,
            Command::Reconcile { since, resume, told } => {
                reconcile(&app, &client?, since, resume, told.every).await
            }
            Command::Link { tenant, customer } => link(&app, &tenant, &customer).await,
            Command::Status => status::print(&app).await,
        }
    }
}

async fn backfill(app: &App, client: &Client, restart: bool, every: Duration) -> Result {
    match walks::open_part(app).await?.filter(|_| !restart) {
        None => walks::begin_backfill(app).await?,
        Some((name, walk)) => {
            let (done, things) = (HumanCount(walk.done.unsigned_abs()), progress::things(name));
            println!("going on after {done} {things}; --restart begins anew");
        }
    }
    let mut walker = Walker::new(app, client, "`tenantry stripe backfill` goes on from there", every)?;
    while let Some((name, _)) = walks::open_part(app).await? {
        let (walk, seen) = walker.finish(name).await?;
        let (done, changed) = (HumanCount(walk.done.unsigned_abs()), HumanCount(walk.changed.unsigned_abs()));
        match name {
            Name::Customers => {
                println!("{done} customers taken in, {changed} of them not known before");
                if seen.linked > 0 {
                    println!(
                        "{} were made for tenants and not linked; they are now",
                        HumanCount(seen.linked)
                    );
                }
            }
            Name::Unlisted if walk.done == 0 => {}
            Name::Unlisted => println!(
                "{done} customers of tenants were not listed: Stripe has deleted {changed} of them, which are unlinked"
            ),
            _ => println!("{done} subscriptions taken in, {changed} of them new or changed"),
        }
    }
    status::print_customers(app, 0).await
}

async fn reconcile(app: &App, client: &Client, since: Duration, resume: bool, every: Duration) -> Result {
    let open = async |name| {
        let walk = walks::find(app, name).await?;
        Ok::<_, tenantry_accounts::Error>(resume && walk.is_some_and(|walk| walk.ended_at.is_none()))
    };
    let how = "workers go on from there, and so does `tenantry stripe reconcile --resume`";
    let mut walker = Walker::new(app, client, how, every)?;
    if !open(Name::Events).await? {
        let since = Utc::now() - TimeDelta::from_std(since)?;
        let (since, too_old) = stripe::begin_events(app, Some(since)).await?;
        if too_old {
            println!(
                "Stripe lists no events of before {since}: what they were about is compared with the rest"
            );
        }
    }
    let (walk, _) = walker.finish(Name::Events).await?;
    println!("{} events had not been delivered; workers fetch what they are about", walk.changed);
    if !open(Name::Comparison).await? {
        walks::begin(app, Name::Comparison, None).await?;
    }
    let (walk, _) = walker.finish(Name::Comparison).await?;
    println!(
        "{} subscriptions compared, {} were different and have been put right",
        HumanCount(walk.done.unsigned_abs()),
        walk.changed
    );
    Ok(())
}

async fn link(app: &App, tenant: &str, customer: &str) -> Result {
    let id = tenants::find(app, tenant).await.map_err(|error| format!("{tenant:?}: {error}"))?;
    let linked =
        customers::relink(app, Actor::operator(id), customer).await.map_err(|error| error.to_string())?;
    println!("{linked} pays for {tenant}; what was parked is fetched by workers now");
    Ok(())
}
