//! `tenantry users import`.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::{SEATS, people};
use crate::app::{TestApp, eventually, from_stack};

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command
        .args(["users", "import"])
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", from_stack("TEST_DATABASE_URL"))
        .env("REDIS_URL", from_stack("TEST_REDIS_URL"))
        .env("PLAN_SEATS", "pro=100")
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = command(folder, arguments).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_file_becomes_users_and_the_exit_code_says_whether_rows_failed() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("people.csv"), people("p", 1_500)).unwrap();
    let dry = run(folder.path(), &["people.csv", "--tenant", &app.slug, "--dry-run", "--json"], "");
    assert!(dry.status.success(), "{}", text(&dry.stderr));
    let dry: Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(
        (&dry["state"], &dry["created"], &dry["dry_run"]),
        (&json!("done"), &json!(1_500), &json!(true))
    );
    assert_eq!(app.came_of_it().await[0], 1);

    let done = run(folder.path(), &["people.csv", "--tenant", &app.slug, "--every", "0s"], "");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).contains("1,500 rows: 1,500 users made, 0 addresses skipped, 0 rows failed"));
    assert!(text(&done.stderr).contains("1,000 of 1,500 rows"), "{}", text(&done.stderr));
    assert_eq!(app.came_of_it().await[0], 1_501);

    // Out of a pipe, with what is wrong, and columns of other names. An operator's word about an address counts.
    let input = "mail,nom,ok\np-1@example.org,Taken,\nada@example.org,Ada,yes\nwrong,Wrong,\n";
    let columns = "email:mail,name:nom,email_verified:ok";
    let arguments =
        ["-", "--format", "csv", "--tenant", &app.slug, "--columns", columns, "--report", "report.csv"];
    let done = run(folder.path(), &arguments, input);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stdout).contains("3 rows: 1 users made, 1 addresses skipped, 1 rows failed"));
    assert!(text(&done.stderr).contains("1 rows were not imported"), "{}", text(&done.stderr));
    let report = std::fs::read_to_string(folder.path().join("report.csv")).unwrap();
    let outcomes: Vec<_> = report.lines().skip(1).map(|line| line.split(',').nth(2).unwrap()).collect();
    assert_eq!(outcomes, ["exists", "created", "invalid"]);
    let (_, ada) = app.get("/api/v1/users/lookup?email=ada@example.org").await;
    assert_eq!(ada["data"]["email_verified"], true);

    for (arguments, why) in [
        (vec!["people.txt", "--tenant", &app.slug], "--format: the name of the file does not tell"),
        (vec!["nothing.csv", "--tenant", &app.slug], "nothing.csv: No such file"),
        (vec!["report.csv", "--tenant", &app.slug], "report.csv: the header does not do"),
        (
            vec!["people.csv", "--tenant", &app.slug, "--import-max-bytes", "10"],
            "more of it than IMPORT_MAX_BYTES",
        ),
        (vec!["--tenant", &app.slug, "--resume", "0190a204-1672-7040-b398-b782837a3b96"], "no such import"),
    ] {
        let refused = run(folder.path(), &arguments, "");
        assert!(
            !refused.status.success() && text(&refused.stderr).contains(why),
            "{}",
            text(&refused.stderr)
        );
    }
}

#[tokio::test]
async fn an_import_whose_process_was_killed_is_resumed() {
    const ROWS: usize = 6_000;
    let app = TestApp::spawn_with(&[SEATS]).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("people.csv"), people("p", ROWS)).unwrap();
    let mut child = command(folder.path(), &["people.csv", "--tenant", &app.slug]).spawn().unwrap();
    let users = async || app.came_of_it().await[0];
    eventually(Duration::from_secs(20), async || users().await > 1).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, listed) = app.get("/api/v1/users/imports").await;
    assert_eq!(listed["data"][0]["state"], "running", "it was killed in the middle");
    let id = listed["data"][0]["id"].as_str().unwrap().to_owned();

    let done = run(folder.path(), &["--tenant", &app.slug, "--resume", &id], "");
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(users().await, ROWS as i64 + 1);
    assert_eq!(app.seats().await, (ROWS as i32 + 1, ROWS as i32 + 1));
    assert_eq!(app.report(&id, "?outcome=created").await.len(), ROWS);
    app.run_jobs().await;
    assert_eq!(users().await, ROWS as i64 + 1);
}

#[tokio::test]
async fn an_import_is_left_to_the_workers_and_cancelled_from_the_shell() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let folder = tempfile::tempdir().unwrap();
    let left = run(
        folder.path(),
        &["-", "--format", "csv", "--tenant", &app.slug, "--no-wait", "--json"],
        &people("p", 10),
    );
    assert!(left.status.success(), "{}", text(&left.stderr));
    let left: Value = serde_json::from_slice(&left.stdout).unwrap();
    assert_eq!(left["state"], "queued");
    let id = left["id"].as_str().unwrap();
    let cancelled = run(folder.path(), &["--tenant", &app.slug, "--cancel", id], "");
    assert!(cancelled.status.success(), "{}", text(&cancelled.stderr));
    app.run_jobs().await;
    assert_eq!(app.came_of_it().await[0], 1);
    let watched = run(folder.path(), &["--tenant", &app.slug, "--resume", id], "");
    assert!(text(&watched.stderr).contains("the import is cancelled"), "{}", text(&watched.stderr));
}

#[tokio::test]
async fn ctrl_c_while_rows_are_read_leaves_nothing() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let folder = tempfile::tempdir().unwrap();
    let mut child = command(folder.path(), &["-", "--format", "csv", "--tenant", &app.slug]).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(people("p", 3_000).as_bytes()).unwrap();
    let staged = async || app.counted("select count(*) from tenantry.user_import_rows").await;
    eventually(Duration::from_secs(10), async || staged().await > 1_000).await;
    tenantry::dev::signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert!(text(&output.stderr).contains("stopped; nothing was imported"), "{}", text(&output.stderr));
    assert_eq!(staged().await, 0);
    drop(pipe);
}
