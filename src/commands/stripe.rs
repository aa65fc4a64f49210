//! `tenantry stripe`: taking in all that Stripe has, comparing, linking customers.

use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tenantry_accounts::{
    Actor, App,
    billing::{customers, walk},
    tenants,
};
use tenantry_stripe::Client;
use tenantry_workers::stripe::{self, Seen};

use super::Result;
use crate::{config::Config, state};

#[derive(Args, Debug)]
pub(super) struct Stripe {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Take in every subscription that Stripe has; goes on where the last one stopped
    Backfill {
        /// Begin anew
        #[arg(long)]
        restart: bool,
    },
    /// Take in events that were not delivered, and compare every subscription with what we have
    Reconcile {
        /// How far back to look for events
        #[arg(long, default_value = "3d", value_parser = humantime::parse_duration, value_name = "TIME")]
        since: Duration,
    },
    /// Say that a customer of Stripe's pays for a tenant
    Link {
        /// The tenant's slug or id
        tenant: String,
        /// The customer, such as cus_123
        customer: String,
    },
    /// How far backfill and comparison have come, and what nobody is known to pay for
    Status,
}

impl Stripe {
    pub(super) async fn run(self, config: Config) -> Result {
        let app = state::app(&config)?;
        let client = config.stripe()?.ok_or("STRIPE_SECRET_KEY is not set");
        match self.command {
            Command::Backfill { restart } => backfill(&app, &client?, restart).await,
            Command::Reconcile { since } => reconcile(&app, &client?, since).await,
            Command::Link { tenant, customer } => link(&app, &tenant, &customer).await,
            Command::Status => status(&app).await,
        }
    }
}

async fn backfill(app: &App, stripe: &Client, restart: bool) -> Result {
    if restart {
        walk::begin(app, "backfill", None).await?;
    }
    let begun = walk::find(app, "backfill").await?.filter(|walk| walk.ended_at.is_none());
    if let Some(walk) = begun.filter(|walk| walk.done > 0) {
        println!("going on after {} subscriptions; --restart begins anew", walk.done);
    }
    let seen = walk_through(app, stripe, "backfill").await?;
    println!(
        "{} subscriptions taken in, {} of them new or changed, {} of them nobody's: `tenantry stripe status` tells of those",
        seen.seen, seen.drifted, seen.parked
    );
    Ok(())
}

async fn reconcile(app: &App, stripe: &Client, since: Duration) -> Result {
    let since = chrono::Utc::now() - chrono::TimeDelta::from_std(since)?;
    let missed = stripe::events(app, stripe, since.timestamp()).await?;
    println!("{missed} events had not been delivered; workers fetch what they are about");
    walk::begin(app, "comparison", None).await?;
    let seen = walk_through(app, stripe, "comparison").await?;
    println!("{} subscriptions compared, {} were different and have been put right", seen.seen, seen.drifted);
    Ok(())
}

/// With what is known of how many there are: Stripe does not tell.
async fn walk_through(
    app: &App,
    stripe: &Client,
    name: &str,
) -> std::result::Result<Seen, Box<dyn std::error::Error>> {
    let bar = ProgressBar::new_spinner().with_style(ProgressStyle::with_template(
        "{spinner} {human_pos} subscriptions, {per_sec}, {elapsed} so far{msg}",
    )?);
    let mut total = Seen::default();
    let walked = stripe::subscriptions(app, stripe, name, None, |seen| {
        bar.inc(seen.seen);
        total.seen += seen.seen;
        total.drifted += seen.drifted;
        total.parked += seen.parked;
    });
    walked.await?;
    bar.finish_and_clear();
    Ok(total)
}

async fn link(app: &App, tenant: &str, customer: &str) -> Result {
    let id = tenants::find(app, tenant).await.map_err(|error| format!("{tenant:?}: {error}"))?;
    let linked =
        customers::relink(app, Actor::operator(id), customer).await.map_err(|error| error.to_string())?;
    println!("{linked} pays for {tenant}; what was parked is fetched by workers now");
    Ok(())
}

async fn status(app: &App) -> Result {
    for name in ["backfill", "comparison", "events"] {
        match walk::find(app, name).await? {
            None => println!("{name:<12} never"),
            Some(walk) => match walk.ended_at {
                _ if name == "events" => println!("{name:<12} asked for at {}", walk.moved_at),
                Some(at) => println!("{name:<12} {} subscriptions, done at {at}", walk.done),
                None => println!("{name:<12} {} subscriptions so far, last at {}", walk.done, walk.moved_at),
            },
        }
    }
    let parked = customers::parked(app).await?;
    println!("parked       {} subscriptions of customers that pay for nobody", parked.len());
    for (customer, n) in parked.iter().take(20) {
        println!("             {customer} ({n}): tenantry stripe link TENANT {customer}");
    }
    Ok(())
}
