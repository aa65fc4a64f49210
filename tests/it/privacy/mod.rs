//! What is held of a person: told and erased.

mod canary;
mod races;
mod tables;

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::db;

use crate::app::{PASSWORD, TestApp, answer, eventually, token_in};

impl TestApp {
    pub(super) async fn erase(&self, user: &Value) -> (StatusCode, Value) {
        let path = format!("/api/v1/users/{}/erase", user["id"].as_str().unwrap());
        answer(self.request(Method::POST, &path)).await
    }

    /// Runs the tenant's jobs until the erasure is finished.
    pub(super) async fn erased(&self, user: &Value) -> Value {
        eventually(Duration::from_secs(2), || async {
            self.run_jobs().await;
            let (status, erasure) = self.erase(user).await;
            assert_eq!(status, StatusCode::OK, "{erasure}");
            erasure["data"]["finished_at"].is_string()
        })
        .await;
        self.erase(user).await.1["data"].clone()
    }

    async fn data_of(&self, user: &Value) -> (StatusCode, Value) {
        self.get(&format!("/api/v1/users/{}/data", user["id"].as_str().unwrap())).await
    }
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap_or_default())
}

/// The rows of a table in what is held of somebody.
fn rows<'a>(data: &'a Value, table: &str) -> &'a Vec<Value> {
    let records = data["data"]["records"].as_array().unwrap();
    let found = records.iter().find(|records| records["table"] == table);
    found.unwrap_or_else(|| panic!("no {table} in {data}"))["rows"].as_array().unwrap()
}

#[tokio::test]
async fn a_person_is_told_all_that_is_held_of_them_and_no_secret() {
    let mut app = TestApp::spawn().await;
    let user = app.create_user("ada@example.org").await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    assert_eq!(app.patch(&path, &json!({"email": "new@example.org"})).await.0, StatusCode::OK);
    app.run_jobs().await;
    assert_eq!(
        app.post("/api/v1/auth/forgot-password", &json!({"tenant": app.slug, "email": "ada@example.org"}))
            .await
            .0,
        StatusCode::ACCEPTED
    );
    app.run_jobs().await;
    let other = app.create_user("other@example.org").await;
    app.act_as("ada@example.org").await;

    let (status, data) = app.data_of(&user).await;

    assert_eq!(status, StatusCode::OK, "{data}");
    let row = &rows(&data, "users")[0];
    assert_eq!(
        (&row["email"], &row["pending_email"]),
        (&json!("ada@example.org"), &json!("new@example.org"))
    );
    for (table, many) in [("credentials", 1), ("sessions", 1), ("refresh_tokens", 1), ("user_logins", 1)] {
        assert_eq!(rows(&data, table).len(), many, "{table}");
    }
    assert!(rows(&data, "email_tokens").iter().any(|token| token["email"] == "new@example.org"), "{data}");
    let actions = rows(&data, "audit_events").iter().map(|event| event["action"].as_str().unwrap());
    assert!(actions.collect::<Vec<_>>().contains(&"session.begun"), "{data}");
    let text = data.to_string();
    assert!(
        !text.contains("argon2") && !text.contains("hash") && !text.contains("other@example.org"),
        "{text}"
    );
    // Nobody else is told.
    assert_eq!(code(&app.data_of(&other).await), (403, "forbidden"));
    app.act_as("admin@example.org").await;
    assert_eq!(app.data_of(&user).await.0, StatusCode::OK);
    assert_eq!(app.audited_by("user.data_exported").await.len(), 2);
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(rows(&app.data_of(&user).await.1, "users").len(), 1);
}

