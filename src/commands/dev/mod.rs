//! `tenantry dev`: everything in one process, on servers of its own where none are given.

mod billing;
mod greeting;

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Instant};

use clap::Args;
use tenantry_accounts::{Error, tenants};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{billing::Billing, greeting::Greeting};
use super::{Result, seed, stopping, token};
use crate::{
    config::{Config, DEFAULT_KEYS_DIR},
    dev::{Home, postgres, redis},
    migrate, server,
};

/// The demo tenant.
const TENANT: &str = "demo";
const ADMIN: &str = "admin@example.org";
const USERS: u64 = 25;
/// The folder in the home where the fake Stripe keeps what it knows.
const STRIPE: &str = "stripe";

#[derive(Args, Debug)]
pub(super) struct Dev {
    /// Forget all data first
    #[arg(long)]
    fresh: bool,
    /// Where the private servers keep their data
    #[arg(long, default_value = ".tenantry", value_name = "DIR")]
    home: PathBuf,
}

impl Dev {
    pub(super) async fn run(self, mut config: Config) -> Result {
        server::metrics();
        let start = Instant::now();
        let stop = stopping(None)?;
        // The private servers outlive the API: requests that are being finished need them.
        let served = CancellationToken::new();
        let mut servers = vec![];
        let result = match self.start(&mut config, &served, &mut servers).await {
            Ok(()) => self.serve(config, stop, start).await,
            Err(error) => Err(error),
        };
        served.cancel();
        for server in servers {
            server.await?;
        }
        result
    }

    /// Starts what is not given and points the settings at it.
    async fn start(
        &self,
        config: &mut Config,
        served: &CancellationToken,
        servers: &mut Vec<JoinHandle<()>>,
    ) -> Result {
        let home = Home::open(&self.home).await?;
        let mail = self.home.join("mail");
        if self.fresh {
            home.wipe()?;
            for folder in [&mail, &self.home.join(STRIPE)] {
                if folder.exists() {
                    std::fs::remove_dir_all(folder)?;
                }
            }
        }
        if config.database_url.is_none() {
            let server = postgres::start(&home, postgres::Use::Dev).await?;
            servers.push(tokio::spawn(server.supervise(served.clone().cancelled_owned())));
            config.database_url = Some(postgres::app_url(&home));
            config.database_owner_url = Some(postgres::owner_url(&home));
            config.database_direct_url = None;
        }
        if config.redis_url.is_none() {
            let server = redis::start(&home).await?;
            servers.push(tokio::spawn(server.supervise(served.clone().cancelled_owned())));
            config.redis_url = Some(redis::url(&home));
        }
        if config.smtp_url.is_none() {
            config.mail_dir = Some(mail);
        }
        if config.jwt_keys_dir.as_os_str() == DEFAULT_KEYS_DIR {
            config.jwt_keys_dir = self.home.join("keys");
        }
        config.docs = true;
        migrate::run(config.owner_url()?, config.database_url()?).await?;
        Ok(())
    }

    async fn serve(&self, config: Config, stop: CancellationToken, start: Instant) -> Result {
        let (state, billing) = Billing::choose(config, &self.home.join(STRIPE)).await?;
        if matches!(tenants::find(&state.app, TENANT).await, Err(Error::NoTenant)) {
            let hash = seed::hash(&state.app).await?;
            seed::fill(&state.app, TENANT, "Demo", USERS, &hash, |_| {}).await?;
        }
        let token = token::issue(&state.app, &state.tokens, TENANT, ADMIN).await?;
        let mail = match &state.config.mail_dir {
            Some(mail) => format!("caught in {}", mail.display()),
            None => "sent by SMTP_URL".into(),
        };
        let another = greeting::another_process(&state.config, &billing)?;
        let public_url = state.config.public_url()?;
        let greet = |address: SocketAddr| {
            billing.deliver_to(address);
            let greeting = Greeting {
                address,
                after: start.elapsed(),
                mail: &mail,
                billing: &billing,
                token: &token,
                public_url: &public_url,
                another: &another,
            };
            // Nobody has to read it: with the reader gone, all goes on.
            let _ = writeln!(std::io::stdout(), "{greeting}");
        };
        let served = server::run(state, true, stop, greet).await;
        billing.stop().await?;
        Ok(served?)
    }
}
