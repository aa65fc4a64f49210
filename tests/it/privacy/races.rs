//! Erasures beside what else happens to the same person.

use futures_util::future::{join, join_all};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp};

impl TestApp {
    /// How many rows of a table name the user.
    async fn rows_of(&self, user: &Value, table: &str) -> i64 {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql = format!("select count(*) from tenantry.{table} where tenant_id = $1 and user_id = $2");
        let id: Uuid = user["id"].as_str().unwrap().parse().unwrap();
        tx.query_one(&sql, &[&self.tenant, &id]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn of_many_erasures_at_once_one_is_done_and_all_say_the_same() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    let user = app.create_user("ada@example.org").await;
    let before = app.seats().await.0;

    let answers = join_all((0..6).map(|_| app.erase(&user))).await;

    for (status, erasure) in &answers {
        assert_eq!((*status, &erasure["data"]), (StatusCode::OK, &answers[0].1["data"]), "{erasure}");
    }
    assert_eq!(app.seats().await, (before - 1, before - 1));
    assert_eq!(app.audited_by("user.erased").await.len(), 1);
}

#[tokio::test]
async fn who_signs_in_while_being_erased_has_no_session_in_the_end() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off", "--rate-limit-login=off"]).await;
    for n in 0..5 {
        let email = format!("racer{n}@example.org");
        let user = app.create_user(&email).await;
        let login = json!({"tenant": app.slug, "email": email, "password": PASSWORD});
        let logins = join_all((0..4).map(|_| app.post("/api/v1/auth/login", &login)));

        let (logins, erased) = join(logins, app.erase(&user)).await;

        assert_eq!(erased.0, StatusCode::OK, "{}", erased.1);
        for table in ["sessions", "user_logins", "credentials", "email_tokens"] {
            assert_eq!(app.rows_of(&user, table).await, 0, "{table}");
        }
        for (status, session) in logins {
            assert!([200, 401].contains(&status.as_u16()), "{session}");
            let Some(token) = session["data"]["token"].as_str() else { continue };
            let me = app.http.get(format!("{}/api/v1/users/me", app.url)).bearer_auth(token);
            assert_eq!(me.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
        }
    }
}

#[tokio::test]
async fn who_is_restored_and_erased_at_once_is_erased() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    for n in 0..5 {
        let user = app.deleted_user(&format!("racer{n}@example.org")).await;
        let before = app.seats().await.0;

        let (restored, erased) = join(app.restore(&user), app.erase(&user)).await;

        assert_eq!(erased.0, StatusCode::OK, "{}", erased.1);
        assert!([200, 404].contains(&restored.0.as_u16()), "{}", restored.1);
        assert_eq!(
            app.get(&format!("/api/v1/users/{}", user["id"].as_str().unwrap())).await.0,
            StatusCode::NOT_FOUND
        );
        assert_eq!(app.restore(&user).await.0, StatusCode::NOT_FOUND);
        assert_eq!(app.seats().await, (before, before));
    }
}
