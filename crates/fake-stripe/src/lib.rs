//! A stateful Stripe at the wire, for tests and development. It keeps what it is told in memory, and in a file if asked to,
//! lets time pass, makes invoices and events, and delivers these as signed webhooks. Faults can be asked for: see [`Faults`].
//!
//! It speaks one version of the API, [`API_VERSION`], and knows the part of Stripe that subscriptions need.

// Stripe's objects have many fields, and `json!` counts each.
#![recursion_limit = "256"]

mod api;
mod browsers;
mod cached;
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
mod store;
mod subscriptions;
mod table;
mod webhooks;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};

pub use crate::{
    faults::{ApiFaults, Faults, WebhookFaults},
    state::is_fake,
};
use crate::{form::Params, state::State, store::Store};

/// The version of Stripe's API whose objects these are.
pub const API_VERSION: &str = "2026-10-28.endive";

/// How a fake is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0: that of the last time if the state file tells it and it is free, else any.
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
    /// Where all that it knows is kept: objects, events, deliveries, answers under idempotency keys, endpoints, and how far it
    /// is ahead of the clock. None: it forgets them when it ends.
    pub state: Option<PathBuf>,
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
            state: None,
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
    store: Option<Store>,
    /// Only reached from this machine.
    loopback: bool,
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

    /// Something has changed: it is to be kept, and may be worth an event.
    pub(crate) fn changed(&self) {
        if let Some(store) = &self.store {
            store.touch();
        }
        self.wake.notify_one();
    }
}

impl Fake {
    /// Starts a fake on the runtime that this is called in.
    ///
    /// # Errors
    /// When the address or the state file cannot be had, or the options make no sense.
    pub async fn start(options: Options) -> io::Result<Self> {
        if let Some(problem) = options.faults.problem() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let (store, kept) = match &options.state {
            Some(path) => Store::open(path).map(|(store, kept)| (Some(store), kept))?,
            None => (None, None),
        };
        let listener = listen(options.listen, kept.as_ref()).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let moved = kept.as_ref().is_none_or(|kept| kept.base != url);
        let mut state = match kept {
            Some(kept) => kept.resume(url.clone(), options.seed, options.faults, options.dunning),
            None => State::new(url.clone(), options.seed, options.faults, options.dunning),
        };
        let secret = options.secrets.first().cloned().unwrap_or_default();
        if let Some(webhook_url) = &options.webhook_url {
            webhooks::configure(&mut state, webhook_url, options.secrets.clone());
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            store,
            loopback: options.listen.ip().is_loopback(),
            api_key: options.api_key,
            secrets: options.secrets,
            wake: Notify::new(),
            settled: Notify::new(),
        });
        if moved {
            // A place where nothing can be written is found now.
            shared.changed();
            store::save(&shared).await?;
        }
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
        self.shared.changed();
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
        if method != "GET" {
            self.shared.changed();
        }
        answer
    }

    /// Returns when all that has happened so far is in the state file. What is asked over HTTP is there when it is answered, all
    /// else within a second.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn save(&self) -> io::Result<()> {
        store::save(&self.shared).await
    }

    /// Ends it, with all that it knows in the state file.
    ///
    /// # Errors
    /// When that cannot be written.
    pub async fn stop(self) -> io::Result<()> {
        self.tasks.iter().for_each(JoinHandle::abort);
        // Deliveries are no changes that are noted.
        self.shared.changed();
        store::close(&self.shared).await
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

/// Where it listened before, if it may listen anywhere: pages that are open and clients that were told go on.
async fn listen(address: SocketAddr, kept: Option<&State>) -> io::Result<TcpListener> {
    let before = kept.and_then(|kept| kept.base.rsplit_once(':')?.1.parse().ok());
    let failed =
        |error: io::Error| io::Error::new(error.kind(), format!("it cannot listen on {address}: {error}"));
    if let Some(port) = before.filter(|_| address.port() == 0)
        && let Ok(listener) = TcpListener::bind((address.ip(), port)).await
    {
        return Ok(listener);
    }
    TcpListener::bind(address).await.map_err(failed)
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
