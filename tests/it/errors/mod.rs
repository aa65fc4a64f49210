//! Errors as clients see them: both forms, nothing of what was sent, and the examples of the document.

mod panics;
mod problems;

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    app::{TestApp, answer},
    document::{self, Operation, document},
};

const NOBODY: &str = "00000000-0000-7000-8000-000000000000";
const CANARY: &str = "canary-7f3a91";

/// The operations below `/api/v1`, as one session can call them.
fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = document::operations(document);
    operations.retain(|operation| operation.path.starts_with("/api/"));
    // These end the session that the others need.
    operations.sort_by_key(|operation| {
        ["changePassword", "logout"].iter().position(|last| *last == operation.id).map_or(0, |at| at + 1)
    });
    operations
}

fn request(app: &TestApp, operation: &Operation, id: &str) -> RequestBuilder {
    let path = operation.path.replace("{id}", id).replace("{project_id}", id);
    app.request(operation.method.parse().unwrap(), &path)
}

#[tokio::test]
async fn every_error_comes_as_the_client_prefers() {
    let app = TestApp::spawn().await;
    let user = format!("/api/v1/users/{}", app.admin["id"].as_str().unwrap());
    let post = |path: &str, body: &Value| app.request(Method::POST, path).json(body);
    let taken = json!({"email": "admin@example.org", "name": "Again"});
    let large = json!({"email": "a".repeat(100_000)});
    let tenant = format!("/api/v1/tenants/{}", app.tenant);
    let anonymous = app.http.get(format!("{}/api/v1/users", app.url));
    let failures: Vec<(u16, &str, RequestBuilder)> = vec![
        (400, "malformed", post("/api/v1/users", &json!(0)).body("{")),
        (401, "unauthenticated", anonymous),
        (403, "forbidden", app.request(Method::GET, "/api/v1/tenants")),
        (404, "not_found", app.request(Method::GET, "/nowhere")),
        (404, "user_not_found", app.request(Method::GET, &format!("/api/v1/users/{NOBODY}"))),
        (405, "method_not_allowed", app.request(Method::PUT, "/api/v1/users")),
        (409, "email_taken", post("/api/v1/users", &taken)),
        (412, "version_mismatch", app.request(Method::DELETE, &user).header("If-Match", "\"99\"")),
        (413, "payload_too_large", post("/api/v1/users", &large)),
        (415, "unsupported_media_type", app.request(Method::POST, "/api/v1/users").body("a=b")),
        (422, "validation_failed", post("/api/v1/users", &json!({"email": 1, "nonsense": true}))),
        (428, "precondition_required", app.request(Method::DELETE, &tenant)),
    ];
    for (status, code, request) in failures {
        for (accept, is_problem) in [
            ("application/problem+json", true),
            ("application/json;q=0.5, application/problem+json", true),
            ("text/html, */*;q=0.8", false),
            ("application/json, application/problem+json;q=0.5", false),
            ("application/problem+json;q=0", false),
        ] {
            let response = request.try_clone().unwrap().header("Accept", accept).send().await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{code}");
            let (kind, id) =
                (response.headers()["content-type"].clone(), response.headers()["x-request-id"].clone());
            let body: Value = response.json().await.unwrap();
            let error = if is_problem { &body } else { &body["error"] };
            let (expected, number) = match is_problem {
                true => ("application/problem+json", &body["status"]),
                false => ("application/json", &error["status_code"]),
            };
            assert_eq!((kind.to_str().unwrap(), number), (expected, &json!(status)), "{code} {accept}");
            assert_eq!((&error["code"], &error["request_id"]), (&json!(code), &json!(id.to_str().unwrap())));
            assert_eq!(body["title"].is_string(), is_problem);
            let fields = error["errors"].as_array().unwrap();
            assert_eq!(fields.iter().any(|error| error["field"] == "/nonsense"), code == "validation_failed");
        }
    }
}

/// A value of every field and every parameter in turn, of the right type and of a wrong one.
#[tokio::test]
async fn no_error_repeats_a_value() {
    let app = TestApp::spawn().await;
    let document = document();
    let mut refused = 0;
    for operation in operations(&document).iter().filter(|operation| operation.id != "logout") {
        let spec = &operation.spec;
        let to = |id: &str| request(&app, operation, id);
        let mut requests = vec![to(CANARY)];
        for parameter in operation.parameters() {
            let name = parameter["name"].as_str().unwrap();
            match parameter["in"].as_str().unwrap() {
                "query" => requests.push(to(NOBODY).query(&[(name, CANARY)])),
                "header" => requests.push(to(NOBODY).header(name, CANARY)),
                _ => {}
            }
        }
        let reference = spec.pointer("/requestBody/content/application~1json/schema/$ref");
        let schema = reference.and_then(|at| document.pointer(at.as_str()?.strip_prefix('#')?));
        let fields = schema.and_then(|schema| schema["properties"].as_object());
        let example = &spec["requestBody"]["content"]["application/json"]["example"];
        for field in fields.into_iter().flat_map(Map::keys) {
            for value in [json!(CANARY), json!({CANARY: CANARY}), json!([CANARY])] {
                let mut body = example.clone();
                body[field] = value;
                requests.push(to(NOBODY).json(&body));
            }
        }
        for request in requests {
            let response = request.send().await.unwrap();
            if response.status().is_success() {
                continue;
            }
            refused += 1;
            assert!(response.status() < StatusCode::INTERNAL_SERVER_ERROR, "{}", operation.id);
            let headers = format!("{:?}", response.headers());
            let body = response.text().await.unwrap();
            // The name of a field that is unknown is a place, not a value.
            let body = body.replace(&format!("/{CANARY}\""), "\"");
            assert!(!body.contains(CANARY) && !headers.contains(CANARY), "{} {body} {headers}", operation.id);
        }
    }
    assert!(refused > 150, "{refused}");
}

/// What an example says is taken: it may name nobody and nothing that is there, but it is well-formed.
#[tokio::test]
async fn the_examples_of_requests_are_taken() {
    let app = TestApp::spawn().await;
    let mut sent = 0;
    for operation in operations(&document()) {
        for (kind, media) in operation.spec["requestBody"]["content"].as_object().into_iter().flatten() {
            if operation.id == "receiveStripeEvent" {
                // Signed by Stripe.
                continue;
            }
            let text = media["example"].as_str().map_or_else(|| media["example"].to_string(), str::to_owned);
            let (status, body) =
                answer(request(&app, &operation, NOBODY).header("Content-Type", kind).body(text)).await;
            let code = body["error"]["code"].as_str().unwrap_or_default();
            let refused = ["malformed", "validation_failed", "unauthenticated", "unsupported_media_type"];
            assert!(!refused.contains(&code) && status.as_u16() < 500, "{} {kind}: {body}", operation.id);
            sent += 1;
        }
    }
    assert!(sent > 25, "{sent}");
}

/// It is the client that was waited for, and nothing of ours was away.
#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let app = TestApp::spawn().await;
    let mut socket = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"email\":";
    let began = Instant::now();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut heard = String::new();
    socket.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("\"request_timeout\""), "{heard}");
    assert!(began.elapsed() < Duration::from_secs(50), "and the connection is closed");
}
