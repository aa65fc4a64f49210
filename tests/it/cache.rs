use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry::dev::{Home, postgres, redis};

use crate::app::{TestApp, answer, eventually, token_in, wrong_fields};

fn id(user: &Value) -> &str {
    user["id"].as_str().unwrap()
}

#[tokio::test]
async fn a_look_up_is_answered_by_the_nearest_level() {
    let app = TestApp::spawn().await;
    // A row that no node of ours has written through: as it is after Redis has lost it.
    let user = app.create_user("level@example.org").await;
    forget(&app, id(&user)).await;
    let node = app.another_node().await;

    let levels = [
        app.look_up(id(&user)).await.0,
        app.look_up(id(&user)).await.0,
        node.look_up(id(&user)).await.0,
        node.look_up(id(&user)).await.0,
    ];

    assert_eq!(levels, ["miss", "local", "redis", "local"]);
}

#[tokio::test]
async fn a_hit_is_the_same_bytes_as_a_miss() {
    let app = TestApp::spawn().await;
    let user = app.create_user("bytes@example.org").await;
    let data = || async {
        let response =
            app.request(Method::GET, &format!("/api/v1/users/{}", id(&user))).send().await.unwrap();
        let body = response.text().await.unwrap();
        let end = body.find(",\"message\"").unwrap();
        body[..end].to_owned()
    };
    forget(&app, id(&user)).await;
    let miss = data().await;
    assert_eq!(data().await, miss);
    assert!(!miss.contains("argon2"));
}

#[tokio::test]
async fn a_change_is_read_at_once_here_and_with_its_version_everywhere() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let user = app.create_user("fresh@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    for n in 2..8 {
        // Both nodes hold the old version in their own memory.
        app.look_up(id(&user)).await;
        node.look_up(id(&user)).await;
        let name = format!("Name {n}");
        let changed = app.request(Method::PATCH, &path).json(&json!({"name": name})).send().await.unwrap();
        let version = changed.headers()["etag"].to_str().unwrap().trim_matches('"').to_owned();
        assert_eq!(version, n.to_string());

        assert_eq!(app.look_up(id(&user)).await.1["name"], name, "the same node");
        let (status, body) = answer(node.request(Method::GET, &path).header("X-Min-Version", version)).await;
        assert_eq!((status, &body["data"]["name"]), (StatusCode::OK, &json!(name)), "another node");
    }
}

#[tokio::test]
async fn another_node_follows_within_its_memory() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let user = app.create_user("later@example.org").await;
    node.look_up(id(&user)).await;
    app.patch(&format!("/api/v1/users/{}", id(&user)), &json!({"name": "Changed"})).await;

    eventually(Duration::from_secs(1), || async { node.look_up(id(&user)).await.1["name"] == "Changed" })
        .await;
}

#[tokio::test]
async fn a_version_that_does_not_exist_yet_is_not_made_up() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/users/{}", id(&app.admin));
    let ask =
        |version: &'static str| answer(app.request(Method::GET, &path).header("X-Min-Version", version));

    let (status, body) = ask("99").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("version_not_reached"))
    );
    for malformed in ["one", "-1", "1.5", "99999999999999999999"] {
        assert_eq!(ask(malformed).await.0, StatusCode::BAD_REQUEST, "{malformed}");
    }
}

#[tokio::test]
async fn a_created_user_is_found_at_once_and_a_deleted_one_is_not() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let user = app.create_user("short@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    assert_eq!(node.get(&path).await.0, StatusCode::OK);
    app.delete(&path).await;
    assert_eq!(app.get(&path).await.0, StatusCode::NOT_FOUND);
    eventually(Duration::from_secs(1), || async { node.get(&path).await.0 == StatusCode::NOT_FOUND }).await;
}

