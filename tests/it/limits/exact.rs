//! Attempts that name somebody, on several nodes.

use reqwest::StatusCode;
use serde_json::json;

use super::nobody;
use crate::app::TestApp;

#[tokio::test]
async fn nodes_together_let_in_as_many_guesses_as_one_would() {
    let app = TestApp::spawn_with(&["--rate-limit-login=6/1h"]).await;
    let node = app.another_node().await;
    let email = nobody();
    let guesses = (0..40).map(|n| {
        let at = if n % 2 == 0 { &app } else { &node };
        at.wrong_guess(&app.slug, &email)
    });
    let answers = futures_util::future::join_all(guesses).await;
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    let mut wrong = count(StatusCode::UNAUTHORIZED);
    assert!(count(StatusCode::TOO_MANY_REQUESTS) > 0 && wrong <= 6, "{answers:?}");
    // Those for which there was no time to hash were given back.
    while node.wrong_guess(&app.slug, &email).await == StatusCode::UNAUTHORIZED {
        wrong += 1;
    }
    // Never more; one less where a busy machine has let Redis answer too late, and the node has refused by itself.
    assert!((4..=6).contains(&wrong), "{wrong}");
    for at in [&app, &node] {
        assert_eq!(at.wrong_guess(&app.slug, &email).await, StatusCode::TOO_MANY_REQUESTS);
    }
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
