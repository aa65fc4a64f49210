//! `Server-Timing`: how long an answer took, and of what, to those who may know.

use reqwest::{Method, RequestBuilder};
use serde_json::json;

use crate::app::{PASSWORD, TestApp};

/// The metrics of an answer by name: what is behind it.
async fn timing(request: RequestBuilder) -> Vec<(String, String)> {
    let response = request.send().await.unwrap();
    let header = response.headers()["server-timing"].to_str().unwrap();
    let metrics = header.split(", ").map(|metric| metric.split_once(';').unwrap());
    metrics.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect()
}

fn names(timing: &[(String, String)]) -> Vec<&str> {
    timing.iter().map(|(name, _)| name.as_str()).collect()
}

fn milliseconds(rest: &str) -> f64 {
    rest.strip_prefix("dur=").unwrap().parse().unwrap()
}

#[tokio::test]
async fn who_is_signed_in_learns_what_took_how_long() {
    let app = TestApp::spawn().await;
    let look_up = timing(app.request(Method::GET, "/api/v1/users/me")).await;
    assert_eq!(names(&look_up), ["total", "cache"], "{look_up:?}");
    let again = timing(app.request(Method::GET, "/api/v1/users/me")).await;
    assert_eq!(again[1].1, "desc=local");

    let list = timing(app.request(Method::GET, "/api/v1/users?limit=7")).await;
    assert_eq!(names(&list), ["total", "db"], "whoever reads it for all who ask: {list:?}");

    let body = json!({"email": "grace@example.org", "name": "Grace", "password": PASSWORD});
    let made = timing(app.request(Method::POST, "/api/v1/users").json(&body)).await;
    assert_eq!(names(&made), ["total", "db"], "{made:?}");
    let (total, database) = (milliseconds(&made[0].1), milliseconds(&made[1].1));
    assert!(database > 0.0 && database <= total, "{made:?}");
}

#[tokio::test]
async fn what_is_public_and_what_is_refused_say_the_total_alone() {
    let app = TestApp::spawn().await;
    let login = |email: &str, password: &str| {
        let body = json!({"tenant": app.slug, "email": email, "password": password});
        // Whoever is signed in somewhere learns no more of others.
        app.request(Method::POST, "/api/v1/auth/login").json(&body)
    };
    let forgot = |email: &str| {
        let body = json!({"tenant": app.slug, "email": email});
        app.request(Method::POST, "/api/v1/auth/forgot-password").json(&body)
    };
    for request in [
        login("admin@example.org", PASSWORD),
        login("admin@example.org", "Wrong-Horse-1"),
        login("nobody@example.org", PASSWORD),
        forgot("admin@example.org"),
        forgot("nobody@example.org"),
        app.request(Method::GET, "/api/v1/users/01a204cc-832b-7789-8a38-14b8c9a84296"),
        app.request(Method::GET, "/nowhere"),
        app.http.get(format!("{}/api/v1/users/me", app.url)),
        app.http.get(format!("{}/health", app.url)),
    ] {
        let timing = timing(request).await;
        assert_eq!(names(&timing), ["total"]);
        assert!(milliseconds(&timing[0].1) > 0.0);
    }
}

#[tokio::test]
async fn scripts_of_listed_origins_alone_may_see_it() {
    let app = TestApp::spawn_with(&["--allowed-origins=https://app.example.org"]).await;
    for (origin, expected) in
        [("https://app.example.org", Some("https://app.example.org")), ("https://evil.example", None)]
    {
        let response = app.request(Method::GET, "/health").header("Origin", origin).send().await.unwrap();
        let allowed = response.headers().get("timing-allow-origin").map(|origin| origin.to_str().unwrap());
        assert_eq!(allowed, expected);
    }
}
