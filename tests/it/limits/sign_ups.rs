//! Sign-ups: what counts is what has made something.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, eventually};

fn sign_up(slug: &str) -> Value {
    json!({
        "tenant": {"name": "Acme", "slug": slug},
        "email": "admin@example.org", "password": PASSWORD, "name": "Ada Admin",
    })
}

fn new_slug() -> String {
    format!("t-{}", Uuid::now_v7().simple())
}

#[tokio::test]
async fn what_makes_nothing_is_no_sign_up() {
    let app = TestApp::spawn().await;
    // More than a busy machine holds back for a moment, and no shares.
    let settings = ["--rate-limit-register=6/1h", "--trusted-proxies=127.0.0.1", "--api-replicas=1"];
    let node = app.node_with(&settings).await;
    // A network of this test's own.
    let address = std::net::Ipv6Addr::from_bits(Uuid::now_v7().as_u128()).to_string();
    let send = async |path: &str, body: &Value, key: Option<&str>| {
        let request = node.http.post(format!("{}/api/v1{path}", node.url)).json(body);
        let request = request.header("x-forwarded-for", &address);
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        request.send().await.unwrap().status()
    };
    let paths = ["/auth/register", "/tenants"];
    let (first, key) = (sign_up(&new_slug()), Uuid::new_v4().to_string());
    assert_eq!(send(paths[0], &first, Some(&key)).await, StatusCode::CREATED);
    for path in paths {
        for _ in 0..4 {
            // Said again, taken already, another request of the same key, nonsense.
            assert_eq!(send(paths[0], &first, Some(&key)).await, StatusCode::CREATED);
            assert_eq!(send(path, &sign_up(&app.slug), None).await, StatusCode::CONFLICT);
            assert_eq!(
                send(paths[0], &sign_up(&new_slug()), Some(&key)).await,
                StatusCode::UNPROCESSABLE_ENTITY
            );
            assert_eq!(send(path, &json!({}), None).await, StatusCode::UNPROCESSABLE_ENTITY);
        }
    }
    // The first was the only one. On a busy machine the last of them may be given back after its answer.
    for path in [paths[0], paths[1], paths[0], paths[1], paths[0]] {
        let makes = || async { send(path, &sign_up(&new_slug()), None).await == StatusCode::CREATED };
        eventually(Duration::from_secs(1), makes).await;
    }
    for body in [sign_up(&new_slug()), sign_up(&app.slug)] {
        assert_eq!(
            send(paths[0], &body, None).await,
            StatusCode::TOO_MANY_REQUESTS,
            "whatever it would come to"
        );
    }
}

#[tokio::test]
async fn sign_ups_of_a_network_are_limited_on_all_nodes_together() {
    let app = TestApp::spawn().await;
    let settings = ["--rate-limit-register=3/1h", "--trusted-proxies=127.0.0.1"];
    let nodes = [app.node_with(&settings).await, app.node_with(&settings).await];
    let network = Uuid::now_v7().as_u128() << 64;
    let mut made = vec![];
    for n in 0..6 {
        let node = &nodes[n % 2];
        let address = std::net::Ipv6Addr::from_bits(network | n as u128).to_string();
        let path = ["/api/v1/auth/register", "/api/v1/tenants"][n / 2 % 2];
        let body = sign_up(&new_slug());
        let request = node.http.post(format!("{}{path}", node.url)).header("x-forwarded-for", address);
        made.push(request.json(&body).send().await.unwrap().status());
    }
    let (created, refused) = (StatusCode::CREATED, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(made, [created, created, created, refused, refused, refused]);
}
