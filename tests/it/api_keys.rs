use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};

use crate::app::{TestApp, answer, eventually, wrong_fields};

impl TestApp {
    /// A key with these scopes: its text and what is told of it.
    pub(crate) async fn api_key(&self, scopes: &[&str]) -> (String, Value) {
        let name = format!("Key {}", uuid::Uuid::now_v7());
        let (status, made) = self.post("/api/v1/api-keys", &json!({"name": name, "scopes": scopes})).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        (made["data"]["key"].as_str().unwrap().to_owned(), made["data"]["api_key"].clone())
    }

    async fn with_key(&self, key: &str, method: Method, path: &str) -> (StatusCode, Value) {
        answer(self.http.request(method, format!("{}{path}", self.url)).bearer_auth(key)).await
    }

    async fn introspect(&self, key: &str, token: &str) -> Value {
        let url = format!("{}/api/v1/auth/introspect", self.url);
        let request = self.http.post(url).bearer_auth(key).json(&json!({"token": token}));
        let (status, told) = answer(request).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        told["data"].clone()
    }
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_no_more() {
    let app = TestApp::spawn().await;
    let (key, told) = app.api_key(&["users:read"]).await;
    assert!(key.starts_with("tk_") && key.ends_with(told["hint"].as_str().unwrap()), "{told}");
    let user = format!("/api/v1/users/{}", app.admin["id"].as_str().unwrap());

    assert_eq!(app.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::OK);
    let (status, found) = app.with_key(&key, Method::GET, &user).await;
    assert_eq!((status, &found["data"]["id"]), (StatusCode::OK, &app.admin["id"]));

    for (method, path, why) in [
        (Method::DELETE, user.as_str(), "The API key lacks the scope users:write"),
        (Method::GET, "/api/v1/invitations", "The API key lacks the scope invitations:read"),
        (Method::GET, "/api/v1/users/me", "This takes a signed-in user, not an API key"),
        (Method::GET, "/api/v1/api-keys", "This takes a signed-in user, not an API key"),
        (Method::POST, "/api/v1/auth/logout-all", "This takes a signed-in user, not an API key"),
    ] {
        let (status, refused) = app.with_key(&key, method, path).await;
        assert_eq!((status, &refused["error"]["message"]), (StatusCode::FORBIDDEN, &json!(why)), "{path}");
    }
}

#[tokio::test]
async fn a_key_makes_users_and_no_administrators() {
    let mut app = TestApp::spawn().await;
    let (key, told) = app.api_key(&["users:write", "invitations:write"]).await;
    let admin = format!("/api/v1/users/{}", app.admin["id"].as_str().unwrap());
    let token = std::mem::replace(&mut app.token, key);

    let user = json!({"email": "bob@example.org", "name": "Bob"});
    let (status, made) = app.post("/api/v1/users", &user).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let bob = format!("/api/v1/users/{}", made["data"]["id"].as_str().unwrap());
    assert_eq!(app.patch(&bob, &json!({"name": "Robert"})).await.0, StatusCode::OK);

    let ours = json!({"email": "eve@example.org", "name": "Eve", "password": "Correct-Horse-1"});
    assert_eq!(app.post("/api/v1/users", &ours).await.0, StatusCode::FORBIDDEN, "nobody to sign in as");
    let grant = json!({"email": "eve@example.org", "name": "Eve", "role": "admin"});
    assert_eq!(app.post("/api/v1/users", &grant).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&bob, &json!({"role": "admin"})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&admin, &json!({"name": "Mine"})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.delete(&admin).await.0, StatusCode::FORBIDDEN);
    let invite = json!({"emails": ["eve@example.org"], "role": "admin"});
    assert_eq!(app.post("/api/v1/invitations", &invite).await.0, StatusCode::FORBIDDEN);
    let invite = json!({"emails": ["eve@example.org"]});
    let (status, invited) = app.post("/api/v1/invitations", &invite).await;
    assert_eq!(status, StatusCode::CREATED, "{invited}");
    assert_eq!(invited["data"]["invitations"][0]["invited_by"], told["id"]);

    app.token = token;
    let by = app.audited_by("user.created").await;
    assert!(by.contains(&("api_key".into(), told["id"].as_str().map(str::to_owned))), "{by:?}");
}

#[tokio::test]
async fn a_revoked_key_is_refused_here_at_once_and_elsewhere_within_a_second() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let (key, told) = app.api_key(&["users:read"]).await;
    for at in [&app, &node] {
        assert_eq!(at.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::OK);
    }

