//! Imports that are stopped, forgotten, left alone, and kept no longer.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry_accounts::{
    db,
    imports::{self, Step},
};
use uuid::Uuid;

use super::{CSV, NDJSON, PATH, SEATS, people};
use crate::{app::TestApp, passwords::MADE_ELSEWHERE};

impl TestApp {
    /// Changes the row of an import, as time would.
    async fn change_import(&self, id: &str, change: &str) {
        let mut client = self.database().await;
        let tx = db::as_system(&mut client).await.unwrap();
        let sql = format!("update tenantry.user_imports set {change} where tenant_id = $1 and id = $2");
        assert_eq!(tx.execute(&sql, &[&self.tenant, &id.parse::<Uuid>().unwrap()]).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }

    async fn purge(&self) {
        while imports::purge(&self.state.app, 1_000).await.unwrap() > 0 {}
    }

    /// The actions of the trail about imports, the oldest first, and what is said of each.
    async fn import_events(&self) -> Vec<(String, Value)> {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, tenantry_accounts::TenantId(self.tenant)).await.unwrap();
        let sql = "select action, detail from tenantry.audit_events where action like 'import.%' order by id";
        tx.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

fn with_hashes(n: usize) -> String {
    let row =
        |n| json!({"email": format!("p-{n}@example.org"), "name": "P", "password_hash": MADE_ELSEWHERE[0]});
    (0..n).map(|n| row(n).to_string() + "\n").collect()
}

#[tokio::test]
async fn an_import_that_is_cancelled_in_the_middle_keeps_what_was_made_and_no_hash() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let id = app.import("", NDJSON, with_hashes(2_500)).await;
    let (tenant, import) = app.of(&id);
    let step = imports::step(&app.state.app, tenant, import).await.unwrap();
    let Step::Moved(running) = step else { panic!("{step:?}") };
    assert!(running.rate.unwrap() > 0.0 && running.eta_seconds.unwrap() > 0.0, "{running:?}");
    assert_eq!((running.done, running.total), (1_000, 2_500));

    assert_eq!(app.delete(&format!("{PATH}/{id}")).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.progress(&id).await["state"], "cancelled");
    app.run_jobs().await;

    let ended = app.progress(&id).await;
    assert_eq!(
        (&ended["state"], &ended["created"], &ended["done"]),
        (&json!("cancelled"), &json!(1_000), &json!(1_000))
    );
    assert_eq!(app.came_of_it().await[..2], [1_001, 0]);
    assert_eq!(app.report(&id, "?outcome=cancelled").await.len(), 1_500);
    assert_eq!(app.report(&id, "?outcome=created").await.len(), 1_000);

    // Once more: it is forgotten, and so are its rows when the time comes.
    assert_eq!(app.delete(&format!("{PATH}/{id}")).await.0, StatusCode::NO_CONTENT);
    for path in [format!("{PATH}/{id}"), format!("{PATH}/{id}/report")] {
        assert_eq!(app.get(&path).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(app.delete(&format!("{PATH}/{id}")).await.0, StatusCode::NOT_FOUND);
    app.purge().await;
    assert_eq!(app.counted("select count(*) from tenantry.user_import_rows").await, 0);
    assert_eq!(app.counted("select count(*) from tenantry.user_imports").await, 0);
    let events = app.import_events().await;
    let told: Vec<_> = events.iter().map(|(action, detail)| (action.as_str(), &detail["created"])).collect();
    let none = json!(null);
    assert_eq!(told, [("import.created", &none), ("import.ended", &json!(1_000)), ("import.deleted", &none)]);
}

#[tokio::test]
async fn an_import_is_removed_after_its_week_and_not_before() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let id = app.import("", CSV, people("p", 1_500)).await;
    app.run_jobs().await;
    let days: i64 = app
        .counted("select round(extract(epoch from keep_until - finished_at) / 86400)::bigint from tenantry.user_imports")
        .await;
    assert_eq!(days, 7);
    app.purge().await;
    assert_eq!(app.outcomes(&id).await.len(), 1_500);

    app.change_import(&id, "keep_until = now()").await;
    assert_eq!(app.get(&format!("{PATH}/{id}")).await.0, StatusCode::NOT_FOUND);
    app.purge().await;
    assert_eq!(app.counted("select count(*) from tenantry.user_import_rows").await, 0);
    assert_eq!(app.came_of_it().await[0], 1_501, "users stay");
}

#[tokio::test]
async fn an_upload_whose_process_died_is_removed_and_keeps_nobody_out() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let mut ids = vec![];
    for n in 0..5 {
        ids.push(app.import("", NDJSON, with_hashes(10 + n)).await);
        // As a process leaves it that dies before the end.
        app.change_import(&ids[n], "state = 'uploading', touched_at = now() - interval '3 minutes'").await;
    }
    app.run_jobs().await;
    assert_eq!(app.came_of_it().await[0], 1, "of what did not come whole nobody is made");
    let id = app.import("", CSV, people("p", 10)).await;
    app.purge().await;
    assert_eq!(app.progress(&ids[0]).await["state"], "uploading", "it may go on");

    for id in &ids {
        app.change_import(id, "touched_at = now() - interval '11 minutes'").await;
    }
    app.purge().await;
    assert_eq!(app.came_of_it().await[1], 0);
    let listed = app.get(PATH).await.1;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(listed["data"][0]["id"], id.as_str());
}

#[tokio::test]
async fn an_import_that_nobody_goes_on_with_has_failed_after_a_day() {
    let app = TestApp::spawn_with(&[SEATS]).await;
    let id = app.import("", NDJSON, with_hashes(10)).await;
    app.change_import(&id, "touched_at = now() - interval '23 hours'").await;
    app.purge().await;
    assert_eq!(app.progress(&id).await["state"], "queued");
    app.change_import(&id, "touched_at = now() - interval '25 hours'").await;
    app.purge().await;
    let ended = app.progress(&id).await;
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("failed"), &json!("abandoned")));
    app.run_jobs().await;
    assert_eq!(app.came_of_it().await[..2], [1, 0]);
    assert_eq!(app.report(&id, "?outcome=cancelled").await.len(), 10);
}

#[tokio::test]
async fn a_condition_on_what_has_no_versions_does_not_hold() {
    let app = TestApp::spawn().await;
    let id = app.import("", CSV, people("p", 1)).await;
    let request = app.request(reqwest::Method::DELETE, &format!("{PATH}/{id}"));
    let (status, _) = crate::app::answer(request.header("If-Match", "\"1\"")).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    app.run_jobs().await;
    assert_eq!(app.progress(&id).await["state"], "done");
}
