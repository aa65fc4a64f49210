//! Fail-overs: which server is asked, and what an old primary that lives on can do.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tenantry::dev::{Home, Server, postgres};
use tokio_postgres::NoTls;

use crate::{
    app::{TestApp, answer, eventually, from_stack},
    cli::tenantry,
};

/// Two servers with the same data, and an address that leads to one of them, as a virtual address does.
struct Pair {
    old: Option<(Home, Server)>,
    new: Option<(Home, Server)>,
    address: TempDir,
    _folders: [TempDir; 2],
}

impl Pair {
    /// A node on the first server with users, and a standby that has all they have.
    async fn start() -> (Self, TestApp) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let address = tempfile::Builder::new().prefix("pg").tempdir_in("/tmp").unwrap();
        let (old, new) =
            (Home::open(folders[0].path()).await.unwrap(), Home::open(folders[1].path()).await.unwrap());
        let server = postgres::start(&old, postgres::Use::Test).await.unwrap();
        tenantry::migrate::run(&postgres::owner_url(&old), &postgres::app_url(&old)).await.unwrap();
        lead(address.path(), &old);
        let url = format!("--database-url=postgresql://tenantry@/tenantry?host={}", host(address.path()));
        let app = TestApp::spawn_with(&[&url, "--cache-local-ttl=1ms"]).await;
        for n in 0..6 {
            app.create_user(&format!("u{n}@example.org")).await;
        }
        server.stop().await;
        let data = |n: usize| folders[n].path().join("data/postgres");
        let copied = Command::new("cp").arg("-a").args([data(0), data(1)]).status().unwrap();
        assert!(copied.success());
        std::fs::write(data(1).join("standby.signal"), "").unwrap();
        let server = postgres::start(&old, postgres::Use::Test).await.unwrap();
        let standby = postgres::start(&new, postgres::Use::Test).await.unwrap();
        let pair = Self { old: Some((old, server)), new: Some((new, standby)), address, _folders: folders };
        (pair, app)
    }

    /// The second server becomes the primary of a history of its own: the same versions, and other names.
    async fn promote(&self) {
        let client = connect(&self.new.as_ref().unwrap().0).await;
        client.execute("select pg_promote()", &[]).await.unwrap();
        client.batch_execute("update tenantry.users set name = 'New'").await.unwrap();
    }

    fn lead_to_old(&self) {
        lead(self.address.path(), &self.old.as_ref().unwrap().0);
    }

    fn lead_to_new(&self) {
        lead(self.address.path(), &self.new.as_ref().unwrap().0);
    }

    async fn stop(mut self) {
        for (home, server) in [self.old.take(), self.new.take()].into_iter().flatten() {
            server.stop().await;
            home.remove().unwrap();
        }
    }
}

fn host(address: &Path) -> String {
    address.join("now").display().to_string()
}

/// From now on whoever connects to `address` gets to this server; who is connected stays where he is.
fn lead(address: &Path, home: &Home) {
    let url = postgres::app_url(home);
    let (_, sockets) = url.split_once("host=").unwrap();
    symlink(sockets, address.join("next")).unwrap();
    std::fs::rename(address.join("next"), address.join("now")).unwrap();
}

