//! Limits of API keys.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use crate::{app::TestApp, node::Cluster};

impl TestApp {
    /// A key that may ask so often in a minute.
    async fn key_of(&self, requests_per_minute: u32) -> String {
        let body = json!({
            "name": format!("Key {}", uuid::Uuid::now_v7()), "scopes": ["users:read"],
            "requests_per_minute": requests_per_minute,
        });
        let (status, made) = self.post("/api/v1/api-keys", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made["data"]["key"].as_str().unwrap().to_owned()
    }

    async fn list_with(&self, key: &str) -> Response {
        self.http.get(format!("{}/api/v1/users", self.url)).bearer_auth(key).send().await.unwrap()
    }
}

fn said(response: &Response, name: &str) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn those_who_bring_a_key_at_the_same_time_for_the_first_time_have_one_limit() {
    let app = TestApp::spawn().await;
    let key = app.key_of(3).await;
    let node = app.another_node().await;
    let begun = Instant::now();
    let answers = join_all((0..40).map(|_| node.list_with(&key))).await;
    let let_in = answers.iter().filter(|answer| answer.status() == StatusCode::OK).count();
    // One more each twenty seconds, however slow this machine is.
    let most = 3 + begun.elapsed().as_secs() as usize / 20;
    assert!((3..=most).contains(&let_in), "{let_in}");
    assert!(answers.iter().all(|answer| [200, 429].contains(&answer.status().as_u16())));
}

#[tokio::test]
async fn a_key_that_is_looked_up_again_has_not_all_of_its_requests_again() {
    let app = TestApp::spawn().await;
    let key = app.key_of(2).await;
    // For so long a process remembers a key, too.
    let node = app.node_with(&["--access-token-ttl=1s"]).await;
    let first = node.list_with(&key).await;
    assert!(said(&first, "ratelimit-policy").starts_with("\"ip\""), "looked up");
    assert_eq!(node.list_with(&key).await.status(), StatusCode::OK);
    let refused = node.list_with(&key).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(said(&refused, "ratelimit-policy").starts_with("\"api_key\";q=2;w=60"), "remembered");
    // Not for luck: then it is forgotten.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = node.list_with(&key).await;
    assert!(said(&refused, "ratelimit-policy").starts_with("\"ip\""), "looked up again");
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn what_the_limit_of_a_key_refuses_costs_no_other_limit_anything() {
    let settings = ["--rate-limit-caller=200/1h", "--rate-limit-tenant-basic=300/1h"];
    let app = TestApp::spawn_with(&settings).await;
    let key = app.key_of(60).await;
    let (mut let_in, mut refused) = (0, 0);
    while refused < 20 {
        let answer = app.list_with(&key).await;
        match answer.status() {
            StatusCode::OK => let_in += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                refused += 1;
                let policy = said(&answer, "ratelimit-policy");
                assert!(!policy.contains("caller") && !policy.contains("tenant"), "{policy}");
            }
            status => panic!("{status}"),
        }
        assert!(let_in < 150, "nothing is refused");
    }
    // Not for luck: one is let in each second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let state = said(&app.list_with(&key).await, "ratelimit");
    // 18 s and 12 s long is each of theirs; the administrator's own request to make the key was the tenant's, too.
    let left = |limit: &str| -> usize {
        let (_, rest) = state.split_once(&format!("\"{limit}\";r=")).unwrap();
        rest.split(';').next().unwrap().parse().unwrap()
    };
    assert_eq!(left("caller"), 200 - let_in - 1, "{state}");
    assert!(left("tenant") >= 300 - let_in - 1 - 1 - 3, "{state}");
}

#[tokio::test]
async fn a_refusal_is_counted_once_by_the_limit_that_is_told() {
    let settings = [("RATE_LIMIT_CALLER", "2/1h"), ("RATE_LIMIT_TENANT_ENTERPRISE", "2/2h")];
    let cluster = Cluster::start(1, 1, &settings).await;
    let mut client = cluster.client(0).await;
    let mut refused = 0;
    for _ in 0..6 {
        let answer = client.look_up(cluster.users[0]).await;
        refused += u32::from(answer.status == 429);
    }
    assert_eq!(refused, 4);
    assert_eq!(cluster.nodes[0].metric("tenantry_rate_limited_total", "").await, 4.0);
}

/// Each statement is a round trip, and a transaction is two more.
#[tokio::test]
async fn a_key_that_a_process_does_not_know_costs_one_statement() {
    let mut cluster = Cluster::start(1, 1, &[("CACHE_LOCAL_TTL", "60s")]).await;
    let mut client = cluster.client(0).await;
    let body = json!({"name": "CI", "scopes": ["users:read"]}).to_string();
    let made = client.ask(Method::POST, "/api/v1/api-keys", &body).await.json();
    cluster.add_node().await;
    // What is looked up is in the process: what is counted is done for keys.
    let mut admin = cluster.client(1).await;
    assert_eq!(admin.look_up(cluster.users[0]).await.status, 200);
    assert!(admin.look_up(cluster.users[0]).await.is_hit());
    // The processes read the feed all the while, by one statement each.
    let counted = async || {
        let sent = cluster.statements().await;
        let count = |is: fn(&str) -> bool| -> i64 {
            sent.iter().filter(|(sql, _)| is(&sql.to_lowercase())).map(|(_, calls)| calls).sum()
        };
        let begun =
            |sql: &str| ["begin", "start transaction", "commit"].iter().any(|word| sql.starts_with(word));
        [
            count(|sql| sql.contains("tenantry.api_key_by_id(")),
            count(begun),
            count(|sql| sql.starts_with("select plan")),
        ]
    };
    let before = counted().await;
    client =
        crate::node::Connection::open(cluster.nodes[1].address, made["data"]["key"].as_str().unwrap()).await;
    assert!(client.look_up(cluster.users[0]).await.is_hit());
    let after = counted().await;
    assert_eq!([after[0] - before[0], after[1] - before[1], after[2] - before[2]], [1, 0, 0]);
}
