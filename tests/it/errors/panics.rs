//! What panics is a fault of ours like any other: it is answered, told to nobody but the log, and nobody else is harmed.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    app::eventually,
    node::{Answer, Cluster},
};

const KINDS: [&str; 2] = ["application/json", "application/problem+json"];

/// It is the one answer of status 500 in the form that was asked for, and says nothing of what has happened.
fn is_told_as_a_fault(answer: &Answer, kind: &str) {
    let text = String::from_utf8(answer.body.clone()).unwrap();
    assert_eq!((answer.status, answer.headers["content-type"].as_str()), (500, kind), "{text}");
    let body = answer.json();
    let (error, status) = match kind {
        "application/json" => (&body["error"], &body["error"]["status_code"]),
        _ => (&body, &body["status"]),
    };
    assert_eq!((status, &error["code"]), (&json!(500), &json!("internal")));
    assert_eq!(error["request_id"].as_str().unwrap(), answer.headers["x-request-id"]);
    assert_eq!(error["errors"], json!([]));
    let all = format!("{text} {:?}", answer.headers);
    for detail in ["planted", "panic", "after-", ".rs", "tokio"] {
        assert!(!all.contains(detail), "{all}");
    }
    assert_eq!(
        (answer.headers["cache-control"].as_str(), answer.headers["x-frame-options"].as_str()),
        ("no-store", "DENY")
    );
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_its_connection_goes_on() {
    // Nothing is held in the process, so each look-up gets to where it joins a flight.
    let cluster = Cluster::planted(1, 2, &[("CACHE_LOCAL_TTL", "1ms"), ("RUST_LOG", "info")]).await;
    let mut client = cluster.client(0).await;
    for (user, kind) in cluster.users.iter().zip(KINDS) {
        assert_eq!(client.look_up(*user).await.status, 200);
        cluster.arm("after-join", "panic");
        client.accept = kind;
        let answer = client.look_up(*user).await;
        is_told_as_a_fault(&answer, kind);
        // On the same connection, of the same user: nobody waits for the one who is gone.
        let next = client.look_up(*user).await;
        assert_eq!((next.status, next.json()["data"]["id"].as_str()), (200, Some(user.to_string().as_str())));

        let id = &answer.headers["x-request-id"];
        // Lines are written a few milliseconds later.
        eventually(Duration::from_secs(1), || async {
            let log = cluster.log(0);
            log.lines().any(|line| line.contains("a handler panicked") && line.contains(id))
        })
        .await;
    }
    let faults = cluster.nodes[0].metric("tenantry_http_requests_total", "status=\"500\"").await;
    assert_eq!(faults, 2.0);
}

#[tokio::test]
async fn a_change_that_panics_has_changed_nothing_and_the_next_one_works() {
    let cluster = Cluster::planted(1, 1, &[]).await;
    let (user, mut client) = (cluster.users[0], cluster.client(0).await);
    let path = format!("/api/v1/users/{user}");
    let before: Value = client.look_up(user).await.json();
    for kind in KINDS {
        client.accept = kind;
        // With the row changed and locked, and before COMMIT.
        for point in ["after-update", "after-floor"] {
            cluster.arm(point, "panic");
            let answer = client.ask(Method::PATCH, &path, r#"{"name": "Nobody"}"#).await;
            is_told_as_a_fault(&answer, kind);
            assert_eq!(client.look_up(user).await.json()["data"], before["data"], "{point}");
        }
    }
    let answer = client.ask(Method::PATCH, &path, r#"{"name": "Some Body"}"#).await;
    assert_eq!((answer.status, &answer.json()["data"]["version"]), (200, &json!(2)));
    assert_eq!(client.look_up(user).await.json()["data"]["name"], "Some Body");
}
