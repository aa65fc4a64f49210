//! Figures of a tenant's users, and of single users in lists.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    app::{TestApp, wrong_fields},
    node,
};

async fn stats(app: &TestApp) -> Value {
    let (status, body) = app.get("/api/v1/users/stats").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body["data"].clone()
}

/// Lets time pass for what was counted.
async fn age(app: &TestApp, seconds: f64) {
    let sql = "update tenantry.user_stats set as_of = as_of - make_interval(secs => $2),
                 figures = jsonb_set(figures, '{as_of}', to_jsonb((figures->>'as_of')::timestamptz - make_interval(secs => $2)))
               where tenant_id = $1";
    assert_eq!(node::connect("tenantry").await.execute(sql, &[&app.tenant, &seconds]).await.unwrap(), 1);
}

/// Nothing was changed for longer than any transaction takes.
async fn calm(app: &TestApp) {
    let sql = "update tenantry.audit_events set id = tenantry.uuid_floor(at - interval '1 hour' - random() * interval '1 hour')
               where tenant_id = $1";
    node::connect("tenantry").await.execute(sql, &[&app.tenant]).await.unwrap();
}

/// Users of every role, state and verification, some of them deleted, made over many days, who have signed in often.
async fn gather(app: &TestApp, database: &Client) {
    let users = "insert into tenantry.users (tenant_id, id, email, name, role, is_active, email_verified, created_at, deleted_at)
                 select $1, gen_random_uuid(), 'p' || i || '@example.org', 'P', case when i % 5 = 0 then 'admin' else 'user' end,
                   i % 3 <> 0, i % 4 <> 0, now() - i % 120 * interval '1 day' + i % 7 * interval '1 hour' - interval '7 hours',
                   case when i % 11 = 0 then now() end
                 from generate_series(1, 400) i";
    database.execute(users, &[&app.tenant]).await.unwrap();
    // A second before the edge and a second beyond it, too.
    let logins = "insert into tenantry.user_logins (tenant_id, user_id, id, at)
                  select u.tenant_id, u.id, (left(tenantry.uuid_floor(t.at)::text, 18) || right(gen_random_uuid()::text, 18))::uuid, t.at
                  from tenantry.users u, unnest(array[interval '1 minute', interval '3 days', interval '30 days' - interval '1 minute',
                    interval '30 days' + interval '1 second', interval '40 days']) i (ago), lateral (select now() - ago as at) t
                  where u.tenant_id = $1 and u.email like 'p%'";
    database.execute(logins, &[&app.tenant]).await.unwrap();
}

/// What the rows say, each figure by a statement of its own.
async fn expected(app: &TestApp, database: &Client, as_of: &Value) -> Value {
    let count = async |condition: &str| {
        let sql = format!(
            "select count(*) from tenantry.users where tenant_id = $1 and deleted_at is null and {condition}"
        );
        database.query_one(&sql, &[&app.tenant]).await.unwrap().get::<_, i64>(0)
    };
    let logins = "select count(*) from tenantry.user_logins where tenant_id = $1 and at >= $2::text::timestamptz - interval '30 days'";
    let logins: i64 = database.query_one(logins, &[&app.tenant, &as_of.as_str()]).await.unwrap().get(0);
    let days = "select jsonb_agg(jsonb_build_object('day', d.day::date::text, 'users', (
                  select count(*) from tenantry.users u where u.tenant_id = $1 and u.deleted_at is null
                    and u.created_at >= d.day at time zone 'UTC' and u.created_at < (d.day + interval '1 day') at time zone 'UTC'
                )) order by d.day)
                from generate_series(($2::text::timestamptz at time zone 'UTC')::date - 89,
                  ($2::text::timestamptz at time zone 'UTC')::date, interval '1 day') d (day)";
    let sign_ups: Value = database.query_one(days, &[&app.tenant, &as_of.as_str()]).await.unwrap().get(0);
    json!({
        "as_of": as_of, "total_users": count("true").await,
        "by_role": {
            "user": count("role = 'user'").await, "admin": count("role = 'admin'").await,
            "super_admin": count("role = 'super_admin'").await,
        },
        "by_state": {"active": count("is_active").await, "inactive": count("not is_active").await},
        "by_verification": {"verified": count("email_verified").await, "unverified": count("not email_verified").await},
        "recent_logins": logins, "sign_ups": sign_ups,
    })
}