#[tokio::test]
async fn without_redis_everything_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).await.unwrap();
    let server = redis::start(&home).await.unwrap();
    let redis_url = format!("--redis-url={}", redis::url(&home));
    let app = TestApp::spawn_with(&[&redis_url]).await;
    let node = app.another_node().await;
    let user = app.create_user("alone@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    node.look_up(id(&user)).await;

    server.stop().await;

    for n in 0..5 {
        let name = format!("Name {n}");
        let (status, changed) = app.patch(&path, &json!({"name": name})).await;
        assert_eq!(status, StatusCode::OK, "{changed}");
        assert_eq!(app.look_up(id(&user)).await.1["name"], name);
        let version = changed["data"]["version"].to_string();
        let (status, body) = answer(node.request(Method::GET, &path).header("X-Min-Version", version)).await;
        assert_eq!((status, &body["data"]["name"]), (StatusCode::OK, &json!(name)));
    }
    eventually(Duration::from_secs(1), || async { node.look_up(id(&user)).await.1["name"] == "Name 4" })
        .await;
    app.create_user("born-without@example.org").await;
    let (status, ready) = app.get("/health/ready").await;
    assert_eq!((status, &ready["parts"]["redis"]), (StatusCode::OK, &json!("not reachable")));

    // Back and empty: used again by itself, and what was missed meanwhile is made good by the jobs.
    let server = redis::start(&home).await.unwrap();
    eventually(Duration::from_secs(3), || async {
        app.get("/health/ready").await.1["parts"]["redis"] == "ok"
    })
    .await;
    app.run_jobs().await;
    assert_eq!(node.look_up(id(&user)).await.1["name"], "Name 4");
    let third = app.another_node().await;
    let fourth = app.another_node().await;
    eventually(Duration::from_secs(3), || async {
        third.look_up(id(&user)).await;
        fourth.look_up(id(&user)).await.0 == "redis"
    })
    .await;
    server.stop().await;
    home.remove().unwrap();
}

/// A writer that has lost Redis while others have not: without the feed they would be stale until Redis forgets.
#[tokio::test]
async fn a_change_by_a_node_without_redis_reaches_the_nodes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).await.unwrap();
    let app = TestApp::spawn().await;
    let server = redis::start(&home).await.unwrap();
    // Its own Redis, which is gone a moment later: every floor of this node is lost.
    let cut_off = app.node_with(&[&format!("--redis-url={}", redis::url(&home))]).await;
    let user = app.create_user("feed@example.org").await;
    let path = format!("/api/v1/users/{}", id(&user));
    app.look_up(id(&user)).await;
    server.stop().await;

    let (status, changed) = cut_off.patch(&path, &json!({"name": "Changed"})).await;
    assert_eq!(status, StatusCode::OK, "{changed}");

    // The memory of the node, and a look at the feed.
    eventually(Duration::from_millis(1_250), || async {
        app.look_up(id(&user)).await.1["name"] == "Changed"
    })
    .await;
    home.remove().unwrap();
}

/// After a fail-over or a restore Redis may hold what the database has never known.
#[tokio::test]
async fn a_database_on_a_new_timeline_is_not_shown_the_cache_of_the_old() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path()).await.unwrap();
    let mut server = postgres::start(&home, postgres::Use::Test).await.unwrap();
    let url = postgres::app_url(&home);
    tenantry::migrate::run(&postgres::owner_url(&home), &url).await.unwrap();
    let app = TestApp::spawn_with(&[&format!("--database-url={url}"), "--cache-local-ttl=1ms"]).await;
    let user = app.create_user("timeline@example.org").await;
    assert_eq!(app.look_up(id(&user)).await.0, "redis");

    server.stop().await;
    std::fs::write(folder.path().join("data/postgres/standby.signal"), "").unwrap();
    server = postgres::start(&home, postgres::Use::Test).await.unwrap();
    let config: tokio_postgres::Config = postgres::superuser_url(&home).parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.execute("select pg_promote()", &[]).await.unwrap();
    // The new timeline has another history: the same version, and another name.
    client.batch_execute("update tenantry.users set name = 'Other'").await.unwrap();

    eventually(Duration::from_secs(1), || async {
        let (status, body) = app.get(&format!("/api/v1/users/{}", id(&user))).await;
        status == StatusCode::OK && body["data"]["name"] == "Other"
    })
    .await;
    // A fill may come too late on a busy machine.
    eventually(Duration::from_secs(1), || async { app.look_up(id(&user)).await.0 == "redis" }).await;
    drop((app, client));
    server.stop().await;
    home.remove().unwrap();
}

