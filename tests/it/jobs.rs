//! Jobs over HTTP and from the shell, and how programs in other languages enqueue them.

use std::{
    path::Path,
    process::{Command, Output},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};
use uuid::Uuid;

use crate::app::{TestApp, answer, from_stack, tools, wrong_fields};

impl TestApp {
    fn admin_id(&self) -> &str {
        self.admin["id"].as_str().unwrap()
    }

    /// A job that can never work: there is no such user.
    async fn push(&self, run_at: &str) -> Value {
        let body = json!({
            "kind": "verify_email", "payload": {"user_id": self.admin_id()}, "run_at": run_at, "priority": 3,
        });
        let (status, pushed) = self.post("/api/v1/jobs", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{pushed}");
        pushed["data"].clone()
    }

    async fn listed(&self, query: &str) -> (Vec<String>, Value) {
        let (status, body) = self.get(&format!("/api/v1/jobs?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let ids = body["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned());
        (ids.collect(), body["pagination"].clone())
    }

    /// An access token of a super administrator.
    pub(crate) async fn super_admin(&self) -> String {
        let email = format!("root-{}@example.org", Uuid::now_v7().simple());
        let mut client = self.database().await;
        let tx = db::as_system(&mut client).await.unwrap();
        let id = Uuid::now_v7();
        tx.execute(
            "insert into tenantry.users (tenant_id, id, email, name, role) values ($1, $2, $3, 'Root', 'super_admin')",
            &[&TenantId::SYSTEM.0, &id, &email],
        )
        .await
        .unwrap();
        tx.execute(
            "insert into tenantry.credentials (tenant_id, user_id, password_hash)
             select $1, $2, password_hash from tenantry.credentials where user_id = $3",
            &[&TenantId::SYSTEM.0, &id, &self.admin_id().parse::<Uuid>().unwrap()],
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
        let body = json!({"tenant": "system", "email": email, "password": crate::app::PASSWORD});
        let (status, answer) = self.post("/api/v1/auth/login", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"]["token"].as_str().unwrap().to_owned()
    }

    async fn act(&self, id: &str, action: &str) -> (StatusCode, Value) {
        answer(self.request(Method::POST, &format!("/api/v1/jobs/{id}/{action}"))).await
    }
}

const TOMORROW: &str = "2099-01-01T00:00:00Z";

#[tokio::test]
async fn a_job_is_pushed_seen_cancelled_and_tried_again() {
    let app = TestApp::spawn().await;
    let job = app.push(TOMORROW).await;
    assert_eq!(
        (&job["state"], &job["priority"], &job["attempts"]),
        (&json!("pending"), &json!(3), &json!(0))
    );
    let id = job["id"].as_str().unwrap();
    let (status, seen) = app.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!((status, &seen["data"]), (StatusCode::OK, &job));

    let (status, cancelled) = app.act(id, "cancel").await;
    assert_eq!((status, &cancelled["data"]["state"]), (StatusCode::OK, &json!("cancelled")));
    let (status, refused) = app.act(id, "cancel").await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("job_state")));

    let (status, again) = app.act(id, "retry").await;
    assert_eq!((status, &again["data"]["state"]), (StatusCode::OK, &json!("pending")));
    app.run_jobs().await;
    let (_, ran) = app.get(&format!("/api/v1/jobs/{id}")).await;
    assert_eq!(ran["data"]["state"], "done");
    assert!(!ran["data"]["finished_at"].is_null());
}

#[tokio::test]
async fn a_list_goes_on_where_it_ended() {
    let app = TestApp::spawn().await;
    let mut pushed = vec![];
    for _ in 0..5 {
        pushed.push(app.push(TOMORROW).await["id"].as_str().unwrap().to_owned());
    }
    pushed.reverse();
    let (first, pagination) = app.listed("kind=verify_email&state=pending&limit=3").await;
    assert_eq!((&first[..], &pagination["limit"]), (&pushed[..3], &json!(3)));
    let cursor = pagination["next_cursor"].as_str().unwrap();
    let (second, pagination) = app.listed(&format!("kind=verify_email&limit=3&cursor={cursor}")).await;
    // The one of the sign-up is the oldest.
    assert_eq!((&second[..2], second.len()), (&pushed[3..], 3));
    assert_eq!(pagination["next_cursor"], Value::Null);
    let (status, body) =
        app.get("/api/v1/jobs?state=lost&kind=a%00&limit=0&cursor=x&all_tenants=perhaps").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> = wrong_fields(&body).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["cursor", "limit", "state", "kind", "all_tenants"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_told_and_never_its_values() {
    let app = TestApp::spawn().await;
    for (body, field, code) in [
        (json!({"kind": "verify_emial", "payload": {}}), "/kind", "not_allowed"),
        (json!({"kind": "verify_email", "payload": []}), "/payload", "wrong_type"),
        (json!({"kind": "verify_email", "payload": {"user_id": "secret"}}), "/payload", "wrong_payload"),
        (
            json!({"kind": "verify_email", "payload": {"user_id": app.admin_id(), "x": "a\u{0}b"}}),
            "/payload",
            "wrong_payload",
        ),
        (json!({"kind": "verify_email", "payload": {}, "run_at": "soon"}), "/run_at", "invalid_time"),
        (
            json!({"kind": "verify_email", "payload": {}, "run_at": "9999999-01-01T00:00:00Z"}),
            "/run_at",
            "invalid_time",
        ),
        (
            json!({"kind": "verify_email", "payload": {}, "priority": 5_000_000_000_i64}),
            "/priority",
            "out_of_range",
        ),
        (json!({"kind": "verify_email", "payload": {}, "unique_key": ""}), "/unique_key", "wrong_length"),
        (
            json!({"kind": "verify_email", "payload": {}, "unique_key": "a\0b"}),
            "/unique_key",
            "invalid_characters",
        ),
    ] {
        let (status, answer) = app.post("/api/v1/jobs", &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert_eq!(wrong_fields(&answer), [(field.to_owned(), code.to_owned())], "{body}");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn tenants_see_and_push_their_own_jobs_only() {
    let (mut app, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let foreign = theirs.push(TOMORROW).await["id"].as_str().unwrap().to_owned();
    for (method, path) in [
        (Method::GET, format!("/api/v1/jobs/{foreign}")),
        (Method::POST, format!("/api/v1/jobs/{foreign}/retry")),
        (Method::POST, format!("/api/v1/jobs/{foreign}/cancel")),
    ] {
        let (status, body) = answer(app.request(method, &path)).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (StatusCode::NOT_FOUND, &json!("job_not_found")),
            "{path}"
        );
    }
    assert!(!app.listed("limit=100").await.0.contains(&foreign));
    let invalidate = json!({"kind": "invalidate_user", "payload": {"users": []}});
    assert_eq!(app.post("/api/v1/jobs", &invalidate).await.0, StatusCode::FORBIDDEN);
    for path in ["/api/v1/jobs?all_tenants=true", "/api/v1/jobs/counts?all_tenants=true"] {
        assert_eq!(app.get(path).await.0, StatusCode::FORBIDDEN);
    }
    let (_, counts) = app.get("/api/v1/jobs/counts").await;
    let mails: Vec<_> = counts["data"]["counts"].as_array().unwrap().clone();
    assert!(mails.iter().any(|count| count["kind"] == "verify_email" && count["jobs"] == 1), "{mails:?}");

    app.create_user("bob@example.org").await;
    app.act_as("bob@example.org").await;
    for path in ["/api/v1/jobs", "/api/v1/jobs/counts"] {
        assert_eq!(app.get(path).await.0, StatusCode::FORBIDDEN);
    }
    let body = json!({"kind": "verify_email", "payload": {"user_id": app.admin_id()}});
    assert_eq!(app.post("/api/v1/jobs", &body).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn tenants_cancel_what_they_may_push_and_retry_anything() {
    let mut app = TestApp::spawn().await;
    let (key, _) = app.api_key(&["jobs:read", "jobs:write"]).await;
    let admin = app.token.clone();
    let kinds = [
        ("second_factor_notice_email", json!({"user_id": app.admin_id(), "event": "reset"})),
        ("address_notice_email", json!({"notice_id": Uuid::now_v7()})),
        ("invalidate_user", json!({"users": []})),
        ("reset_password_email", json!({"user_id": app.admin_id()})),
    ];
    let mut jobs = vec![];
    for (kind, payload) in &kinds {
        let mut client = app.database().await;
        let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
        let sql = "select tenantry.enqueue_job($1, $2, $3, now() + interval '1 hour')::text";
        let row = tx.query_one(sql, &[kind, payload, &app.tenant]).await.unwrap();
        tx.commit().await.unwrap();
        jobs.push(row.get::<_, String>(0));
    }

    for token in [&admin, &key] {
        app.token.clone_from(token);
        for id in &jobs {
            let (status, refused) = app.act(id, "cancel").await;
            assert_eq!((status, &refused["error"]["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
            let (_, job) = app.get(&format!("/api/v1/jobs/{id}")).await;
            assert_eq!(job["data"]["state"], "pending", "{job}");
        }
        app.token.clone_from(&admin);
        let own = app.push(TOMORROW).await["id"].as_str().unwrap().to_owned();
        app.token.clone_from(token);
        assert_eq!(app.act(&own, "cancel").await.0, StatusCode::OK);
    }
    app.token = app.super_admin().await;
    for id in &jobs {
        assert_eq!(app.act(id, "cancel?all_tenants=true").await.0, StatusCode::OK);
    }
    app.token = admin;
    for id in &jobs {
        assert_eq!(app.act(id, "retry").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_super_administrator_sees_and_changes_the_jobs_of_all() {
    let mut app = TestApp::spawn().await;
    let job = app.push(TOMORROW).await["id"].as_str().unwrap().to_owned();
    app.token = app.super_admin().await;
    assert_eq!(app.get(&format!("/api/v1/jobs/{job}")).await.0, StatusCode::NOT_FOUND, "of another tenant");
    let (status, seen) = app.get(&format!("/api/v1/jobs/{job}?all_tenants=true")).await;
    assert_eq!((status, &seen["data"]["tenant_id"]), (StatusCode::OK, &json!(app.tenant.to_string())));
    let (status, _) = app.act(&job, "cancel?all_tenants=true").await;
    assert_eq!(status, StatusCode::OK);
    let (ids, _) = app.listed("all_tenants=true&state=cancelled&limit=100").await;
    assert!(ids.contains(&job));
    let invalidate = json!({"kind": "invalidate_user", "payload": {"users": []}, "run_at": TOMORROW});
    assert_eq!(app.post("/api/v1/jobs", &invalidate).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn the_board_is_a_page_that_holds_nothing_under_a_strict_policy() {
    let app = TestApp::spawn().await;
    for (path, content_type) in [
        ("/jobs", "text/html; charset=utf-8"),
        ("/jobs/board.js", "text/javascript"),
        ("/jobs/board.css", "text/css"),
    ] {
        let file = app.http.get(format!("{}{path}", app.url)).send().await.unwrap();
        assert_eq!(
            (file.status(), &file.headers()["content-type"]),
            (StatusCode::OK, &content_type.parse().unwrap())
        );
        let policy = file.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
        let text = file.text().await.unwrap();
        assert!(!text.contains(" style=") && !text.contains("innerHTML") && !text.contains("onclick"));
    }
}

fn tenantry(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .arg("jobs")
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", from_stack("TEST_DATABASE_URL"))
        .current_dir(folder.path())
        .output()
        .unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = tenantry(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn refused(arguments: &[&str]) -> String {
    let output = tenantry(arguments);
    assert!(!output.status.success(), "{arguments:?} was accepted");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn the_shell_pushes_shows_cancels_retries_and_purges() {
    let app = TestApp::spawn().await;
    let payload = format!("{{\"user_id\": \"{}\"}}", app.admin_id());
    let push = |more: &[&str]| {
        let arguments = ["push", "verify_email", &payload, "--tenant", &app.slug];
        printed(&[&arguments[..], more].concat())
    };
    let id = push(&["--in", "1h", "--priority=-5", "--unique-key", "k"]);
    assert_eq!(push(&["--in", "1h", "--unique-key", "k"]), id, "it waits already");
    let shown = printed(&["show", &id]);
    for line in ["kind        verify_email", "state       pending", "priority    -5", "unique key  k"] {
        assert!(shown.contains(line), "{shown}");
    }
    let listed = printed(&["list", "--tenant", &app.slug, "--state", "pending", "--json"]);
    let first: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!(first["id"], json!(id));
    assert!(printed(&["count", "--tenant", &app.slug]).contains("verify_email"));

    assert!(printed(&["cancel", &id, "--reason", "not wanted"]).contains("was pending and is cancelled"));
    assert!(refused(&["cancel", &id]).contains("is cancelled"));
    assert!(printed(&["show", &id]).contains("last error  not wanted"));
    assert!(printed(&["retry", &id]).contains("was cancelled and will be tried again"));
    printed(&["cancel", &id]);
    let purge = ["purge", "--state", "cancelled", "--older-than", "0s", "--tenant", &app.slug];
    assert_eq!(printed(&purge), "1 jobs are removed");
    assert_eq!(printed(&purge), "0 jobs are removed");
    let trail = app.trail("action=job.purged").await;
    assert_eq!(trail.len(), 1, "what removes nothing leaves no event: {trail:?}");
    assert_eq!(trail[0]["actor_kind"], "operator");
    assert_eq!(trail[0]["detail"], json!({"states": ["cancelled"], "jobs": 1}));
    assert!(refused(&["show", &id]).contains("there is no job"));
}

#[tokio::test]
async fn all_dead_jobs_of_a_kind_are_tried_again_at_once() {
    let app = TestApp::spawn().await;
    for _ in 0..3 {
        app.push(TOMORROW).await;
    }
    let mut client = app.database().await;
    let tx = db::as_system(&mut client).await.unwrap();
    let sql = "update tenantry.jobs set state = 'dead', ready = false, finished_at = now()
               where tenant_id = $1 and kind = 'verify_email' and priority = 3";
    assert_eq!(tx.execute(sql, &[&app.tenant]).await.unwrap(), 3);
    tx.commit().await.unwrap();
    let theirs = TestApp::spawn().await;
    let body = json!({"kind": "verify_email"});
    let (status, none) = theirs.post("/api/v1/jobs/retry-dead", &body).await;
    assert_eq!((status, &none["data"]["retried"]), (StatusCode::OK, &json!(0)), "of another tenant");
    let (status, _) = app.post("/api/v1/jobs/retry-dead?all_tenants=true", &body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, all) = app.post("/api/v1/jobs/retry-dead", &body).await;
    assert_eq!((status, &all["data"]["retried"]), (StatusCode::OK, &json!(3)));
    let (ids, _) = app.listed("state=dead").await;
    assert!(ids.is_empty());

    let tx = db::as_system(&mut client).await.unwrap();
    assert_eq!(tx.execute(sql, &[&app.tenant]).await.unwrap(), 3);
    tx.commit().await.unwrap();
    let redrive = ["retry", "--dead", "verify_email", "--tenant", &app.slug];
    assert_eq!(printed(&redrive), "3 dead verify_email jobs are tried again");
    assert_eq!(printed(&redrive), "0 dead verify_email jobs are tried again");
}

#[tokio::test]
async fn the_shell_says_what_is_wrong() {
    let app = TestApp::spawn().await;
    let tenant = ["--tenant", &app.slug];
    let push =
        |kind: &str, json: &str, tenant: &[&str]| refused(&[&["push", kind, json][..], tenant].concat());
    assert!(push("verify_emial", "{}", &tenant).contains("the kinds are verify_email"));
    assert!(push("verify_email", "{", &tenant).contains("JSON"));
    assert!(push("verify_email", "{}", &tenant).contains("payload.user_id is required"));
    assert!(push("verify_email", "{}", &["--tenant", "nobody-there"]).contains("no tenant"));
    assert!(push("verify_email", "{}", &[]).contains("--tenant"));
    assert!(refused(&["list", "--state", "lost"]).contains("the states are pending"));
    assert!(
        refused(&["purge", "--state", "running", "--older-than", "1d"]).contains("done, cancelled or dead")
    );
    assert!(refused(&["show", &Uuid::nil().to_string()]).contains("there is no job"));
}

/// A login that may become `tenantry_app` and nothing else, as docs/jobs.md makes one; its URL.
async fn producer() -> String {
    let url = from_stack("TEST_DATABASE_SUPERUSER_URL");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let role = format!("producer_{}", Uuid::now_v7().simple());
    let sql = format!("create role {role} login noinherit; grant tenantry_app to {role}");
    client.batch_execute(&sql).await.unwrap();
    from_stack("TEST_DATABASE_URL").replacen("//tenantry@", &format!("//{role}@"), 1)
}

/// Runs an example; what it printed, or what it complained of.
fn run(mut command: Command, url: &str) -> Result<String, String> {
    let output = command.env("DATABASE_URL", url).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[tokio::test]
async fn programs_in_other_languages_enqueue_in_their_own_transaction() {
    let app = TestApp::spawn().await;
    let (url, tools) = (producer().await, tools());
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/producers");
    // A module is looked for beside the script.
    let script = tools.join(format!("node/{}.mjs", Uuid::now_v7().simple()));
    std::fs::copy(examples.join("enqueue.mjs"), &script).unwrap();
    let tenant = app.tenant.to_string();
    let psql = |user: &str, end: &str| {
        let mut command = Command::new("psql");
        command.arg(&url).args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--file"]);
        command.arg(examples.join("enqueue.sql"));
        for variable in [format!("tenant={tenant}"), format!("user={user}"), format!("end={end}")] {
            command.args(["--set", &variable]);
        }
        command
    };
    let python = |user: &str, end: &str| {
        let mut command = Command::new(tools.join("python/bin/python"));
        command.arg(examples.join("enqueue.py")).args([&tenant, user, end]);
        command
    };
    let node = |user: &str, end: &str| {
        let mut command = Command::new("node");
        command.arg(&script).args([&tenant, user, end]);
        command
    };
    type Enqueue<'a> = &'a dyn Fn(&str, &str) -> Command;
    let languages: [(&str, Enqueue<'_>); 3] = [("SQL", &psql), ("Python", &python), ("Node", &node)];
    for (language, command) in languages {
        let committed = run(command(app.admin_id(), "commit"), &url).unwrap();
        let (status, job) = app.get(&format!("/api/v1/jobs/{committed}")).await;
        assert_eq!((status, &job["data"]["kind"]), (StatusCode::OK, &json!("verify_email")), "{language}");

        let rolled_back = run(command(app.admin_id(), "rollback"), &url).unwrap();
        assert_eq!(
            app.get(&format!("/api/v1/jobs/{rolled_back}")).await.0,
            StatusCode::NOT_FOUND,
            "{language}"
        );

        let refused = run(command("nobody", "commit"), &url).unwrap_err();
        assert!(refused.contains("payload.user_id must be of type uuid"), "{language}: {refused}");
    }
    std::fs::remove_file(script).unwrap();
}