#[tokio::test]
async fn who_was_erased_is_nobody_to_anybody() {
    let app = TestApp::spawn().await;
    let (elsewhere, user) = (app.another_node().await, app.create_user("ada@example.org").await);
    let id = user["id"].as_str().unwrap();
    let token = app.sign_in("ada@example.org").await;
    app.look_up(id).await;
    elsewhere.look_up(id).await;
    let before = app.seats().await;

    let (status, erasure) = app.erase(&user).await;

    assert_eq!(status, StatusCode::OK, "{erasure}");
    assert_eq!((&erasure["data"]["user_id"], &erasure["data"]["finished_at"]), (&user["id"], &Value::Null));
    assert_eq!(app.seats().await, (before.0 - 1, before.1 - 1));
    for path in ["", "/data"] {
        assert_eq!(code(&app.get(&format!("/api/v1/users/{id}{path}")).await), (404, "user_not_found"));
    }
    // What another process had in memory it may show for a second.
    eventually(Duration::from_secs(1), || async {
        elsewhere.get(&format!("/api/v1/users/{id}")).await.0 == StatusCode::NOT_FOUND
    })
    .await;
    assert_eq!(code(&app.restore(&user).await), (404, "user_not_found"));
    assert_eq!(app.get("/api/v1/users/deleted").await.1["data"], json!([]));
    for path in ["/api/v1/users/lookup?email=ada@example.org", "/api/v1/users?search=ada%40"] {
        let (_, found) = elsewhere.get(path).await;
        assert!(!found.to_string().contains("ada@example.org"), "{found}");
    }
    let me = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(token);
    assert_eq!(answer(me).await.0, StatusCode::UNAUTHORIZED);
    let login = json!({"tenant": app.slug, "email": "ada@example.org", "password": PASSWORD});
    assert_eq!(app.post("/api/v1/auth/login", &login).await.0, StatusCode::UNAUTHORIZED);
    // The address is free at once.
    app.create_user("ada@example.org").await;
    let erasure = app.erased(&user).await;
    assert!(erasure["finished_at"].as_str() >= erasure["erased_at"].as_str(), "{erasure}");
    assert_eq!(app.audited_by("user.erased").await.len(), 1);
    // What is somebody else's by now stays theirs.
    assert_eq!(app.get("/api/v1/users/lookup?email=ada@example.org").await.0, StatusCode::OK);
}

#[tokio::test]
async fn erasing_keeps_the_rules_of_deleting() {
    let app = TestApp::spawn().await;
    assert_eq!(code(&app.erase(&app.admin).await), (409, "last_admin"));
    let user = app.create_user("ada@example.org").await;
    let path = format!("/api/v1/users/{}/erase", user["id"].as_str().unwrap());
    let wrong = app.request(Method::POST, &path).header("If-Match", "\"7\"");
    assert_eq!(code(&answer(wrong).await), (412, "version_mismatch"));
    let right = || app.request(Method::POST, &path).header("If-Match", "\"1\"");
    let first = answer(right()).await;
    assert_eq!(first.0, StatusCode::OK, "{}", first.1);
    // Sent again since the answer was lost, it finds what it wanted.
    assert_eq!(answer(right()).await.1["data"], first.1["data"]);
    assert_eq!(app.audited_by("user.erased").await.len(), 1);
}

#[tokio::test]
async fn the_answer_that_is_given_once_more_names_nobody() {
    let app = TestApp::spawn().await;
    let body = json!({"users": [
        {"email": "ada@example.org", "name": "Ada Lovelace"}, {"email": "alan@example.org", "name": "Alan Turing"},
    ]});
    let send = || {
        let request = app.request(Method::POST, "/api/v1/users/bulk").header("Idempotency-Key", "the-same");
        answer(request.json(&body))
    };
    let made = send().await.1;
    let (ada, alan) = (&made["data"]["results"][0]["user"], &made["data"]["results"][1]["user"]);
    assert_eq!(app.erase(ada).await.0, StatusCode::OK);
    app.erased(ada).await;

    let (status, again) = send().await;

    assert_eq!(status, StatusCode::MULTI_STATUS, "{again}");
    assert!(
        !again.to_string().contains("ada@example.org") && !again.to_string().contains("Lovelace"),
        "{again}"
    );
    assert_eq!(again["data"]["results"][0]["user"]["id"], ada["id"]);
    assert_eq!(&again["data"]["results"][1]["user"], alan);
    let found = app.get("/api/v1/users/lookup?email=ada@example.org").await;
    assert_eq!(code(&found), (404, "user_not_found"), "nobody was made anew");
}

