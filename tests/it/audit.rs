//! The trail: who did what, from where, and never a secret.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, audit, db};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, answer, eventually, from_stack, token_in, wrong_fields};

const SECOND_PASSWORD: &str = "Canary-Second-2";
const THIRD_PASSWORD: &str = "Canary-Third-3";
const WRONG_PASSWORD: &str = "Canary-Wrong-4";

impl TestApp {
    /// The events of the tenant, the newest first.
    pub(crate) async fn trail(&self, query: &str) -> Vec<Value> {
        let (status, body) = self.get(&format!("/api/v1/audit-events?limit=100&{query}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["data"].as_array().unwrap().clone()
    }

    /// Signs in, rightly or not; what is answered.
    async fn try_password(&self, email: &str, password: &str) -> (StatusCode, Value) {
        let body = json!({"tenant": self.slug, "email": email, "password": password});
        self.post("/api/v1/auth/login", &body).await
    }

    /// A row of the tenant or of all its rows, as text.
    async fn rows(&self, sql: &str) -> Vec<String> {
        let mut client = self.database().await;
        let tx = db::as_system(&mut client).await.unwrap();
        let rows = tx.query(sql, &[&self.tenant]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

fn actions(trail: &[Value]) -> Vec<&str> {
    trail.iter().map(|event| event["action"].as_str().unwrap()).collect()
}

/// Does everything that can be done to an account, and returns every secret that was there meanwhile.
async fn everything(app: &mut TestApp) -> Vec<String> {
    let mut secrets: Vec<String> =
        [PASSWORD, SECOND_PASSWORD, THIRD_PASSWORD, WRONG_PASSWORD].map(str::to_owned).to_vec();
    let hashes = "select password_hash from tenantry.credentials where tenant_id = $1";
    secrets.extend(app.rows(hashes).await);
    let admin = format!("/api/v1/users/{}", app.admin["id"].as_str().unwrap());
    let verify = token_in(&app.mails_to("admin@example.org").await[0]);
    app.post("/api/v1/auth/verify-email", &json!({"token": verify})).await;
    app.patch(&admin, &json!({"email": "root@example.org"})).await;
    let change = token_in(&app.mails_to("root@example.org").await[0]);
    app.post("/api/v1/auth/verify-email", &json!({"token": change})).await;

    let bob = app.create_user("bob@example.org").await;
    let path = format!("/api/v1/users/{}", bob["id"].as_str().unwrap());
    for change in [json!({"role": "admin"}), json!({"is_active": false}), json!({"is_active": true})] {
        assert_eq!(app.patch(&path, &change).await.0, StatusCode::OK);
    }
    assert_eq!(app.try_password("bob@example.org", WRONG_PASSWORD).await.0, StatusCode::UNAUTHORIZED);
    let invite = json!({"emails": ["eve@example.org", "mallory@example.org"]});
    let (_, invited) = app.post("/api/v1/invitations", &invite).await;
    let id = |n: usize| invited["data"]["invitations"][n]["id"].as_str().unwrap().to_owned();
    let accept = token_in(&app.mails_to("eve@example.org").await[0]);
    let body = json!({"token": accept, "name": "Eve", "password": SECOND_PASSWORD});
    assert_eq!(app.post("/api/v1/invitations/accept", &body).await.0, StatusCode::CREATED);
    let other = format!("/api/v1/invitations/{}", id(1));
    assert_eq!(answer(app.request(Method::POST, &format!("{other}/resend"))).await.0, StatusCode::OK);
    assert_eq!(app.delete(&other).await.0, StatusCode::NO_CONTENT);

    let (_, session) = app.try_password("eve@example.org", SECOND_PASSWORD).await;
    let (_, renewed) =
        app.post("/api/v1/auth/refresh", &json!({"refresh_token": session["data"]["refresh_token"]})).await;
    for tokens in [&session["data"], &renewed["data"]] {
        secrets.extend(["token", "refresh_token"].map(|name| tokens[name].as_str().unwrap().to_owned()));
    }
    let admins = std::mem::replace(&mut app.token, renewed["data"]["token"].as_str().unwrap().into());
    let body = json!({"current_password": SECOND_PASSWORD, "new_password": THIRD_PASSWORD});
    assert_eq!(app.post("/api/v1/auth/change-password", &body).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.post("/api/v1/auth/logout", &json!({})).await.0, StatusCode::NO_CONTENT);
    app.token = admins;
    let body = json!({"tenant": app.slug, "email": "eve@example.org"});
    app.post("/api/v1/auth/forgot-password", &body).await;
    let reset = token_in(app.mails_to("eve@example.org").await.last().unwrap());
    let body = json!({"token": reset, "password": SECOND_PASSWORD});
    assert_eq!(app.post("/api/v1/auth/reset-password", &body).await.0, StatusCode::NO_CONTENT);

    let tenant = format!("/api/v1/tenants/{}", app.tenant);
    app.patch(&tenant, &json!({"name": "Acme & Sons"})).await;
    let job = json!({"kind": "verify_email", "payload": {"user_id": bob["id"]}});
    assert_eq!(app.post("/api/v1/jobs", &job).await.0, StatusCode::CREATED);
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    secrets.extend(app.rows(hashes).await);
    secrets.extend([verify, change, accept, reset, app.token.clone()]);
    app.run_jobs().await;
    secrets
}

#[tokio::test]
async fn every_change_of_an_account_is_in_the_trail_with_who_and_from_where() {
    let mut app = TestApp::spawn().await;
    everything(&mut app).await;
    eventually(Duration::from_secs(1), || async { app.trail("action=session.refused").await.len() == 1 })
        .await;

    let trail = app.trail("").await;

    let done: BTreeSet<_> = actions(&trail).into_iter().collect();
    let expected = [
        "invitation.accepted",
        "invitation.created",
        "invitation.resent",
        "invitation.withdrawn",
        "job.pushed",
        "session.begun",
        "session.ended",
        "session.refused",
        "tenant.created",
        "tenant.updated",
        "user.created",
        "user.deleted",
        "user.email_changed",
        "user.email_verified",
        "user.password_changed",
        "user.password_reset",
        "user.updated",
    ];
    assert_eq!(done.into_iter().collect::<Vec<_>>(), expected);
    assert!(trail.iter().all(|event| event["address"] == "127.0.0.0/24"), "{trail:?}");
    let nameless: Vec<_> = trail.iter().filter(|event| event["actor_id"].is_null()).collect();
    assert_eq!(actions(&nameless.into_iter().cloned().collect::<Vec<_>>()), ["session.refused"]);
    let admin = app.admin["id"].as_str().unwrap();
    let created = app.trail("action=user.created").await;
    assert_eq!((created.len(), &created[0]["actor_id"]), (1, &json!(admin)));
    assert_eq!(actions(&trail).last(), Some(&"tenant.created"), "the newest first");
    let ids: Vec<_> = trail.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older), "{ids:?}");
}

#[tokio::test]
async fn no_secret_is_ever_in_the_trail_or_in_a_job() {
    let mut app = TestApp::spawn().await;
    let secrets = everything(&mut app).await;
    eventually(Duration::from_secs(1), || async { app.trail("action=session.refused").await.len() == 1 })
        .await;

    let trail = app.rows("select e::text from tenantry.audit_events e where tenant_id = $1").await;
    let jobs = app.rows("select j::text from tenantry.jobs j where tenant_id = $1").await;

    assert!(trail.len() > 20 && jobs.len() > 10, "{} events, {} jobs", trail.len(), jobs.len());
    assert!(
        secrets.len() > 15 && secrets.iter().any(|secret| secret.starts_with("$argon2")),
        "{}",
        secrets.len()
    );
    let text = (trail.join("\n") + &jobs.join("\n")).to_lowercase();
    assert!(text.contains(app.admin["id"].as_str().unwrap()), "the search would find something");
    for secret in secrets {
        assert!(!text.contains(&secret.to_lowercase()), "{secret} is in it");
    }
    assert!(!text.contains("argon2") && !text.contains("canary") && !text.contains("@example.org"));
}

#[tokio::test]
async fn what_is_refused_leaves_no_event() {
    let app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let before = app.trail("").await.len();
    let admin = format!("/api/v1/users/{}", app.admin["id"].as_str().unwrap());
    assert_eq!(app.patch(&admin, &json!({"role": "user"})).await.0, StatusCode::CONFLICT);
    let taken = json!({"email": "bob@example.org", "name": "Bob"});
    assert_eq!(app.post("/api/v1/users", &taken).await.0, StatusCode::CONFLICT);
    let taken = json!({"emails": ["eve@example.org", "bob@example.org"]});
    assert_eq!(app.post("/api/v1/invitations", &taken).await.0, StatusCode::CONFLICT);
    assert_eq!(app.trail("").await.len(), before);
}

#[tokio::test]
async fn the_trail_is_read_part_by_part_and_filtered() {
    let app = TestApp::spawn().await;
    let mut users = vec![];
    for n in 0..5 {
        users.push(app.create_user(&format!("u{n}@example.org")).await);
    }
    let all = app.trail("").await;

    let (mut parts, mut cursor) = (vec![], String::new());
    loop {
        let (_, body) = app.get(&format!("/api/v1/audit-events?limit=3{cursor}")).await;
        let part = body["data"].as_array().unwrap().clone();
        assert!((1..=3).contains(&part.len()));
        parts.extend(part);
        match body["pagination"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(parts, all);

    let third = users[2]["id"].as_str().unwrap();
    let of_third = app.trail(&format!("subject_id={third}")).await;
    assert_eq!(actions(&of_third), ["user.created"]);
    let admin = app.admin["id"].as_str().unwrap();
    assert_eq!(app.trail(&format!("actor_id={admin}")).await, all);
    assert!(app.trail(&format!("actor_id={third}")).await.is_empty());
    assert_eq!(app.trail("action=user.created").await.len(), 5);
    let at = of_third[0]["at"].as_str().unwrap();
    let (since, until) = (app.trail(&format!("since={at}")).await, app.trail(&format!("until={at}")).await);
    assert_eq!((since.len(), until.len() + since.len()), (3, all.len()));

    let (status, wrong) = app
        .get("/api/v1/audit-events?action=DROP&actor_id=x&subject_id=&since=yesterday&until=-1&tenant_id=y&limit=0&cursor=z")
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> = wrong_fields(&wrong).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        fields,
        ["action", "actor_id", "subject_id", "since", "until", "cursor", "tenant_id", "limit"]
    );
}

#[tokio::test]
async fn the_trail_is_for_administrators_of_the_tenant() {
    let (mut ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    assert!(ours.trail("").await.iter().all(|event| event["tenant_id"] == json!(ours.tenant)));
    let (status, _) = ours.get(&format!("/api/v1/audit-events?tenant_id={}", theirs.tenant)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    ours.create_user("bob@example.org").await;
    ours.act_as("bob@example.org").await;
    assert_eq!(ours.get("/api/v1/audit-events").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_super_administrator_who_looks_into_a_tenant_is_noted_before_anything_is_shown() {
    let (app, other) = (TestApp::spawn().await, TestApp::spawn().await);
    let root = app.super_admin().await;
    let users = |tenant: &TestApp| {
        let request = app.http.get(format!("{}/api/v1/users", app.url)).bearer_auth(&root);
        answer(request.header("X-Tenant-ID", &tenant.slug))
    };

    for _ in 0..3 {
        assert_eq!(users(&app).await.0, StatusCode::OK);
    }
    let entered = app.trail("action=tenant.entered").await;
    assert_eq!(entered.len(), 1, "one visit");
    assert_eq!(
        (&entered[0]["actor_kind"], &entered[0]["address"]),
        (&json!("super_admin"), &json!("127.0.0.0/24"))
    );
    assert!(other.trail("action=tenant.entered").await.is_empty());
    assert_eq!(users(&other).await.0, StatusCode::OK);
    assert_eq!(other.trail("action=tenant.entered").await.len(), 1);
    // Reading the trail itself is no exception, by whichever way.
    let third = TestApp::spawn().await;
    let request = app.http.get(format!("{}/api/v1/audit-events", app.url)).bearer_auth(&root);
    let (_, body) = answer(request.header("X-Tenant-ID", &third.slug)).await;
    assert_eq!(body["data"][0]["action"], "tenant.entered");
    let fourth = TestApp::spawn().await;
    let path = format!("{}/api/v1/audit-events?tenant_id={}", app.url, fourth.tenant);
    let (_, body) = answer(app.http.get(path).bearer_auth(&root)).await;
    assert_eq!(body["data"][0]["action"], "tenant.entered");
    // Of a change both are told.
    let tenant = format!("{}/api/v1/tenants/{}", app.url, app.tenant);
    answer(app.http.patch(tenant).bearer_auth(&root).json(&json!({"plan": "pro"}))).await;
    let updated = app.trail("action=tenant.updated").await;
    assert_eq!(
        (&updated[0]["actor_kind"], &updated[0]["detail"]["plan"]),
        (&json!("super_admin"), &json!("pro"))
    );
}

#[tokio::test]
async fn wrong_passwords_are_noted_once_a_minute_and_only_for_accounts_that_there_are() {
    let app = TestApp::spawn().await;
    let attempts = (0..6).map(|_| app.try_password("admin@example.org", WRONG_PASSWORD));
    let unknown = (0..2).map(|_| app.try_password("nobody@example.org", WRONG_PASSWORD));
    let (known, unknown) =
        tokio::join!(futures_util::future::join_all(attempts), futures_util::future::join_all(unknown));
    assert!(known.iter().chain(&unknown).all(|(status, _)| *status == StatusCode::UNAUTHORIZED));

    eventually(Duration::from_secs(1), || async { !app.trail("action=session.refused").await.is_empty() })
        .await;
    // Whatever was still under way has ended when a transaction that waits for the same lock has had it.
    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    let admin = app.admin["id"].as_str().unwrap();
    let lock = "select pg_advisory_xact_lock(hashtextextended($1, 7))::text";
    tx.query_one(lock, &[&format!("refused {} {admin}", app.tenant)]).await.unwrap();
    tx.commit().await.unwrap();

    let refused = app.trail("action=session.refused").await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["subject_id"], &refused[0]["actor_kind"]), (&json!(admin), &json!("anonymous")));
    assert_eq!(refused[0]["actor_id"], Value::Null);

    // A minute later there is another.
    let owner = owner().await;
    let older = "update tenantry.audit_events set id = tenantry.uuid_floor(now() - interval '2 minutes')
                 where tenant_id = $1 and action = 'session.refused'";
    assert_eq!(owner.execute(older, &[&app.tenant]).await.unwrap(), 1);
    app.try_password("admin@example.org", WRONG_PASSWORD).await;
    eventually(Duration::from_secs(1), || async { app.trail("action=session.refused").await.len() == 2 })
        .await;
}

async fn owner() -> tokio_postgres::Client {
    let (client, connection) =
        tokio_postgres::connect(&from_stack("TEST_DATABASE_OWNER_URL"), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn months_are_made_ahead_and_dropped_when_they_were_kept_long_enough() {
    let app = TestApp::spawn().await;
    let owner = owner().await;
    owner.execute("select tenantry.make_audit_partition('2020-01-15')", &[]).await.unwrap();
    // One event in a month of its own, two that no month takes, the second of which is of a time to come.
    let (old, stray, ahead): (Uuid, Uuid, Uuid) = (
        "016f65e8-0000-7000-8000-000000000001".parse().unwrap(),
        "01600000-0000-7000-8000-000000000001".parse().unwrap(),
        "02000000-0000-7000-8000-000000000001".parse().unwrap(),
    );
    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    for id in [old, stray, ahead] {
        let sql = "insert into tenantry.audit_events (tenant_id, id, action, subject_id) values ($1, $2, 'test.made', $1)";
        tx.execute(sql, &[&app.tenant, &id]).await.unwrap();
    }
    tx.commit().await.unwrap();
    let place = "select tableoid::regclass::text from tenantry.audit_events where tenant_id = $1 and id = $2";
    let place = async |id: Uuid| -> Option<String> {
        let row = owner.query_opt(place, &[&app.tenant, &id]).await.unwrap();
        row.map(|row| row.get::<_, String>(0).replace("tenantry.", ""))
    };
    assert_eq!(place(old).await.unwrap(), "audit_events_2020_01");
    assert_eq!(place(stray).await.unwrap(), "audit_events_default");

    // It would rather fail than keep everybody waiting, and is tried again.
    eventually(Duration::from_secs(2), || async { audit::rotate(&app.state.app).await.is_ok() }).await;

    assert_eq!((place(old).await, place(stray).await), (None, None));
    let gone = "select to_regclass('tenantry.audit_events_2020_01') is null";
    assert!(owner.query_one(gone, &[]).await.unwrap().get::<_, bool>(0));
    let months = "select count(*) from generate_series(0, 2) m where to_regclass('tenantry.audit_events_'
      || to_char(date_trunc('month', now() at time zone 'UTC') + make_interval(months => m), 'YYYY_MM')) is not null";
    assert_eq!(owner.query_one(months, &[]).await.unwrap().get::<_, i64>(0), 3);
    assert_eq!(actions(&app.trail("until=2040-01-01T00:00:00Z").await).last(), Some(&"tenant.created"));

    // What waited in the default partition moves to its month as soon as that is made.
    assert_eq!(place(ahead).await.unwrap(), "audit_events_default");
    let month = "select tenantry.make_audit_partition(to_timestamp(x'020000000000'::bigint / 1000.0))";
    owner.execute(month, &[]).await.unwrap();
    let made = place(ahead).await.unwrap();
    assert_ne!(made, "audit_events_default");
    owner.batch_execute(&format!("drop table tenantry.{made}")).await.unwrap();
}

#[tokio::test]
async fn nobody_sweeps_lately_made_traces_away() {
    let app = TestApp::spawn().await;
    let mut client = app.database().await;
    let tx = db::as_system(&mut client).await.unwrap();
    let refused = tx.query("select tenantry.rotate_audit('29 days')", &[]).await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("30 days at least"), "{refused:?}");
    tx.rollback().await.unwrap();
    for change in ["delete from tenantry.audit_events", "update tenantry.audit_events set action = 'x'"] {
        for system in [true, false] {
            let tx = match system {
                true => db::as_system(&mut client).await.unwrap(),
                false => db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap(),
            };
            let refused = tx.execute(change, &[]).await.unwrap_err();
            assert!(refused.as_db_error().unwrap().message().contains("permission denied"), "{refused:?}");
            tx.rollback().await.unwrap();
        }
    }
}

#[tokio::test]
async fn who_was_deleted_long_ago_is_purged_and_the_trail_says_so() {
    let app = TestApp::spawn().await;
    let bob = app.create_user("bob@example.org").await;
    app.delete(&format!("/api/v1/users/{}", bob["id"].as_str().unwrap())).await;
    let mut client = app.database().await;
    let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
    let older = "update tenantry.users set deleted_at = deleted_at - interval '31 days' where tenant_id = $1 and deleted_at is not null";
    assert_eq!(tx.execute(older, &[&app.tenant]).await.unwrap(), 1);
    tx.commit().await.unwrap();

    let keep = Duration::from_secs(30 * 24 * 3600);
    tenantry_accounts::users::purge_deleted(&app.state.app, keep, 1000).await.unwrap();

    let left = app.rows("select id::text from tenantry.users where tenant_id = $1").await;
    assert_eq!(left, [app.admin["id"].as_str().unwrap()]);
    let trail = app.trail(&format!("subject_id={}", bob["id"].as_str().unwrap())).await;
    assert_eq!(actions(&trail), ["user.purged", "user.deleted", "user.created"]);
    assert_eq!(trail[0]["actor_kind"], "system");
}