#[tokio::test]
async fn every_figure_is_what_the_rows_say_after_each_kind_of_change() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=1000"]).await;
    let database = node::connect("tenantry").await;
    gather(&app, &database).await;

    let first = stats(&app).await;
    assert_eq!(first, expected(&app, &database, &first["as_of"]).await);
    assert_eq!(first["sign_ups"].as_array().unwrap().len(), 90);
    assert!(
        first["by_role"]["admin"].as_i64() > Some(50) && first["by_state"]["inactive"].as_i64() > Some(50)
    );
    assert!(first["recent_logins"].as_i64() > Some(1_000), "three of five of each");

    let user = app.create_user("bob@example.org").await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());
    for change in 0..5 {
        match change {
            0 => drop(app.sign_in("bob@example.org").await),
            1 => drop(app.patch(&path, &json!({"role": "admin"})).await),
            2 => drop(app.patch(&path, &json!({"is_active": false})).await),
            3 => drop(app.delete(&path).await),
            _ => drop(
                app.post("/api/v1/users/bulk", &json!({"users": [{"email": "n@example.org", "name": "N"}]}))
                    .await,
            ),
        }
        age(&app, 11.0).await;
        let next = stats(&app).await;
        assert_eq!(next, expected(&app, &database, &next["as_of"]).await, "after change {change}");
        assert!(next["as_of"] != first["as_of"]);
    }
}

#[tokio::test]
async fn figures_are_counted_anew_when_something_has_happened_and_not_before_ten_seconds() {
    let app = TestApp::spawn().await;
    let first = stats(&app).await;
    assert_eq!(first["total_users"], 1);
    app.create_user("bob@example.org").await;
    assert_eq!(stats(&app).await, first, "within ten seconds");

    age(&app, 11.0).await;
    let second = stats(&app).await;
    assert_eq!(second["total_users"], 2);

    calm(&app).await;
    age(&app, 60.0).await;
    let kept = stats(&app).await;
    assert!(kept["as_of"] != second["as_of"] && kept["total_users"] == 2);
    assert_eq!(stats(&app).await["as_of"], kept["as_of"], "nothing has happened since");
    let today = "select (now() - interval '61 seconds') at time zone 'UTC' >= date_trunc('day', now() at time zone 'UTC')";
    let same_day: bool = node::connect("tenantry").await.query_one(today, &[]).await.unwrap().get(0);
    let counted =
        "select as_of < now() - interval '59 seconds' from tenantry.user_stats where tenant_id = $1";
    let counted: bool =
        node::connect("tenantry").await.query_one(counted, &[&app.tenant]).await.unwrap().get(0);
    assert_eq!(counted, same_day, "but for another day");

    age(&app, 3_600.0).await;
    stats(&app).await;
    let fresh = "select as_of > now() - interval '59 seconds' from tenantry.user_stats where tenant_id = $1";
    assert!(
        node::connect("tenantry").await.query_one(fresh, &[&app.tenant]).await.unwrap().get::<_, bool>(0),
        "sign-ins grow old by themselves"
    );
}

