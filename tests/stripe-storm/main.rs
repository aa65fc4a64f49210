//! Ten thousand events of five hundred subscriptions, shuffled, in copies, a tenth of them lost, from a Stripe that answers
//! every fifth request with an error, to workers that are killed. In the end the rows must be what Stripe has.
//! docs/stripe.md says what is promised.

mod check;
mod cluster;
mod measure;
#[path = "../harness/port.rs"]
mod port;
#[path = "../harness/process.rs"]
#[expect(dead_code, reason = "other harnesses use the rest")]
mod process;
#[path = "../harness/program.rs"]
#[expect(dead_code, reason = "its settings are its own")]
mod program;
#[path = "../harness/provenance.rs"]
mod provenance;

use std::{collections::HashSet, fs, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tenantry_fake_stripe::{ApiFaults, Fake, Faults, Options, WebhookFaults};
use tokio::time::{Instant, sleep};

use crate::{check::Check, cluster::Cluster, program::to_exit_code, provenance::provenance};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A storm of events, and what became of it.
#[derive(Parser)]
#[command(name = "stripe-storm")]
struct Arguments {
    /// How many subscriptions
    #[arg(long, default_value_t = 500)]
    subscriptions: usize,
    /// How many changes of them; each makes one event at least
    #[arg(long, default_value_t = 10_000)]
    changes: usize,
    /// Measures webhooks at 200 a second and a backfill as well
    #[arg(long)]
    measure: bool,
    /// Of the faults and changes, the next run has the next; by chance when left out
    #[arg(long)]
    seed: Option<u64>,
    /// How often, each time from nothing
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Where to write what was seen
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// What is sold: price and plan.
pub(crate) const PRICES: [(&str, &str); 3] =
    [("basic", "basic"), ("pro", "pro"), ("enterprise", "enterprise")];

#[tokio::main]
async fn main() -> ExitCode {
    to_exit_code("stripe-storm", storms(&Arguments::parse())).await
}

/// All of them; returns how many checks failed.
async fn storms(arguments: &Arguments) -> Result<usize> {
    let first = arguments.seed.unwrap_or_else(|| rand::rng().random_range(1..1_000_000));
    let mut check = Check::default();
    for seed in first..first + arguments.runs {
        storm(arguments, seed, &mut check).await?;
    }
    let failed = check.close();
    if let Some(file) = &arguments.report {
        let measure = if arguments.measure { " --measure" } else { "" };
        let page = format!(
            "# events of Stripe's in a storm, webhooks at a steady rate, and all taken in again\n# {}\n\
             # stripe-storm --runs {} --seed {first} --subscriptions {} --changes {}{measure}\n\
             # Stripe's part is played on the same processors\n\n{}\n",
            provenance(),
            arguments.runs,
            arguments.subscriptions,
            arguments.changes,
            check.said(),
        );
        fs::write(file, page)?;
    }
    Ok(failed)
}

async fn storm(arguments: &Arguments, seed: u64, check: &mut Check) -> Result<()> {
    check.say(format!("seed {seed}"));
    let mut chance = StdRng::seed_from_u64(seed);
    let fake = Fake::start(Options { seed, ..Options::default() }).await?;
    let prices = catalogue(&fake)?;
    let cluster = Cluster::start(&fake, &prices).await?;
    let subscriptions = people(&fake, &cluster, &prices, arguments.subscriptions, &mut chance).await?;
    let faults = Faults {
        seed: Some(seed),
        api: ApiFaults {
            rate_limited: 0.1,
            failed: 0.1,
            stale: 0.2,
            stale_seconds: 1,
            ..ApiFaults::default()
        },
        webhooks: WebhookFaults {
            lost: 0.1,
            copies: (1, 5),
            shuffle_ms: 3_000,
            concurrency: 32,
            ..WebhookFaults::default()
        },
    };
    fake.set_faults(faults.clone())?;

    let begun = Instant::now();
    let changes = async {
        for n in 0..arguments.changes {
            let id = subscriptions.choose(&mut chance).ok_or("no subscriptions")?;
            change(&fake, id, &prices, &mut chance);
            if n % 50 == 49 {
                // About as fast as two workers keep up, so that events and fetches cross each other all the time.
                sleep(Duration::from_millis(100)).await;
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let kills = async {
        for n in 0..6 {
            sleep(Duration::from_secs(2)).await;
            cluster.kill_worker(n % 2).await?;
        }
        Ok(())
    };
    tokio::try_join!(changes, kills)?;
    check.say(format!(
        "{:5.1} s  {} changes have been made; 6 workers were killed",
        begun.elapsed().as_secs_f64(),
        arguments.changes
    ));
    fake.deliver().await;
    // What no later event makes up for: the last word on a tenth of them is lost for certain.
    let lost = WebhookFaults { lost: 1.0, ..faults.webhooks.clone() };
    fake.set_faults(Faults { webhooks: lost, ..faults.clone() })?;
    for id in subscriptions.iter().step_by(10) {
        let path = format!("/v1/subscriptions/{id}");
        let now = fake.call("GET", &path, &[]).map_err(refused)?;
        let ends = if now["cancel_at_period_end"] == true { "false" } else { "true" };
        // Refused by one that has ended.
        let _ = fake.call("POST", &path, &[("cancel_at_period_end", ends)]);
    }
    // Stripe recovers.
    fake.set_faults(Faults { api: ApiFaults::default(), ..faults })?;
    cluster.drain().await?;
    let seconds = begun.elapsed().as_secs_f64();
    check.say(format!("{seconds:5.1} s  all events that were delivered have been worked off"));

    let truth = fake.truth();
    let before = check::differences(&cluster, &truth, &prices).await?;
    check.that(
        "without reconciling, lost events show",
        !before.is_empty(),
        format!("{} subscriptions differ", before.len()),
    );
    let fetched = requests(&fake);
    cluster.reconcile().await?;
    cluster.drain().await?;
    check.say(format!("{:5.1} s  reconciled", begun.elapsed().as_secs_f64()));
    let after = check::differences(&cluster, &fake.truth(), &prices).await?;
    check.that(
        "what Stripe has is what we have",
        after.is_empty(),
        format!("{} of {} subscriptions differ", after.len(), truth.len()),
    );
    for difference in after.iter().take(5) {
        check.say(format!("       {difference}"));
    }
    let (listed, events) = (listed(&fake)?, cluster.events().await?);
    let webhooks = events.values().filter(|by_webhook| **by_webhook).count();
    check.that(
        "each event that Stripe lists was taken in, and no other",
        !listed.is_empty() && listed == events.into_keys().collect(),
        format!("{} events, {webhooks} of them by webhook", listed.len()),
    );
    let dead = cluster.dead_jobs().await?;
    check.that("no job was given up", dead == 0, format!("{dead} were"));
    check.say(format!(
        "       {fetched} fetches of a subscription for {webhooks} events that came: {:.2} an event",
        fetched as f64 / webhooks.max(1) as f64
    ));
    if arguments.measure {
        check.say(measure::webhooks(&cluster, &fake).await?);
        measure::backfill(&cluster, check, truth.len() as i64).await?;
    }
    cluster.stop().await
}

/// All events of subscriptions.
fn listed(fake: &Fake) -> Result<HashSet<String>> {
    let mut ids: Vec<String> = vec![];
    loop {
        let last = ids.last().cloned().unwrap_or_default();
        let mut query = vec![("type", "customer.subscription.*"), ("limit", "100")];
        query.extend((!ids.is_empty()).then_some(("starting_after", last.as_str())));
        let page = fake.call("GET", "/v1/events", &query).map_err(refused)?;
        let events = page["data"].as_array().ok_or("no list")?;
        ids.extend(events.iter().filter_map(|event| Some(event["id"].as_str()?.to_owned())));
        if page["has_more"] != true {
            return Ok(ids.into_iter().collect());
        }
    }
}

fn requests(fake: &Fake) -> u64 {
    fake.requests()
        .iter()
        .filter(|(route, _)| route.contains("GET") && route.contains("/v1/subscriptions/"))
        .map(|(_, n)| n)
        .sum()
}

fn refused(answer: serde_json::Value) -> String {
    format!("the fake refused: {answer}")
}

/// Products and prices; the ids of the prices.
fn catalogue(fake: &Fake) -> Result<Vec<String>> {
    let mut prices = vec![];
    for (name, _) in PRICES {
        let product = fake.call("POST", "/v1/products", &[("name", name)]).map_err(refused)?;
        let product = product["id"].as_str().unwrap_or_default();
        let parameters = [
            ("product", product),
            ("currency", "eur"),
            ("unit_amount", "1000"),
            ("recurring[interval]", "month"),
        ];
        let price = fake.call("POST", "/v1/prices", &parameters).map_err(refused)?;
        prices.push(price["id"].as_str().unwrap_or_default().to_owned());
    }
    Ok(prices)
}

/// Customers who can pay, each of a tenant, with a subscription; the ids of the subscriptions.
async fn people(
    fake: &Fake,
    cluster: &Cluster,
    prices: &[String],
    n: usize,
    chance: &mut StdRng,
) -> Result<Vec<String>> {
    let mut subscriptions = vec![];
    for _ in 0..n {
        let parameters = [
            ("name", "Somebody"),
            ("payment_method", "pm_card_visa"),
            ("invoice_settings[default_payment_method]", "pm_card_visa"),
        ];
        let customer = fake.call("POST", "/v1/customers", &parameters).map_err(refused)?;
        let customer = customer["id"].as_str().unwrap_or_default().to_owned();
        cluster.tenant_of(&customer).await?;
        let price = prices.choose(chance).ok_or("no prices")?;
        let parameters =
            [("customer", customer.as_str()), ("items[0][price]", price), ("items[0][quantity]", "1")];
        let subscription = fake.call("POST", "/v1/subscriptions", &parameters).map_err(refused)?;
        subscriptions.push(subscription["id"].as_str().unwrap_or_default().to_owned());
    }
    Ok(subscriptions)
}

/// Something happens to a subscription; what can no longer happen to it is refused, and does not.
fn change(fake: &Fake, id: &str, prices: &[String], chance: &mut StdRng) {
    let path = format!("/v1/subscriptions/{id}");
    let Ok(now) = fake.call("GET", &path, &[]) else { return };
    let item = now["items"]["data"][0]["id"].as_str().unwrap_or_default().to_owned();
    let quantity = chance.random_range(1..50).to_string();
    let price = prices.choose(chance).cloned().unwrap_or_default();
    let _ = match chance.random_range(0..100) {
        0..40 => fake.call(
            "POST",
            &path,
            &[("items[0][id]", item.as_str()), ("items[0][quantity]", quantity.as_str())],
        ),
        40..70 => {
            fake.call("POST", &path, &[("items[0][id]", item.as_str()), ("items[0][price]", price.as_str())])
        }
        70..80 => fake.call("POST", &path, &[("cancel_at_period_end", "true")]),
        80..90 => fake.call("POST", &path, &[("cancel_at_period_end", "false")]),
        90..94 => fake.call("POST", &path, &[("pause_collection[behavior]", "void")]),
        94..98 => fake.call("POST", &path, &[("pause_collection", "")]),
        // One in three hundred: most live long enough to be changed often.
        _ if chance.random_range(0..6) == 0 => fake.call("DELETE", &path, &[]),
        _ => fake.call("POST", &path, &[("metadata[seen]", quantity.as_str())]),
    };
}
