//! What workers do with what was staged, and what happens when they die, meet, or find that they may not.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::json;
use tenantry_accounts::imports::{self, Step};

use super::{CSV, NDJSON, PATH, SEATS, people};
use crate::{
    app::{TestApp, answer, eventually},
    node::Cluster,
    passwords::MADE_ELSEWHERE,
};

#[tokio::test]
async fn a_dry_run_says_what_would_become_of_each_row_and_changes_nothing() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=3"]).await;
    let rows = "email,name,role\nada@example.org,Ada,\nadmin@example.org,Somebody,\nwrong,Wrong,\nbob@example.org,Bob,admin\n\
                ada@example.org,Again,\ncarl@example.org,Carl,\n";
    let before = app.came_of_it().await;

    let id = app.import("dry_run=true&invite=true", CSV, rows).await;
    app.run_jobs().await;

    let outcomes = [
        "created",
        "exists: email_taken",
        "invalid: invalid_email",
        "created",
        "repeated: repeated",
        "no_seat: no_seat_left",
    ];
    assert_eq!(app.outcomes(&id).await, outcomes);
    let done = app.progress(&id).await;
    assert_eq!(
        (&done["state"], &done["dry_run"], &done["created"]),
        (&json!("done"), &json!(true), &json!(2))
    );
    assert_eq!(app.came_of_it().await, before);
    assert_eq!(app.seats().await, (1, 1));
    // And then it becomes so.
    let id = app.import("", CSV, rows).await;
    app.run_jobs().await;
    assert_eq!(app.outcomes(&id).await, outcomes);
    assert_eq!(app.seats().await, (3, 3));
}

#[tokio::test]
async fn each_new_user_is_mailed_if_that_was_asked_for() {
    let app = TestApp::spawn().await;
    app.run_jobs().await;
    let rows = [
        json!({"email": "ada@example.org", "name": "Ada"}),
        json!({"email": "bob@example.org", "name": "Bob", "password_hash": MADE_ELSEWHERE[0]}),
        json!({"email": "eve@example.org", "name": "Eve", "is_active": false}),
    ];
    app.import("invite=true", NDJSON, rows.map(|row| row.to_string()).join("\n")).await;
    app.run_jobs().await;
    let subject = |mail: &str| mail.lines().find(|line| line.starts_with("Subject: ")).unwrap().to_owned();
    let [ada, bob] = [app.mails_to("ada@example.org").await, app.mails_to("bob@example.org").await];
    assert_eq!((ada.len(), bob.len()), (1, 1));
    assert_ne!(subject(&ada[0]), subject(&bob[0]), "to choose a password, and to verify the address");
    assert!(app.mails_to("eve@example.org").await.is_empty());
}

