//! `tenantry cache`, from the shell.

use std::time::{Duration, Instant};

use deadpool_redis::redis::{Client, aio::MultiplexedConnection, cmd};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tenantry_cache::Pointer;

use crate::{
    app::{TestApp, from_stack},
    cli::{refusal, tenantry},
};

/// Whether the program was content, and what it printed, with its complaint.
fn cache(arguments: &[&str]) -> (bool, String) {
    let output = tenantry(&[&["cache"], arguments].concat(), &variables());
    let (said, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(
        !complaint.contains('\r') && !complaint.contains(" left"),
        "no bar where nobody looks: {complaint}"
    );
    let well = output.status.success();
    (well, if well { said } else { said + &complaint })
}

fn variables() -> [(&'static str, &'static str); 2] {
    let leaked = |variable| &*Box::leak(from_stack(variable).into_boxed_str());
    [("DATABASE_URL", leaked("TEST_DATABASE_URL")), ("REDIS_URL", leaked("TEST_REDIS_URL"))]
}

async fn redis() -> MultiplexedConnection {
    Client::open(from_stack("TEST_REDIS_URL")).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// Redis as it can be looked into.
struct Planting<'a> {
    app: &'a TestApp,
    redis: MultiplexedConnection,
}

impl Planting<'_> {
    fn key(&self, id: &str) -> String {
        self.app.redis_name(id)
    }

    fn pointer(&self, email: &str) -> String {
        let pointer = Pointer::new("e", self.app.tenant, Sha256::digest(email).into());
        self.app.state.app.cache.name_of_pointer(&pointer)
    }

    async fn field(&mut self, id: &str, field: &str) -> Option<String> {
        cmd("HGET").arg(self.key(id)).arg(field).query_async(&mut self.redis).await.unwrap()
    }

    /// The value in Redis. A fill may have come too late on a busy machine; the next look-up makes good for it.
    async fn value(&mut self, id: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(data) = self.field(id, "d").await {
                return data;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{id} is not cached");
            self.app.look_up(id).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn set(&mut self, id: &str, version: i64, data: &str) {
        let key = self.key(id);
        let () = cmd("HSET")
            .arg(key)
            .arg(&[("v", version.to_string().as_str()), ("d", data)])
            .query_async(&mut self.redis)
            .await
            .unwrap();
    }
}

fn id(user: &Value) -> &str {
    user["id"].as_str().unwrap()
}

#[tokio::test]
async fn what_is_wrong_in_redis_is_found_and_repaired() {
    let app = TestApp::spawn().await;
    let mut users = vec![];
    for n in 0..6 {
        users.push(app.create_user(&format!("v{n}@example.org")).await);
    }
    let [sound, stale, ahead, differs, foreign, astray] = [0, 1, 2, 3, 4, 5].map(|n| id(&users[n]));
    let path = |id: &str| format!("/api/v1/users/{id}");
    app.patch(&path(sound), &json!({"name": "Twice"})).await;
    app.delete(&path(id(&app.create_user("gone@example.org").await))).await;
    let verify = |more: &[&str]| cache(&[&["verify", "--tenant", &app.slug], more].concat());
    assert_eq!(verify(&[]), (true, "compared 8 users: nothing is wrong\n".into()));

    let mut planting = Planting { app: &app, redis: redis().await };
    let old = planting.value(stale).await;
    app.patch(&path(stale), &json!({"name": "Newer"})).await;
    planting.set(stale, 1, &old).await;
    let data = planting.value(ahead).await;
    planting.set(ahead, 9, &data.replacen(" 1 live", " 9 live", 1)).await;
    let data = planting.value(differs).await;
    planting.set(differs, 1, &data.replace("Some One", "Some Two")).await;
    planting.set(foreign, 1, &old).await;
    let pointer = planting.pointer("v5@example.org");
    let () = cmd("SET").arg(&pointer).arg(sound).query_async(&mut planting.redis).await.unwrap();

    let (well, said) = verify(&["--json"]);
    assert!(!well && said.contains("5 wrong, see above; `--repair` removes them"), "{said}");
    let lines: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let found = |fault: &str| {
        let lines: Vec<_> = lines.iter().filter(|line| line["fault"] == fault).collect();
        assert_eq!(lines.len(), 1, "{fault}: {said}");
        lines[0]["user_id"].as_str().unwrap()
    };
    let expected =
        [("stale", stale), ("ahead", ahead), ("differs", differs), ("foreign", foreign), ("pointer", astray)];
    for (fault, user) in expected {
        assert_eq!(found(fault), user);
    }
    assert!(lines.iter().any(|line| line["wrong"] == 5 && line["users"] == 8), "{said}");
    assert_eq!(planting.field(stale, "v").await.as_deref(), Some("1"), "nothing is changed unasked");

    let (well, said) = verify(&["--repair"]);
    assert!(!well && said.contains("stale") && said.contains("; removed"), "{said}");
    assert!(said.contains("compared 8 users: 1 ahead, 1 differs, 1 foreign, 1 pointer, 1 stale"), "{said}");
    assert_eq!(planting.field(stale, "f").await.as_deref(), Some("2"), "a floor bars what is older");
    assert_eq!(verify(&[]), (true, "compared 8 users: nothing is wrong\n".into()));
    let node = app.another_node().await;
    assert_eq!(node.look_up(stale).await.1["name"], "Newer");
    assert_eq!(node.look_up(ahead).await.1["version"], 1);
    let exists: bool = cmd("EXISTS").arg(pointer).query_async(&mut planting.redis).await.unwrap();
    assert!(!exists);
}

#[tokio::test]
async fn a_user_is_shown_as_redis_holds_it_and_dropped_safely() {
    let app = TestApp::spawn().await;
    let user = app.create_user("Shown@example.org").await;
    let one = ["--tenant", &app.slug, "--email", "shown@example.org"];
    let get = || {
        let (well, said) = cache(&[&["get", "--json"], &one[..]].concat());
        assert!(well, "{said}");
        serde_json::from_str::<Value>(&said).unwrap()
    };
    let mut planting = Planting { app: &app, redis: redis().await };
    planting.value(id(&user)).await;
    let shown = get();
    let key = planting.key(id(&user));
    assert_eq!((&shown["key"], &shown["user_id"]), (&json!(key), &user["id"]));
    assert_eq!(shown["value"]["version"], "1");
    assert_eq!((&shown["value"]["decodes"], &shown["mismatch"]), (&json!(true), &Value::Null));
    assert_eq!((&shown["row"]["version"], &shown["row"]["state"]), (&json!(1), &json!("live")));
    assert!(shown["left_ms"].as_u64().is_some_and(|left| left > 100_000), "{shown}");
    let (well, said) = cache(&[&["get"], &one[..]].concat());
    assert!(well, "{said}");
    for line in
        ["row        version 1, live", "schema user-2: as the row", "floor      version 1", "lease      none"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    let by_id = ["get", "--tenant", &app.tenant.to_string(), "--id", id(&user)];
    assert!(cache(&by_id).0);

    let (well, said) = cache(&[&["drop"], &one[..]].concat());
    assert!(well && said.contains("dropped"), "{said}");
    let dropped = get();
    assert_eq!((&dropped["value"], &dropped["floor"]), (&Value::Null, &json!(1)));

    planting.value(id(&user)).await;
    assert_eq!(get()["value"]["version"], "1", "and cached again");
    let (well, said) = cache(&["drop", "--tenant", &app.slug, "--all"]);
    assert!(well && said.contains("dropped 2 users"), "{said}");
    assert_eq!(get()["value"], Value::Null);
}

/// One job in sixteen looks whether Redis holds what the row says.
#[tokio::test]
async fn workers_find_what_is_wrong_by_samples() {
    let app = TestApp::spawn().await;
    let user = app.create_user("sample@example.org").await;
    let mut planting = Planting { app: &app, redis: redis().await };
    let old = planting.value(id(&user)).await;
    app.patch(&format!("/api/v1/users/{}", id(&user)), &json!({"name": "Newer"})).await;
    app.run_jobs().await;
    planting.set(id(&user), 1, &old).await;
    // About the first version, so that none of them removes it as jobs do.
    let payload = json!({"users": [{"id": id(&user), "version": 1}]}).to_string();
    let sql = "select tenantry.enqueue_job('invalidate_user', $1::text::jsonb, $2)";
    let mut database = app.database().await;
    let tx = tenantry_accounts::db::as_tenant(&mut database, tenantry_accounts::TenantId(app.tenant))
        .await
        .unwrap();
    let mut sampled = false;
    while !sampled {
        let job: uuid::Uuid = tx.query_one(sql, &[&payload, &app.tenant]).await.unwrap().get(0);
        sampled = job.as_u128().is_multiple_of(16);
    }
    tx.commit().await.unwrap();
    assert_eq!(planting.field(id(&user), "v").await.as_deref(), Some("1"));

    app.run_jobs().await;

    assert_eq!(planting.field(id(&user), "v").await, None);
    assert_eq!(planting.field(id(&user), "f").await.as_deref(), Some("2"));
    let metrics = tenantry::server::metrics().render();
    let value = |metric: &str| {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(metric)).unwrap_or_else(|| panic!("{metrics}"));
        line.trim().parse::<u64>().unwrap()
    };
    assert_eq!(value("tenantry_cache_mismatch_total{reason=\"stale\"}"), 1);
    assert!(value("tenantry_cache_checked_total") >= 1);
}

#[tokio::test]
async fn more_users_than_a_page_are_compared() {
    let output = tenantry(&["seed", "--tenants", "1", "--users", "1201"], &variables());
    let said = String::from_utf8(output.stdout).unwrap();
    let slug = said.split_whitespace().find(|word| word.starts_with("seed-")).unwrap().trim_end_matches(',');
    assert_eq!(
        cache(&["verify", "--tenant", slug]),
        (true, "compared 1201 users: nothing is wrong\n".into()),
    );
}

#[test]
fn what_cannot_be_done_is_said() {
    let refused = |arguments: &[&str], variables: &[(&str, &str)]| {
        refusal(&[&["cache"], arguments].concat(), variables)
    };
    let variables = variables();
    for arguments in [
        &["get", "--tenant", "nobody-s", "--email", "a@example.org"][..],
        &["drop", "--tenant", "nobody-s", "--all"],
        &["verify", "--tenant", "nobody-s"],
    ] {
        let said = refused(arguments, &variables);
        assert!(said.contains("there is no tenant \"nobody-s\""), "{said}");
    }
    let said = refused(&["get", "--tenant", "system", "--email", "a@example.org"], &variables);
    assert!(said.contains("tenant \"system\" has no user \"a@example.org\""), "{said}");
    let down = [variables[0], ("REDIS_URL", "redis://127.0.0.1:1")];
    let said = refused(&["verify", "--all"], &down);
    assert!(said.contains("REDIS_URL") && said.contains("Connection refused"), "{said}");
    assert!(refused(&["verify", "--all"], &variables[..1]).contains("REDIS_URL is not set"));
    assert!(refused(&["verify"], &variables).contains("--all"));
    assert!(refused(&["get", "--tenant", "system"], &variables).contains("--email"));
}
