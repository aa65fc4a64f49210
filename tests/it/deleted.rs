//! Users who were deleted: listed, restored, purged.

use futures_util::future::{join, join_all};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db, users};
use uuid::Uuid;

use crate::app::{TestApp, answer, token_in, wrong_fields};

fn id(user: &Value) -> &str {
    user["id"].as_str().unwrap()
}

impl TestApp {
    pub(crate) async fn deleted_user(&self, email: &str) -> Value {
        let user = self.create_user(email).await;
        let (status, body) = self.delete(&format!("/api/v1/users/{}", id(&user))).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
        user
    }

    pub(crate) async fn restore(&self, user: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, &format!("/api/v1/users/{}/restore", id(user)))).await
    }

    pub(crate) async fn change_row(&self, user: &Value, set: &str) {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql = format!("update tenantry.users set {set} where tenant_id = $1 and id = $2");
        let id: Uuid = id(user).parse().unwrap();
        assert_eq!(tx.execute(&sql, &[&self.tenant, &id]).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }
}

fn code(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap_or_default())
}

#[tokio::test]
async fn a_restored_user_is_who_they_were_and_chooses_a_password() {
    let app = TestApp::spawn().await;
    let (elsewhere, user) = (app.another_node().await, app.create_user("ada@example.org").await);
    let token = app.sign_in("ada@example.org").await;
    assert_eq!(app.delete(&format!("/api/v1/users/{}", id(&user))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(elsewhere.get(&format!("/api/v1/users/{}", id(&user))).await.0, StatusCode::NOT_FOUND);
    let before = app.seats().await;

    let request = app.request(Method::POST, &format!("/api/v1/users/{}/restore", id(&user)));
    let response = request.header("If-Match", "\"3\"").send().await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["etag"], "\"4\"");
    let restored = response.json::<Value>().await.unwrap()["data"].clone();
    assert_eq!(
        (id(&restored), &restored["email"], &restored["name"]),
        (id(&user), &user["email"], &user["name"])
    );
    assert_eq!((&restored["is_active"], &restored["version"]), (&json!(true), &json!(4)));
    for node in [&app, &elsewhere] {
        let request = node.request(Method::GET, "/api/v1/users/lookup?email=ada@example.org");
        assert_eq!(answer(request).await.1["data"], restored);
        let request = node.request(Method::GET, &format!("/api/v1/users/{}", id(&user)));
        assert_eq!(answer(request.header("X-Min-Version", "4")).await.1["data"], restored);
    }
    assert_eq!(app.seats().await, (before.0 + 1, before.0 + 1));
    // Neither what they were signed in by nor the password of before.
    let me = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(token);
    assert_eq!(answer(me).await.0, StatusCode::UNAUTHORIZED);
    let login = json!({"tenant": app.slug, "email": "ada@example.org", "password": crate::app::PASSWORD});
    assert_eq!(app.post("/api/v1/auth/login", &login).await.0, StatusCode::UNAUTHORIZED);
    let mails = app.mails_to("ada@example.org").await;
    let reset = json!({"token": token_in(mails.last().unwrap()), "password": "Another-Horse-2"});
    assert_eq!(app.post("/api/v1/auth/reset-password", &reset).await.0, StatusCode::NO_CONTENT);
    let login = json!({"tenant": app.slug, "email": "ada@example.org", "password": "Another-Horse-2"});
    assert_eq!(app.post("/api/v1/auth/login", &login).await.0, StatusCode::OK);
    let by = app.audited_by("user.restored").await;
    assert_eq!(by, [("user".to_owned(), Some(id(&app.admin).to_owned()))]);
    assert_eq!(app.get("/api/v1/users?search=ada%40example").await.1["pagination"]["total"], 1);
}

#[tokio::test]
async fn who_was_deleted_is_listed_the_latest_first_and_part_by_part() {
    let app = TestApp::spawn().await;
    let mut deleted = vec![];
    for n in 0..5 {
        deleted.push(app.deleted_user(&format!("u{n}@example.org")).await);
    }
    app.create_user("live@example.org").await;
    app.change_row(&deleted[0], "deleted_at = now() - interval '31 days'").await;
    app.restore(&deleted[3]).await;

    let (mut listed, mut cursor, mut parts) = (vec![], String::new(), 0);
    loop {
        let (status, part) = app.get(&format!("/api/v1/users/deleted?limit=2{cursor}")).await;
        assert_eq!(status, StatusCode::OK, "{part}");
        listed.extend(part["data"].as_array().unwrap().clone());
        parts += 1;
        let Some(next) = part["pagination"]["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }

    let ids: Vec<_> = listed.iter().map(id).collect();
    assert_eq!((ids, parts), ([4, 2, 1].map(|n: usize| id(&deleted[n])).to_vec(), 2));
    assert_eq!(listed[0]["email"], "u4@example.org");
    assert!(listed[0]["deleted_at"].is_string() && listed[0]["purge_after"].is_string(), "{}", listed[0]);
    let (status, wrong) = app.get("/api/v1/users/deleted?limit=0&cursor=nowhere").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields = [("cursor", "invalid_cursor"), ("limit", "out_of_range")];
    assert_eq!(wrong_fields(&wrong), fields.map(|(field, code)| (field.to_owned(), code.to_owned())));
}

#[tokio::test]
async fn a_restore_that_is_in_conflict_changes_nothing() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=2"]).await;
    let user = app.deleted_user("ada@example.org").await;
    let other = app.create_user("ada@example.org").await;
    assert_eq!(code(&app.restore(&user).await), (409, "no_seat_left"));
    assert_eq!(app.delete(&format!("/api/v1/users/{}", id(&other))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.restore(&other).await.0, StatusCode::OK);
    app.change_plan_seats(5).await;

    let taken = app.restore(&user).await;

    assert_eq!(code(&taken), (409, "email_taken"));
    assert_eq!(app.seats().await, (2, 2));
    let request = app.request(Method::DELETE, &format!("/api/v1/users/{}", id(&other)));
    assert_eq!(answer(request).await.0, StatusCode::NO_CONTENT);
    let request = app.request(Method::POST, &format!("/api/v1/users/{}/restore", id(&user)));
    assert_eq!(code(&answer(request.header("If-Match", "\"1\"")).await), (412, "version_mismatch"));
    assert_eq!(app.restore(&user).await.0, StatusCode::OK);
    assert_eq!(code(&app.restore(&user).await), (404, "user_not_found"));
    app.change_row(&other, "deleted_at = now() - interval '30 days 1 second'").await;
    assert_eq!(code(&app.restore(&other).await), (404, "user_not_found"));
    assert_eq!(app.seats().await, (2, 2));
}

impl TestApp {
    async fn change_plan_seats(&self, max: i32) {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        tx.execute("update tenantry.tenant_seats set max = $2 where tenant_id = $1", &[&self.tenant, &max])
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn of_all_who_want_an_address_at_once_one_has_it_restored_or_new() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=100", "--rate-limit-ip=off"]).await;
    for round in 0..5 {
        let email = format!("same{round}@example.org");
        let (first, second) = (app.deleted_user(&email).await, app.deleted_user(&email).await);
        let new = json!({"email": email, "name": "New"});
        let before = app.seats().await.0;

        let (restored, made) = join(
            join_all([app.restore(&first), app.restore(&second), app.restore(&first)]),
            join_all([app.post("/api/v1/users", &new), app.post("/api/v1/users", &new)]),
        )
        .await;

        let all: Vec<_> = restored.iter().chain(&made).collect();
        let won = all.iter().filter(|(status, _)| status.is_success()).count();
        assert_eq!(won, 1, "{all:?}");
        assert!(all.iter().all(|(status, _)| [200, 201, 404, 409].contains(&status.as_u16())), "{all:?}");
        assert_eq!(app.seats().await, (before + 1, before + 1));
    }
}

#[tokio::test]
async fn a_user_is_restored_or_purged_and_never_half() {
    let app = TestApp::spawn().await;
    let mut outcomes = vec![];
    for n in 0..10 {
        let user = app.deleted_user(&format!("edge{n}@example.org")).await;
        app.change_row(&user, &format!("deleted_at = now() - interval '30 days' + interval '{} ms'", 5 * n))
            .await;
        let purge = users::purge_deleted(&app.state.app, users::DELETED_KEPT, 1000);

        let (restored, purged) = join(app.restore(&user), purge).await;

        purged.unwrap();
        let found = app.get(&format!("/api/v1/users/{}", id(&user))).await.0;
        outcomes.push(restored.0);
        match restored.0 {
            StatusCode::OK => assert_eq!(found, StatusCode::OK),
            StatusCode::NOT_FOUND => assert_eq!(found, StatusCode::NOT_FOUND),
            status => panic!("{status}: {}", restored.1),
        }
        let (used, counted) = app.seats().await;
        assert_eq!(used, counted);
    }
    assert!(outcomes.contains(&StatusCode::NOT_FOUND), "{outcomes:?}");
}

#[tokio::test]
async fn with_a_purged_user_the_address_of_their_invitation_goes() {
    let app = TestApp::spawn().await;
    let email = format!("purged-{}@example.org", Uuid::now_v7().simple());
    assert_eq!(app.post("/api/v1/invitations", &json!({"emails": [email]})).await.0, StatusCode::CREATED);
    let token = token_in(app.mails_to(&email).await.last().unwrap());
    let accept = json!({"token": token, "name": "Eve", "password": crate::app::PASSWORD});
    let (status, user) = app.post("/api/v1/invitations/accept", &accept).await;
    assert_eq!(status, StatusCode::CREATED, "{user}");
    assert_eq!(app.delete(&format!("/api/v1/users/{}", id(&user["data"]))).await.0, StatusCode::NO_CONTENT);
    app.change_row(&user["data"], "deleted_at = now() - interval '31 days'").await;

    users::purge_deleted(&app.state.app, users::DELETED_KEPT, 1000).await.unwrap();

    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    let sql = "select (select count(*) from tenantry.invitations where email = $1),
                 (select count(*) from tenantry.users where email = $1)";
    let row = tx.query_one(sql, &[&email]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0));
}
