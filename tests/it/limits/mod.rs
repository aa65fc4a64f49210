//! Limits of requests: nobody dodges them, all processes together keep them, and a Redis that is away neither opens nor closes.

mod exact;
mod keys;
mod names;
mod operators;
mod quotas;
mod sign_ups;
mod spoofs;
mod told;
mod trouble;

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{app::TestApp, node::Cluster};

impl TestApp {
    /// What a wrong password gets that is guessed here.
    async fn wrong_guess(&self, tenant: &str, email: &str) -> StatusCode {
        let body = json!({"tenant": tenant, "email": email, "password": "Wrong-Horse-1"});
        let request = self.http.post(format!("{}/api/v1/auth/login", self.url)).json(&body);
        request.send().await.unwrap().status()
    }
}

impl Cluster {
    /// What a wrong password gets at a node.
    async fn wrong_guess(&self, node: usize, email: &str) -> u16 {
        self.guess(node, email, "Wrong-Horse-1").await
    }

    /// What the password of seeded users gets.
    async fn sign_in(&self, node: usize, email: &str) -> u16 {
        self.guess(node, email, "Tenantry-Demo-1").await
    }

    async fn guess(&self, node: usize, email: &str, password: &str) -> u16 {
        let body = json!({"tenant": self.tenant, "email": email, "password": password});
        let mut client = self.client(node).await;
        client.ask(Method::POST, "/api/v1/auth/login", &body.to_string()).await.status
    }

    /// Guesses at a node until it is refused; how many guesses were let in.
    async fn guess_until_refused(&self, node: usize, email: &str) -> usize {
        for let_in in 0..50 {
            match self.wrong_guess(node, email).await {
                401 => {}
                429 => return let_in,
                status => panic!("{status}"),
            }
        }
        panic!("nothing is refused")
    }

    /// What nodes have decided by themselves, since Redis did not answer them in time.
    async fn decided_alone(&self) -> usize {
        let mut all = 0.0;
        for node in &self.nodes {
            all += node.metric("tenantry_limit_decisions_total", "process").await;
        }
        all as usize
    }

    /// Guesses at a node until Redis refuses it; how many guesses were let in. What a node refuses by itself is no end.
    async fn guess_until_redis_refuses(&self, node: usize, email: &str) -> usize {
        let mut let_in = 0;
        for _ in 0..100 {
            let alone = self.decided_alone().await;
            match self.wrong_guess(node, email).await {
                401 => let_in += 1,
                429 if self.decided_alone().await == alone => return let_in,
                // For another there was no time to hash it: it was given back.
                429 | 503 => {}
                status => panic!("{status}"),
            }
        }
        panic!("redis refuses nothing")
    }

    /// The only limit of this kind in Redis, by its name.
    async fn limit_in_redis(&self, limit: &str) -> String {
        let mut keys = deadpool_redis::redis::cmd("KEYS");
        let found: Vec<String> =
            keys.arg(format!("l:{limit}:*")).query_async(&mut self.redis().await).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    /// Waits until every node asks Redis again.
    async fn redis_is_back(&self) {
        for node in &self.nodes {
            crate::app::eventually(Duration::from_secs(2), || async {
                node.metric("tenantry_cache_breaker_open", "").await == 0.0
            })
            .await;
        }
    }
}

/// An address that nobody else in these tests has.
fn nobody() -> String {
    format!("{}@example.org", Uuid::now_v7().simple())
}

/// When requests were let in: from before each was sent to after it was answered.
#[derive(Default)]
struct LetIn(Vec<(Instant, Instant)>);

impl LetIn {
    /// In no time was more let in than the quota and what was replenished, one in `each`: the generic cell rate algorithm's
    /// promise, held to the client's own monotonic clock.
    fn hold_to(mut self, quota: usize, each: Duration) {
        self.0.sort_by_key(|(sent, _)| *sent);
        for (first, (begin, _)) in self.0.iter().enumerate() {
            let mut latest = *begin;
            for (nth, (_, answered)) in self.0.iter().enumerate().skip(first) {
                latest = latest.max(*answered);
                let replenished = (latest - *begin).as_nanos() / each.as_nanos();
                let most = quota + usize::try_from(replenished).unwrap() + 1;
                let count = nth - first + 1;
                assert!(count <= most, "{count} in {:?}, where {most} are allowed", latest - *begin);
            }
        }
    }
}

fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap()
}
