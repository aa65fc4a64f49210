use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tenantry::dev::{Home, postgres, signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    app::{PASSWORD, TestApp, answer},
    document::{Operation, document, operations},
};

#[tokio::test]
async fn every_failure_has_the_one_envelope() {
    let app = TestApp::spawn().await;
    let large = format!("{{\"email\":\"{}\"}}", "a".repeat(2 * 1024 * 1024));
    let post = |body: String, content_type: &'static str| {
        app.request(Method::POST, "/api/v1/auth/login").header("Content-Type", content_type).body(body)
    };
    let failures = [
        (StatusCode::NOT_FOUND, "not_found", app.request(Method::GET, "/api/v1/nowhere")),
        (StatusCode::NOT_FOUND, "not_found", app.request(Method::GET, "/nowhere")),
        (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", app.request(Method::PUT, "/api/v1/users")),
        (StatusCode::BAD_REQUEST, "malformed", post("{\"email\":".into(), "application/json")),
        (StatusCode::BAD_REQUEST, "malformed", post(String::new(), "application/json")),
        (StatusCode::BAD_REQUEST, "malformed", post("[".repeat(10_000), "application/json")),
        (
            StatusCode::BAD_REQUEST,
            "malformed",
            post("{\"email\":\"a\",\"email\":\"b\"}".into(), "application/json"),
        ),
        (StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", post("[]".into(), "application/json")),
        (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            post("email=a".into(), "application/x-www-form-urlencoded"),
        ),
        (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", post(large, "application/json")),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            "validation_failed",
            app.request(Method::GET, "/api/v1/users/not-a-uuid"),
        ),
        (
            StatusCode::NOT_FOUND,
            "user_not_found",
            app.request(Method::GET, "/api/v1/users/00000000-0000-7000-8000-000000000000"),
        ),
    ];
    for (status, code, request) in failures {
        let response = request.header("X-Request-Id", "my-request").send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (status, &"application/json".parse().unwrap()),
            "{code}"
        );
        let body: Value = response.json().await.unwrap();
        let error = &body["error"];
        assert_eq!((&body["success"], &error["code"]), (&json!(false), &json!(code)), "{body}");
        assert_eq!(
            (&error["status_code"], &error["request_id"]),
            (&json!(status.as_u16()), &json!("my-request"))
        );
        assert!(body["timestamp"].is_string() && error["errors"].is_array());
    }
}

#[tokio::test]
async fn who_prefers_problem_details_gets_them() {
    let app = TestApp::spawn().await;
    let request =
        app.request(Method::GET, "/api/v1/users?limit=0").header("Accept", "application/problem+json");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (&body["status"], &body["detail"], &body["errors"][0]["field"]),
        (&json!(422), &json!("Validation failed"), &json!("limit"))
    );
}

/// A body without a length is cut off in the middle: reqwest would send one, so this speaks for itself.
#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let app = TestApp::spawn().await;
    let mut stream = tokio::net::TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    stream
        .write_all(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let chunk = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    for _ in 0..8 {
        // The server may have answered and closed already.
        if stream.write_all(&chunk).await.is_err() {
            break;
        }
    }
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer[..12], b"HTTP/1.1 413");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_its_id() {
    let app = TestApp::spawn().await;
    for path in ["/api/v1/users/me", "/api/v1/nowhere", "/health", "/openapi.json"] {
        let response =
            app.request(Method::GET, path).header("X-Request-Id", "bad id\u{e9}").send().await.unwrap();
        let headers = response.headers();
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        assert_eq!(headers["content-security-policy"], policy);
        assert_eq!(headers["x-frame-options"], "DENY");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert!(headers["x-process-time"].to_str().unwrap().parse::<f64>().unwrap() < 60.0);
        assert_eq!(headers["x-request-id"].len(), 36, "a harmful id is replaced");
        assert!(!headers.contains_key("strict-transport-security"), "only over TLS");
    }
}

