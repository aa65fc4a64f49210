//! Requests at a constant rate, and what became of each.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::seq::IndexedRandom;
use serde_json::json;
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Result;

/// Of twenty requests one changes a user, one lists, and the others look users up.
const MIX: u64 = 20;
/// Longer than the service lets any of these take.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    LookUp,
    List,
    Change,
}

/// A request, from when it was due.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) due: Instant,
    pub(crate) took: Duration,
    /// 0: there was no answer.
    pub(crate) status: u16,
    /// Whether it says when to come again.
    pub(crate) says_when: bool,
}

impl Seen {
    pub(crate) fn is_answered(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What a client is to get while something is away.
    pub(crate) fn is_put_off(&self) -> bool {
        self.status == 503 && self.says_when
    }
}

/// What everybody asks for.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    pub(crate) users: Arc<Vec<Uuid>>,
    /// The newest name of each user that was acknowledged, and its version.
    pub(crate) names: Arc<Mutex<BTreeMap<Uuid, (i64, String)>>>,
}

/// A load that goes on until it is ended.
pub(crate) struct Load {
    stop: CancellationToken,
    driver: JoinHandle<Vec<Seen>>,
}

impl Target {
    pub(crate) fn start(&self, rate: u32) -> Load {
        let stop = CancellationToken::new();
        Load { driver: tokio::spawn(self.clone().drive(rate, stop.clone())), stop }
    }

    async fn drive(self, rate: u32, stop: CancellationToken) -> Vec<Seen> {
        let Ok(client) = reqwest::Client::builder().timeout(PATIENCE).build() else { return vec![] };
        let mut tick = interval(Duration::from_secs(1) / rate.max(1));
        // What was due while this program was not let run is asked for now, and its time counts from when it was due.
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let (mut running, mut seen) = (JoinSet::new(), vec![]);
        for n in 0.. {
            let due = tokio::select! {
                due = tick.tick() => due,
                () = stop.cancelled() => break,
            };
            let (target, client) = (self.clone(), client.clone());
            running.spawn(async move { target.ask(&client, n, due).await });
            while let Some(Ok(one)) = running.try_join_next() {
                seen.push(one);
            }
        }
        seen.extend(running.join_all().await);
        seen
    }

    async fn ask(&self, client: &reqwest::Client, n: u64, due: Instant) -> Seen {
        let url = |path: &str| format!("http://{}/api/v1{path}", self.address);
        let user = self.users.choose(&mut rand::rng()).copied().unwrap_or_default();
        let (kind, request) = match n % MIX {
            0 => (
                Kind::Change,
                client.patch(url(&format!("/users/{user}"))).json(&json!({"name": format!("Name {n}")})),
            ),
            1 => (Kind::List, client.get(url("/users?limit=20"))),
            _ => (Kind::LookUp, client.get(url(&format!("/users/{user}")))),
        };
        let Some((status, says_when, body)) = answer(request.bearer_auth(&self.token)).await else {
            return Seen { kind, due, took: due.elapsed(), status: 0, says_when: false };
        };
        if kind == Kind::Change && status == 200 {
            self.note(user, &body);
        }
        Seen { kind, due, took: due.elapsed(), status, says_when }
    }

    /// Whether a change is taken. One that changes something: a name that is as it was writes nothing.
    pub(crate) async fn changes(&self) -> bool {
        let Some(user) = self.users.first() else { return false };
        let url = format!("http://{}/api/v1/users/{user}", self.address);
        let request =
            reqwest::Client::new().patch(url).json(&json!({"name": Uuid::new_v4()})).timeout(PATIENCE);
        let Some((200, _, body)) = answer(request.bearer_auth(&self.token)).await else { return false };
        self.note(*user, &body);
        true
    }

    /// Remembers what was acknowledged. Two changes of a user may be under way: what counts is which was later.
    fn note(&self, user: Uuid, body: &[u8]) {
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(body) else { return };
        let (Some(version), Some(name)) = (body["data"]["version"].as_i64(), body["data"]["name"].as_str())
        else {
            return;
        };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = names.entry(user).or_default();
        if version == newest.0 && name != newest.1 {
            // Two changes cannot have made the same version: the first was lost. No row will ever look like this.
            *newest = (i64::MAX, name.to_owned());
        } else if version > newest.0 {
            *newest = (version, name.to_owned());
        }
    }
}

/// Status, whether it says when to come again, and body. An answer that breaks off is none.
async fn answer(request: reqwest::RequestBuilder) -> Option<(u16, bool, bytes::Bytes)> {
    let answer = request.send().await.ok()?;
    let (status, says_when) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
    Some((status, says_when, answer.bytes().await.ok()?))
}

impl Load {
    /// Asks no more, waits for the answers that are due, and tells all.
    pub(crate) async fn end(self) -> Result<Vec<Seen>> {
        self.stop.cancel();
        Ok(self.driver.await?)
    }
}

/// What was due between two moments.
pub(crate) fn between(seen: &[Seen], from: Instant, to: Instant) -> impl Iterator<Item = &Seen> + Clone {
    seen.iter().filter(move |one| (from..to).contains(&one.due))
}

/// How many requests, and how many of them had each status.
pub(crate) fn statuses<'a>(seen: impl Iterator<Item = &'a Seen>) -> String {
    let mut counts = BTreeMap::<u16, usize>::new();
    for one in seen {
        *counts.entry(one.status).or_default() += 1;
    }
    let named = |status: u16| if status == 0 { "no answer".to_owned() } else { status.to_string() };
    if counts.is_empty() {
        return "none".into();
    }
    let counts: Vec<_> = counts.into_iter().map(|(status, n)| format!("{n} x {}", named(status))).collect();
    counts.join(", ")
}

/// The time within which so many of a thousand were answered.
pub(crate) fn quantile<'a>(seen: impl Iterator<Item = &'a Seen>, per_mille: usize) -> Duration {
    let mut times: Vec<_> = seen.map(|one| one.took).collect();
    times.sort_unstable();
    times.get((times.len() * per_mille).div_ceil(1000).saturating_sub(1)).copied().unwrap_or_default()
}
