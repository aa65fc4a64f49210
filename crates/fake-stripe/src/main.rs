//! A fake Stripe to talk to: `fake-stripe --help`.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Parser;
use tenantry_fake_stripe::{Dunning, Fake, Faults, Options};
use tokio::signal::unix::{SignalKind, signal};

/// A stateful fake of Stripe: its API below /v1, checkout and billing pages, events as signed webhooks.
///
/// It keeps everything in memory, and with --state in a file. Point a client's API base at it, with any key that begins with sk_. Test cards work:
/// pm_card_visa pays, pm_card_chargeCustomerFail is declined.
#[derive(Parser)]
#[command(
    version,
    after_long_help = "Controls, in JSON:
  GET  /_fake/state                       all subscriptions, customers, products and prices
  GET  /_fake/requests                    requests to /v1 by route
  GET  /_fake/pending                     deliveries that wait, and what became of the others
  GET  /_fake/faults                      what goes wrong, as POST takes it
  POST /_fake/faults                      {\"api\": {\"rate_limited\": 0.1}, \"webhooks\": {\"lost\": 0.1, \"copies\": [1, 5]}}
  POST /_fake/deliver                     delivers what is held back, in any order, and waits until it is tried
  POST /_fake/advance                     {\"seconds\": 86400}: time passes for all that is on no test clock
  POST /_fake/cards                       {\"customer\": \"cus_..\", \"declines\": true}
  POST /_fake/settings                    {\"dunning\": \"cancel\", \"unpaid\" or \"past_due\"}
  POST /_fake/subscriptions/ID/next       what comes next happens now: a renewal, the end of a trial
  POST /_fake/subscriptions/ID/status     {\"status\": \"unpaid\"}
  POST /_fake/events/ID/resend            {\"copies\": 50}
  POST /_fake/clear                       forgets everything"
)]
struct Arguments {
    /// Where it listens.
    #[arg(long, env = "FAKE_STRIPE_LISTEN", default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    /// Where all events are delivered (http only); more endpoints can be made over the API.
    #[arg(long, env = "FAKE_STRIPE_WEBHOOK_URL")]
    webhook_url: Option<String>,
    /// What webhooks to that address are signed with; several give several signatures.
    #[arg(
        long = "secret",
        env = "FAKE_STRIPE_SECRETS",
        value_delimiter = ',',
        hide_env_values = true,
        default_value = "whsec_fake"
    )]
    secrets: Vec<String>,
    /// The one API key that is let in; else any that begins with sk_ or rk_.
    #[arg(long, env = "FAKE_STRIPE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Ids and faults are the same under the same seed; else it is another one each time.
    #[arg(long, env = "FAKE_STRIPE_SEED")]
    seed: Option<u64>,
    /// What becomes of a subscription whose renewal is never paid.
    #[arg(long, env = "FAKE_STRIPE_DUNNING", value_enum, default_value = "cancel")]
    dunning: Dunning,
    /// Where all that it knows is kept and found again when it is started anew, with the port where --listen has none. A file of
    /// its own: no other process may have it.
    #[arg(long, env = "FAKE_STRIPE_STATE", value_name = "FILE")]
    state: Option<PathBuf>,
    /// What goes wrong from the beginning, in JSON, as for POST /_fake/faults.
    #[arg(long, env = "FAKE_STRIPE_FAULTS", value_parser = faults, default_value = "{}")]
    faults: Faults,
}

fn faults(json: &str) -> Result<Faults, serde_json::Error> {
    serde_json::from_str(json)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let defaults = Options::default();
    let options = Options {
        listen: arguments.listen,
        webhook_url: arguments.webhook_url,
        secrets: arguments.secrets,
        api_key: arguments.api_key,
        seed: arguments.seed.unwrap_or(defaults.seed),
        faults: arguments.faults,
        dunning: arguments.dunning,
        state: arguments.state,
    };
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-stripe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Until Ctrl-C, or until it is told to stop.
async fn run(options: Options) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let fake = Fake::start(options).await?;
    println!("a fake Stripe listens on {0}; its page is {0}/", fake.url());
    tokio::select! {
        stopped = tokio::signal::ctrl_c() => stopped?,
        _ = terminate.recv() => {}
    }
    fake.stop().await
}
