use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::app::{TestApp, answer};

#[tokio::test]
async fn a_tenant_sees_and_renames_itself() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/tenants/{}", app.tenant);

    let (_, tenant) = app.get(&path).await;
    assert_eq!((&tenant["data"]["plan"], &tenant["data"]["max_users"]), (&json!("basic"), &json!(10)));
    let (status, renamed) = app.patch(&path, &json!({"name": "Acme & Sons"})).await;
    assert_eq!((status, &renamed["data"]["name"]), (StatusCode::OK, &json!("Acme & Sons")));
    assert_eq!(renamed["data"]["version"], 2);

    let stale = app.request(Method::PATCH, &path).header("If-Match", "\"1\"").json(&json!({"name": "Late"}));
    assert_eq!(answer(stale).await.0, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn a_tenant_cannot_give_itself_a_plan() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/tenants/{}", app.tenant);
    for change in [json!({"plan": "enterprise"}), json!({"is_active": false})] {
        assert_eq!(app.patch(&path, &change).await.0, StatusCode::FORBIDDEN);
    }
    let (status, body) = app.patch(&path, &json!({"slug": "mine", "max_users": 1000})).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("validation_failed"))
    );
}

#[tokio::test]
async fn another_tenant_does_not_exist() {
    let (ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let path = format!("/api/v1/tenants/{}", theirs.tenant);
    for (status, body) in [ours.get(&path).await, ours.patch(&path, &json!({"name": "Mine"})).await] {
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("tenant_not_found")));
    }
}

#[tokio::test]
async fn a_header_that_names_another_tenant_is_refused() {
    let (ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let ask =
        |tenant: &str| answer(ours.request(Method::GET, "/api/v1/users/me").header("X-Tenant-ID", tenant));
    assert_eq!(ask(&ours.slug).await.0, StatusCode::OK);
    assert_eq!(ask(&ours.tenant.to_string()).await.0, StatusCode::OK);
    let twice = ours.request(Method::GET, "/api/v1/users/me").header("X-Tenant-ID", &ours.slug);
    assert_eq!(answer(twice.header("X-Tenant-ID", &theirs.slug)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&theirs.slug).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(&theirs.tenant.to_string()).await.0, StatusCode::FORBIDDEN);
}
