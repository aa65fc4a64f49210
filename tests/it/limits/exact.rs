//! Attempts that name somebody, on several nodes.

use reqwest::StatusCode;
use serde_json::json;

use super::nobody;
use crate::{app::TestApp, node::Cluster};

#[tokio::test]
async fn nodes_together_let_in_as_many_guesses_as_one_would() {
    let cluster = Cluster::start(2, 1, &[("RATE_LIMIT_LOGIN", "6/1h"), ("API_REPLICAS", "2")]).await;
    let email = nobody();
    // Nine of ten at one node: without Redis it would let half of them in.
    let guesses = (0..20).map(|n| cluster.wrong_guess(usize::from(n % 10 == 9), &email));
    let answers = futures_util::future::join_all(guesses).await;
    let mut wrong = answers.iter().filter(|status| **status == 401).count();
    // Those for which there was no time to hash were given back.
    wrong += cluster.guess_until_redis_refuses(0, &email).await;
    wrong += cluster.guess_until_redis_refuses(1, &email).await;
    // Where a busy machine has let Redis answer too late a node has decided by itself.
    let alone = cluster.decided_alone().await;
    println!("{wrong} let in, {alone} decisions by nodes themselves; {answers:?}");
    assert!(wrong <= 6 + alone && wrong + alone >= 6, "{wrong}, and {alone} decisions by nodes themselves");
    for node in &cluster.nodes {
        assert!(node.metric("tenantry_limit_decisions_total", "redis").await > 0.0);
    }
}

/// What a node knows of a limit is what Redis said when it asked last, so it may let in what others have used up since: as many
/// more as it has decided on, and not one beside those.
#[tokio::test]
async fn a_guess_that_redis_answers_too_late_is_let_in_beside_the_others_and_is_counted() {
    let cluster = Cluster::start(2, 1, &[("RATE_LIMIT_LOGIN", "6/1h"), ("API_REPLICAS", "2")]).await;
    let email = nobody();
    let mut wrong = cluster.guess_until_redis_refuses(0, &email).await;
    let before = cluster.decided_alone().await;
    assert!(wrong >= 6 && wrong <= 6 + before, "{wrong}, {before} of them alone");
    cluster.signal_redis("STOP");
    // Node 1 has not heard of any.
    assert_eq!(cluster.wrong_guess(1, &email).await, 401);
    cluster.signal_redis("CONT");
    assert_eq!(cluster.decided_alone().await, before + 1);
    cluster.redis_is_back().await;
    // It is told, so that there is none for either of them.
    wrong += 1;
    for node in [1, 0] {
        wrong += cluster.guess_until_redis_refuses(node, &email).await;
    }
    let alone = cluster.decided_alone().await;
    assert!(wrong > 6 && wrong <= 6 + alone, "{wrong}, {alone} of them alone");
}

#[tokio::test]
async fn who_knows_the_password_is_never_out_of_attempts_on_any_node() {
    let app = TestApp::spawn_with(&["--rate-limit-login=9/1h"]).await;
    let node = app.another_node().await;
    for _ in 0..6 {
        app.sign_in("admin@example.org").await;
        node.sign_in("admin@example.org").await;
    }
    for at in [&app, &node, &app, &node, &app, &node] {
        assert_eq!(at.wrong_guess(&app.slug, "admin@example.org").await, StatusCode::UNAUTHORIZED);
    }
    // More than the three that are left.
    for _ in 0..4 {
        node.sign_in("admin@example.org").await;
        app.sign_in("admin@example.org").await;
    }
    for at in [&node, &app, &node] {
        assert_eq!(at.wrong_guess(&app.slug, "admin@example.org").await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(app.wrong_guess(&app.slug, "admin@example.org").await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_tenant_named_by_slug_and_by_id_is_counted_once() {
    let app = TestApp::spawn_with(&["--rate-limit-login=4/1h"]).await;
    let node = app.another_node().await;
    let (email, id) = (nobody(), app.tenant.to_string());
    let names =
        [app.slug.as_str(), &id, &id.to_uppercase(), &app.tenant.simple().to_string()].map(str::to_owned);
    for (n, name) in names.iter().enumerate() {
        let at = if n % 2 == 0 { &app } else { &node };
        assert_eq!(at.wrong_guess(name, &email).await, StatusCode::UNAUTHORIZED, "{name}");
    }
    for name in &names {
        assert_eq!(app.wrong_guess(name, &email).await, StatusCode::TOO_MANY_REQUESTS, "{name}");
    }
    // So are mails, by their kind.
    let mail = async |tenant: &str, path: &str| {
        let body = json!({"tenant": tenant, "email": email});
        app.post(&format!("/api/v1/auth/{path}"), &body).await.0
    };
    for path in ["forgot-password", "resend-verification"] {
        for name in &names {
            assert_eq!(mail(name, path).await, StatusCode::ACCEPTED, "{path} {name}");
        }
        assert_eq!(mail(&app.slug, path).await, StatusCode::TOO_MANY_REQUESTS, "{path}");
        assert_eq!(mail(&id, path).await, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
}

#[tokio::test]
async fn guesses_come_back_evenly_and_when_they_were_said_to() {
    let app = TestApp::spawn_with(&["--rate-limit-login=2/4s"]).await;
    let email = nobody();
    let guess = async || {
        let body = json!({"tenant": app.slug, "email": email, "password": "Wrong-Horse-1"});
        app.http.post(format!("{}/api/v1/auth/login", app.url)).json(&body).send().await.unwrap()
    };
    let mut refused = guess().await;
    while refused.status() == StatusCode::UNAUTHORIZED {
        refused = guess().await;
    }
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // Not for luck: it is what was promised.
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    assert_eq!(guess().await.status(), StatusCode::UNAUTHORIZED);
}