#[tokio::test]
async fn new_users_are_in_the_next_list_and_look_up_of_every_node() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let node = app.another_node().await;
    // Somebody had the address before, and caches know.
    let old = app.create_user("p-7@example.org").await;
    for app in [&app, &node] {
        assert_eq!(app.get("/api/v1/users/lookup?email=p-7@example.org").await.1["data"]["id"], old["id"]);
        assert_eq!(app.get("/api/v1/users").await.1["pagination"]["total"], 2);
    }
    assert_eq!(
        app.delete(&format!("/api/v1/users/{}", old["id"].as_str().unwrap())).await.0,
        StatusCode::NO_CONTENT
    );

    let id = app.import("", CSV, people("p", 20)).await;
    app.run_jobs().await;

    assert_eq!(app.get("/api/v1/users").await.1["pagination"]["total"], 21);
    let made = app.report(&id, "").await;
    for app in [&app, &node] {
        let (_, found) = app.get("/api/v1/users/lookup?email=p-7@example.org").await;
        assert_eq!(found["data"]["id"], made[7]["user_id"]);
        for row in &made {
            assert_eq!(app.look_up(row["user_id"].as_str().unwrap()).await.1["email"], row["email"]);
        }
    }
    // No cache had to be told of them.
    assert_eq!(
        app.counted(
            "select count(*) from tenantry.jobs where kind = 'invalidate_user' and payload::text like '%'
            || (select id::text from tenantry.users where email = 'p-3@example.org') || '%'"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn whoever_loses_the_role_or_the_session_imports_no_more() {
    for how in ["demoted", "deactivated", "signed out"] {
        let mut app = TestApp::spawn_with(&[SEATS]).await;
        let second = app.create_user("second@example.org").await;
        let path = format!("/api/v1/users/{}", second["id"].as_str().unwrap());
        assert_eq!(app.patch(&path, &json!({"role": "admin"})).await.0, StatusCode::OK);
        let (first, token) = (app.token.clone(), app.sign_in("second@example.org").await);
        app.token = token;
        let id = app.import("", CSV, people("p", 2_500)).await;
        let (tenant, import) = app.of(&id);
        let step = imports::step(&app.state.app, tenant, import).await.unwrap();
        assert!(matches!(step, Step::Moved(_)), "{step:?}");
        if how == "signed out" {
            let (status, _) = answer(app.request(Method::POST, "/api/v1/auth/logout-all")).await;
            assert_eq!(status, StatusCode::NO_CONTENT);
        }
        app.token = first;
        let change = match how {
            "demoted" => json!({"role": "user"}),
            "deactivated" => json!({"is_active": false}),
            _ => json!({"name": "Somebody"}),
        };
        assert_eq!(app.patch(&path, &change).await.0, StatusCode::OK);

        app.run_jobs().await;

        let ended = app.progress(&id).await;
        assert_eq!(
            (&ended["state"], &ended["reason"]),
            (&json!("failed"), &json!("revoked")),
            "{how}: {ended}"
        );
        assert_eq!((&ended["created"], &ended["done"]), (&json!(1_000), &json!(1_000)));
        assert_eq!(app.seats().await, (1_002, 1_002));
        // On a machine with too much to do it may take more than one try.
        eventually(Duration::from_secs(3), async || {
            app.run_jobs().await;
            app.report(&id, "?outcome=cancelled").await.len() == 1_500
        })
        .await;
    }
}

#[tokio::test]
async fn an_import_of_a_tenant_that_closes_makes_nobody() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let id = app.import("", CSV, people("p", 10)).await;
    let path = format!("/api/v1/tenants/{}", app.tenant);
    let close = app.request(Method::DELETE, &path).header("If-Match", "\"1\"");
    assert_eq!(answer(close).await.0, StatusCode::NO_CONTENT);
    app.run_jobs().await;
    let sql =
        format!("select count(*) from tenantry.user_imports where id = '{id}' and reason = 'tenant_closed'");
    assert_eq!(app.counted(&sql).await, 1);
    assert_eq!(app.came_of_it().await[..2], [1, 0]);
}

#[tokio::test]
async fn two_who_go_on_with_the_same_import_make_nobody_twice() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let node = app.another_node().await;
    let id = app.import("", CSV, people("p", 4_500)).await;
    let (tenant, import) = app.of(&id);
    let to_its_end = async |app: &TestApp| {
        let mut moved = 0;
        loop {
            match imports::step(&app.state.app, tenant, import).await.unwrap() {
                Step::Moved(_) => moved += 1,
                Step::Busy(_) => tokio::task::yield_now().await,
                Step::Ended(_) => return moved,
                Step::Gone => panic!("it is gone"),
            }
        }
    };
    let (a, b) = tokio::join!(to_its_end(&app), to_its_end(&node));
    assert!(a + b >= 4, "{a} and {b}");
    app.run_jobs().await;
    assert_each_once(&app, &id, 4_500).await;
}

