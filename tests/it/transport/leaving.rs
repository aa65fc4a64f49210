//! How a process lets go of its clients when a deployment stops it.

use std::time::Duration;

use reqwest::Method;

use crate::{
    app::eventually,
    node::{Cluster, Connection},
};

#[tokio::test]
async fn a_process_that_is_told_to_stop_is_unready_first_and_answers_until_it_goes() {
    let mut cluster = Cluster::start(1, 1, &[("SHUTDOWN_DELAY", "1h")]).await;
    let address = cluster.nodes[0].address;
    let ask = |path: &'static str| reqwest::get(format!("http://{address}{path}"));
    assert_eq!(ask("/health/ready").await.unwrap().status(), 200);
    let mut kept = cluster.client(0).await;
    assert_eq!(kept.get("/api/v1/users/me").await.status, 200);

    cluster.nodes[0].signal("TERM");

    let unready = || async { ask("/health/ready").await.unwrap().status() == 503 };
    eventually(Duration::from_secs(1), unready).await;
    let body: serde_json::Value = ask("/health/ready").await.unwrap().json().await.unwrap();
    assert_eq!(body["status"], "stopping");
    assert_eq!(ask("/health").await.unwrap().status(), 200, "it lives: nobody shall kill it");
    let answer = reqwest::Client::new()
        .get(format!("http://{address}/api/v1/users/me"))
        .bearer_auth(&cluster.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["connection"], "close");
    assert_eq!(kept.get("/api/v1/users/me").await.status, 200, "on a connection from before");
    assert!(kept.ended().await, "and that was its last request");

    // Somebody at a terminal need not wait.
    cluster.nodes[0].signal("INT");
    assert_eq!(cluster.nodes[0].end().await.code(), Some(0));
}

/// What the system has let in before the process stopped listening has been sent requests on.
#[tokio::test]
async fn whoever_waits_to_be_let_in_when_a_process_goes_is_answered() {
    let mut cluster = Cluster::start(1, 1, &[("SHUTDOWN_DELAY", "0s")]).await;
    // It listens before it answers; one that is stopped before that has been sent nobody.
    assert_eq!(cluster.client(0).await.get("/health/ready").await.status, 200);
    let node = &cluster.nodes[0];
    node.signal("STOP");
    let mut waiting = vec![];
    for _ in 0..20 {
        let mut client = Connection::open(node.address, &cluster.token).await;
        client.send(Method::GET, "/api/v1/users/me", "").await;
        waiting.push(client);
    }
    node.signal("TERM");
    node.signal("CONT");

    for client in &mut waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    let end = tokio::time::timeout(Duration::from_secs(30), cluster.nodes[0].end()).await;
    assert_eq!(end.unwrap().code(), Some(0));
}
