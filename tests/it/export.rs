//! Exports: all users as a stream, whole or cut off.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    app::{TestApp, answer, eventually, wrong_fields},
    node,
};

impl TestApp {
    async fn export(&self, query: &str) -> Response {
        self.request(Method::GET, &format!("/api/v1/users/export{query}")).send().await.unwrap()
    }

    async fn exported(&self, query: &str) -> Vec<Value> {
        let response = self.export(query).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn exported_addresses(&self, query: &str) -> BTreeSet<String> {
        self.exported(query).await.iter().map(|user| user["email"].as_str().unwrap().to_owned()).collect()
    }
}

/// More users than fit into what lies between a server and a client that does not read.
async fn fill(app: &TestApp, users: i32) -> Client {
    let database = node::connect("tenantry").await;
    // Nobody searches for them, and triggers would take longer than all the rest.
    let sql = format!(
        "begin; set local session_replication_role = replica;
         insert into tenantry.users (tenant_id, id, email, name)
         select '{}', tenantry.uuid_v7(), 'u' || n || '@many.example', repeat('x', 248) || n from generate_series(1, {users}) n;
         update tenantry.tenant_seats set used = used + {users} where tenant_id = '{}'; commit",
        app.tenant, app.tenant
    );
    database.batch_execute(&sql).await.unwrap();
    database
}

#[tokio::test]
async fn every_user_is_in_an_export_once_as_they_are_looked_up() {
    let app = TestApp::spawn().await;
    let made = [app.create_user("b@example.org").await, app.create_user("c@example.org").await];
    let path = format!("/api/v1/users/{}", made[1]["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"is_active": false})).await.0, StatusCode::OK);
    app.deleted_user("gone@example.org").await;

    let response = app.export("").await;

    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"users.ndjson\"");
    let text = response.text().await.unwrap();
    let users: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(users.len(), 3);
    for user in &users {
        assert_eq!(&app.look_up(user["id"].as_str().unwrap()).await.1, user);
    }
    assert!(!text.contains("argon2") && !text.contains("password"));
    let ids: Vec<_> = users.iter().map(|user| user["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert_eq!(app.audited_by("users.exported").await.len(), 1);
}

#[tokio::test]
async fn as_csv_no_cell_is_a_formula() {
    let app = TestApp::spawn().await;
    let odd = json!({"email": "+tag@example.org", "name": "=HYPERLINK(\"http://x\"), Ltd"});
    assert_eq!(app.post("/api/v1/users", &odd).await.0, StatusCode::CREATED);

    let request = app.request(Method::GET, "/api/v1/users/export").header("Accept", "text/csv");
    let response = request.send().await.unwrap();

    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8; header=present");
    let text = response.text().await.unwrap();
    let lines: Vec<_> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "id,tenant_id,email,name,role,is_active,email_verified,pending_email,last_login_at,created_at,updated_at,version"
    );
    assert!(lines[1].contains(",admin@example.org,Ada Admin,admin,true,false,,2"), "{}", lines[1]);
    let cells = ",'+tag@example.org,\"'=HYPERLINK(\"\"http://x\"\"), Ltd\",user,true,false,,,";
    assert!(lines[2].contains(cells), "{}", lines[2]);
    assert_eq!((lines.len(), lines[3]), (4, ""));
    assert_eq!(app.export("?format=csv").await.text().await.unwrap(), text);
    // What is asked for comes before what is accepted.
    let request = app.request(Method::GET, "/api/v1/users/export?format=ndjson").header("Accept", "text/csv");
    assert_eq!(request.send().await.unwrap().headers()["content-type"], "application/x-ndjson");
}

#[tokio::test]
async fn an_export_is_filtered_as_a_list_is() {
    let app = TestApp::spawn().await;
    for (email, name) in [("grace@example.org", "Grace Hopper"), ("alan@example.org", "Alan 100%_\\ Turing")]
    {
        let body = json!({"email": email, "name": name, "password": crate::app::PASSWORD});
        assert_eq!(app.post("/api/v1/users", &body).await.0, StatusCode::CREATED);
    }
    let inactive = app.create_user("inactive@example.org").await;
    let path = format!("/api/v1/users/{}", inactive["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"is_active": false})).await.0, StatusCode::OK);
    let middle = inactive["created_at"].as_str().unwrap();
    for query in [
        "role=admin".to_owned(),
        "role=user".into(),
        "email_verified=true".into(),
        format!("created_before={middle}"),
        format!("created_after={middle}"),
        "search=hopp".into(),
        "search=ho".into(),
        "search=op".into(),
        "search=100%25_%5C".into(),
        "search=%25%25".into(),
        "role=user&search=example".into(),
    ] {
        let (status, list) = app.get(&format!("/api/v1/users?limit=100&{query}")).await;
        assert_eq!(status, StatusCode::OK, "{list}");
        let listed = list["data"].as_array().unwrap().iter();
        let listed: BTreeSet<_> = listed.map(|user| user["email"].as_str().unwrap().to_owned()).collect();
        assert_eq!(app.exported_addresses(&format!("?is_active=true&{query}")).await, listed, "{query}");
    }
    assert_eq!(
        app.exported_addresses("?is_active=false").await,
        BTreeSet::from(["inactive@example.org".into()])
    );
    let (status, wrong) = app.get("/api/v1/users/export?format=xml&role=king&search=x").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> = wrong_fields(&wrong).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["format", "search", "role"]);
    // What was searched for may be an address.
    let (_, events) = app.get("/api/v1/audit-events?action=users.exported&limit=100").await;
    assert!(!events.to_string().contains("hopp"), "{events}");
    assert!(events.to_string().contains(r#""filters":["search","is_active"]"#), "{events}");
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_connection_and_loses_the_rest_with_the_role() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    let second = app.create_user("second@example.org").await;
    fill(&app, 25_000).await;
    let path = format!("/api/v1/users/{}", second["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"role": "admin"})).await.0, StatusCode::OK);
    let theirs = app.sign_in("second@example.org").await;
    let request = app.http.get(format!("{}/api/v1/users/export", app.url)).bearer_auth(&theirs);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut seen = response.chunk().await.unwrap().unwrap().len();

    // All of the pool's connections can be had, and no transaction is open in any.
    let mut all = vec![];
    for _ in 0..8 {
        all.push(app.database().await);
    }
    drop(all);
    assert_eq!(app.patch(&path, &json!({"role": "user"})).await.0, StatusCode::OK);

    // What had been read may still come, and then the connection ends in the middle.
    let end = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => seen += chunk.len(),
            Ok(None) => panic!("it looks whole after {seen} bytes"),
            Err(error) => break error,
        }
    };
    assert!(end.is_body() || end.is_decode() || end.is_request(), "{end:?}");
    let whole = app.export("").await.bytes().await.unwrap().len();
    assert!(seen < whole, "{seen} of {whole}");
}

#[tokio::test]
async fn two_exports_of_a_tenant_are_under_way_at_once_and_a_third_has_to_wait() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    fill(&app, 25_000).await;
    let (first, second) = (app.export("").await, app.export("?format=csv").await);

    let (status, third) = answer(app.request(Method::GET, "/api/v1/users/export")).await;

    assert_eq!((status, &third["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limited")));
    // Those of other tenants are not in each other's way.
    let other = TestApp::spawn().await;
    assert_eq!(other.exported("").await.len(), 1);
    // A client that goes away ends its export.
    drop(second);
    eventually(Duration::from_secs(1), || async { app.export("").await.status() == StatusCode::OK }).await;
    assert_eq!(first.bytes().await.unwrap().iter().filter(|byte| **byte == b'\n').count(), 25_001);
}

#[tokio::test]
async fn a_key_exports_with_its_scope_and_a_user_does_not() {
    let mut app = TestApp::spawn().await;
    let key = json!({"name": "export", "scopes": ["users:read"]});
    let (_, made) = app.post("/api/v1/api-keys", &key).await;
    let request = app.http.get(format!("{}/api/v1/users/export", app.url));
    let response = request.bearer_auth(made["data"]["key"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.text().await.unwrap().lines().count(), 1);
    app.create_user("user@example.org").await;
    app.act_as("user@example.org").await;
    assert_eq!(app.export("").await.status(), StatusCode::FORBIDDEN);
}
