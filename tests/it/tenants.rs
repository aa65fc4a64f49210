use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db, tenants};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, answer, eventually, token_in, wrong_fields};

impl TestApp {
    fn tenant_path(&self) -> String {
        format!("/api/v1/tenants/{}", self.tenant)
    }

    /// Closes the tenant as it is now.
    async fn close(&self) -> (StatusCode, Value) {
        let (_, tenant) = self.get(&self.tenant_path()).await;
        let version = format!("\"{}\"", tenant["data"]["version"]);
        answer(self.request(Method::DELETE, &self.tenant_path()).header("If-Match", version)).await
    }

    /// The same request as somebody else.
    async fn ask_as(&self, token: &str, method: Method, path: &str) -> (StatusCode, Value) {
        answer(self.http.request(method, format!("{}{path}", self.url)).bearer_auth(token)).await
    }

    /// A mail to this user about their second factor, which nobody has sent yet.
    async fn let_notice_wait(&self, user: &Value) {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql = "select tenantry.enqueue_job('second_factor_notice_email', $1, $2)";
        tx.query_one(sql, &[&json!({"user_id": user["id"], "event": "reset"}), &self.tenant]).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Lets the period of grace of the closed tenant pass.
    async fn let_grace_pass(&self) {
        let mut client = self.database().await;
        let tx = db::as_system(&mut client).await.unwrap();
        let sql = "update tenantry.tenants set purge_after = now() where id = $1 and deleted_at is not null";
        assert_eq!(tx.execute(sql, &[&self.tenant]).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }

    /// How many rows of the tenant each table has that the system may see; those with none are left out.
    async fn left(&self) -> Vec<(String, i64)> {
        let mut client = self.database().await;
        let tx = db::as_system(&mut client).await.unwrap();
        let mut left = vec![];
        for row in tx.query(crate::walls::TABLES, &[]).await.unwrap() {
            let table: String = row.get(0);
            let sql = format!("select count(*) from tenantry.{table} where tenant_id = $1");
            let rows: i64 = tx.query_one(&sql, &[&self.tenant]).await.unwrap().get(0);
            if rows > 0 {
                left.push((table, rows));
            }
        }
        left
    }
}

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

#[tokio::test]
async fn a_closed_tenant_is_no_more_for_anybody_at_once() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let root = app.super_admin().await;
    let bob = app.create_user("bob@example.org").await;
    app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    let accept = token_in(&app.mails_to("eve@example.org").await[0]);
    app.post("/api/v1/auth/forgot-password", &json!({"tenant": app.slug, "email": "bob@example.org"})).await;
    let reset = token_in(app.mails_to("bob@example.org").await.last().unwrap());
    let login = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});
    let (_, session) = app.post("/api/v1/auth/login", &login).await;
    let waiting = json!({"emails": ["late@example.org"]});
    assert_eq!(app.post("/api/v1/invitations", &waiting).await.0, StatusCode::CREATED);
    app.let_notice_wait(&bob).await;
    assert_eq!(node.get("/api/v1/users/me").await.0, StatusCode::OK);

    assert_eq!(app.close().await.0, StatusCode::NO_CONTENT);

    assert_eq!(app.get("/api/v1/users/me").await.0, StatusCode::UNAUTHORIZED);
    eventually(Duration::from_secs(1), || async {
        node.get("/api/v1/users/me").await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    let unknown = json!({"tenant": "no-such-tenant", "email": "admin@example.org", "password": PASSWORD});
    let mut answers = vec![];
    for body in [&login, &unknown] {
        let (status, body) = app.post("/api/v1/auth/login", body).await;
        answers.push((status, body["error"]["code"].clone(), body["error"]["message"].clone()));
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    let refresh = json!({"refresh_token": session["data"]["refresh_token"]});
    assert_eq!(app.post("/api/v1/auth/refresh", &refresh).await.0, StatusCode::UNAUTHORIZED);
    let body = json!({"token": accept, "name": "Eve", "password": PASSWORD});
    assert_eq!(app.post("/api/v1/invitations/accept", &body).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let body = json!({"token": reset, "password": "Better-Horse-2"});
    assert_eq!(app.post("/api/v1/auth/reset-password", &body).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let request = app.http.get(format!("{}/api/v1/users", app.url)).bearer_auth(&root);
    assert_eq!(answer(request.header("X-Tenant-ID", &app.slug)).await.0, StatusCode::NOT_FOUND);
    let request = app.http.patch(format!("{}{}", app.url, app.tenant_path())).bearer_auth(&root);
    assert_eq!(answer(request.json(&json!({"name": "Mine"}))).await.0, StatusCode::NOT_FOUND);
    // What was to be done still is harmless, and what is asked for is not done.
    let mails = app.mails().len();
    app.post("/api/v1/auth/forgot-password", &json!({"tenant": app.slug, "email": "bob@example.org"})).await;
    app.run_jobs().await;
    assert_eq!(app.mails().len(), mails);
    // The name stays reserved, and those who run the service see when it will be gone.
    let again = json!({
        "tenant": {"name": "Acme", "slug": app.slug}, "email": "a@example.org", "password": PASSWORD, "name": "A",
    });
    assert_eq!(app.post("/api/v1/tenants", &again).await.1["error"]["code"], "slug_taken");
    let (_, closed) = app.ask_as(&root, Method::GET, &app.tenant_path()).await;
    assert!(closed["data"]["closed_at"].is_string() && closed["data"]["purge_after"].is_string(), "{closed}");
}

#[tokio::test]
async fn a_closed_tenant_is_opened_again_as_it_was() {
    let app = TestApp::spawn().await;
    let root = app.super_admin().await;
    let login = json!({"tenant": app.slug, "email": "admin@example.org", "password": PASSWORD});
    assert_eq!(app.close().await.0, StatusCode::NO_CONTENT);
    let reopen = format!("{}/reopen", app.tenant_path());
    assert_eq!(app.post(&reopen, &json!({})).await.0, StatusCode::UNAUTHORIZED, "its own people cannot");

    let (status, reopened) = app.ask_as(&root, Method::POST, &reopen).await;

    assert_eq!((status, &reopened["data"]["closed_at"]), (StatusCode::OK, &Value::Null), "{reopened}");
    assert_eq!(app.get("/api/v1/users/me").await.0, StatusCode::UNAUTHORIZED, "old tokens stay void");
    assert_eq!(app.post("/api/v1/auth/login", &login).await.0, StatusCode::OK);
    let version = reopened["data"]["version"].clone();
    let (_, again) = app.ask_as(&root, Method::POST, &reopen).await;
    assert_eq!(again["data"]["version"], version, "one that is open stays as it is");
    let path = format!("/api/v1/audit-events?tenant_id={}", app.tenant);
    let (_, trail) = app.ask_as(&root, Method::GET, &path).await;
    let actions: Vec<_> =
        trail["data"].as_array().unwrap().iter().map(|event| event["action"].clone()).collect();
    assert_eq!(actions[1..4], ["session.begun", "tenant.reopened", "tenant.closed"], "{actions:?}");
}

#[tokio::test]
async fn only_administrators_who_have_read_the_tenant_close_it_and_never_the_one_of_super_administrators() {
    let (mut app, other) = (TestApp::spawn().await, TestApp::spawn().await);
    let root = app.super_admin().await;
    let (status, refused) = app.delete(&app.tenant_path()).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::PRECONDITION_REQUIRED, &json!("precondition_required"))
    );
    let stale = app.request(Method::DELETE, &app.tenant_path()).header("If-Match", "\"7\"");
    assert_eq!(answer(stale).await.0, StatusCode::PRECONDITION_FAILED);
    let foreign = app.request(Method::DELETE, &other.tenant_path()).header("If-Match", "\"1\"");
    assert_eq!(answer(foreign).await.0, StatusCode::NOT_FOUND);
    app.create_user("bob@example.org").await;
    app.act_as("bob@example.org").await;
    let humble = app.request(Method::DELETE, &app.tenant_path()).header("If-Match", "\"1\"");
    assert_eq!(answer(humble).await.0, StatusCode::FORBIDDEN);
    let reopen = format!("{}/reopen", app.tenant_path());
    assert_eq!(app.post(&reopen, &json!({})).await.0, StatusCode::FORBIDDEN);

    let system = format!("{}/api/v1/tenants/{}", app.url, Uuid::nil());
    let close = app.http.delete(&system).bearer_auth(&root).header("If-Match", "\"1\"");
    assert_eq!(answer(close).await.0, StatusCode::FORBIDDEN);
    let suspend = app.http.patch(&system).bearer_auth(&root).json(&json!({"is_active": false}));
    assert_eq!(answer(suspend).await.0, StatusCode::FORBIDDEN);
    let close = app.http.delete(format!("{}{}", app.url, other.tenant_path())).bearer_auth(&root);
    assert_eq!(answer(close.header("If-Match", "\"1\"")).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn when_its_grace_is_over_a_tenant_is_purged_in_batches_but_for_its_trail() {
    let app = TestApp::spawn().await;
    let root = app.super_admin().await;
    for n in 0..5 {
        app.create_user(&format!("u{n}@example.org")).await;
        app.sign_in(&format!("u{n}@example.org")).await;
    }
    app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    app.run_jobs().await;
    assert_eq!(app.close().await.0, StatusCode::NO_CONTENT);
    let neighbour = TestApp::spawn().await;
    let kept = neighbour.left().await;
    let trail = app.left().await.into_iter().find(|(table, _)| table == "audit_events").unwrap().1;

    // Before its time nothing is touched.
    let before = app.left().await;
    while tenants::purge(&app.state.app, 100).await.unwrap() {}
    assert_eq!(app.left().await, before);

    app.let_grace_pass().await;
    let reopen = format!("{}/reopen", app.tenant_path());
    assert_eq!(app.ask_as(&root, Method::POST, &reopen).await.0, StatusCode::NOT_FOUND);
    // However it is cut off in between, the next batch goes on.
    let mut rows: i64 = before.iter().map(|(_, rows)| rows).sum();
    for _ in 0..3 {
        tenants::purge(&app.state.app, 2).await.unwrap();
        let now = app.left().await.iter().map(|(_, rows)| rows).sum();
        assert!(now < rows && rows - now <= 4, "{rows} rows became {now}");
        rows = now;
    }
    let job = json!({"kind": "purge_tenants", "payload": {}});
    let push = app.http.post(format!("{}/api/v1/jobs", app.url)).bearer_auth(&root);
    let (status, pushed) = answer(push.header("X-Tenant-ID", &neighbour.slug).json(&job)).await;
    assert_eq!(status, StatusCode::CREATED, "{pushed}");
    neighbour.run_jobs().await;

    assert_eq!(app.left().await, [("audit_events".to_owned(), trail + 1)]);
    let (_, purged) =
        app.ask_as(&root, Method::GET, &format!("/api/v1/audit-events?tenant_id={}", app.tenant)).await;
    let newest = &purged["data"][1];
    assert_eq!((&newest["action"], &newest["actor_kind"]), (&json!("tenant.purged"), &json!("system")));
    assert_eq!(app.ask_as(&root, Method::GET, &app.tenant_path()).await.0, StatusCode::NOT_FOUND);
    let unharmed = neighbour.left().await;
    for (table, rows) in kept {
        let now = unharmed.iter().find(|(name, _)| *name == table).map_or(0, |(_, rows)| *rows);
        assert!(now >= rows, "{table} of the neighbour");
    }
    let again = json!({
        "tenant": {"name": "Acme", "slug": app.slug}, "email": "a@example.org", "password": PASSWORD, "name": "A",
    });
    assert_eq!(app.post("/api/v1/tenants", &again).await.0, StatusCode::CREATED, "its name is free");
}

#[tokio::test]
async fn super_administrators_list_tenants_part_by_part_and_filtered() {
    let mut apps = vec![];
    for _ in 0..3 {
        apps.push(TestApp::spawn().await);
    }
    let app = &apps[0];
    let root = app.super_admin().await;
    let mark = format!("Mark%{}", Uuid::now_v7().simple());
    for app in &apps {
        assert_eq!(app.patch(&app.tenant_path(), &json!({"name": mark})).await.0, StatusCode::OK);
    }
    let search = mark.replace('%', "%25").to_lowercase();
    let list = async |query: &str| {
        let path = format!("/api/v1/tenants?search={search}&{query}");
        let (status, body) = app.ask_as(&root, Method::GET, &path).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let slugs =
            body["data"].as_array().unwrap().iter().map(|tenant| tenant["slug"].as_str().unwrap().to_owned());
        (slugs.collect::<Vec<_>>(), body["pagination"]["next_cursor"].as_str().map(str::to_owned))
    };
    let slugs: Vec<_> = apps.iter().rev().map(|app| app.slug.clone()).collect();

    let (first, next) = list("limit=2").await;
    assert_eq!(first, slugs[..2]);
    let (second, end) = list(&format!("limit=2&cursor={}", next.unwrap())).await;
    assert_eq!((second, end), (slugs[2..].to_vec(), None));

    let change = async |other: &TestApp, change: Value| {
        let request = app.http.patch(format!("{}{}", app.url, other.tenant_path())).bearer_auth(&root);
        assert_eq!(answer(request.json(&change)).await.0, StatusCode::OK);
    };
    change(app, json!({"plan": "pro"})).await;
    change(&apps[1], json!({"is_active": false})).await;
    assert_eq!(apps[2].close().await.0, StatusCode::NO_CONTENT);
    assert_eq!(list("").await.0, slugs[1..]);
    assert_eq!(list("plan=pro").await.0, slugs[2..]);
    assert_eq!(list("is_active=false").await.0, slugs[1..2]);
    assert_eq!(list("closed=true").await.0, slugs[..1]);

    assert_eq!(app.get("/api/v1/tenants").await.0, StatusCode::FORBIDDEN);
    let wrong = "/api/v1/tenants?plan=gold&is_active=1&search=x&closed=&limit=101&cursor=1";
    let (_, wrong) = app.ask_as(&root, Method::GET, wrong).await;
    let fields: Vec<_> = wrong_fields(&wrong).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["limit", "plan", "is_active", "search", "closed", "cursor"]);
}
