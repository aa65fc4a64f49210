//! One who asks the nodes over HTTP, and notes every answer. Clones share the notes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    Result,
    cluster::{Cluster, address, value},
    history::{
        Change, FOREIGN, Failure, GONE, History, Level, NO_KEY, Nobody, Outcome, Read, Value, Version, Write,
    },
};

/// The service answers within 5 s, or a node is frozen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(8);

#[derive(Clone)]
pub(crate) struct Client {
    cluster: Arc<Cluster>,
    http: reqwest::Client,
    log: Arc<Mutex<History>>,
}

impl Client {
    pub(crate) fn new(cluster: &Arc<Cluster>, http: &reqwest::Client) -> Self {
        Self { cluster: cluster.clone(), http: http.clone(), log: Arc::default() }
    }

    pub(crate) fn http() -> Result<reqwest::Client> {
        Ok(reqwest::Client::builder().no_proxy().build()?)
    }

    /// All that was noted.
    pub(crate) fn take(&self) -> History {
        self.log.lock().map(|mut log| std::mem::take(&mut *log)).unwrap_or_default()
    }

    /// Gives a user a new name, and a new address where `change` says so. The first number is the new name's.
    pub(crate) async fn change(
        &self,
        node: usize,
        key: usize,
        change: Change,
        if_match: Option<Version>,
    ) -> (Value, Outcome) {
        let value = self.cluster.new_value();
        let mut body = json!({"name": format!("w{value}")});
        if change == Change::Address {
            body["email"] = json!(address(value));
        }
        let mut request = self.request(Method::PATCH, node, &self.of(key)).json(&body);
        if let Some(version) = if_match {
            request = request.header("if-match", format!("\"{version}\""));
        }
        let outcome = self.write(node, key, value, change, if_match, request).await;
        (value, outcome)
    }

    pub(crate) async fn rename(&self, node: usize, key: usize) -> Outcome {
        self.change(node, key, Change::Name, None).await.1
    }

    pub(crate) async fn delete(&self, node: usize, key: usize) -> Outcome {
        let request = self.request(Method::DELETE, node, &self.of(key));
        self.write(node, key, FOREIGN, Change::Delete, None, request).await
    }

    /// Makes a user; none if that was not acknowledged.
    pub(crate) async fn create(&self, node: usize) -> Option<(usize, Value)> {
        let value = self.cluster.new_value();
        let body = json!({"name": format!("w{value}"), "email": address(value)});
        let request = self.request(Method::POST, node, "users").json(&body);
        let (run, start) = (self.cluster.apis[node].run(), self.cluster.clock.now());
        let answer = request.timeout(PATIENCE).send().await;
        let end = self.cluster.clock.now();
        let outcome = outcome(&answer);
        let mut key = NO_KEY;
        if let (Outcome::Acknowledged(_), Ok(response)) = (outcome, answer) {
            let place = response.headers().get("location").and_then(|place| place.to_str().ok());
            let id = place.and_then(|place| place.rsplit('/').next()?.parse::<Uuid>().ok());
            key = id.map_or(NO_KEY, |id| self.cluster.key_of(id));
        }
        let run = run.filter(|_| run == self.cluster.apis[node].run());
        let (change, if_match) = (Change::Create, None);
        self.note(|log| {
            log.writes.push(Write { key, value, change, if_match, node, run, start, end, outcome });
        });
        (key != NO_KEY).then_some((key, value))
    }

    /// Looks a user up; none where that was not answered.
    pub(crate) async fn get(&self, node: usize, key: usize, min: Option<Version>) -> Option<Read> {
        self.get_within(node, key, min, PATIENCE).await
    }

    pub(crate) async fn get_within(
        &self,
        node: usize,
        key: usize,
        min: Option<Version>,
        patience: Duration,
    ) -> Option<Read> {
        let mut request = self.request(Method::GET, node, &self.of(key)).timeout(patience);
        if let Some(min) = min {
            request = request.header("x-min-version", min.to_string());
        }
        let asking = Asking { node, min, asked: None };
        let (read, failure) = self.look(request, asking, key).await;
        self.note(|log| {
            log.reads.extend(read.clone());
            log.failures.extend(failure);
        });
        read
    }

    /// Looks up who has an address.
    pub(crate) async fn look_up(&self, node: usize, wanted: Value) -> Option<Read> {
        let request = self.request(Method::GET, node, "users/lookup").timeout(PATIENCE);
        let request = request.query(&[("email", address(wanted))]);
        let asking = Asking { node, min: None, asked: Some(wanted) };
        let (read, failure) = self.look(request, asking, NO_KEY).await;
        self.note(|log| match read.clone() {
            Some(Read { version: GONE, node, start, end, .. }) => {
                log.nobodies.push(Nobody { address: wanted, node, start, end });
            }
            read => {
                log.reads.extend(read);
                log.failures.extend(failure);
            }
        });
        read
    }

