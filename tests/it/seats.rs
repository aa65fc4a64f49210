//! Seats: they hold however many come at once, and nobody is locked out.

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};

use crate::app::{PASSWORD, TestApp, answer, token_in};

impl TestApp {
    /// How many seats are noted as used, and how many are.
    pub(crate) async fn seats(&self) -> (i32, i32) {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql =
            "select used, tenantry.seats_counted(tenant_id) from tenantry.tenant_seats where tenant_id = $1";
        let row = tx.query_one(sql, &[&self.tenant]).await.unwrap();
        (row.get(0), row.get(1))
    }

    async fn set_plan(&self, root: &str, plan: &str) -> (StatusCode, Value) {
        let request = self.http.patch(format!("{}/api/v1/tenants/{}", self.url, self.tenant));
        answer(request.bearer_auth(root).json(&json!({"plan": plan}))).await
    }

    /// Posts until there is a definite answer: so many at once may find the pool empty.
    async fn insist(&self, path: &str, body: Value) -> StatusCode {
        loop {
            match self.post(path, &body).await.0 {
                StatusCode::SERVICE_UNAVAILABLE => {}
                status => return status,
            }
        }
    }
}

#[tokio::test]
async fn two_hundred_who_come_at_once_by_every_door_get_ten_seats() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=10", "--rate-limit-ip=off"]).await;
    let early = json!({"emails": ["e0@example.org", "e1@example.org", "e2@example.org"]});
    assert_eq!(app.post("/api/v1/invitations", &early).await.0, StatusCode::CREATED);
    app.run_jobs().await;
    let tokens: Vec<_> = app
        .mails()
        .iter()
        .filter(|mail| mail.contains("/accept-invitation"))
        .map(|mail| token_in(mail))
        .collect();
    assert_eq!((tokens.len(), app.seats().await), (3, (4, 4)));

    let accepted = tokens.iter().map(|token| {
        app.insist("/api/v1/invitations/accept", json!({"token": token, "name": "Eve", "password": PASSWORD}))
    });
    let created = (0..100).map(|n| {
        app.insist("/api/v1/users", json!({"email": format!("u{n}@example.org"), "name": "Someone"}))
    });
    let invited = (0..100).map(|n| {
        let emails = [format!("i{n}@example.org"), format!("j{n}@example.org")];
        app.insist("/api/v1/invitations", json!({"emails": emails[..1 + n % 2]}))
    });
    // Each takes what is left of the seats, or, if it is atomic, all that it asks for or none.
    let bulk = (0..20).map(|n| {
        let row = |m: usize| json!({"email": format!("b{n}-{m}@example.org"), "name": "Someone"});
        let body = json!({"users": (0..4).map(row).collect::<Vec<_>>(), "atomic": n % 2 == 0});
        let app = &app;
        async move { app.insist("/api/v1/users/bulk", body).await }
    });
    let (accepted, created, invited, bulk) =
        tokio::join!(join_all(accepted), join_all(created), join_all(invited), join_all(bulk));
    let known = [StatusCode::MULTI_STATUS, StatusCode::UNPROCESSABLE_ENTITY];
    assert!(bulk.iter().all(|status| known.contains(status)), "{bulk:?}");

    assert_eq!(accepted, [StatusCode::CREATED; 3], "their seats were kept");
    let others: Vec<_> = created.iter().chain(&invited).collect();
    assert!(
        others.iter().all(|status| [StatusCode::CREATED, StatusCode::CONFLICT].contains(status)),
        "{others:?}"
    );
    assert!(others.iter().filter(|status| ***status == StatusCode::CREATED).count() <= 6);
    assert_eq!(app.seats().await, (10, 10));

    // Those that are given back are given again.
    let (_, listed) = app.get("/api/v1/users?search=eve&limit=100").await;
    for user in listed["data"].as_array().unwrap() {
        let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
        assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(app.seats().await, (7, 7));
    let again = (0..20).map(|n| {
        app.insist("/api/v1/users", json!({"email": format!("again{n}@example.org"), "name": "Again"}))
    });
    let again = join_all(again).await;
    assert_eq!(again.iter().filter(|status| **status == StatusCode::CREATED).count(), 3, "{again:?}");
    assert_eq!(app.seats().await, (10, 10));
}

#[tokio::test]
async fn a_smaller_plan_locks_nobody_out_and_gives_no_seat_until_there_is_one() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=2,pro=4"]).await;
    let root = app.super_admin().await;
    assert_eq!(app.set_plan(&root, "pro").await.0, StatusCode::OK);
    let bob = app.create_user("bob@example.org").await;
    app.create_user("carl@example.org").await;
    app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    let accept = token_in(&app.mails_to("eve@example.org").await[0]);

    let (status, smaller) = app.set_plan(&root, "basic").await;

    assert_eq!((status, &smaller["data"]["max_users"]), (StatusCode::OK, &json!(2)), "{smaller}");
    assert_eq!(app.seats().await, (4, 4));
    for email in ["admin@example.org", "bob@example.org", "carl@example.org"] {
        app.sign_in(email).await;
    }
    let accepted = json!({"token": accept, "name": "Eve", "password": PASSWORD});
    assert_eq!(app.post("/api/v1/invitations/accept", &accepted).await.0, StatusCode::CREATED);
    app.sign_in("eve@example.org").await;
    let path = |user: &Value| format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    assert_eq!(app.patch(&path(&bob), &json!({"name": "Robert"})).await.0, StatusCode::OK);

    let new = json!({"email": "new@example.org", "name": "New"});
    for left in [4, 3, 2] {
        assert_eq!(app.seats().await, (left, left));
        assert_eq!(app.post("/api/v1/users", &new).await.1["error"]["code"], "no_seat_left");
        let invite = json!({"emails": ["late@example.org"]});
        assert_eq!(app.post("/api/v1/invitations", &invite).await.1["error"]["code"], "no_seat_left");
        let (_, listed) = app.get("/api/v1/users?role=user&limit=1").await;
        app.delete(&path(&listed["data"][0])).await;
    }
    assert_eq!(app.post("/api/v1/users", &new).await.0, StatusCode::CREATED);
    assert_eq!(app.seats().await, (2, 2));
}

#[tokio::test]
async fn the_database_itself_gives_no_seat_that_there_is_not() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=3"]).await;
    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    let take = "update tenantry.tenant_seats set used = used + 1 where tenant_id = $1";
    for _ in 0..2 {
        tx.execute(take, &[&app.tenant]).await.unwrap();
    }
    let refused = tx.execute(take, &[&app.tenant]).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().constraint(), Some("tenant_seats_available"));
    tx.rollback().await.unwrap();
    assert_eq!(answer(app.request(Method::GET, "/api/v1/users")).await.1["pagination"]["total"], 1);
}
