//! Problem details (RFC 9457), whoever of us refuses: a route, a limit, a deadline, or what is away.

use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::app::TestApp;

const KIND: &str = "application/problem+json";

/// What stands in the document at `type`: `about:blank` says that `title` is what HTTP calls the status, and `detail` says more.
fn is_a_problem(body: &Value, status: u16, title: &str, code: &str) {
    let members: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    let mut all = ["type", "title", "status", "detail", "code", "request_id", "errors"];
    all.sort_unstable();
    assert_eq!(members, all, "{body}");
    let said = (&body["type"], &body["title"], &body["status"], &body["code"]);
    assert_eq!(said, (&json!("about:blank"), &json!(title), &json!(status), &json!(code)));
    assert!(body["detail"].as_str().is_some_and(|detail| detail.len() > title.len()), "{body}");
}

/// Asks in both forms; they differ in nothing but that.
async fn asked(request: RequestBuilder, status: u16, title: &str, code: &str) -> HeaderMap {
    let ask = |kind: &'static str| request.try_clone().unwrap().header("Accept", kind).send();
    let envelope = ask("application/json").await.unwrap();
    let (expected, retry) = (envelope.status(), envelope.headers().get("retry-after").cloned());
    let envelope: Value = envelope.json().await.unwrap();
    let response = ask(KIND).await.unwrap();
    assert_eq!((response.status(), response.status().as_u16()), (expected, status), "{envelope}");
    assert_eq!(response.headers()["content-type"], KIND, "and no parameter");
    assert_eq!(response.headers().get("retry-after").is_some(), retry.is_some(), "{code}");
    let headers = response.headers().clone();
    let body: Value = response.json().await.unwrap();
    is_a_problem(&body, status, title, code);
    assert_eq!((&body["detail"], &body["code"]), (&envelope["error"]["message"], &envelope["error"]["code"]));
    assert_eq!(body["request_id"], headers["x-request-id"].to_str().unwrap());
    headers
}

/// The whole seconds that a refusal says to wait.
fn retry_after(headers: &HeaderMap) -> u64 {
    headers["retry-after"].to_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_no_handler_has_seen_is_a_problem_like_any_other() {
    let app = TestApp::spawn().await;
    asked(app.request(Method::GET, "/api/v1/nowhere"), 404, "Not Found", "not_found").await;
    asked(app.request(Method::GET, "/nowhere"), 404, "Not Found", "not_found").await;
    let put = app.request(Method::PUT, "/api/v1/users");
    let refused = asked(put, 405, "Method Not Allowed", "method_not_allowed").await;
    assert_eq!(refused["allow"], "GET, HEAD, POST");
    let large = app.request(Method::POST, "/api/v1/users").json(&json!({"email": "a".repeat(100_000)}));
    asked(large, 413, "Payload Too Large", "payload_too_large").await;
}

#[tokio::test]
async fn what_a_limit_refuses_is_a_problem_that_says_how_long_to_wait() {
    let app = TestApp::spawn().await;
    let (title, code) = ("Too Many Requests", "rate_limited");
    let me = |node: &TestApp| node.request(Method::GET, "/api/v1/users/me");
    let settings = ["--rate-limit-ip=1/1h", "--rate-limit-caller=1/30m", "--rate-limit-tenant-basic=off"];
    let node = app.node_with(&settings).await;
    let anonymous = node.http.get(format!("{}/api/v1/users/me", node.url));
    assert_eq!(anonymous.try_clone().unwrap().send().await.unwrap().status(), 401);
    let refused = asked(anonymous, 429, title, code).await;
    assert!((3500..=3600).contains(&retry_after(&refused)));
    assert_eq!(refused["ratelimit-policy"], "\"ip\";q=1;w=3600");

    assert_eq!(me(&node).send().await.unwrap().status(), 200);
    let refused = asked(me(&node), 429, title, code).await;
    assert!((1700..=1800).contains(&retry_after(&refused)));

    let node = app.node_with(&["--rate-limit-tenant-basic=1/2h", "--rate-limit-login=1/1h"]).await;
    while me(&node).send().await.unwrap().status() == 200 {}
    assert!(retry_after(&asked(me(&node), 429, title, code).await) > 3600);
    // Not told in headers of limits, but how long to wait all the same.
    let guess = json!({"tenant": app.slug, "email": "nobody@example.org", "password": "Wrong-Horse-1"});
    let guess = node.http.post(format!("{}/api/v1/auth/login", node.url)).json(&guess);
    assert_eq!(guess.try_clone().unwrap().send().await.unwrap().status(), 401);
    assert!((3500..=3600).contains(&retry_after(&asked(guess, 429, title, code).await)));
}

#[tokio::test]
async fn what_is_away_is_a_problem_that_says_when_to_try_again() {
    let app = TestApp::spawn().await;
    // So far behind is every process.
    let node = app.node_with(&["--revocation-max-lag=1ns"]).await;
    let refused =
        asked(node.request(Method::GET, "/api/v1/users/me"), 503, "Service Unavailable", "unavailable").await;
    assert_eq!(retry_after(&refused), 1);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_a_problem() {
    let app = TestApp::spawn().await;
    let mut socket = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nAccept: {KIND}\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{{\"email\":"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut heard = String::new();
    socket.read_to_string(&mut heard).await.unwrap();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 408"), "{heard}");
    assert!(head.lines().any(|line| line == format!("content-type: {KIND}")), "{heard}");
    is_a_problem(&serde_json::from_str(body).unwrap(), 408, "Request Timeout", "request_timeout");
}