#[tokio::test]
async fn many_users_are_counted_by_one_job_however_many_ask_and_however_much_changes() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=100000"]).await;
    let database = node::connect("tenantry").await;
    let many = "insert into tenantry.users (tenant_id, id, email, name)
                select $1, gen_random_uuid(), 'p' || i || '@example.org', 'P' from generate_series(1, 10500) i";
    database.execute(many, &[&app.tenant]).await.unwrap();
    database
        .execute("update tenantry.tenant_seats set used = 10501 where tenant_id = $1", &[&app.tenant])
        .await
        .unwrap();
    app.run_jobs().await;
    let jobs = "select count(*) from tenantry.jobs where tenant_id = $1 and kind = 'roll_up_users'";
    let jobs = async || database.query_one(jobs, &[&app.tenant]).await.unwrap().get::<_, i64>(0);

    for n in 0..10 {
        let response = app.request(reqwest::Method::GET, "/api/v1/users/stats").send().await.unwrap();
        assert_eq!(
            (response.status(), response.headers()["retry-after"].to_str().unwrap()),
            (StatusCode::ACCEPTED, "2")
        );
        app.create_user(&format!("n{n}@example.org")).await;
    }
    assert_eq!(jobs().await, 1);
    app.run_jobs().await;
    let counted = stats(&app).await;
    assert_eq!(counted, expected(&app, &database, &counted["as_of"]).await);
    assert_eq!((counted["total_users"].as_i64(), jobs().await), (Some(10_511), 1));

    app.create_user("late@example.org").await;
    age(&app, 3_000.0).await;
    let old = stats(&app).await;
    assert_eq!(stats(&app).await, old, "a request counts nobody");
    assert_eq!((old["total_users"].as_i64(), jobs().await), (Some(10_511), 2));
    app.run_jobs().await;
    assert_eq!(stats(&app).await["total_users"], 10_512);

    // The same job again counts nobody: that has been done.
    let before = stats(&app).await;
    tenantry_accounts::users::stats::roll_up(&app.state.app, tenantry_accounts::TenantId(app.tenant))
        .await
        .unwrap();
    assert_eq!(stats(&app).await, before);
}

