//! What walks have come to, and what they left for people to do.

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::HumanCount;
use tenantry_accounts::{
    App,
    billing::{
        directory,
        walk::{self, Name, Walk},
    },
};

use super::{
    super::Result,
    progress::{so_far, things},
};

/// A walk that has not moved for so long stands still.
const STILL: TimeDelta = TimeDelta::minutes(2);
/// How many are listed by name.
const LISTED: i64 = 20;

pub(super) async fn print(app: &App) -> Result {
    for (label, names) in
        [("backfill", &Name::BACKFILL[..]), ("comparison", &[Name::Comparison]), ("events", &[Name::Events])]
    {
        println!("{label}");
        for name in names {
            println!("  {}", line(*name, walk::find(app, *name).await?.as_ref()));
        }
    }
    print_customers(app, LISTED).await
}

fn line(name: Name, walk: Option<&Walk>) -> String {
    let Some(walk) = walk else { return format!("{}: never", things(name)) };
    let asked = walk.since.map(|since| format!(", asked for since {}", time(since))).unwrap_or_default();
    match walk.ended_at {
        Some(at) => {
            let (done, changed) =
                (HumanCount(walk.done.unsigned_abs()), HumanCount(walk.changed.unsigned_abs()));
            let what = match name {
                Name::Events => "had been missed",
                Name::Unlisted => "have been deleted",
                _ => "were new or different",
            };
            format!("{done} {}{asked}, {changed} {what}, done at {}", things(name), time(at))
        }
        None if walk.position.is_none() => format!("{}{asked}: not begun yet", things(name)),
        None if walk.moved_at + STILL < Utc::now() => {
            format!("{}{asked}, stands still since {}", so_far(name, walk), time(walk.moved_at))
        }
        None => format!("{}{asked}", so_far(name, walk)),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.format("%F %T UTC").to_string()
}

/// Customers that somebody has to look at, and so many of them by name.
pub(super) async fn print_customers(app: &App, at_most: i64) -> Result {
    let how = if at_most == 0 { ": `tenantry stripe status` lists them" } else { "" };
    let nobodys = directory::nobodys(app, at_most).await?;
    println!("{} customers pay for nobody{how}", HumanCount(nobodys.total.unsigned_abs()));
    for (customer, n) in &nobodys.first {
        println!("  {customer}, {n} subscriptions: tenantry stripe link TENANT {customer}");
    }
    more(nobodys.total, at_most);
    let missing = directory::missing(app, at_most).await?;
    if missing.total > 0 {
        let total = HumanCount(missing.total.unsigned_abs());
        println!(
            "{total} customers of tenants are unknown to Stripe by this key, which may be another account's{how}"
        );
        for (tenant, customer) in &missing.first {
            println!("  {customer} of {tenant}");
        }
        more(missing.total, at_most);
    }
    Ok(())
}

fn more(total: i64, at_most: i64) {
    if total > at_most && at_most > 0 {
        println!("  and {} more", HumanCount((total - at_most).unsigned_abs()));
    }
}