#[tokio::test]
async fn an_invitation_that_is_open_ends_with_who_was_invited_before() {
    let app = TestApp::spawn().await;
    let user = app.create_user("ada@example.org").await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    let invite = json!({"emails": ["ada@example.org", "alan@example.org"]});
    assert_eq!(app.post("/api/v1/invitations", &invite).await.0, StatusCode::CREATED);
    assert_eq!(app.seats().await, (3, 3));

    app.erased(&user).await;

    assert_eq!(app.seats().await, (2, 2));
    let (_, open) = app.get("/api/v1/invitations").await;
    let open: Vec<_> =
        open["data"]["invitations"].as_array().unwrap().iter().map(|one| &one["email"]).collect();
    assert_eq!(open, ["alan@example.org"]);
}

#[tokio::test]
async fn what_is_somebody_elses_by_now_stays_theirs() {
    let app = TestApp::spawn().await;
    let before = app.deleted_user("ada@example.org").await;
    let invite = json!({"emails": ["ada@example.org"]});
    assert_eq!(app.post("/api/v1/invitations", &invite).await.0, StatusCode::CREATED);
    let token = token_in(app.mails_to("ada@example.org").await.last().unwrap());
    let accept = json!({"token": token, "name": "Another Ada", "password": PASSWORD});
    let send = || {
        let request = app.request(Method::POST, "/api/v1/invitations/accept");
        answer(request.header("Idempotency-Key", "once").json(&accept))
    };
    let (status, now) = send().await;
    assert_eq!(status, StatusCode::CREATED, "{now}");
    let session = app.sign_in("ada@example.org").await;

    app.erased(&before).await;

    assert_eq!(
        app.get("/api/v1/users/lookup?email=ada@example.org").await.1["data"]["id"],
        now["data"]["id"]
    );
    let me = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(session);
    assert_eq!(answer(me).await.0, StatusCode::OK);
    assert_eq!(send().await, (status, now.clone()), "the answer is the same");
    let (_, data) = app.data_of(&now["data"]).await;
    assert_eq!(rows(&data, "invitations").len(), 1, "{data}");
}

#[tokio::test]
async fn an_erasure_whose_job_is_gone_goes_on_when_it_is_asked_for_again() {
    let app = TestApp::spawn().await;
    let user = app.create_user("ada@example.org").await;
    assert_eq!(app.erase(&user).await.0, StatusCode::OK);
    let mut client = app.database().await;
    let tx = db::as_system(&mut client).await.unwrap();
    let sql = "delete from tenantry.jobs where tenant_id = $1 and kind = 'erase_user'";
    assert_eq!(tx.execute(sql, &[&app.tenant]).await.unwrap(), 1);
    tx.commit().await.unwrap();
    app.run_jobs().await;

    app.erased(&user).await;
}

#[tokio::test]
async fn a_mail_that_is_being_sent_is_waited_for() {
    let app = TestApp::spawn().await;
    let user = app.create_user("ada@example.org").await;
    let mut client = app.database().await;
    let tx = db::as_system(&mut client).await.unwrap();
    let sql = "update tenantry.jobs set state = 'running', ready = false, lease = gen_random_uuid(),
                 lease_expires_at = now() + interval '1 hour'
               where tenant_id = $1 and kind = 'verify_email' and payload ->> 'user_id' = $2";
    let id = user["id"].as_str().unwrap();
    assert_eq!(tx.execute(sql, &[&app.tenant, &id]).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(app.erase(&user).await.0, StatusCode::OK);
    app.run_jobs().await;
    assert_eq!(app.erase(&user).await.1["data"]["finished_at"], Value::Null);
    let tx = db::as_system(&mut client).await.unwrap();
    let sql =
        "update tenantry.jobs set state = 'done', finished_at = now(), lease = null, lease_expires_at = null
               where tenant_id = $1 and state = 'running'";
    assert_eq!(tx.execute(sql, &[&app.tenant]).await.unwrap(), 1);
    tx.commit().await.unwrap();

    app.erased(&user).await;

    let tx = db::as_system(&mut client).await.unwrap();
    let sql = "select count(*) from tenantry.jobs where tenant_id = $1 and payload ->> 'user_id' = $2 and kind <> 'erase_user'";
    assert_eq!(tx.query_one(sql, &[&app.tenant, &id]).await.unwrap().get::<_, i64>(0), 0);
}
