//! What is not taken, from whom, and that nothing is left of it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use super::{CSV, NDJSON, PATH, SEATS, people};
use crate::{
    app::{TestApp, answer, eventually},
    passwords::MADE_ELSEWHERE,
    retries::said,
};

impl TestApp {
    async fn staged(&self) -> i64 {
        self.counted(
            "select (select count(*) from tenantry.user_imports) + (select count(*) from tenantry.user_import_rows)",
        )
        .await
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_and_leaves_nothing() {
    let app = TestApp::spawn().await;
    for (content_type, status) in [
        ("application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("text/csv; charset=iso-8859-1", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("text/csv", StatusCode::UNPROCESSABLE_ENTITY),
        (NDJSON, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (refused, body) = answer(app.upload("", content_type, "")).await;
        assert_eq!(refused, status, "{content_type}: {body}");
    }
    let mut latin = people("first", 1_500).into_bytes();
    latin.extend(b"second@example.org,C\xe9line\n");
    for (content_type, body) in [(CSV, latin.clone()), (NDJSON, latin)] {
        let (status, refused) = answer(app.upload("", content_type, body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
        let message = refused["error"]["message"].as_str().unwrap();
        assert_eq!(message, "Line 1502 is not UTF-8; save the file as UTF-8");
    }
    assert_eq!(app.staged().await, 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_or_while_it_comes() {
    let app = TestApp::spawn_with(&["--import-max-bytes=100KiB"]).await;
    let body = people("large", 4_000);
    assert!(body.len() > 110_000);
    let (status, refused) = answer(app.upload("", CSV, body.clone())).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("payload_too_large"))
    );

    // One that does not say how long it is.
    let parts: Vec<_> = body.as_bytes().chunks(8 * 1024).collect();
    let answered = app.chunked(&parts).await;
    assert!(answered.starts_with("HTTP/1.1 413") && answered.contains("payload_too_large"), "{answered}");
    // Whole, it is taken however it is cut.
    let whole = people("small", 1_000);
    let answered = app.chunked(&whole.as_bytes().chunks(999).collect::<Vec<_>>()).await;
    assert!(answered.starts_with("HTTP/1.1 202"), "{answered}");
    assert_eq!(app.get(PATH).await.1["data"][0]["total"], 1_000);
    assert_eq!(app.staged().await, 1_001, "and nothing of the others");
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let app = TestApp::spawn().await;
    let body = people("cut", 3_000);
    let mut connection = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: tenantry.test\r\nAuthorization: Bearer {}\r\nContent-Type: text/csv\r\n\
         Content-Length: {}\r\n\r\n",
        app.token,
        body.len() + 1
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(body.as_bytes()).await.unwrap();
    eventually(Duration::from_secs(10), async || app.staged().await > 2_000).await;
    let (_, listed) = app.get(PATH).await;
    assert_eq!(listed["data"][0]["state"], "uploading");
    drop(connection);
    eventually(Duration::from_secs(5), async || app.staged().await == 0).await;
    app.run_jobs().await;
    assert_eq!(app.came_of_it().await[0], 1);
}

#[tokio::test]
async fn an_upload_that_is_cancelled_takes_no_more_rows() {
    let app = TestApp::spawn().await;
    let body = people("late", 3_000);
    let (first, rest) = body.split_at(body.len() - 1_000);
    let mut connection = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: tenantry.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: text/csv\r\nContent-Length: {}\r\n\r\n",
        app.token,
        body.len()
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(first.as_bytes()).await.unwrap();
    eventually(Duration::from_secs(10), async || app.staged().await > 2_000).await;
    let id = app.get(PATH).await.1["data"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.delete(&format!("{PATH}/{id}")).await.0, StatusCode::NO_CONTENT);

    connection.write_all(rest.as_bytes()).await.unwrap();
    let mut answered = String::new();
    connection.read_to_string(&mut answered).await.unwrap();
    assert!(answered.starts_with("HTTP/1.1 404"), "{answered}");
    app.run_jobs().await;
    assert_eq!(app.progress(&id).await["state"], "cancelled");
    assert_eq!(app.came_of_it().await[0], 1);
}

#[tokio::test]
async fn api_keys_bring_no_hashes_and_nobody_rises_above_their_rank() {
    let app = TestApp::spawn().await;
    let (key, _) = app.api_key(&["users:write", "users:read"]).await;
    let rows = [
        json!({"email": "ada@example.org", "name": "Ada"}),
        json!({"email": "bob@example.org", "name": "Bob", "role": "admin"}),
        json!({"email": "eve@example.org", "name": "Eve", "password_hash": MADE_ELSEWHERE[0]}),
        json!({"email": "hal@example.org", "name": "Hal", "email_verified": true}),
    ];
    let rows = rows.map(|row| row.to_string()).join("\n");
    let upload = |query: &str, token: &str| {
        let path = format!("{}{PATH}{query}", app.url);
        let request = app.http.post(path).bearer_auth(token).header("Content-Type", NDJSON);
        request.body(rows.clone())
    };
    let (status, accepted) = answer(upload("", &key)).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    app.run_jobs().await;
    let id = accepted["data"]["id"].as_str().unwrap();
    let mut outcomes = vec!["created"];
    outcomes.extend(["forbidden: forbidden"; 3]);
    assert_eq!(app.outcomes(id).await, outcomes);
    let fields: Vec<_> = app
        .report(id, "?outcome=forbidden")
        .await
        .iter()
        .map(|row| row["errors"][0]["field"].clone())
        .collect();
    assert_eq!(fields, ["/role", "/password_hash", "/email_verified"]);
    assert_eq!(answer(upload("?role=admin", &key)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(answer(upload("?role=super_admin", &app.token)).await.0, StatusCode::FORBIDDEN);

    // Whoever runs the service may say that addresses are verified.
    let root = app.super_admin().await;
    let request = upload("", &root).header("X-Tenant-ID", &app.slug);
    let (status, accepted) = answer(request).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    app.run_jobs().await;
    let id = accepted["data"]["id"].as_str().unwrap();
    assert_eq!(app.outcomes(id).await, ["exists: email_taken", "created", "created", "created"]);
    let hal = app.get("/api/v1/users/lookup?email=hal@example.org").await.1;
    assert_eq!(hal["data"]["email_verified"], true);
}

#[tokio::test]
async fn a_tenant_has_so_many_imports_under_way_and_so_many_rows_kept() {
    let app = TestApp::spawn().await;
    let mut ids = vec![];
    for n in 0..5 {
        ids.push(app.import("dry_run=true", CSV, people(&format!("a{n}"), 1)).await);
    }
    let refused = || async { answer(app.upload("", CSV, people("more", 1))).await };
    let (status, body) = refused().await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("too_many_imports")));
    // The newest first, and on by a cursor.
    let (_, first) = app.get(&format!("{PATH}?limit=3")).await;
    let cursor = first["pagination"]["next_cursor"].as_str().unwrap().to_owned();
    let (_, second) = app.get(&format!("{PATH}?limit=3&cursor={cursor}")).await;
    let listed = [&first, &second].map(|part| part["data"].as_array().unwrap().clone()).concat();
    let listed: Vec<_> = listed.iter().map(|import| import["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
    assert_eq!(second["pagination"]["next_cursor"], json!(null));

    app.run_jobs().await;
    let id = app.import("", CSV, people("more", 1)).await;
    app.run_jobs().await;
    let mut client = app.database().await;
    let tx = tenantry_accounts::db::as_system(&mut client).await.unwrap();
    let sql = "update tenantry.user_imports set total = 3000000 where tenant_id = $1 and id = $2";
    assert_eq!(tx.execute(sql, &[&app.tenant, &id.parse::<Uuid>().unwrap()]).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(refused().await.0, StatusCode::CONFLICT);
}

#[tokio::test]
async fn a_request_that_comes_again_makes_no_other_import() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let key = "7f3d6f0e-2e6c-4c40-8f33-5d0f1f0c4a11";
    let body = people("once", 1_200);
    let request =
        |query: &str, body: &str| app.upload(query, CSV, body.to_owned()).header("Idempotency-Key", key);
    let first = said(request("", &body)).await;
    assert_eq!((first.status, first.replayed), (StatusCode::ACCEPTED, false), "{}", first.text);
    app.run_jobs().await;

    let node = app.another_node().await;
    for app in [&app, &node] {
        let request = app.upload("", CSV, body.clone()).header("Idempotency-Key", key);
        let again = said(request).await;
        assert_eq!((again.status, again.replayed, &again.text), (StatusCode::ACCEPTED, true, &first.text));
    }
    for (query, body) in [("", people("once", 1_201)), ("dry_run=true", body.clone())] {
        assert_eq!(said(request(query, &body)).await.code(), "idempotency_key_reused");
    }
    assert_eq!(app.staged().await, 1_201);
    assert_eq!(app.came_of_it().await[0], 1_201);

    // Two at once: of one there is nothing left.
    let (one, other) = tokio::join!(
        said(app.upload("", CSV, people("both", 10)).header("Idempotency-Key", "both")),
        said(node.upload("", CSV, people("both", 10)).header("Idempotency-Key", "both")),
    );
    let accepted =
        [&one, &other].iter().filter(|said| said.status == StatusCode::ACCEPTED && !said.replayed).count();
    assert_eq!(accepted, 1, "{} {}", one.text, other.text);
    assert_eq!(app.staged().await, 1_201 + 11);
}

#[tokio::test]
async fn whoever_is_no_administrator_imports_nobody() {
    let mut app = TestApp::spawn().await;
    let id = app.import("", CSV, people("a", 1)).await;
    app.run_jobs().await;
    app.create_user("user@example.org").await;
    app.act_as("user@example.org").await;
    for (method, path) in [
        (Method::POST, PATH.to_owned()),
        (Method::GET, PATH.to_owned()),
        (Method::GET, format!("{PATH}/{id}")),
        (Method::GET, format!("{PATH}/{id}/report")),
        (Method::DELETE, format!("{PATH}/{id}")),
    ] {
        let request = app.request(method.clone(), &path).header("Content-Type", CSV);
        assert_eq!(answer(request).await.0, StatusCode::FORBIDDEN, "{method} {path}");
    }
}
