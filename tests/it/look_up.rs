//! Look-ups have a way of their own past the general routing. To whoever asks the two are one.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use uuid::Uuid;

use crate::app::TestApp;

/// Different in each answer, or counted down.
const DIFFERENT: &[&str] = &["x-request-id", "traceresponse", "x-process-time", "ratelimit", "date"];

#[derive(Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: BTreeMap<String, Vec<String>>,
    body: Value,
}

async fn ask(
    app: &TestApp,
    method: &Method,
    path: &str,
    token: Option<&str>,
    headers: &[(&str, &str)],
) -> Answer {
    // As it is written: an URL would be tidied up.
    let mut request = app.http.request(method.clone(), format!("{}{path}", app.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in response.headers() {
        let value = value.to_str().unwrap();
        let value = match name.as_str() {
            // What is told, not how long it took; whether the database was asked depends on what is cached.
            "server-timing" => {
                let members = value.split(", ").map(|member| member.split(";dur=").next().unwrap());
                members.filter(|member| *member != "db").collect::<Vec<_>>().join(", ")
            }
            name if DIFFERENT.contains(&name) => String::new(),
            _ => value.to_owned(),
        };
        told.entry(name.to_string()).or_default().push(value);
    }
    let mut body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
    for of in ["/timestamp", "/error/timestamp", "/error/request_id", "/request_id", "/instance"] {
        if let Some(value) = body.pointer_mut(of) {
            *value = Value::Null;
        }
    }
    Answer { status, headers: told, body }
}

#[tokio::test]
async fn a_look_up_is_answered_alike_on_its_own_way_and_on_that_of_all_operations() {
    let app = TestApp::spawn_with(&["--allowed-origins=https://app.example.org"]).await;
    let root = app.super_admin().await;
    let other = TestApp::spawn().await;
    let (reads, _) = app.api_key(&["users:read"]).await;
    let (writes, _) = app.api_key(&["users:write"]).await;
    let ann = app.create_user("ann@example.org").await["id"].as_str().unwrap().to_owned();
    let gone = app.create_user("gone@example.org").await["id"].as_str().unwrap().to_owned();
    app.delete(&format!("/api/v1/users/{gone}")).await;
    let (me, foreign) = (app.admin["id"].as_str().unwrap(), other.admin["id"].as_str().unwrap());
    let nobody = Uuid::now_v7().to_string();
    let shouted = ann.to_uppercase();

    let admin = Some(app.token.as_str());
    type Case<'a> = (&'a str, Option<&'a str>, Vec<(&'a str, &'a str)>, u16);
    let cases: Vec<Case<'_>> = vec![
        (me, admin, vec![], 200),
        (&shouted, admin, vec![], 200),
        (&nobody, admin, vec![], 404),
        (&gone, admin, vec![], 404),
        (foreign, admin, vec![], 404),
        (&ann, admin, vec![("If-None-Match", "\"1\"")], 304),
        (&ann, admin, vec![("If-None-Match", "W/\"1-gzip\", \"7\"")], 304),
        (&ann, admin, vec![("If-None-Match", "*")], 304),
        (&ann, admin, vec![("If-None-Match", "\"2\"")], 200),
        (&ann, admin, vec![("If-None-Match", "\"2\""), ("If-None-Match", "\"1\"")], 200),
        (&ann, admin, vec![("If-None-Match", "\u{e9}")], 200),
        (&ann, admin, vec![("X-Min-Version", "1")], 200),
        (&ann, admin, vec![("X-Min-Version", "2")], 412),
        (&ann, admin, vec![("X-Min-Version", "two")], 400),
        (&ann, admin, vec![("X-Min-Version", "")], 400),
        (&ann, admin, vec![("X-Min-Version", "1"), ("X-Min-Version", "two")], 200),
        (&ann, None, vec![], 401),
        (&ann, Some("nonsense"), vec![], 401),
        (&ann, Some(&reads), vec![], 200),
        (&ann, Some(&writes), vec![], 403),
        (&ann, admin, vec![("X-Tenant-ID", &app.slug)], 200),
        (&ann, admin, vec![("X-Tenant-ID", &other.slug)], 403),
        (&ann, Some(&reads), vec![("X-Tenant-ID", &other.slug)], 403),
        (&ann, Some(&root), vec![], 404),
        (&ann, Some(&root), vec![("X-Tenant-ID", &app.slug)], 200),
        (foreign, Some(&root), vec![("X-Tenant-ID", &other.slug)], 200),
        (&ann, Some(&root), vec![("X-Tenant-ID", "nowhere-at-all")], 404),
        (&ann, admin, vec![("Origin", "https://app.example.org")], 200),
        (&ann, admin, vec![("Origin", "https://evil.example.org")], 200),
        (&nobody, admin, vec![("Accept", "application/problem+json")], 404),
        (&ann, None, vec![("Accept", "application/problem+json")], 401),
        (&ann, admin, vec![("Accept-Encoding", "gzip")], 200),
        (&ann, admin, vec![("X-Request-Id", "mine")], 200),
        (&ann, admin, vec![("Cookie", "a=b"), ("Range", "bytes=0-1")], 200),
    ];
    for (id, token, headers, status) in cases {
        let path = format!("/api/v1/users/{id}");
        // A question mark leads the general way.
        let general = format!("{path}?");
        // Whoever is asked for first has to be fetched.
        ask(&app, &Method::GET, &path, token, &headers).await;
        let own = ask(&app, &Method::GET, &path, token, &headers).await;
        let all = ask(&app, &Method::GET, &general, token, &headers).await;
        assert_eq!(own, all, "{id} {token:?} {headers:?}");
        assert_eq!(own.status.as_u16(), status, "{id} {token:?} {headers:?}");
    }
}

#[tokio::test]
async fn what_is_nearly_a_look_up_is_none() {
    let app = TestApp::spawn().await;
    let me = app.admin["id"].as_str().unwrap().to_owned();
    let plain = me.replace('-', "");
    let admin = Some(app.token.as_str());
    for (method, path, status) in [
        (Method::GET, format!("/api/v1/users/{me}?x=1"), 200),
        (Method::GET, format!("/api/v1/users/{plain}"), 200),
        (Method::HEAD, format!("/api/v1/users/{me}"), 200),
        (Method::GET, format!("/api/v1/users/{me}/"), 404),
        (Method::GET, format!("/api/v1/users/%{:02x}{}", me.as_bytes()[0], &me[1..]), 200),
        (Method::GET, "/api/v1/users/this-is-thirty-six-characters-long-x".into(), 422),
        (Method::GET, format!("/api/v2/users/{me}"), 404),
        (Method::PUT, format!("/api/v1/users/{me}"), 405),
    ] {
        let answer = ask(&app, &method, &path, admin, &[]).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
    }
}