async fn connect(home: &Home) -> tokio_postgres::Client {
    let config: tokio_postgres::Config = postgres::superuser_url(home).parse().unwrap();
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Opens connections until one leads to a server on another timeline, and gives all of them back: most lead to the server
/// that the process has known before.
async fn learn_of_another_server(app: &TestApp) {
    let mut held = vec![];
    let known = app.state.app.cache.epoch();
    while app.state.app.cache.epoch() == known {
        assert!(held.len() < 8, "the pool has no connection to the new server");
        held.push(app.database().await);
    }
    assert!(held.len() > 1, "none leads to the old server");
}

/// So many idle connections, whoever they lead to.
async fn warm(app: &TestApp, connections: usize) {
    let mut held = vec![];
    while held.len() < connections {
        held.push(app.database().await);
    }
}

/// What every way of looking users up says their names are; empty where there was no answer.
async fn names(app: &TestApp) -> Vec<String> {
    let name = |body: &serde_json::Value| body["name"].as_str().unwrap_or_default().to_owned();
    let listed = app.get("/api/v1/users?limit=100").await.1;
    let mut names: Vec<_> = listed["data"].as_array().into_iter().flatten().map(name).collect();
    for n in 0..6 {
        let email = format!("u{n}@example.org");
        let request = app.request(Method::GET, "/api/v1/users/lookup").query(&[("email", &email)]);
        let found = answer(request).await.1;
        names.push(name(&found["data"]));
        if let Some(id) = found["data"]["id"].as_str() {
            names.push(name(&app.get(&format!("/api/v1/users/{id}")).await.1["data"]));
            let batch = app.post("/api/v1/users/batch-get", &json!({"ids": [id]})).await.1;
            names.push(name(&batch["data"]["users"][0]));
        }
    }
    names
}

#[tokio::test]
async fn an_old_primary_that_lives_on_is_not_asked_once_a_new_one_is_known() {
    let (pair, app) = Pair::start().await;
    warm(&app, 6).await;
    assert!(names(&app).await.iter().all(|name| name != "New"));

    // A standby is no primary, however near it is.
    pair.lead_to_new();
    let other = app.another_node().await;
    let refused = other.state.app.db.client().await.map(drop).unwrap_err();
    assert!(format!("{refused:?}").contains("this server is a standby"), "{refused:?}");

    pair.promote().await;
    learn_of_another_server(&app).await;
    let after = names(&app).await;
    assert!(after.len() >= 25 && after.iter().all(|name| name == "New"), "{after:?}");

    // Nor is it when nothing else can be reached.
    pair.lead_to_old();
    let new = connect(&pair.new.as_ref().unwrap().0).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'tenantry'";
    new.execute(end, &[]).await.unwrap();
    eventually(Duration::from_secs(1), || async {
        app.get("/health/ready").await.0 == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let alone = names(&app).await;
    assert!(alone.iter().all(|name| name.is_empty() || name == "New"), "{alone:?}");
    let refused = app.state.app.db.client().await.map(drop).unwrap_err();
    let said = "this server is on timeline 00000001, another was on 00000002: an old primary";
    assert!(format!("{refused:?}").contains(said), "{refused:?}");

    pair.lead_to_new();
    eventually(Duration::from_secs(1), || async { names(&app).await.iter().all(|name| name == "New") }).await;
    drop((app, other, new));
    pair.stop().await;
}

#[tokio::test]
async fn a_change_on_the_old_primary_is_refused_once_a_new_one_is_known() {
    let (pair, app) = Pair::start().await;
    let id = app.admin["id"].as_str().unwrap();
    let path = format!("/api/v1/users/{id}");
    // The change waits for the row on the old primary, which will go on living.
    let old = connect(&pair.old.as_ref().unwrap().0).await;
    old.batch_execute("begin; update tenantry.users set updated_at = now()").await.unwrap();
    let change = app.request(Method::PATCH, &path).json(&json!({"name": "Lost"}));
    let change = tokio::spawn(answer(change));
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and usename = 'tenantry'";
    // Within its transaction the first one would be told the same for ever.
    let watching = connect(&pair.old.as_ref().unwrap().0).await;
    eventually(Duration::from_millis(200), || async {
        watching.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    warm(&app, 2).await;
    pair.promote().await;
    pair.lead_to_new();
    learn_of_another_server(&app).await;
    old.batch_execute("rollback").await.unwrap();

    let (status, body) = change.await.unwrap();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    for _ in 0..3 {
        assert_eq!(app.look_up(id).await.1["name"], "New");
    }
    let name = format!("select name from tenantry.users where id = '{id}'");
    assert_ne!(old.query_one(&name, &[]).await.unwrap().get::<_, &str>(0), "Lost", "not even there");
    drop((app, old, watching));
    pair.stop().await;
}

/// Some providers forbid the functions that tell the timeline.
#[tokio::test]
async fn where_the_timeline_is_hidden_the_operator_says_which_it_is() {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("hidden_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut config: tokio_postgres::Config = from_stack("TEST_DATABASE_SUPERUSER_URL").parse().unwrap();
    for (database, statement) in [
        ("postgres", format!("create database {name} template tenantry_template")),
        (&*name, "revoke execute on function pg_walfile_name(pg_lsn) from public".to_owned()),
    ] {
        let (client, connection) = config.dbname(database).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(&statement).await.unwrap();
    }
    let url = from_stack("TEST_DATABASE_URL").replace("/tenantry?", &format!("/{name}?"));

    for command in ["api", "check"] {
        let output = tenantry(&[command], &[("DATABASE_URL", &url), ("PUBLIC_URL", "http://tenantry.test")]);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(!output.status.success() && said.contains("set DATABASE_EPOCH to a number"), "{said}");
    }
    let output = tenantry(&["check"], &[("DATABASE_URL", &url), ("DATABASE_EPOCH", "17")]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("00000011, by DATABASE_EPOCH"), "{said}");

    let database = format!("--database-url={url}");
    let app = TestApp::spawn_with(&[&database, "--database-epoch=17", "--cache-local-ttl=1ms"]).await;
    let id = app.admin["id"].as_str().unwrap().to_owned();
    let next = app.node_with(&["--database-epoch=18"]).await;
    assert_eq!(app.look_up(&id).await.0, "redis");
    assert_eq!(next.look_up(&id).await.0, "miss", "what was cached before is out of reach");
    assert_eq!(next.look_up(&id).await.0, "redis");
}
