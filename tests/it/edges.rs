//! What schemathesis has found at the edges of the API (tests/schemathesis/), each once and for good.

use reqwest::{Method, StatusCode, header};
use serde_json::json;

use crate::app::{PASSWORD, TestApp, answer, decoded, wrong_fields};

#[tokio::test]
async fn a_path_says_which_methods_it_knows() {
    let app = TestApp::spawn().await;
    let paths = [
        ("/api/v1/users", "GET, HEAD, POST"),
        ("/api/v1/users/me", "GET, HEAD"),
        ("/api/v1/auth/login", "POST"),
        ("/health", "GET, HEAD"),
        ("/verify-email", "GET, HEAD, POST"),
        ("/docs", "GET, HEAD"),
    ];
    for (path, methods) in paths {
        for method in [Method::TRACE, Method::PUT, Method::OPTIONS] {
            let answer = app.request(method, path).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
            assert_eq!(answer.headers()[header::ALLOW], methods, "{path}");
        }
    }
}

#[tokio::test]
async fn an_export_of_nobody_is_empty_in_every_coding() {
    let app = TestApp::spawn().await;
    for coding in ["identity", "gzip", "br", "zstd"] {
        let request = app.request(Method::GET, "/api/v1/users/export?search=nobody-at-all");
        let answer = request.header(header::ACCEPT_ENCODING, coding).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let coded =
            answer.headers().get(header::CONTENT_ENCODING).map(|coding| coding.to_str().unwrap().to_owned());
        let body = answer.bytes().await.unwrap_or_else(|error| panic!("{coding}: {error}"));
        let body = decoded(&coded.unwrap_or_default(), &body).await.unwrap();
        assert!(body.is_empty(), "{coding}: {body:?}");
    }
}

#[tokio::test]
async fn a_header_that_can_be_no_tenant_is_refused_whatever_the_body_says() {
    let app = TestApp::spawn().await;
    let body = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});
    for header in [String::new(), "x".repeat(101)] {
        let login = app.http.post(format!("{}/api/v1/auth/login", app.url)).header("X-Tenant-ID", header);
        let (status, said) = answer(login.json(&body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(wrong_fields(&said), [("x-tenant-id".into(), "wrong_type".into())]);
    }
}

#[tokio::test]
async fn a_time_of_another_millennium_is_out_of_range_and_not_of_a_wrong_form() {
    let app = TestApp::spawn().await;
    let key = json!({"name": "old", "scopes": ["users:read"], "expires_at": "1484-10-17T10:28:11Z"});
    let (status, said) = app.post("/api/v1/api-keys", &key).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong_fields(&said), [("/expires_at".into(), "out_of_range".into())]);
}
