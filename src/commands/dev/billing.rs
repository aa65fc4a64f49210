//! What `dev` bills by: an account at Stripe where one is given, else a fake of our own.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use tenantry_accounts::{
    Actor, App, Error,
    billing::customers::{self, Paying},
};
use tenantry_fake_stripe::{Fake, is_fake};

use crate::{
    config::{Config, WebUrl},
    dev::{ServerError, stripe},
    state::State,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

pub(super) enum Billing {
    Fake(FakeStripe),
    Account,
    /// Nothing: somebody pays at an account to which there is no key.
    Off(Paying),
}

impl Billing {
    /// Finds out what there is to bill by, and makes the state that goes with it. The fake has its memory in `folder`.
    pub(super) async fn choose(config: Config, folder: &Path) -> Result<(State, Self)> {
        if config.stripe_secret_key.is_some() {
            let state = State::new(config)?;
            warn_of_fakes(&state.app).await?;
            return Ok((state, Self::Account));
        }
        let fake = FakeStripe::start(folder).await?;
        let state = State::new(fake.settings_in(config.clone())?)?;
        match fake.meet(&state.app).await? {
            None => Ok((state, Self::Fake(fake))),
            Some(paying) => {
                fake.stop().await?;
                Ok((State::new(config)?, Self::Off(paying)))
            }
        }
    }

    /// The API is there, and webhooks may come.
    pub(super) fn deliver_to(&self, mut api: SocketAddr) {
        let Self::Fake(FakeStripe { fake, .. }) = self else { return };
        match api {
            SocketAddr::V4(_) if api.ip().is_unspecified() => api.set_ip(Ipv4Addr::LOCALHOST.into()),
            SocketAddr::V6(_) if api.ip().is_unspecified() => api.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        if let Err(error) = stripe::deliver_to(fake, &format!("http://{api}/api/v1/webhooks/stripe")) {
            tracing::error!("no webhooks will come: {error}");
        }
    }

    /// What another process needs to bill by the same.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        let Self::Fake(FakeStripe { fake, prices }) = self else { return vec![] };
        vec![
            ("STRIPE_SECRET_KEY", stripe::SECRET_KEY.into()),
            ("STRIPE_WEBHOOK_SECRETS", fake.secret().into()),
            ("STRIPE_API_BASE", fake.url()),
            ("STRIPE_PRICES", prices.clone()),
        ]
    }

    pub(super) async fn stop(self) -> Result<()> {
        match self {
            Self::Fake(fake) => fake.stop().await,
            Self::Account | Self::Off(_) => Ok(()),
        }
    }
}

/// As the greeting says it.
impl fmt::Display for Billing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fake(FakeStripe { fake, .. }) => {
                write!(f, "{}/, a fake: no account is needed, no money moves", fake.url())
            }
            Self::Account => f.write_str("the account of STRIPE_SECRET_KEY"),
            Self::Off(Paying { customer, name, .. }) => write!(
                f,
                "none: {customer} of an account pays for {name:?}; set STRIPE_SECRET_KEY, or use another database"
            ),
        }
    }
}

/// A fake that runs.
pub(super) struct FakeStripe {
    fake: Fake,
    prices: String,
}

impl FakeStripe {
    async fn start(folder: &Path) -> Result<Self> {
        let fake = stripe::start(folder).await?;
        let prices = stripe::prices(&fake).await?;
        Ok(Self { fake, prices })
    }

    /// The settings, pointed at it.
    fn settings_in(&self, config: Config) -> Result<Config> {
        Ok(Config {
            stripe_secret_key: Some(stripe::SECRET_KEY.into()),
            stripe_webhook_secrets: vec![self.fake.secret().into()],
            stripe_api_base: WebUrl(self.fake.url()),
            stripe_prices: self.prices.parse()?,
            ..config
        })
    }

    /// Gives tenants whose customers a fake has forgotten new ones: its memory was lost, and this database was not. What they
    /// had subscribed to ends with that.
    ///
    /// A customer of an account is left alone, and so is everybody else then: to this fake all that they pay for would
    /// have ended. Returns the first such one.
    async fn meet(&self, app: &App) -> Result<Option<Paying>> {
        let mut unknown = customers::paying(app).await?;
        unknown.retain(|paying| !stripe::knows(&self.fake, &paying.customer));
        if let Some(place) = unknown.iter().position(|paying| !is_fake(&paying.customer)) {
            return Ok(Some(unknown.swap_remove(place)));
        }
        let mut new = vec![];
        for Paying { tenant, name, email, .. } in &unknown {
            new.push((*tenant, stripe::make_customer(&self.fake, name, email.as_deref())?));
        }
        // Before the database names them.
        self.fake.save().await?;
        for (tenant, customer) in &new {
            match customers::relink(app, Actor::operator(*tenant), customer).await {
                // It is closed.
                Ok(_) | Err(Error::NoTenant) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !new.is_empty() {
            let n = new.len();
            tracing::warn!(
                tenants = n,
                "the fake Stripe knew the customers of {n} tenants no more: they have new ones, and what they had subscribed to \
                 has ended"
            );
        }
        Ok(None)
    }

    async fn stop(self) -> Result<()> {
        Ok(self.fake.stop().await.map_err(ServerError::Stripe)?)
    }
}

/// Says that the account does not know the customers that a fake has made.
async fn warn_of_fakes(app: &App) -> Result<()> {
    let n = customers::paying(app).await?.iter().filter(|paying| is_fake(&paying.customer)).count();
    if n > 0 {
        tracing::warn!(
            tenants = n,
            "{n} tenants have customers of the fake Stripe, which no account knows: `tenantry stripe link TENANT cus_...` gives \
             them others, `tenantry dev --fresh` starts over"
        );
    }
    Ok(())
}
