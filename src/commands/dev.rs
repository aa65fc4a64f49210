//! `tenantry dev`: everything in one process, on servers of its own where none are given.

use std::{io::Write, net::SocketAddr, path::PathBuf, time::Instant};

use clap::Args;
use tenantry_accounts::{Error, tenants};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Result, seed, stopping, token};
use crate::{
    config::{Config, DEFAULT_KEYS_DIR},
    dev::{Home, postgres, redis},
    migrate, server,
    state::State,
};

/// The demo tenant.
const TENANT: &str = "demo";
const ADMIN: &str = "admin@example.org";
const USERS: u64 = 25;

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
        let stop = stopping()?;
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
            if mail.exists() {
                std::fs::remove_dir_all(&mail)?;
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
        let state = State::new(config)?;
        if matches!(tenants::find(&state.app, TENANT).await, Err(Error::NoTenant)) {
            let hash = seed::hash(&state.app).await?;
            seed::fill(&state.app, TENANT, "Demo", USERS, &hash, |_| {}).await?;
        }
        let token = token::issue(&state.app, &state.tokens, TENANT, ADMIN).await?;
        let mail = state.config.mail_dir.clone();
        let another = another_process(&state.config)?;
        let greet = move |address: SocketAddr| {
            let caught =
                mail.map_or("sent by SMTP_URL".into(), |mail| format!("caught in {}", mail.display()));
            // Nobody has to read it: with the reader gone, all goes on.
            let _ = writeln!(
                std::io::stdout(),
                "
  Tenantry is ready after {:.1} s. Ctrl-C stops it; the data stays.

  API          http://{address}/api/v1
  Swagger UI   http://{address}/docs
  Mail         {caught}
  Sign in as   {ADMIN} of tenant {TENANT}, password {}

  Try:

  curl -i http://{address}/api/v1/users/me -H 'Authorization: Bearer {token}'

  A second process beside this one:

  {another}
",
                start.elapsed().as_secs_f64(),
                seed::PASSWORD,
            );
        };
        server::run(state, true, stop, greet).await?;
        Ok(())
    }
}

/// The command line of a second API on the same servers, to be pasted into another shell.
fn another_process(config: &Config) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let settings = [
        ("DATABASE_URL", config.database_url()?.to_owned()),
        ("REDIS_URL", config.redis_url.clone().unwrap_or_default()),
        ("JWT_KEYS_DIR", config.jwt_keys_dir.canonicalize()?.display().to_string()),
        ("ENCRYPTION_KEYS_DIR", config.encryption_keys_dir().canonicalize()?.display().to_string()),
        // The issuer in the tokens.
        ("PUBLIC_URL", config.public_url()?),
        ("LISTEN", SocketAddr::new(config.listen.ip(), config.listen.port().wrapping_add(1)).to_string()),
    ];
    let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    Ok(format!("{} {} api", settings.join(" "), quoted(&std::env::current_exe()?.display().to_string())))
}
