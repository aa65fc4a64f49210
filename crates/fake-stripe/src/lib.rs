//! A stateful Stripe at the wire, for tests and development. It keeps what it is told in memory, lets time pass, makes
//! invoices and events, and delivers these as signed webhooks. Faults can be asked for: see [`Faults`].
//!
//! It speaks one version of the API, [`API_VERSION`], and knows the part of Stripe that subscriptions need.

// Stripe's objects have many fields, and `json!` counts each.
#![recursion_limit = "256"]

mod api;
mod cards;
mod catalog;
mod checkout;
mod clocks;
mod control;
mod customers;
mod delivery;
mod error;
mod events;
mod expand;
mod faults;
mod form;
mod idempotency;
mod invoices;
mod pages;
mod portal;
mod queue;
mod schedules;
mod server;
mod state;
mod subscriptions;
mod table;
mod webhooks;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

pub use crate::faults::{ApiFaults, Faults, WebhookFaults};
use crate::{form::Params, state::State};

/// The version of Stripe's API whose objects these are.
pub const API_VERSION: &str = "2026-10-28.endive";

/// How a fake is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0: any that is free.
    pub listen: SocketAddr,
    /// Where all events are delivered; endpoints made over the API come besides.
    pub webhook_url: Option<String>,
    /// What webhooks to `webhook_url` are signed with, each; at least one.
    pub secrets: Vec<String>,
    /// The one key that is let in. None: any that begins with `sk_` or `rk_`.
    pub api_key: Option<String>,
    /// For ids and faults.
    pub seed: u64,
    /// What goes wrong from the beginning.
    pub faults: Faults,
    /// What becomes of subscriptions whose renewal is never paid.
    pub dunning: Dunning,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            webhook_url: None,
            secrets: vec!["whsec_fake".to_owned()],
            api_key: None,
            seed: rand::random(),
            faults: Faults::default(),
            dunning: Dunning::default(),
        }
    }
}

/// What becomes of a subscription when the last attempt at its invoice has failed: a setting of the account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Dunning {
    /// It is canceled.
    #[default]
    Cancel,
    /// It is unpaid: its invoices stay drafts.
    Unpaid,
    /// It stays past due.
    PastDue,
}

/// A fake that runs. Dropping it stops it.
pub struct Fake {
    shared: Arc<Shared>,
    url: String,
    secret: String,
    tasks: [JoinHandle<()>; 3],
}

pub(crate) struct Shared {
    state: Mutex<State>,
    api_key: Option<String>,
    secrets: Vec<String>,
    /// There is something new to deliver, or another setting.
    wake: Notify,
    /// A delivery has been tried.
    settled: Notify,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fake {
    /// Starts a fake on the runtime that this is called in.
    ///
    /// # Errors
    /// When the address cannot be had, or the options make no sense.
    pub async fn start(options: Options) -> io::Result<Self> {
        if let Some(problem) = options.faults.problem() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let listener = TcpListener::bind(options.listen).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let mut state = State::new(url.clone(), options.seed, options.faults, options.dunning);
        let secret = options.secrets.first().cloned().unwrap_or_default();
        if let Some(webhook_url) = &options.webhook_url {
            webhooks::configure(&mut state, webhook_url, options.secrets.clone());
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            api_key: options.api_key,
            secrets: options.secrets,
            wake: Notify::new(),
            settled: Notify::new(),
        });
        let tasks = [
            tokio::spawn(server::run(shared.clone(), listener)),
            tokio::spawn(delivery::run(shared.clone())),
            tokio::spawn(server::tick(shared.clone())),
        ];
        Ok(Self { shared, url, secret, tasks })
    }

    /// Where it is reached, without a slash at the end: the API base of clients.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The first secret that webhooks are signed with.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// From now on all events are delivered to `url` as well, signed with the secrets of the options.
    pub fn send_webhooks_to(&self, url: &str) {
        webhooks::configure(&mut self.shared.lock(), url, self.shared.secrets.clone());
    }

    /// Asks for `method path` with these parameters, past keys, faults and counts: what a test does behind the back of
    /// what it tests.
    ///
    /// # Errors
    /// Stripe's answer when it refuses.
    pub fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Value, Value> {
        let mut params = Params::default();
        let read = parameters.iter().try_for_each(|(name, value)| params.set(name, value));
        read.map_err(|error| error.body())?;
        let route = path.strip_prefix("/v1/").and_then(|path| api::route(method, path));
        let route = route.ok_or_else(|| error::Error::no_route(method, path).body())?;
        let answer = api::call(&mut self.shared.lock(), &route, params).map_err(|error| error.body());
        self.shared.wake.notify_one();
        answer
    }

    /// All subscriptions as they are, in the order in which they were made.
    #[must_use]
    pub fn truth(&self) -> Vec<Value> {
        self.shared.lock().rows("sub").cloned().collect()
    }

    /// What goes wrong from now on.
    ///
    /// # Errors
    /// What makes no sense.
    pub fn set_faults(&self, faults: Faults) -> Result<(), &'static str> {
        control::set_faults(&self.shared, faults)
    }

    /// Delivers what is held back or waits, in any order, and returns when each has been tried.
    pub async fn deliver(&self) {
        delivery::flush(&self.shared).await;
    }

    /// Deliveries that wait, are held back or are under way.
    #[must_use]
    pub fn pending(&self) -> usize {
        control::pending_count(&self.shared.lock())
    }

    /// Requests to `/v1` so far, by route.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.shared.lock().counts.clone()
    }

    /// Lets so many seconds pass for everything that is on no test clock.
    pub fn advance(&self, seconds: u32) {
        control::advance(&self.shared, seconds);
    }

    /// Forgets all objects, events, deliveries and counts; configured endpoints and faults stay.
    pub fn clear(&self) {
        control::clear(&self.shared);
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
