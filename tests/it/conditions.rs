//! `If-Match`: what depends on a version is done to that version or not at all.

use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderValue};
use serde_json::{Value, json};

use crate::{
    app::{TestApp, answer},
    document::{document, operations},
};

/// Lines of the header that name version 1, and no other that there will be.
const FIRST: [&[&[u8]]; 7] = [
    &[b"\"1\""],
    &[b"W/\"1\""],
    &[b"\"1-gzip\""],
    &[b"\"9\", \"1\""],
    &[b"\"9\"", b"\"1\""],
    &[b"\xe9", b"\"1\""],
    &[b" \"1\" "],
];
/// Those that name none.
const NONE: [&[&[u8]]; 8] = [
    &[b"\"9\""],
    &[b"1"],
    &[b""],
    &[b"\"one\""],
    &[b"\"9\"", b"\"8\""],
    &[b"\xe9"],
    &[b"\"\xe9\""],
    &[b"*, \"9\""],
];

fn given(mut request: RequestBuilder, lines: &[&[u8]]) -> RequestBuilder {
    for line in lines {
        request = request.header("If-Match", HeaderValue::from_bytes(line).unwrap());
    }
    request
}

fn refused(answer: (StatusCode, Value)) {
    let (status, body) = answer;
    let told = (status, &body["error"]["code"]);
    assert_eq!(told, (StatusCode::PRECONDITION_FAILED, &json!("version_mismatch")), "{body}");
}

fn id(record: &Value) -> &str {
    record["id"].as_str().unwrap()
}

#[tokio::test]
async fn users_are_changed_and_deleted_by_their_version() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=50"]).await;
    for (n, lines) in FIRST.into_iter().enumerate() {
        let user = app.create_user(&format!("a{n}@example.org")).await;
        let path = format!("/api/v1/users/{}", id(&user));
        let change = || app.request(Method::PATCH, &path).json(&json!({"name": format!("New {n}")}));
        let (status, changed) = answer(given(change(), lines)).await;
        assert_eq!((status, &changed["data"]["version"]), (StatusCode::OK, &json!(2)), "{lines:?}");
        refused(answer(given(change(), lines)).await);
        refused(answer(given(app.request(Method::DELETE, &path), lines)).await);
        let (_, found) = app.look_up(id(&user)).await;
        assert_eq!(found["version"], 2, "still there, and as it was");
        let deletion = given(app.request(Method::DELETE, &path), &[b"\"2\""]);
        assert_eq!(answer(deletion).await.0, StatusCode::NO_CONTENT);
    }
    let user = app.create_user("b@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    for lines in NONE {
        // A change that would change nothing as well.
        for name in ["New", "Some One"] {
            refused(
                answer(given(app.request(Method::PATCH, &path).json(&json!({"name": name})), lines)).await,
            );
        }
        refused(answer(given(app.request(Method::DELETE, &path), lines)).await);
    }
    for lines in [&[b"*".as_slice()] as &[&[u8]], &[]] {
        let change = app.request(Method::PATCH, &path).json(&json!({"name": format!("Any {}", lines.len())}));
        assert_eq!(answer(given(change, lines)).await.0, StatusCode::OK);
    }
    assert_eq!(answer(given(app.request(Method::DELETE, &path), &[b"*"])).await.0, StatusCode::NO_CONTENT);
    let gone = given(app.request(Method::DELETE, &path), &[b"*"]);
    assert_eq!(answer(gone).await.0, StatusCode::NOT_FOUND, "nobody to match anything");
}

#[tokio::test]
async fn of_many_who_change_the_same_version_one_does() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let user = app.create_user("bob@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    let changes = (0..20).map(|n| {
        let change =
            [&app, &node][n % 2].request(Method::PATCH, &path).json(&json!({"name": format!("Name {n}")}));
        answer(given(change, &[b"\"1\""]))
    });
    let answers = futures_util::future::join_all(changes).await;
    let (made, others): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::OK);
    assert_eq!(made.len(), 1);
    others.into_iter().filter(|(status, _)| *status != StatusCode::SERVICE_UNAVAILABLE).for_each(refused);
    let (_, row) = app.get("/api/v1/users?search=bob@").await;
    assert_eq!(row["data"][0], made[0].1["data"]);
}

#[tokio::test]
async fn tenants_are_changed_and_closed_by_their_version() {
    for lines in FIRST {
        let app = TestApp::spawn().await;
        let path = format!("/api/v1/tenants/{}", app.tenant);
        let change = || app.request(Method::PATCH, &path).json(&json!({"name": "New"}));
        for none in NONE {
            refused(answer(given(change(), none)).await);
            refused(answer(given(app.request(Method::DELETE, &path), none)).await);
        }
        let (status, changed) = answer(given(change(), lines)).await;
        assert_eq!((status, &changed["data"]["version"]), (StatusCode::OK, &json!(2)), "{lines:?}");
        refused(answer(given(change(), lines)).await);
        refused(answer(given(app.request(Method::DELETE, &path), lines)).await);
        // Whoever closes a tenant says which version of it they have seen.
        for unsaid in [&[b"*".as_slice()] as &[&[u8]], &[]] {
            let (status, body) = answer(given(app.request(Method::DELETE, &path), unsaid)).await;
            assert_eq!(status, StatusCode::PRECONDITION_REQUIRED, "{body}");
        }
        let closing = given(app.request(Method::DELETE, &path), &[b"\"2\""]);
        assert_eq!(answer(closing).await.0, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn what_has_no_versions_is_deleted_by_none() {
    let app = TestApp::spawn().await;
    let (_, key) = app.api_key(&["users:read"]).await;
    let (_, invited) = app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    app.sign_in("admin@example.org").await;
    let (_, sessions) = app.get("/api/v1/auth/sessions").await;
    let session = &sessions["data"]["sessions"][0];
    for path in [
        format!("/api/v1/api-keys/{}", id(&key)),
        format!("/api/v1/invitations/{}", id(&invited["data"]["invitations"][0])),
        format!("/api/v1/auth/sessions/{}", id(session)),
    ] {
        for lines in FIRST.into_iter().chain(NONE) {
            refused(answer(given(app.request(Method::DELETE, &path), lines)).await);
        }
        let any = given(app.request(Method::DELETE, &path), &[b"*"]);
        assert_eq!(answer(any).await.0, StatusCode::NO_CONTENT, "{path}");
    }
}

#[test]
fn the_document_has_the_condition_at_every_change_of_one_record() {
    for operation in operations(&document()) {
        let by_name = ["restoreUser", "eraseUser"].contains(&operation.id.as_str());
        let changes = by_name || ["PATCH", "PUT", "DELETE"].contains(&operation.method.as_str());
        assert_eq!(operation.takes("If-Match"), changes, "{}", operation.id);
    }
}
