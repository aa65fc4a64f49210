//! What clients are told of limits.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::Value;

use super::code;
use crate::app::TestApp;

fn told(response: &Response) -> (String, String) {
    let text = |name| response.headers()[name].to_str().unwrap().to_owned();
    (text("ratelimit-policy"), text("ratelimit"))
}

#[tokio::test]
async fn every_limit_that_a_request_was_counted_against_is_told() {
    let app = TestApp::spawn_with(&["--rate-limit-caller=50/1m", "--rate-limit-tenant-basic=90/1h"]).await;
    let response = app.request(Method::GET, "/api/v1/users/me").send().await.unwrap();
    let (policy, state) = told(&response);
    assert_eq!(policy, "\"caller\";q=50;w=60, \"tenant\";q=90;w=3600");
    assert_eq!(state, "\"caller\";r=49;t=2, \"tenant\";r=89;t=40");

    let (key, _) = app.api_key(&["users:read"]).await;
    let request = app.http.get(format!("{}/api/v1/users", app.url)).bearer_auth(&key);
    let (policy, state) = told(&request.send().await.unwrap());
    // A key that the process does not know yet is counted like a request without one.
    assert!(
        policy.starts_with("\"ip\";q=1000;w=900, \"api_key\";q=6000;w=60, \"caller\";q=50;w=60, \"tenant\""),
        "{policy}"
    );
    assert!(state.contains("\"caller\";r=49;") && state.contains("\"tenant\";r=87;"), "{state}");
}

#[tokio::test]
async fn a_caller_is_let_in_again_when_they_were_told_to_come() {
    let app = TestApp::spawn_with(&["--rate-limit-caller=4/4s"]).await;
    let ask = || app.request(Method::GET, "/api/v1/users/me").send();
    let mut refused = ask().await.unwrap();
    while refused.status() == StatusCode::OK {
        refused = ask().await.unwrap();
    }
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let (_, state) = told(&refused);
    assert!(state.starts_with("\"caller\";r=0;t=1"), "{state}");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert_eq!(wait, 1);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(code(&body), "rate_limited");
    // Others of the tenant are not held up; and it is true what was told.
    let node = app.another_node().await;
    assert_eq!(node.get("/api/v1/users/me").await.0, StatusCode::OK, "each process counts callers by itself");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(ask().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_tenant_is_let_in_again_when_it_was_told_to_come() {
    let app = TestApp::spawn_with(&["--rate-limit-tenant-basic=4/16s"]).await;
    let node = app.another_node().await;
    let ask = |at: &TestApp| at.request(Method::GET, "/api/v1/users/me").send();
    for at in [&app, &node] {
        while ask(at).await.unwrap().status() == StatusCode::OK {}
    }
    // All nodes together: who is refused at one is refused at the other.
    let [refused, elsewhere] = [ask(&app).await.unwrap(), ask(&node).await.unwrap()];
    for refused in [&refused, &elsewhere] {
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    }
    let wait: u64 = elsewhere.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    // Twice as long where a busy machine has let Redis answer too late, and the node has refused by its share.
    assert!((1..=8).contains(&wait), "{wait}");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(ask(&node).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_longest_of_the_waits_is_told() {
    let settings = ["--rate-limit-caller=2/2s", "--rate-limit-tenant-basic=2/2h"];
    let app = TestApp::spawn_with(&settings).await;
    let ask = || app.request(Method::GET, "/api/v1/users/me").send();
    let mut waits = vec![];
    for _ in 0..5 {
        let response = ask().await.unwrap();
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            waits.push(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap());
        }
    }
    // The tenant is refused for an hour, which the caller's own second does not hide once it is known.
    assert!(waits.last().is_some_and(|wait| *wait > 3000), "{waits:?}");
}
