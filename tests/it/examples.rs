//! The programs of `examples/api/`, as they are, on a service that is running.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::app::{PASSWORD, TestApp, tools};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/api")
}

fn said(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[tokio::test]
async fn the_tour_with_curl_ends_where_it_says() {
    let app = TestApp::spawn().await;
    let output = Command::new("sh").arg(examples().join("tour.sh")).arg(&app.url).output().await.unwrap();
    let said = said(&output);
    for line in [
        "(sent twice, replayed: true)",
        "signed in, and renewed",
        "a change of an old version is refused: version_mismatch",
        "unchanged: 304",
        "listed 6 users",
        "wrong fields: /email /name /role",
        "deleted: user_not_found",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test]
async fn a_team_is_invited_from_typescript() {
    let mut app = TestApp::spawn().await;
    let folder = tempfile::tempdir().unwrap();
    let tools = tools().join("api-examples");
    // Checked by its types, and compiled.
    for file in ["invite-team.ts", "tsconfig.json", "package.json"] {
        std::fs::copy(examples().join(file), folder.path().join(file)).unwrap();
    }
    std::os::unix::fs::symlink(tools.join("node_modules"), folder.path().join("node_modules")).unwrap();
    let tsc = tools.join("node_modules/typescript/bin/tsc");
    said(&Command::new("node").arg(tsc).current_dir(folder.path()).output().await.unwrap());

    let slug = format!("{}-ts", app.slug);
    let invite = async |slug: &str| {
        let mut command = Command::new("node");
        command.arg("invite-team.js").args([&app.url, slug, "ada@acme.example", PASSWORD]);
        command.args(["grace@acme.example", "lin@acme.example"]).current_dir(folder.path());
        command.output().await.unwrap()
    };
    let done = said(&invite(&slug).await);
    assert!(done.contains("ada@acme.example has invited grace@acme.example, lin@acme.example"), "{done}");
    let again = invite(&slug).await;
    let refused = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && refused.contains("(slug_taken, request "), "{refused}");
    let wrong = invite("Not A Slug").await;
    let refused = String::from_utf8(wrong.stderr).unwrap();
    assert!(refused.contains("/tenant/slug: "), "{refused}");

    app.slug = slug;
    app.act_as("ada@acme.example").await;
    let (status, open) = app.get("/api/v1/invitations").await;
    assert_eq!((status, open["data"]["invitations"].as_array().unwrap().len()), (StatusCode::OK, 2));
}

#[tokio::test]
async fn a_table_is_kept_in_step_from_python_however_often_it_has_to_wait() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=100"]).await;
    let users: Vec<_> =
        (0..62).map(|n| json!({"email": format!("u{n}@example.org"), "name": "Some One"})).collect();
    let (status, made) = app.post("/api/v1/users/bulk", &json!({"users": users, "atomic": true})).await;
    assert!(status.is_success(), "{made}");
    let key = json!({"name": "sync", "scopes": ["users:read"], "requests_per_minute": 60});
    let (status, key) = app.post("/api/v1/api-keys", &key).await;
    assert_eq!(status, StatusCode::CREATED, "{key}");
    let folder = tempfile::tempdir().unwrap();
    let sync = async |page: &str| {
        let mut command = Command::new(tools().join("python/bin/python"));
        command
            .arg(examples().join("sync_users.py"))
            .arg(&app.url)
            .arg(folder.path().join("users.db"))
            .arg(page);
        command
            .env("TENANTRY_API_KEY", key["data"]["key"].as_str().unwrap())
            .env("PYTHONDONTWRITEBYTECODE", "1");
        said(&command.output().await.unwrap())
    };
    // One at a time are more requests than the key may make in a minute.
    let first = sync("1").await;
    assert!(first.starts_with("63 users, 0 gone, ") && !first.contains(" 0 waits"), "{first}");

    let (_, list) = app.get("/api/v1/users?search=u7@").await;
    let gone: &Value = &list["data"][0]["id"];
    app.delete(&format!("/api/v1/users/{}", gone.as_str().unwrap())).await;
    let second = sync("100").await;
    assert!(second.starts_with("62 users, 1 gone, "), "{second}");
}
