//! Whether tenants could pay: what Stripe says to the key, to each price, and whether its webhooks would be taken.

use tenantry_accounts::billing::{Price, Settings};
use tenantry_stripe::{API_VERSION, Client, Error};
use tokio::time::timeout;

use super::{Found, PATIENCE};
use crate::config::Config;

/// Lines by name.
pub(super) async fn look(config: &Config) -> Vec<(&'static str, Found)> {
    let key = config.stripe_secret_key.as_deref();
    let (client, settings, key) = match (config.stripe(), config.billing(), key) {
        (Ok(Some(client)), Some(settings), Some(key)) => (client, settings, key),
        (Err(error), ..) => return vec![("stripe", Err(error.to_string()))],
        _ => return vec![("stripe", none(config))],
    };
    let live = is_live(key);
    let mut lines = vec![("stripe", reached(&client, config, live).await)];
    if lines.iter().all(|(_, found)| found.is_ok()) {
        lines.push(("prices", prices(&client, &settings, live).await));
    }
    lines.push(("webhooks", webhooks(config)));
    lines
}

fn none(config: &Config) -> Found {
    if config.stripe_prices.0.is_empty() && config.stripe_webhook_secrets.is_empty() {
        return Ok("no STRIPE_SECRET_KEY: plans are what operators set".into());
    }
    Err("STRIPE_SECRET_KEY is not set, and other settings of Stripe's are: nothing is billed".into())
}

/// Whether a key is of the live mode; none: its name does not tell.
fn is_live(key: &str) -> Option<bool> {
    let mode = key.split('_').nth(1)?;
    ["test", "live"].contains(&mode).then_some(mode == "live")
}

fn mode(live: bool) -> &'static str {
    if live { "live mode" } else { "test mode" }
}

async fn reached(client: &Client, config: &Config, live: Option<bool>) -> Found {
    let version = asked(client.version()).await?;
    let version = match version {
        Some(version) if version != API_VERSION => {
            return Err(format!("Stripe answers in version {version}, and was asked for {API_VERSION}"));
        }
        Some(version) => format!("version {version}"),
        None => "a version that it does not tell".into(),
    };
    let mode = live.map_or("a mode that the key does not tell", mode);
    Ok(format!("{} answers, {mode}, {version}", config.stripe_api_base.0))
}

async fn prices(client: &Client, settings: &Settings, live: Option<bool>) -> Found {
    if settings.prices.is_empty() {
        return Err("STRIPE_PRICES is not set: whatever is paid for gives no plan; list PRICE=PLAN".into());
    }
    let mut listed: Vec<_> = settings.prices.iter().collect();
    listed.sort_by_key(|(id, _)| id.as_str());
    let (mut well, mut wrong) = (vec![], vec![]);
    for (id, gives) in listed {
        match price(client, settings, id, *gives, live).await {
            Ok(found) => well.push(found),
            Err(problem) => wrong.push(problem),
        }
    }
    if wrong.is_empty() { Ok(well.join(", ")) } else { Err(format!("STRIPE_PRICES: {}", wrong.join("; "))) }
}

/// What is to be said of one that is listed.
async fn price(client: &Client, settings: &Settings, id: &str, gives: Price, live: Option<bool>) -> Found {
    let plan = format!("{}{}", gives.plan.as_str(), if gives.by_seat { "/seat" } else { "" });
    let Some(found) = asked(client.price(id)).await? else {
        let mode = live.map_or("the same mode", mode);
        return Err(format!("there is no {id} there: it must be of the account of the key, and of {mode}"));
    };
    if live.is_some_and(|live| live != found.live) {
        return Err(format!("{id} is of {}, and the key is not", mode(found.live)));
    }
    if !found.recurring {
        return Err(format!("{id} is paid once: make a recurring price"));
    }
    let sold = settings.price_of(gives.plan).is_some_and(|(first, _)| first == id);
    match (found.active, sold) {
        (true, _) => Ok(format!("{id} {plan}")),
        // It goes on for those who have it, and has to stay in the list for that.
        (false, false) => Ok(format!("{id} {plan} (archived: nobody new gets it)")),
        (false, true) => Err(format!(
            "{id} is archived, and is what a checkout of the plan {} sells, the first by name: unarchive it, or list one that \
             comes before it",
            gives.plan.as_str()
        )),
    }
}

fn webhooks(config: &Config) -> Found {
    let secrets = tenantry_stripe::Secrets::new(&config.stripe_webhook_secrets);
    match (secrets.len(), secrets.look_right()) {
        (0, _) => Err("STRIPE_WEBHOOK_SECRETS is not set: every webhook is refused, and changes are known a quarter of an hour \
                       late; the dashboard shows the secret of the endpoint"
            .into()),
        (_, false) => {
            Err("STRIPE_WEBHOOK_SECRETS: a signing secret begins with whsec_; the dashboard shows it".into())
        }
        (1, _) => Ok("1 signing secret".into()),
        (n, _) => Ok(format!("{n} signing secrets")),
    }
}

/// What Stripe answers in time, or what to do about what it answers instead.
async fn asked<T>(question: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    let answer = timeout(PATIENCE, question).await;
    let answer = answer.map_err(|_| "no answer within 3 s: is STRIPE_API_BASE right?".to_owned())?;
    answer.map_err(|error| {
        let what_to_do = match &error {
            Error::Refused { status: 401, .. } => "is STRIPE_SECRET_KEY a secret key that is still valid?",
            Error::Refused { status: 403, .. } => {
                "give the restricted key the rights that docs/stripe.md lists"
            }
            Error::Limited(_) => "others use up the account's limit; try again, and lower STRIPE_RATE_LIMIT",
            Error::Failed(_) => "try again",
            _ => "can it be reached from here, and is STRIPE_API_BASE right?",
        };
        format!("{error}; {what_to_do}")
    })
}