    /// Looks up many users; false where that was not answered.
    pub(crate) async fn batch(&self, node: usize, keys: &[usize]) -> bool {
        let ids: Vec<_> = keys.iter().map(|key| self.cluster.id(*key)).collect();
        let request = self.request(Method::POST, node, "users/batch-get").json(&json!({"ids": ids}));
        let process = &self.cluster.apis[node];
        let (run, start) = (process.run(), self.cluster.clock.now());
        let answer = json_of(request.timeout(PATIENCE).send().await).await;
        let end = self.cluster.clock.now();
        let run = run.filter(|_| run == process.run());
        let (status, body) = answer;
        let Some(body) = body.filter(|_| status == 200) else {
            self.note(|log| log.failures.push(Failure { key: NO_KEY, node, start, end, status }));
            return false;
        };
        let gone = Read {
            key: NO_KEY,
            node,
            run,
            min: None,
            asked: None,
            start,
            end,
            version: GONE,
            body_version: GONE,
            value: FOREIGN,
            address: FOREIGN,
            level: Level::Any,
        };
        let list = |name: &str| body["data"][name].as_array().cloned().unwrap_or_default();
        let there = list("users").into_iter().map(|user| {
            let version = user["version"].as_i64().unwrap_or(GONE);
            Read { version, ..self.shown(&user, gone.clone()) }
        });
        let missing = list("missing").into_iter().map(|id| Read { key: self.key(&id), ..gone.clone() });
        let reads: Vec<_> = there.chain(missing).collect();
        self.note(|log| log.reads.extend(reads));
        true
    }

    async fn write(
        &self,
        node: usize,
        key: usize,
        value: Value,
        change: Change,
        if_match: Option<Version>,
        request: RequestBuilder,
    ) -> Outcome {
        let process = &self.cluster.apis[node];
        let (run, start) = (process.run(), self.cluster.clock.now());
        let outcome = outcome(&request.timeout(PATIENCE).send().await);
        let end = self.cluster.clock.now();
        let run = run.filter(|_| run == process.run());
        self.note(|log| {
            log.writes.push(Write { key, value, change, if_match, node, run, start, end, outcome });
        });
        outcome
    }

    async fn look(
        &self,
        request: RequestBuilder,
        asking: Asking,
        key: usize,
    ) -> (Option<Read>, Option<Failure>) {
        let Asking { node, min, asked } = asking;
        let process = &self.cluster.apis[node];
        let (run, start) = (process.run(), self.cluster.clock.now());
        let answer = request.send().await;
        let head = answer.as_ref().ok().map(|response| (version(response), level(response)));
        let (status, body) = json_of(answer).await;
        let end = self.cluster.clock.now();
        let run = run.filter(|_| run == process.run());
        let (version, level) = head.unwrap_or((None, Level::Any));
        let (body_version, value, address) = (GONE, FOREIGN, FOREIGN);
        let gone = Read {
            key,
            node,
            run,
            min,
            asked,
            start,
            end,
            version: GONE,
            body_version,
            value,
            address,
            level: Level::Any,
        };
        match (status, version, body) {
            (200, Some(version), Some(body)) => {
                (Some(Read { version, level, ..self.shown(&body["data"], gone) }), None)
            }
            (404, ..) => (Some(gone), None),
            _ => (None, Some(Failure { key, node, start, end, status })),
        }
    }

    /// What the JSON of a user says.
    fn shown(&self, user: &Json, read: Read) -> Read {
        let body_version = user["version"].as_i64().unwrap_or(GONE);
        let value = user["name"].as_str().map_or(FOREIGN, value);
        let address = user["email"].as_str().map_or(FOREIGN, crate::cluster::address_value);
        Read { key: self.key(&user["id"]), body_version, value, address, ..read }
    }

    fn key(&self, id: &Json) -> usize {
        id.as_str().and_then(|id| id.parse().ok()).map_or(NO_KEY, |id| self.cluster.key_of(id))
    }

    fn of(&self, key: usize) -> String {
        format!("users/{}", self.cluster.id(key))
    }

    fn request(&self, method: Method, node: usize, path: &str) -> RequestBuilder {
        let address = self.cluster.apis[node].address.map(|address| address.to_string()).unwrap_or_default();
        self.http.request(method, format!("http://{address}/api/v1/{path}")).bearer_auth(&self.cluster.token)
    }

    fn note(&self, note: impl FnOnce(&mut History)) {
        if let Ok(mut log) = self.log.lock() {
            note(&mut log);
        }
    }
}

struct Asking {
    node: usize,
    min: Option<Version>,
    asked: Option<Value>,
}

fn outcome(answer: &reqwest::Result<Response>) -> Outcome {
    match answer {
        Ok(response) => match (response.status(), version(response)) {
            (StatusCode::OK | StatusCode::CREATED, Some(version)) => Outcome::Acknowledged(version),
            (StatusCode::NO_CONTENT, _) => Outcome::Acknowledged(GONE),
            (status, _) if status.is_client_error() => Outcome::Refused(status.as_u16()),
            (status, _) => Outcome::Unknown(status.as_u16()),
        },
        Err(error) if error.is_connect() => Outcome::Refused(0),
        Err(_) => Outcome::Unknown(0),
    }
}

/// The status, and the body if it is whole; cut off in the middle there was no answer.
async fn json_of(answer: reqwest::Result<Response>) -> (u16, Option<Json>) {
    let Ok(response) = answer else { return (0, None) };
    let status = response.status().as_u16();
    match response.json().await {
        Ok(body) => (status, Some(body)),
        Err(_) => (0, None),
    }
}

fn version(response: &Response) -> Option<Version> {
    response.headers().get("etag")?.to_str().ok()?.trim_matches('"').parse().ok()
}

fn level(response: &Response) -> Level {
    match response.headers().get("x-cache").map(|level| level.as_bytes()) {
        Some(b"local") => Level::Local,
        Some(b"redis") => Level::Redis,
        Some(b"miss") => Level::Miss,
        _ => Level::Any,
    }
}