#[tokio::test]
async fn only_listed_origins_may_call_from_a_browser() {
    let app = TestApp::spawn_with(&["--allowed-origins=https://app.example.org,http://localhost:3000"]).await;
    let preflight = |origin: &'static str| {
        app.http
            .request(Method::OPTIONS, format!("{}/api/v1/users", app.url))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "PATCH")
            .send()
    };
    let allowed = preflight("https://app.example.org").await.unwrap();
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://app.example.org");
    assert_eq!(allowed.headers()["access-control-allow-credentials"], "true");
    assert!(allowed.headers()["access-control-allow-methods"].to_str().unwrap().contains("PATCH"));
    assert!(allowed.headers()["access-control-allow-headers"].to_str().unwrap().contains("X-Tenant-ID"));
    for stranger in ["https://evil.example.org", "https://app.example.org.evil.org", "null"] {
        let refused = preflight(stranger).await.unwrap();
        assert!(!refused.headers().contains_key("access-control-allow-origin"), "{stranger}");
        assert_eq!(refused.headers()["vary"], "Origin");
    }
    let request = app.request(Method::GET, "/api/v1/users/me").header("Origin", "http://localhost:3000");
    let exposed =
        request.send().await.unwrap().headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("ETag") && exposed.contains("X-Request-Id") && exposed.contains("RateLimit"));
}

fn limit(headers: &HeaderMap) -> (&str, &str) {
    (headers["ratelimit-policy"].to_str().unwrap(), headers["ratelimit"].to_str().unwrap())
}

#[tokio::test]
async fn requests_without_a_credential_are_limited_and_told_when_to_come_again() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=5/1h"]).await;
    let anonymous = || app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth("wrong").send();
    // Signing up and in were two.
    for remaining in [2, 1, 0] {
        let response = anonymous().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let (policy, state) = limit(response.headers());
        assert_eq!(policy, "\"ip\";q=5;w=3600");
        assert!(state.starts_with(&format!("\"ip\";r={remaining};t=")), "{state}");
    }

    let refused = anonymous().await.unwrap();

    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=720).contains(&wait), "{wait}");
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["message"], "Too many requests from this IP, please try again later");
    // Those who are signed in are not counted here.
    let response = app.request(Method::GET, "/api/v1/users/me").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers()["ratelimit"].to_str().unwrap().contains("\"ip\""));
    assert_eq!(app.get("/health").await.0, StatusCode::OK);
}

#[tokio::test]
async fn guessing_passwords_is_counted_whoever_is_signed_in() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=4/1h"]).await;
    let guess = json!({"tenant": app.slug, "email": "admin@example.org", "password": "Wrong-Horse-1"});
    for expected in [StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS] {
        assert_eq!(app.post("/api/v1/auth/login", &guess).await.0, expected);
    }
    let page = app.http.post(format!("{}/verify-email", app.url)).form(&[("token", "guess")]);
    assert_eq!(page.send().await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_spoofed_forwarding_header_dodges_no_limit() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=3/1h"]).await;
    let spoofed = |address: &'static str| {
        app.http.get(format!("{}/api/v1/users/me", app.url)).header("X-Forwarded-For", address).send()
    };
    assert_eq!(spoofed("198.51.100.1").await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(spoofed("198.51.100.2").await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn health_says_what_it_knows() {
    let app = TestApp::spawn().await;
    let (status, alive) = app.get("/health").await;
    assert_eq!((status, &alive["status"]), (StatusCode::OK, &json!("healthy")));
    let (status, ready) = app.get("/health/ready").await;
    assert_eq!(status, StatusCode::OK, "{ready}");
    for part in ["postgres", "redis", "migrations"] {
        assert_eq!(ready["parts"][part], "ok", "{ready}");
    }
}

#[tokio::test]
async fn with_every_connection_taken_requests_say_so_and_the_process_is_ready() {
    let app = TestApp::spawn().await;
    let lost = TestApp::spawn_with(&["--plan-seats=basic=10"]).await;
    // Every connection of its pool is taken, and stays so.
    let mut held = vec![];
    for _ in 0..8 {
        held.push(lost.database().await);
    }

    let (status, body) = answer(lost.request(Method::GET, &format!("/api/v1/tenants/{}", lost.tenant))).await;

    assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable")));
    assert_eq!(lost.get("/health").await.0, StatusCode::OK);
    assert_eq!(lost.get("/health/ready").await.0, StatusCode::OK, "busy is not broken");
    drop(held);
    assert_eq!(lost.get(&format!("/api/v1/tenants/{}", lost.tenant)).await.0, StatusCode::OK);
    assert_eq!(app.get("/health").await.0, StatusCode::OK);
}

/// A server that hangs says nothing, not even that a statement took too long.
#[tokio::test]
async fn a_database_that_hangs_leaves_no_request_hanging() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).await.unwrap();
    let server = postgres::start(&home, postgres::Use::Test).await.unwrap();
    let url = postgres::app_url(&home);
    tenantry::migrate::run(&postgres::owner_url(&home), &url).await.unwrap();
    let app = TestApp::spawn_with(&[&format!("--database-url={url}")]).await;
    let id = app.admin["id"].as_str().unwrap().to_owned();
    let processes = || {
        let parent = server.pid().unwrap();
        let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let pid: u32 = entry.unwrap().file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.contains(&format!("PPid:\t{parent}\n")).then_some(pid)
        });
        children.chain([parent]).collect::<Vec<_>>()
    };
    let hung = processes();
    hung.iter().for_each(|pid| signal(*pid, "STOP"));

    let (list, patch) = (app.get("/api/v1/users"), format!("/api/v1/users/{id}"));
    let change = json!({"name": "Later"});
    let (list, change, ready) = tokio::join!(list, app.patch(&patch, &change), app.get("/health/ready"));

    for (status, body) in [&list, &change] {
        assert_eq!(
            (*status, &body["error"]["code"]),
            (StatusCode::SERVICE_UNAVAILABLE, &json!("unavailable"))
        );
    }
    assert_eq!(
        (ready.0, &ready.1["parts"]["postgres"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("no answer within a second"))
    );
    hung.iter().for_each(|pid| signal(*pid, "CONT"));
    assert_eq!(app.get("/api/v1/users").await.0, StatusCode::OK);
    drop(app);
    server.stop().await;
    home.remove().unwrap();
}

