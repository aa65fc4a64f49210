use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, answer, eventually};

impl TestApp {
    /// Signs in; the tokens as answered.
    async fn session(&self, email: &str) -> Value {
        let body = json!({"tenant": self.slug, "email": email, "password": PASSWORD});
        let (status, answer) = self.post("/api/v1/auth/login", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"].clone()
    }

    async fn refresh(&self, token: &Value) -> (StatusCode, Value) {
        self.post("/api/v1/auth/refresh", &json!({"refresh_token": token})).await
    }

    /// What a request with this access token is answered with.
    async fn status_of(&self, token: &Value) -> StatusCode {
        let request = self.http.get(format!("{}/api/v1/users/me", self.url));
        answer(request.bearer_auth(token.as_str().unwrap())).await.0
    }

    /// Waits until this node refuses the token, which it may take for a second.
    async fn refuses(&self, token: &Value) {
        eventually(Duration::from_secs(1), || async {
            self.status_of(token).await == StatusCode::UNAUTHORIZED
        })
        .await;
    }

    /// Lets so much time pass for the refresh tokens of the tenant.
    async fn let_refresh_tokens_age(&self, seconds: i32) {
        let mut client = self.database().await;
        let tenant = tenantry_accounts::TenantId(self.tenant);
        let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
        let sql =
            "update tenantry.refresh_tokens set used_at = used_at - make_interval(secs => $1::int::float8)";
        tx.execute(sql, &[&seconds]).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn audited(&self, action: &str) -> usize {
        self.audited_by(action).await.len()
    }
}

#[tokio::test]
async fn a_refresh_token_renews_the_session_and_makes_the_next() {
    let app = TestApp::spawn().await;
    let first = app.session("admin@example.org").await;

    let (status, renewed) = app.refresh(&first["refresh_token"]).await;

    assert_eq!(status, StatusCode::OK, "{renewed}");
    let renewed = &renewed["data"];
    assert_ne!(renewed["refresh_token"], first["refresh_token"]);
    assert_eq!(renewed["user"], first["user"]);
    assert_eq!(app.status_of(&renewed["token"]).await, StatusCode::OK);
    let (status, third) = app.refresh(&renewed["refresh_token"]).await;
    assert_eq!(status, StatusCode::OK, "{third}");
    assert_eq!(app.status_of(&first["token"]).await, StatusCode::OK, "it has not ended yet");
}

#[tokio::test]
async fn two_tabs_that_renew_at_once_get_the_same_successor() {
    let app = TestApp::spawn().await;
    let session = app.session("admin@example.org").await;
    let token = &session["refresh_token"];

    let (one, two) = tokio::join!(app.refresh(token), app.refresh(token));

    assert_eq!((one.0, two.0), (StatusCode::OK, StatusCode::OK), "{} {}", one.1, two.1);
    assert_eq!(one.1["data"]["refresh_token"], two.1["data"]["refresh_token"]);
    app.let_refresh_tokens_age(9).await;
    let (status, late) = app.refresh(token).await;
    assert_eq!((status, &late["data"]["refresh_token"]), (StatusCode::OK, &one.1["data"]["refresh_token"]));
}

#[tokio::test]
async fn a_refresh_token_that_comes_again_later_ends_the_session_and_is_audited() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let session = app.session("admin@example.org").await;
    let other = app.session("admin@example.org").await;
    let (_, renewed) = app.refresh(&session["refresh_token"]).await;
    app.let_refresh_tokens_age(11).await;

    let (status, refused) = app.refresh(&session["refresh_token"]).await;

    assert_eq!((status, &refused["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("session_ended")));
    assert_eq!(app.audited("session.token_reused").await, 1);
    for token in [&session["token"], &renewed["data"]["token"]] {
        assert_eq!(app.status_of(token).await, StatusCode::UNAUTHORIZED);
        node.refuses(token).await;
    }
    assert_eq!(app.refresh(&renewed["data"]["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(app.status_of(&other["token"]).await, StatusCode::OK, "another session goes on");
}

#[tokio::test]
async fn what_is_no_refresh_token_renews_nothing() {
    let app = TestApp::spawn().await;
    let session = app.session("admin@example.org").await;
    for token in [json!("nonsense"), session["token"].clone(), json!("A".repeat(64))] {
        let (status, refused) = app.refresh(&token).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("session_ended")));
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_here_at_once_and_elsewhere_within_a_second() {
    let mut app = TestApp::spawn().await;
    let node = app.another_node().await;
    let session = app.session("admin@example.org").await;
    let kept = app.token.clone();
    assert_eq!(node.status_of(&session["token"]).await, StatusCode::OK);

    app.token = session["token"].as_str().unwrap().to_owned();
    let (status, _) = app.post("/api/v1/auth/logout", &json!({})).await;

    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(app.status_of(&session["token"]).await, StatusCode::UNAUTHORIZED);
    node.refuses(&session["token"]).await;
    assert_eq!(app.refresh(&session["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(app.status_of(&json!(kept)).await, StatusCode::OK);
}

#[tokio::test]
async fn signing_out_everywhere_ends_every_session() {
    let mut app = TestApp::spawn().await;
    let (one, two) = (app.session("admin@example.org").await, app.session("admin@example.org").await);
    app.token = one["token"].as_str().unwrap().to_owned();

    let request = app.request(Method::POST, "/api/v1/auth/logout-all");

    assert_eq!(answer(request).await.0, StatusCode::NO_CONTENT);
    for session in [one, two] {
        assert_eq!(app.status_of(&session["token"]).await, StatusCode::UNAUTHORIZED);
        assert_eq!(app.refresh(&session["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn one_sees_and_ends_only_ones_own_sessions() {
    let mut app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let admin = app.session("admin@example.org").await;
    let (_, listed) = app.get("/api/v1/auth/sessions").await;
    let sessions = listed["data"]["sessions"].as_array().unwrap().clone();
    assert_eq!(sessions.len(), 2);
    assert_eq!((&sessions[0]["current"], &sessions[1]["current"]), (&json!(false), &json!(true)));

    app.act_as("bob@example.org").await;
    let (_, listed) = app.get("/api/v1/auth/sessions").await;
    assert_eq!(listed["data"]["sessions"].as_array().unwrap().len(), 1);
    let path = format!("/api/v1/auth/sessions/{}", sessions[0]["id"].as_str().unwrap());
    let (status, refused) = app.delete(&path).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::NOT_FOUND, &json!("session_not_found")));
    assert_eq!(app.status_of(&admin["token"]).await, StatusCode::OK);

    app.act_as("admin@example.org").await;
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.delete(&path).await.0, StatusCode::NOT_FOUND, "it has ended");
    assert_eq!(app.status_of(&admin["token"]).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn changing_the_password_ends_the_other_sessions() {
    let mut app = TestApp::spawn().await;
    let (here, there) = (app.session("admin@example.org").await, app.session("admin@example.org").await);
    app.token = here["token"].as_str().unwrap().to_owned();
    let change = |current: &str, new: &str| json!({"current_password": current, "new_password": new});

    let (status, refused) =
        app.post("/api/v1/auth/change-password", &change("Wrong-Horse-1", "Better-Horse-2")).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("wrong_password"))
    );
    let (status, _) = app.post("/api/v1/auth/change-password", &change(PASSWORD, "Better-Horse-2")).await;

    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(app.status_of(&here["token"]).await, StatusCode::OK);
    assert_eq!(app.status_of(&there["token"]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(app.refresh(&there["refresh_token"]).await.0, StatusCode::UNAUTHORIZED);
    let old = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});
    assert_eq!(app.post("/api/v1/auth/login", &old).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn who_is_changed_loses_the_tokens_made_before_on_every_node() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    for (email, change) in
        [("bob@example.org", json!({"role": "admin"})), ("eve@example.org", json!({"is_active": false}))]
    {
        let user = app.create_user(email).await;
        let session = app.session(email).await;
        assert_eq!(node.status_of(&session["token"]).await, StatusCode::OK);
        let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());

        assert_eq!(app.patch(&path, &change).await.0, StatusCode::OK);

        assert_eq!(app.status_of(&session["token"]).await, StatusCode::UNAUTHORIZED);
        node.refuses(&session["token"]).await;
        let renewed = app.refresh(&session["refresh_token"]).await;
        if change["role"] == "admin" {
            assert_eq!(renewed.0, StatusCode::OK, "the session goes on in the new role");
            assert_eq!(node.status_of(&renewed.1["data"]["token"]).await, StatusCode::OK);
        } else {
            assert_eq!(renewed.0, StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn a_node_that_starts_knows_what_was_revoked_before() {
    let mut app = TestApp::spawn().await;
    let session = app.session("admin@example.org").await;
    let kept = std::mem::replace(&mut app.token, session["token"].as_str().unwrap().to_owned());
    assert_eq!(app.post("/api/v1/auth/logout", &json!({})).await.0, StatusCode::NO_CONTENT);

    let node = app.another_node().await;

    // The connection waits for the first answer, which waits for the first look.
    assert_eq!(node.status_of(&session["token"]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(node.status_of(&json!(kept)).await, StatusCode::OK);
}

#[tokio::test]
async fn whoever_signs_in_while_another_password_is_chosen_gets_no_session_by_the_old_one() {
    let app = TestApp::spawn().await;
    let other = json!({"email": "bob@example.org", "name": "Bob", "password": "Better-Horse-2"});
    let (status, bob) = app.post("/api/v1/users", &other).await;
    assert_eq!(status, StatusCode::CREATED, "{bob}");
    let tenant = tenantry_accounts::TenantId(app.tenant);
    let mut client = app.database().await;
    let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
    // As whoever resets a password does: the user first, then the password.
    let lock =
        "select from tenantry.users where tenant_id = $1 and email = 'admin@example.org' for no key update";
    tx.execute(lock, &[&app.tenant]).await.unwrap();
    let body = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});

    let (login, ()) = tokio::join!(app.post("/api/v1/auth/login", &body), async {
        let mine: i32 = tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let waits = "select count(*) from pg_locks where not granted and $1 = any (pg_blocking_pids(pid))";
        let watcher = app.database().await;
        eventually(Duration::from_secs(1), || async {
            watcher.query_one(waits, &[&mine]).await.unwrap().get::<_, i64>(0) > 0
        })
        .await;
        let change = "update tenantry.credentials c set password_hash = o.password_hash
                      from tenantry.credentials o, tenantry.users u
                      where c.tenant_id = $1 and u.tenant_id = $1 and u.email = 'admin@example.org' and c.user_id = u.id
                        and o.tenant_id = $1 and o.user_id <> u.id";
        assert_eq!(tx.execute(change, &[&app.tenant]).await.unwrap(), 1);
        tx.commit().await.unwrap();
    });

    assert_eq!(
        (login.0, &login.1["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_credentials"))
    );
    let new = json!({"tenant": app.slug, "email": "admin@example.org", "password": "Better-Horse-2"});
    assert_eq!(app.post("/api/v1/auth/login", &new).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_session_that_has_ended_changes_nothing_at_a_node_that_does_not_know_yet() {
    let mut app = TestApp::spawn().await;
    let session = app.session("admin@example.org").await;
    let ended = "update tenantry.sessions set revoked_at = now() where tenant_id = $1";
    let tenant = tenantry_accounts::TenantId(app.tenant);
    let mut client = app.database().await;
    let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
    // Past the feed, so that no node ever hears of it.
    tx.execute(ended, &[&app.tenant]).await.unwrap();
    tx.commit().await.unwrap();
    app.token = session["token"].as_str().unwrap().to_owned();

    assert_eq!(app.get("/api/v1/users/me").await.0, StatusCode::OK, "as far as this node knows");
    let user = json!({"email": "eve@example.org", "name": "Eve"});
    assert_eq!(app.post("/api/v1/users", &user).await.0, StatusCode::UNAUTHORIZED);
}