    let path = format!("/api/v1/api-keys/{}", told["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);

    assert_eq!(app.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::UNAUTHORIZED);
    eventually(Duration::from_secs(1), || async {
        node.with_key(&key, Method::GET, "/api/v1/users").await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    let (status, refused) = app.delete(&path).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::NOT_FOUND, &json!("api_key_not_found")));
}

#[tokio::test]
async fn a_key_that_has_expired_is_refused_even_where_it_is_remembered() {
    let app = TestApp::spawn().await;
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(1500);
    let body = json!({"name": "Brief", "scopes": ["users:read"], "expires_at": soon});
    let (status, made) = app.post("/api/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let key = made["data"]["key"].as_str().unwrap();
    assert_eq!(app.with_key(key, Method::GET, "/api/v1/users").await.0, StatusCode::OK);
    eventually(Duration::from_secs(2), || async {
        app.with_key(key, Method::GET, "/api/v1/users").await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
}

#[tokio::test]
async fn keys_that_ended_long_ago_are_purged_and_no_others() {
    let app = TestApp::spawn().await;
    let mut ids = vec![];
    for _ in 0..6 {
        ids.push(app.api_key(&["users:read"]).await.1["id"].as_str().unwrap().to_owned());
    }
    let [expired, revoked, both, lately_expired, lately_revoked, working] = &ids[..] else { unreachable!() };
    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    for (id, ended) in [
        (expired, "expires_at = now() - interval '31 days'"),
        (revoked, "revoked_at = now() - interval '31 days'"),
        (both, "revoked_at = now() - interval '31 days', expires_at = now() - interval '1 day'"),
        (lately_expired, "expires_at = now() - interval '29 days'"),
        (lately_revoked, "revoked_at = now() - interval '29 days'"),
    ] {
        let sql =
            format!("update tenantry.api_keys set {ended} where tenant_id = $1 and id = $2::text::uuid");
        assert_eq!(tx.execute(&sql, &[&app.tenant, id]).await.unwrap(), 1);
    }
    let sql = "select tenantry.enqueue_job('purge_deleted', '{}', $1)";
    tx.query_one(sql, &[&app.tenant]).await.unwrap();
    tx.commit().await.unwrap();

    app.run_jobs().await;

    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    let sql = "select id::text from tenantry.api_keys where tenant_id = $1 order by id";
    let left: Vec<String> =
        tx.query(sql, &[&app.tenant]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(left, [lately_expired, lately_revoked, working].map(String::as_str));
}

#[tokio::test]
async fn what_is_no_key_is_counted_and_refused() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=10/1h"]).await;
    let (key, _) = app.api_key(&["users:read"]).await;
    let wrong = format!("{}AAAA", &key[..key.len() - 4]);
    let mut last = StatusCode::OK;
    for _ in 0..12 {
        last = app.with_key(&wrong, Method::GET, "/api/v1/users").await.0;
        if last != StatusCode::UNAUTHORIZED {
            break;
        }
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS, "made-up keys are counted like requests without one");
}

#[tokio::test]
async fn a_key_has_a_limit_of_its_own() {
    let app = TestApp::spawn().await;
    let body = json!({"name": "Slow", "scopes": ["users:read"], "requests_per_minute": 3});
    let (_, made) = app.post("/api/v1/api-keys", &body).await;
    let key = made["data"]["key"].as_str().unwrap();
    let request = || app.http.get(format!("{}/api/v1/users", app.url)).bearer_auth(key).send();

    for left in [2, 1, 0] {
        let response = request().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let policies = response.headers()["ratelimit-policy"].to_str().unwrap().to_owned();
        assert!(policies.contains("\"api_key\";q=3;w=60, \"caller\";"), "{policies}");
        let state = response.headers()["ratelimit"].to_str().unwrap().to_owned();
        assert!(state.contains(&format!("\"api_key\";r={left};")), "{state}");
    }
    let refused = request().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(app.get("/api/v1/users").await.0, StatusCode::OK, "nobody else is held up");
}

#[tokio::test]
async fn a_key_of_a_suspended_tenant_rests() {
    let app = TestApp::spawn().await;
    let (key, _) = app.api_key(&["users:read"]).await;
    assert_eq!(app.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::OK);
    let operator = tenantry_accounts::Actor::operator(tenantry_accounts::TenantId(app.tenant));
    let switch = |is_active| {
        let change = tenantry_accounts::tenants::Change { is_active: Some(is_active), ..Default::default() };
        tenantry_accounts::tenants::update(&app.state.app, operator, operator.tenant, change, None)
    };

    switch(false).await.unwrap();
    assert_eq!(app.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::UNAUTHORIZED);
    switch(true).await.unwrap();
    assert_eq!(app.with_key(&key, Method::GET, "/api/v1/users").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_key_acts_in_its_own_tenant_only() {
    let (ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let (key, told) = ours.api_key(&["users:read"]).await;
    let foreign = format!("/api/v1/users/{}", theirs.admin["id"].as_str().unwrap());
    assert_eq!(ours.with_key(&key, Method::GET, &foreign).await.0, StatusCode::NOT_FOUND);
    let elsewhere = ours.http.get(format!("{}/api/v1/users", ours.url)).bearer_auth(&key);
    let (status, _) = answer(elsewhere.header("X-Tenant-ID", &theirs.slug)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let path = format!("/api/v1/api-keys/{}", told["id"].as_str().unwrap());
    assert_eq!(theirs.delete(&path).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn keys_are_listed_without_their_secrets_and_say_when_they_were_used() {
    let app = TestApp::spawn().await;
    let (key, told) = app.api_key(&["users:read"]).await;
    app.with_key(&key, Method::GET, "/api/v1/users").await;
    app.state.write_down_used_keys().await;

    let (_, listed) = app.get("/api/v1/api-keys").await;

    let listed = &listed["data"]["api_keys"];
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (1, &told["id"]));
    assert!(listed[0]["last_used_at"].is_string() && told["last_used_at"].is_null(), "{listed}");
    assert!(!listed.to_string().contains(&key[3..40]));
}

#[tokio::test]
async fn a_name_is_given_once_and_free_again_after_revocation() {
    let app = TestApp::spawn().await;
    let body = json!({"name": "Deploy", "scopes": ["users:read"]});
    let (_, made) = app.post("/api/v1/api-keys", &body).await;
    let (status, refused) = app.post("/api/v1/api-keys", &body).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("name_taken")));
    let path = format!("/api/v1/api-keys/{}", made["data"]["api_key"]["id"].as_str().unwrap());
    app.delete(&path).await;
    assert_eq!(app.post("/api/v1/api-keys", &body).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn every_wrong_field_of_a_key_is_named() {
    let app = TestApp::spawn().await;
    let body = json!({"name": "", "scopes": ["users:read", "everything"], "requests_per_minute": 0, "expires_at": "soon"});
    let (status, refused) = app.post("/api/v1/api-keys", &body).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let wrong = wrong_fields(&refused);
    for field in ["/name", "/scopes/1", "/requests_per_minute", "/expires_at"] {
        assert!(wrong.iter().any(|(at, _)| at == field), "{field} in {wrong:?}");
    }
    for (expires_at, scopes) in
        [("2020-01-01T00:00:00Z", json!(["users:read"])), ("2199-01-01T00:00:00Z", json!([]))]
    {
        let body = json!({"name": "Key", "scopes": scopes, "expires_at": expires_at});
        assert_eq!(app.post("/api/v1/api-keys", &body).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
}

#[tokio::test]
async fn a_tenant_has_a_hundred_keys_at_most() {
    let app = TestApp::spawn().await;
    let make = |n: usize| {
        let body = json!({"name": format!("Key {n}"), "scopes": ["users:read"]});
        let app = &app;
        async move { app.post("/api/v1/api-keys", &body).await }
    };
    // As many at a time as there are connections: more would wait for those, and be told to come again.
    let answers: Vec<_> = futures_util::stream::iter((0..104).map(make)).buffer_unordered(6).collect().await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    let refused = answers.iter().filter(|(_, answer)| answer["error"]["code"] == "too_many_api_keys").count();
    assert_eq!((made, refused), (100, 4));
}

#[tokio::test]
async fn a_service_asks_whether_a_token_is_valid() {
    let app = TestApp::spawn().await;
    let other = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let token = app.sign_in("bob@example.org").await;
    let (asking, told) = app.api_key(&["introspect"]).await;

    let found = app.introspect(&asking, &token).await;
    assert_eq!(
        (&found["active"], &found["token_type"], &found["sub"], &found["role"], &found["tenant_id"]),
        (&json!(true), &json!("access_token"), &user["id"], &json!("user"), &json!(app.tenant))
    );
    assert!(found["exp"].as_i64().unwrap() > found["iat"].as_i64().unwrap());
    assert_eq!(found["amr"], json!(["pwd"]));
    let found = app.introspect(&asking, &asking).await;
    assert_eq!((&found["sub"], &found["scopes"]), (&told["id"], &json!(["introspect"])));

    let (foreign, _) = other.api_key(&["introspect"]).await;
    for nothing in [other.token.as_str(), foreign.as_str(), "nonsense", "tk_nonsense"] {
        assert_eq!(app.introspect(&asking, nothing).await, json!({"active": false}));
    }

    // What was revoked by another process is told at once: the row is asked.
    let node = app.another_node().await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"is_active": false})).await.0, StatusCode::OK);
    assert_eq!(node.introspect(&asking, &token).await, json!({"active": false}));
}

#[tokio::test]
async fn only_keys_that_may_ask_are_answered() {
    let app = TestApp::spawn().await;
    let (key, _) = app.api_key(&["users:read"]).await;
    for (credential, status) in [
        (key.as_str(), StatusCode::FORBIDDEN),
        (&app.token, StatusCode::FORBIDDEN),
        ("", StatusCode::UNAUTHORIZED),
    ] {
        let request = app.http.post(format!("{}/api/v1/auth/introspect", app.url));
        let request = if credential.is_empty() { request } else { request.bearer_auth(credential) };
        assert_eq!(answer(request.json(&json!({"token": "x"}))).await.0, status);
    }
}