#[tokio::test]
async fn a_list_has_figures_that_do_not_multiply_each_other() {
    let app = TestApp::spawn().await;
    let database = node::connect("tenantry").await;
    let user = app.create_user("bob@example.org").await;
    let id = user["id"].as_str().unwrap();
    for _ in 0..3 {
        app.sign_in("bob@example.org").await;
    }
    for ago in ["29 days 23 hours", "30 days 1 minute"] {
        let login = format!(
            "insert into tenantry.user_logins (tenant_id, user_id, id, at)
             select $1, $2::text::uuid, tenantry.uuid_floor(at), at from (select now() - interval '{ago}' as at) t"
        );
        database.execute(&login, &[&app.tenant, &id]).await.unwrap();
    }
    for n in 0..4 {
        app.put(&format!("/api/v1/users/{id}/projects/p{n}")).await;
    }

    for list in [
        "sort_by=email&sort_order=asc",
        "sort_by=email&sort_order=asc&cursor=first",
        "search=example&sort_by=email&sort_order=asc",
    ] {
        let (status, body) = app.get(&format!("/api/v1/users?include=stats&{list}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let users = body["data"].as_array().unwrap();
        let figures: Vec<_> =
            users.iter().map(|user| (user["email"].as_str().unwrap(), user["stats"].clone())).collect();
        let (none, some) = (
            json!({"recent_logins": 1, "total_projects": 0}),
            json!({"recent_logins": 4, "total_projects": 4}),
        );
        assert_eq!(figures, [("admin@example.org", none), ("bob@example.org", some)], "{list}");
        assert!(!body.to_string().contains("argon2") && !body.to_string().contains("password"));
        let (_, plain) = app.get(&format!("/api/v1/users?{list}")).await;
        assert!(plain["data"].as_array().unwrap().iter().all(|user| user.get("stats").is_none()));
        let mut without = users[1].clone();
        without.as_object_mut().unwrap().remove("stats");
        assert_eq!(without, plain["data"][1], "the same user, and nothing else");
    }
    // What this process changes is in its next list.
    app.delete(&format!("/api/v1/users/{id}/projects/p0")).await;
    let (_, body) = app.get("/api/v1/users?include=stats&search=bob").await;
    assert_eq!(body["data"][0]["stats"]["total_projects"], 3);
}

#[tokio::test]
async fn figures_are_for_administrators_and_keys() {
    let mut app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let (key, _) = app.api_key(&["users:read"]).await;
    let (status, body) = app.get("/api/v1/users?include=stat").await;
    assert_eq!(
        (status, wrong_fields(&body)),
        (StatusCode::UNPROCESSABLE_ENTITY, vec![("include".into(), "not_allowed".into())])
    );
    app.act_as("bob@example.org").await;
    for path in ["/api/v1/users/stats", "/api/v1/users?include=stats"] {
        assert_eq!(app.get(path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    app.token = key;
    for path in ["/api/v1/users/stats", "/api/v1/users?include=stats"] {
        assert_eq!(app.get(path).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn sign_ins_are_kept_for_as_long_as_they_are_counted() {
    let app = TestApp::spawn().await;
    let database = node::connect("tenantry").await;
    let old = "insert into tenantry.user_logins (tenant_id, user_id, id, at)
               select $1, $2::text::uuid, tenantry.uuid_floor(at), at
               from unnest(array[interval '31 days', interval '34 days', interval '36 days', interval '400 days']) i (ago),
                 lateral (select now() - ago as at) t";
    database.execute(old, &[&app.tenant, &app.admin["id"].as_str()]).await.unwrap();
    while tenantry_accounts::users::logins::prune(&app.state.app, 1_000).await.unwrap() == 1_000 {}
    let left = "select count(*), min(at) > now() - interval '35 days' from tenantry.user_logins where tenant_id = $1";
    let left = database.query_one(left, &[&app.tenant]).await.unwrap();
    assert_eq!((left.get::<_, i64>(0), left.get::<_, bool>(1)), (3, true));
}

/// A page of users with figures reads the sign-ins of these users and nobody else's.
#[tokio::test]
async fn figures_are_read_off_indexes() {
    let app = TestApp::spawn().await;
    let database = node::connect("tenantry").await;
    gather(&app, &database).await;
    let mut client = app.database().await;
    let tx =
        tenantry_accounts::db::as_tenant(&mut client, tenantry_accounts::TenantId(app.tenant)).await.unwrap();
    tx.batch_execute("set local enable_seqscan = off").await.unwrap();
    let sql =
        "explain select (select count(*) from tenantry.user_logins where tenant_id = $1 and user_id = u.id
                 and id >= tenantry.uuid_floor(statement_timestamp() - interval '30 days'))
               from unnest($2::uuid[]) u (id)";
    let rows = tx.query(sql, &[&app.tenant, &Vec::<uuid::Uuid>::new()]).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Only Scan using user_logins_pkey"), "{plan}");
    assert!(plan.contains("(id >= ") && plan.contains("(user_id = u.id)"), "{plan}");
}

#[tokio::test]
async fn a_count_that_takes_a_request_too_long_is_left_to_a_job() {
    let app = TestApp::spawn().await;
    let first = stats(&app).await;
    app.create_user("bob@example.org").await;
    age(&app, 11.0).await;
    app.run_jobs().await;
    let old = {
        let mut database = node::connect("tenantry").await;
        let held = database.transaction().await.unwrap();
        let hold = "select from tenantry.user_stats where tenant_id = $1 for update";
        held.execute(hold, &[&app.tenant]).await.unwrap();
        stats(&app).await
    };
    assert_eq!((&old["total_users"], &old["by_role"]), (&first["total_users"], &first["by_role"]));
    let jobs = "select count(*) from tenantry.jobs where tenant_id = $1 and kind = 'roll_up_users'";
    let jobs = node::connect("tenantry").await.query_one(jobs, &[&app.tenant]).await.unwrap();
    assert_eq!(jobs.get::<_, i64>(0), 1);
    app.run_jobs().await;
    assert_eq!(stats(&app).await["total_users"], 2);
}