#[tokio::test]
async fn the_document_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let ours = tenantry::openapi::json();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &ours).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == ours,
        "openapi/openapi.json is not what the code says; renew it with `make openapi`"
    );
    let app = TestApp::spawn().await;
    let (_, served) = app.get("/openapi.json").await;
    assert_eq!(served, serde_json::from_str::<Value>(&ours).unwrap());
}

#[tokio::test]
async fn every_operation_of_the_document_is_described() {
    let document = document();
    for Operation { id, path, spec, .. } in operations(&document) {
        assert!(!path.ends_with('/'), "{path}");
        assert!(spec["summary"].is_string(), "{id}");
        assert!(spec["tags"].as_array().is_some_and(|tags| !tags.is_empty()), "{id}");
        assert!(spec["security"].is_array(), "{id}");
        if path.starts_with("/api/") {
            assert!(spec["responses"].get("429").is_some(), "{id}");
        }
        let bodies = spec["requestBody"]["content"].as_object().into_iter().flatten();
        let answers = spec["responses"].as_object().unwrap().values();
        let answers = answers.flat_map(|answer| answer["content"].as_object().into_iter().flatten());
        for (kind, body) in bodies.chain(answers) {
            assert!(body.get("example").or(body.get("examples")).is_some(), "{id} {kind}");
        }
    }
    let bodies = ["CreateUser", "UpdateUser", "SignUp", "NewTenant", "Login", "VerifyEmail", "UpdateTenant"];
    for body in bodies {
        assert_eq!(document["components"]["schemas"][body]["additionalProperties"], false, "{body}");
    }
    let error = &document["components"]["schemas"]["ErrorResponse"];
    assert!(error["properties"]["error"].is_object());
}

#[tokio::test]
async fn swagger_ui_comes_from_here_alone() {
    let app = TestApp::spawn().await;
    let page = app.http.get(format!("{}/docs", app.url)).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"));
    let html = page.text().await.unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"));
    for (file, content_type) in [
        ("init.js", "text/javascript"),
        ("swagger-ui-bundle.js", "text/javascript"),
        ("swagger-ui.css", "text/css"),
    ] {
        let response = app.http.get(format!("{}/docs/{file}", app.url)).send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &content_type.parse().unwrap())
        );
    }
}

#[tokio::test]
async fn huge_and_odd_input_is_refused_fast() {
    let app = TestApp::spawn().await;
    let odd = [
        json!({"email": "a".repeat(10_000) + "@example.org", "password": PASSWORD, "tenant": "x"}),
        json!({"email": "a\u{0}@example.org", "password": PASSWORD, "tenant": "x"}),
        json!({"email": "a@example.org", "password": "p".repeat(50_000), "tenant": "x"}),
        json!({"email": "a@example.org", "password": PASSWORD, "tenant": "\u{0}"}),
        json!({"email": null, "password": [], "tenant": {}}),
    ];
    for body in odd {
        assert_eq!(app.post("/api/v1/auth/login", &body).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let (status, _) = app.get("/api/v1/users?search=%00%00").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}
