//! Content codings: which, of what, and that what comes out is what went in.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, decoded};

async fn ask(app: &TestApp, path: &str, accepted: &str) -> Response {
    app.request(Method::GET, path).header("Accept-Encoding", accepted).send().await.unwrap()
}

fn coding(response: &Response) -> Option<&str> {
    response.headers().get("content-encoding").map(|coding| coding.to_str().unwrap())
}

#[tokio::test]
async fn what_is_long_is_coded_as_the_client_prefers_and_the_same_when_it_is_decoded() {
    let app = TestApp::spawn().await;
    for n in 0..5 {
        app.create_user(&format!("user-{n}@example.org")).await;
    }
    let list = "/api/v1/users?limit=100&sort_by=email";
    let plain = ask(&app, list, "identity").await;
    assert_eq!(coding(&plain), None);
    let vary: Vec<_> =
        plain.headers().get_all("vary").iter().map(|line| line.to_str().unwrap().to_lowercase()).collect();
    assert_eq!(
        vary,
        ["origin", "accept-encoding"],
        "so that no cache gives one client what another one can read"
    );
    let plain: Value = plain.json().await.unwrap();

    let cases = [
        ("gzip", Some("gzip")),
        ("br", Some("br")),
        ("zstd", Some("zstd")),
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip;q=1, br;q=0.5", Some("gzip")),
        ("gzip;q=0", None),
        ("gzip;q=0, br", Some("br")),
        ("deflate", None),
        ("nonsense;q=x, ,", None),
        ("", None),
    ];
    for (accepted, expected) in cases {
        let response = ask(&app, list, accepted).await;
        assert_eq!(coding(&response), expected, "{accepted:?}");
        let bytes = response.bytes().await.unwrap();
        let text = decoded(expected.unwrap_or_default(), &bytes).await.unwrap();
        let answer: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(answer["data"], plain["data"], "{accepted:?}");
    }
}

#[tokio::test]
async fn the_tag_of_a_coded_answer_is_weak_and_names_the_same_version() {
    let app = TestApp::spawn().await;
    // Long enough for one user to be coded.
    let body = json!({"email": "long@example.org", "name": "\u{1f600}".repeat(250), "password": PASSWORD});
    let (status, made) = app.post("/api/v1/users", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let path = format!("/api/v1/users/{}", made["data"]["id"].as_str().unwrap());
    let coded = ask(&app, &path, "gzip").await;
    assert_eq!((coding(&coded), &coded.headers()["etag"]), (Some("gzip"), &"W/\"1\"".parse().unwrap()));
    let plain = ask(&app, &path, "identity").await;
    assert_eq!((coding(&plain), &plain.headers()["etag"]), (None, &"\"1\"".parse().unwrap()));

    let again =
        app.request(Method::GET, &path).header("Accept-Encoding", "gzip").header("If-None-Match", "W/\"1\"");
    let again = again.send().await.unwrap();
    assert_eq!((again.status(), coding(&again)), (StatusCode::NOT_MODIFIED, None));
    assert_eq!(again.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn secrets_and_what_is_short_are_not_coded() {
    let app = TestApp::spawn().await;
    for path in ["/health", "/api/v1/users/me", "/api/v1/nowhere"] {
        assert_eq!(coding(&ask(&app, path, "gzip").await), None, "{path}");
    }
    let body = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});
    let answer =
        app.request(Method::POST, "/api/v1/auth/login").header("Accept-Encoding", "gzip").json(&body);
    let answer = answer.send().await.unwrap();
    assert_eq!((answer.status(), coding(&answer)), (StatusCode::OK, None));
    let text = answer.text().await.unwrap();
    assert!(text.len() > 1_000 && text.contains("refresh_token"), "long enough to be coded: {}", text.len());
}