async fn assert_each_once(app: &TestApp, id: &str, n: usize) {
    let done = app.progress(id).await;
    assert_eq!(
        (&done["state"], &done["created"], &done["done"]),
        (&json!("done"), &json!(n), &json!(n)),
        "{done}"
    );
    let n = i32::try_from(n).unwrap();
    assert_eq!(app.seats().await, (n + 1, n + 1));
    let [users, hashes, _, events] = app.came_of_it().await;
    assert_eq!((users, hashes, events), (i64::from(n) + 1, 0, i64::from(n)));
    assert_eq!(app.report(id, "?outcome=created").await.len(), n as usize);
}

/// What the database says in the end, whatever died.
async fn assert_whole(cluster: &Cluster, rows: i64) {
    let sql = "select i.state, i.created, i.total,
                 (select count(*) from tenantry.users u where u.email like 'p-%'),
                 (select count(distinct r.user_id) from tenantry.user_import_rows r where r.outcome = 'created'),
                 (select count(*) from tenantry.audit_events e where e.action = 'user.created' and e.detail ? 'import'),
                 (select s.used - tenantry.seats_counted(s.tenant_id) from tenantry.tenant_seats s where s.tenant_id = i.tenant_id),
                 (select count(*) from tenantry.audit_events e where e.action = 'import.ended')
               from tenantry.user_imports i";
    let row = cluster.database.query_one(sql, &[]).await.unwrap();
    let total = i32::try_from(rows).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i32>(1), row.get::<_, i32>(2)), ("done", total, total));
    assert_eq!([row.get::<_, i64>(3), row.get(4), row.get(5)], [rows; 3]);
    assert_eq!((row.get::<_, i32>(6), row.get::<_, i64>(7)), (0, 1), "seats, and one end");
}

#[tokio::test]
async fn a_worker_that_is_killed_in_the_middle_loses_no_row_and_makes_none_twice() {
    const ROWS: usize = 12_000;
    let cluster = Cluster::start(1, 1, &[("SMTP_URL", "smtp://127.0.0.1:1")]).await;
    let request = reqwest::Client::new().post(format!("http://{}{PATH}", cluster.nodes[0].address));
    let request = request.bearer_auth(&cluster.token).header("Content-Type", CSV).body(people("p", ROWS));
    let (status, accepted) = answer(request).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let position = async || -> (i32, bool) {
        let sql = "select position, finished_at is not null from tenantry.user_imports";
        let row = cluster.database.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    let mut worker = cluster.command().arg("worker").stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(10), async || position().await.0 > 0).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert!(!position().await.1, "it was killed in the middle");
    // Another one waits for the lease of the first.
    let mut worker = cluster.command().arg("worker").stderr(std::process::Stdio::null()).spawn().unwrap();
    eventually(Duration::from_secs(15), async || position().await.1).await;
    assert_whole(&cluster, ROWS as i64).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[tokio::test]
async fn a_batch_costs_as_many_statements_however_many_rows_it_has() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let folder = tempfile::tempdir().unwrap();
    let tenant = cluster.tenant.to_string();
    let statements = async |begin: &str, n: usize| {
        let file = folder.path().join(format!("{begin}.csv"));
        std::fs::write(&file, people(begin, n)).unwrap();
        let count = async || {
            let all = cluster.statements().await;
            // The process beside it follows the feed and looks who is the primary.
            let others =
                ["revocations", "pg_is_in_recovery", "notify", "pg_stat_statements", "user_imports_open"];
            let ours = all.iter().filter(|(sql, _)| others.iter().all(|other| !sql.contains(other)));
            ours.map(|(_, calls)| calls).sum::<i64>()
        };
        let before = count().await;
        cluster.run(&["users", "import", file.to_str().unwrap(), "--tenant", &tenant]);
        count().await - before
    };
    statements("first", 2).await;
    let few = statements("few", 2).await;
    let many = statements("many", 990).await;
    assert_eq!(few, many);
    assert!((20..=80).contains(&few), "{few}");
    let mut admin = cluster.client(0).await;
    let found = admin.ask(Method::GET, "/api/v1/users/lookup?email=many-989@example.org", "").await;
    assert_eq!(found.status, 200);
}