#[tokio::test]
async fn an_address_leads_to_whoever_has_it_now() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let by = |node: &TestApp, email: &str| {
        let request = node.request(Method::GET, "/api/v1/users/lookup").query(&[("email", email)]);
        async move {
            let (status, body) = answer(request).await;
            (status, body["data"]["id"].as_str().unwrap_or_default().to_owned())
        }
    };
    assert_eq!(by(&app, "first@example.org").await.0, StatusCode::NOT_FOUND);
    let first = app.create_user("first@example.org").await;
    let found = (StatusCode::OK, id(&first).to_owned());
    for node in [&app, &node, &app, &node] {
        assert_eq!(by(node, " FIRST@example.org").await, found, "though it was nobody's a moment ago");
    }

    // The address moves on: no pointer that any node has used may lead to its former owner.
    app.patch(&format!("/api/v1/users/{}", id(&first)), &json!({"email": "other@example.org"})).await;
    let token = token_in(&app.mails_to("other@example.org").await[0]);
    app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;
    for node in [&app, &node] {
        assert_eq!(by(node, "first@example.org").await.0, StatusCode::NOT_FOUND);
        assert_eq!(by(node, "other@example.org").await, found);
    }
    let second = app.create_user("first@example.org").await;
    for node in [&node, &app] {
        assert_eq!(by(node, "first@example.org").await, (StatusCode::OK, id(&second).to_owned()));
    }
    app.delete(&format!("/api/v1/users/{}", id(&second))).await;
    for node in [&node, &app] {
        assert_eq!(by(node, "first@example.org").await.0, StatusCode::NOT_FOUND);
    }

    let (status, body) = app.get("/api/v1/users/lookup").await;
    assert_eq!(
        (status, wrong_fields(&body)),
        (StatusCode::UNPROCESSABLE_ENTITY, vec![("email".into(), "missing".into())])
    );
    assert_eq!(by(&app, "nobody").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let stranger = TestApp::spawn().await;
    assert_eq!(by(&stranger, "other@example.org").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_batch_keeps_the_order_and_names_who_is_missing() {
    let (app, other) = (TestApp::spawn().await, TestApp::spawn().await);
    let node = app.another_node().await;
    let mut users = vec![];
    for n in 0..6 {
        users.push(app.create_user(&format!("b{n}@example.org")).await);
    }
    app.delete(&format!("/api/v1/users/{}", id(&users[3]))).await;
    let (foreign, nobody) = (id(&other.admin), "00000000-0000-7000-8000-000000000000");
    node.look_up(id(&users[1])).await;
    forget(&app, id(&users[2])).await;
    let ids =
        json!([id(&users[4]), nobody, id(&users[2]), foreign, id(&users[3]), id(&users[1]), id(&users[4])]);

    for node in [&app, &node, &node] {
        let (status, body) = node.post("/api/v1/users/batch-get", &json!({"ids": ids})).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["data"]["users"], json!([users[4], users[2], users[1], users[4]]));
        assert_eq!(body["data"]["missing"], json!([nobody, foreign, id(&users[3])]));
    }
    let changed = app.patch(&format!("/api/v1/users/{}", id(&users[4])), &json!({"name": "New"})).await.1;
    let (_, body) = app.post("/api/v1/users/batch-get", &json!({"ids": [id(&users[4])]})).await;
    assert_eq!(body["data"]["users"][0], changed["data"]);
}

#[tokio::test]
async fn a_batch_is_bounded_and_tells_each_wrong_id() {
    let app = TestApp::spawn().await;
    let wrong = |ids: Value| {
        let app = &app;
        async move {
            let (status, body) = app.post("/api/v1/users/batch-get", &json!({"ids": ids})).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
            wrong_fields(&body)
        }
    };
    let field = |field: &str, code: &str| (field.to_owned(), code.to_owned());
    assert_eq!(wrong(json!([])).await, [field("/ids", "wrong_length")]);
    assert_eq!(wrong(json!(vec![id(&app.admin); 101])).await, [field("/ids", "wrong_length")]);
    assert_eq!(wrong(json!("x")).await, [field("/ids", "wrong_type")]);
    assert_eq!(
        wrong(json!([1, id(&app.admin), "x"])).await,
        [field("/ids/0", "wrong_type"), field("/ids/2", "wrong_type")]
    );
}

/// Drops a user from Redis and from the node's memory, without a change.
async fn forget(app: &TestApp, user: &str) {
    // Longer than the node's memory lasts.
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    let client = deadpool_redis::redis::Client::open(crate::app::from_stack("TEST_REDIS_URL")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = deadpool_redis::redis::cmd("KEYS")
        .arg(format!("u:*:{}:{user}", app.tenant))
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(keys.len(), 1, "written through");
    let _: () = deadpool_redis::redis::cmd("DEL").arg(keys).query_async(&mut connection).await.unwrap();
}
