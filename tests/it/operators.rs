//! `tenantry tenants` and `tenantry users`, through the program itself.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, answer, eventually, from_stack, token_in};

/// The program with the tests' servers; `input` is what stands in its pipe.
fn run(arguments: &[&str], input: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tenantry"))
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", from_stack("TEST_DATABASE_URL"))
        .env("REDIS_URL", from_stack("TEST_REDIS_URL"))
        .env("PLAN_SEATS", "basic=3,pro=5")
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What it prints, having succeeded.
fn said(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let all = text.clone() + &String::from_utf8(output.stderr).unwrap();
    assert!(!all.contains(PASSWORD) && !all.contains("argon2"), "{all}");
    text
}

/// The JSON that it prints with `--json`.
fn shown(arguments: &[&str], input: &str) -> Value {
    let mut all = arguments.to_vec();
    all.push("--json");
    serde_json::from_str(&said(&all, input)).unwrap()
}

/// Why it refuses.
fn refused(arguments: &[&str], input: &str) -> String {
    let output = run(arguments, input);
    assert!(!output.status.success() && output.stdout.is_empty(), "{arguments:?} was accepted");
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(!why.contains("Weak-Canary"), "{why}");
    why
}

impl TestApp {
    /// Signs in to any tenant; the access token, if that succeeds.
    async fn token_of(&self, tenant: &str, email: &str) -> Option<String> {
        let body = json!({"tenant": tenant, "email": email, "password": PASSWORD});
        let (status, answer) = self.post("/api/v1/auth/login", &body).await;
        (status == StatusCode::OK).then(|| answer["data"]["token"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn the_first_super_administrator_comes_from_the_shell() {
    let app = TestApp::spawn().await;
    let email = format!("root-{}@example.org", Uuid::now_v7().simple());
    let create =
        ["users", "create", "--super-admin", "--email", &email, "--name", "Root", "--password-stdin"];
    let short = refused(&create, "Weak-Canary\n");
    assert!(short.contains("--password-stdin: Password must contain at least one digit"), "{short}");

    let root = shown(&[&create[..], &["--verified"]].concat(), &format!("{PASSWORD}\n"));

    assert_eq!(
        (&root["role"], &root["tenant_id"], &root["email_verified"]),
        (&json!("super_admin"), &json!(Uuid::nil()), &json!(true))
    );
    let token = app.token_of("system", &email).await.expect("signs in");
    let tenants = app.http.get(format!("{}/api/v1/tenants", app.url)).bearer_auth(&token);
    assert_eq!(answer(tenants).await.0, StatusCode::OK);
    // Never over HTTP, and in no other tenant.
    let queen = json!({"email": "queen@example.org", "name": "Queen", "role": "super_admin"});
    let request = app.http.post(format!("{}/api/v1/users", app.url)).bearer_auth(&token);
    assert_eq!(answer(request.json(&queen)).await.0, StatusCode::FORBIDDEN);
    let elsewhere = refused(&[&create[..], &["--tenant", &app.slug]].concat(), PASSWORD);
    assert!(elsewhere.contains("--tenant") && elsewhere.contains("cannot be used"), "{elsewhere}");
    let by = format!("/api/v1/audit-events?subject_id={}&action=user.created", root["id"].as_str().unwrap());
    let request = app.http.get(format!("{}{by}", app.url)).bearer_auth(&token);
    let (_, trail) = answer(request).await;
    assert_eq!(
        (&trail["data"][0]["actor_kind"], &trail["data"][0]["actor_id"]),
        (&json!("operator"), &Value::Null)
    );
    // One stays, here as in any tenant.
    let keeper = format!("keeper-{}@example.org", Uuid::now_v7().simple());
    shown(
        &["users", "create", "--super-admin", "--email", &keeper, "--name", "Keeper", "--password-stdin"],
        PASSWORD,
    );
    assert_eq!(
        said(&["users", "delete", "--tenant", "system", &email], ""),
        format!("user {} is deleted\n", root["id"].as_str().unwrap())
    );
    assert!(app.token_of("system", &email).await.is_none());
}

#[tokio::test]
async fn a_user_brings_the_hash_of_a_password_along() {
    let app = TestApp::spawn().await;
    let create = |email: &'static str| {
        ["users", "create", "--tenant", &app.slug, "--email", email, "--name", "Ian", "--password-hash-stdin"]
    };
    // Of the password that the tests use, as bcrypt has it.
    let hash = "$2b$04$4Ci3dc/EI9eJTYG14S2efuDZj7xM3i6WqJDSUvmy7F9zSL5eR0Ih6";

    shown(&create("ian@example.org"), hash);

    app.token_of(&app.slug, "ian@example.org").await.expect("signs in with the password of elsewhere");
    let wrong = refused(&create("joe@example.org"), "$1$salt$hash");
    assert!(wrong.contains("--password-hash-stdin: must be a hash of Argon2"), "{wrong}");
}

#[tokio::test]
async fn operators_manage_users_by_the_rules_of_the_house() {
    let app = TestApp::spawn().await;
    let in_tenant = |command: &'static str| ["users", command, "--tenant", &app.slug].map(str::to_owned);
    let all = |command: &'static str, more: &[&str]| -> Vec<String> {
        in_tenant(command).into_iter().chain(more.iter().map(|&word| word.to_owned())).collect()
    };
    let with = |command, more: &[&str], input: &str| {
        let words = all(command, more);
        shown(&words.iter().map(String::as_str).collect::<Vec<_>>(), input)
    };
    let without = |command, more: &[&str]| {
        let words = all(command, more);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), "")
    };

    let bob = with(
        "create",
        &["--email", "Bob@example.org", "--name", "Bob", "--role", "admin", "--password-stdin"],
        PASSWORD,
    );
    assert_eq!((&bob["email"], &bob["role"]), (&json!("bob@example.org"), &json!("admin")));
    let token = app.token_of(&app.slug, "bob@example.org").await.expect("signs in");
    let eve = with("create", &["--email", "eve@example.org", "--name", "Eve"], "");
    assert!(
        app.mails_to("eve@example.org").await[0].contains("/reset-password?token="),
        "no password: a mail"
    );
    assert!(without("create", &["--email", "eve@example.org", "--name", "Eve"]).contains("has this address"));

    // A new address counts when it is proven, unless the operator knows better.
    let asked = with("update", &["bob@example.org", "--email", "rob@example.org", "--name", "Rob"], "");
    assert_eq!(
        (&asked["email"], &asked["pending_email"], &asked["name"]),
        (&json!("bob@example.org"), &json!("rob@example.org"), &json!("Rob"))
    );
    let forced =
        with("update", &[bob["id"].as_str().unwrap(), "--email", "rob@example.org", "--at-once"], "");
    assert_eq!(
        (&forced["email"], &forced["pending_email"], &forced["email_verified"]),
        (&json!("rob@example.org"), &Value::Null, &json!(false))
    );
    let verify = token_in(app.mails_to("rob@example.org").await.last().unwrap());
    assert_eq!(app.post("/api/v1/auth/verify-email", &json!({"token": verify})).await.0, StatusCode::OK);

    assert_eq!(with("deactivate", &["rob@example.org"], "")["is_active"], false);
    assert!(app.token_of(&app.slug, "rob@example.org").await.is_none());
    let me = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(&token);
    crate::app::eventually(std::time::Duration::from_secs(1), || async {
        answer(me.try_clone().unwrap()).await.0 == StatusCode::UNAUTHORIZED
    })
    .await;
    assert_eq!(with("activate", &["rob@example.org"], "")["is_active"], true);
    assert_eq!(with("update", &["rob@example.org", "--role", "user"], "")["role"], "user");
    assert!(without("deactivate", &["admin@example.org"]).contains("at least one active administrator"));
    assert!(without("show", &["nobody@example.org"]).contains("has no user"));
    assert!(without("update", &["rob@example.org"]).contains("--name"));
    let ids: Vec<String> = {
        let words = all("list", &["--json"]);
        let lines = said(&words.iter().map(String::as_str).collect::<Vec<_>>(), "");
        lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["email"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids, ["eve@example.org", "rob@example.org", "admin@example.org"]);
    let table = said(&["users", "list", "--tenant", &app.slug, "--search", "eve"], "");
    assert!(
        table.contains("last sign-in") && table.contains("eve@example.org") && !table.contains("rob@"),
        "{table}"
    );
    let deleted = with("delete", &["eve@example.org"], "");
    assert_eq!(deleted, json!({"id": eve["id"], "deleted": true}));
    assert_eq!(
        app.request(Method::GET, &format!("/api/v1/users/{}", eve["id"].as_str().unwrap()))
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::NOT_FOUND
    );

    let trail = app.trail("").await;
    let by: Vec<_> = trail
        .iter()
        .filter(|event| event["actor_kind"] == "operator")
        .map(|event| event["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        by,
        [
            "user.deleted",
            "user.updated",
            "user.updated",
            "user.updated",
            "user.updated",
            "user.updated",
            "user.created",
            "user.created"
        ]
    );
    assert_eq!(app.seats().await, (2, 2));
}

#[tokio::test]
async fn operators_manage_tenants_by_the_rules_of_the_house() {
    let app = TestApp::spawn().await;
    let slug = format!("shell-{}", Uuid::now_v7().simple());
    let create = [
        "tenants",
        "create",
        &slug,
        "--name",
        "Shell",
        "--admin-email",
        "ada@example.org",
        "--admin-name",
        "Ada",
        "--password-stdin",
    ];
    let made = shown(&create, PASSWORD);
    assert_eq!(
        (&made["slug"], &made["plan"], &made["max_users"]),
        (&json!(slug), &json!("basic"), &json!(3))
    );
    let token = app.token_of(&slug, "ada@example.org").await.expect("signs in");
    assert!(refused(&create, PASSWORD).contains("already"));

    let pro = shown(&["tenants", "update", &slug, "--plan", "pro", "--name", "Shell & Sons"], "");
    assert_eq!(
        (&pro["plan"], &pro["max_users"], &pro["name"]),
        (&json!("pro"), &json!(5), &json!("Shell & Sons"))
    );
    assert_eq!(shown(&["tenants", "update", &slug, "--suspend"], "")["is_active"], false);
    assert!(app.token_of(&slug, "ada@example.org").await.is_none());
    assert!(said(&["tenants", "list", "--suspended", "--search", &slug], "").contains(&slug));
    assert_eq!(
        shown(&["tenants", "update", made["id"].as_str().unwrap(), "--resume"], "")["is_active"],
        true
    );
    let text = said(&["tenants", "show", &slug], "");
    assert!(text.contains("seats      1 of 5") && text.contains("state      active"), "{text}");

    assert!(shown(&["tenants", "close", &slug], "")["purge_after"].is_string());
    assert!(app.token_of(&slug, "ada@example.org").await.is_none());
    let closed = refused(&["tenants", "update", &slug, "--name", "Late"], "");
    assert!(closed.contains("there is no open tenant") && closed.contains("list --closed"), "{closed}");
    assert!(said(&["tenants", "show", &slug], "").contains("until then: tenantry tenants reopen"));
    assert!(said(&["tenants", "list", "--closed", "--search", &slug], "").contains(&slug));
    assert_eq!(shown(&["tenants", "reopen", &slug], "")["closed_at"], Value::Null);
    assert!(app.token_of(&slug, "ada@example.org").await.is_some());
    let old = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(token);
    assert_eq!(answer(old).await.0, StatusCode::UNAUTHORIZED);

    for arguments in [&["tenants", "close", "system"][..], &["tenants", "update", "system", "--suspend"]] {
        assert!(refused(arguments, "").contains("neither suspended nor closed"));
    }
    assert!(refused(&["tenants", "show", "no-such-tenant"], "").contains("there is no"));
    assert!(refused(&["tenants", "update", &slug], "").contains("--plan"));
    assert!(
        refused(
            &[
                "tenants",
                "create",
                "Not A Slug",
                "--name",
                "x",
                "--admin-email",
                "a@example.org",
                "--admin-name",
                "A"
            ],
            ""
        )
        .contains("SLUG")
    );
}

#[tokio::test]
async fn what_operators_do_to_a_job_is_in_the_trail_of_its_tenant() {
    let app = TestApp::spawn().await;
    let user = format!("{{\"user_id\": \"{}\"}}", app.admin["id"].as_str().unwrap());
    let push = ["jobs", "push", "verify_email", &user, "--tenant", &app.slug, "--in", "1h"];
    let id = said(&push, "").trim().to_owned();
    assert!(
        said(&["jobs", "cancel", &id, "--reason", "not now"], "").contains("was pending and is cancelled")
    );
    assert!(refused(&["jobs", "cancel", &id], "").contains("is cancelled: only others"));
    assert!(said(&["jobs", "retry", &id], "").contains("was cancelled and will be tried again"));

    let trail = app.trail(&format!("subject_id={id}")).await;

    let seen: Vec<_> = trail
        .iter()
        .map(|event| (event["action"].as_str().unwrap(), event["actor_kind"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("job.retried", "operator"), ("job.cancelled", "operator"), ("job.pushed", "operator")]
    );
}

#[tokio::test]
async fn users_are_exported_restored_and_erased_from_the_shell() {
    let app = TestApp::spawn().await;
    let tenant = ["--tenant", &app.slug];
    let user = app.create_user("+ada@example.org").await;
    let id = user["id"].as_str().unwrap();
    let users = |command: &'static str, more: &[&str]| {
        [&["users", command][..], &tenant[..], more]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let on = |arguments: Vec<String>| {
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        said(&arguments, "")
    };
    let exported = on(users("export", &[]));
    assert_eq!(exported.lines().count(), 2);
    assert!(exported.lines().any(|line| serde_json::from_str::<Value>(line).unwrap() == user), "{exported}");
    let csv = on(users("export", &["--format", "csv", "--search", "+ada"]));
    assert!(csv.lines().count() == 2 && csv.contains(",'+ada@example.org,"), "{csv}");
    on(users("delete", &["+ada@example.org"]));
    assert!(on(users("deleted", &[])).contains(id));
    assert!(on(users("restore", &[id])).contains("+ada@example.org"));
    let request = app.request(Method::GET, &format!("/api/v1/users/{id}")).header("X-Min-Version", "3");
    assert_eq!(answer(request).await.1["data"]["version"], 3);
    let data: Value = serde_json::from_str(&on(users("data", &["+ada@example.org"]))).unwrap();
    assert_eq!((&data["user_id"], data["records"].as_array().unwrap().len() > 10), (&json!(id), true));
    assert!(on(users("erase", &["+ada@example.org"])).contains("a worker erases the copies"));
    // What this process had in memory it may show for a second.
    let path = format!("/api/v1/users/{id}");
    eventually(Duration::from_secs(1), || async { app.get(&path).await.0 == StatusCode::NOT_FOUND }).await;
    app.run_jobs().await;
    assert!(on(users("erase", &[id])).contains("the last copy since"));
    let restore = users("restore", &[id]);
    let restore: Vec<_> = restore.iter().map(String::as_str).collect();
    assert!(refused(&restore, "").contains("has no user"));
}
