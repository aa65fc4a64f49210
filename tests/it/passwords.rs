//! What may be a password, where hashes of other services are taken, what raising the cost does, and what guesses get.

use std::time::{Duration, Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db, passwords::StoredHash};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, answer, eventually, token_in, wrong_fields};

impl TestApp {
    async fn hash_of(&self, user: &Value) -> String {
        let id: Uuid = user["id"].as_str().unwrap().parse().unwrap();
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql = "select password_hash from tenantry.credentials where tenant_id = $1 and user_id = $2";
        tx.query_one(sql, &[&self.tenant, &id]).await.unwrap().get(0)
    }

    /// As if the user had come with this hash from elsewhere.
    async fn let_hash_be(&self, user: &Value, hash: &str) {
        let id: Uuid = user["id"].as_str().unwrap().parse().unwrap();
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let sql = "update tenantry.credentials set password_hash = $3 where tenant_id = $1 and user_id = $2";
        assert_eq!(tx.execute(sql, &[&self.tenant, &id, &hash]).await.unwrap(), 1);
        tx.commit().await.unwrap();
    }

    async fn guess(&self, tenant: &str, email: &str, password: &str) -> Response {
        let body = json!({"tenant": tenant, "email": email, "password": password});
        self.http.post(format!("{}/api/v1/auth/login", self.url)).json(&body).send().await.unwrap()
    }

    async fn invite(&self, email: &str) -> String {
        let (status, invited) = self.post("/api/v1/invitations", &json!({"emails": [email]})).await;
        assert_eq!(status, StatusCode::CREATED, "{invited}");
        token_in(self.mails_to(email).await.last().unwrap())
    }

    /// A token by which the administrator may choose another password.
    async fn forgotten(&self) -> String {
        let body = json!({"tenant": self.slug, "email": "admin@example.org"});
        assert_eq!(self.post("/api/v1/auth/forgot-password", &body).await.0, StatusCode::ACCEPTED);
        token_in(self.mails_to("admin@example.org").await.last().unwrap())
    }
}

/// Every way in for a password: path, body without it, the name of its field.
async fn entry_points(app: &TestApp) -> Vec<(&'static str, Value, &'static str)> {
    let tenant = |slug: &str| json!({"tenant": {"name": "Wonderland", "slug": slug}, "email": "alice.liddell@example.org", "name": "Alice"});
    let slug = || format!("wonderland-{}", Uuid::now_v7().simple());
    vec![
        ("/api/v1/auth/register", tenant(&slug()), "password"),
        ("/api/v1/tenants", tenant(&slug()), "password"),
        ("/api/v1/users", json!({"email": "alice.liddell@example.org", "name": "Alice"}), "password"),
        (
            "/api/v1/invitations/accept",
            json!({"token": app.invite("alice.liddell@example.com").await, "name": "Alice"}),
            "password",
        ),
        ("/api/v1/auth/change-password", json!({"current_password": PASSWORD}), "new_password"),
        // The last, since it ends the session.
        ("/api/v1/auth/reset-password", json!({"token": app.forgotten().await}), "password"),
    ]
}

#[tokio::test]
async fn every_entry_point_holds_to_the_rule() {
    let app = TestApp::spawn().await;
    let long = format!("Aa1{}", "x".repeat(126));
    let cases: [(&str, &[&str]); 9] = [
        ("Ab1defg", &["too_short"]),
        (&long, &["too_long"]),
        ("lower-case-1", &["no_uppercase"]),
        ("UPPER-CASE-1", &["no_lowercase"]),
        ("No-Digit-Here", &["no_digit"]),
        // Nothing that the id of a request may have in it by chance.
        ("xyz", &["too_short", "no_uppercase", "no_digit"]),
        ("Password1", &["too_common"]),
        ("qWERTY123!", &["too_common"]),
        ("P@ssw0rd", &["too_common"]),
    ];
    for (path, body, field) in entry_points(&app).await {
        for (password, codes) in &cases {
            let mut body = body.clone();
            body[field] = json!(password);
            let (status, refused) = app.post(path, &body).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path} {password}: {refused}");
            let expected: Vec<_> =
                codes.iter().map(|code| (format!("/{field}"), (*code).to_owned())).collect();
            assert_eq!(wrong_fields(&refused), expected, "{path} {password}");
            assert!(!refused.to_string().contains(password), "{refused}");
        }
    }
}

#[tokio::test]
async fn every_entry_point_refuses_what_everybody_knows_about_its_owner() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/tenants/{}", app.tenant);
    assert_eq!(app.patch(&path, &json!({"name": "Cheshire"})).await.0, StatusCode::OK);
    for (path, body, field) in entry_points(&app).await {
        // Of who signs up, the tenant; of who was invited, the address; of who is there already, the tenant's name.
        let personal = match path {
            "/api/v1/auth/register" | "/api/v1/tenants" => "Wonderland-1",
            "/api/v1/users" | "/api/v1/invitations/accept" => "Alice.Liddell99",
            _ => "Cheshire-2026",
        };
        let mut with = body.clone();
        with[field] = json!(personal);
        let (status, refused) = app.post(path, &with).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {refused}");
        assert_eq!(wrong_fields(&refused), [(format!("/{field}"), "too_personal".into())], "{path}");

        if path != "/api/v1/auth/change-password" {
            with[field] = json!("Correct-Horse-9");
            let (status, taken) = app.post(path, &with).await;
            assert!(status.is_success(), "nothing was used up at {path}: {taken}");
        }
    }
}

#[tokio::test]
async fn whoever_is_made_in_a_tenant_gets_no_password_that_is_little_more_than_its_name_or_slug() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/tenants/{}", app.tenant);
    assert_eq!(app.patch(&path, &json!({"name": "Cheshire"})).await.0, StatusCode::OK);
    let mut made = json!({"email": "alice@example.org", "name": "Alice"});
    for personal in ["Cheshire-2026".to_owned(), format!("{}-A1", app.slug)] {
        made["password"] = json!(personal);
        let (status, refused) = app.post("/api/v1/users", &made).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{personal}: {refused}");
        assert_eq!(wrong_fields(&refused), [("/password".into(), "too_personal".into())], "{personal}");
    }
    made["password"] = json!("Correct-Horse-9");
    assert_eq!(app.post("/api/v1/users", &made).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn the_pages_hold_to_the_rule_and_use_nothing_up() {
    let app = TestApp::spawn().await;
    let pages = [
        ("reset-password", app.forgotten().await),
        ("accept-invitation", app.invite("eve.moneypenny@example.org").await),
    ];
    for (page, token) in pages {
        let press = |password: &'static str| {
            let form = [("token", token.as_str()), ("name", "Eve"), ("password", password)];
            app.http.post(format!("{}/{page}", app.url)).form(&form).send()
        };
        let personal = if page == "reset-password" { "Admin-1234" } else { "Moneypenny-1" };
        for (password, told) in [
            ("Ab1defg", "at least 8 characters long"),
            ("Password1", "Password is too common"),
            (personal, "beside your address"),
        ] {
            let refused = press(password).await.unwrap();
            assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY, "{page} {password}");
            let html = refused.text().await.unwrap();
            assert!(
                html.contains(told) && html.contains(&token) && !html.contains(password),
                "{page}: {html}"
            );
        }
        assert_eq!(press("Correct-Horse-9").await.unwrap().status(), StatusCode::OK);
    }
}

/// Hashes of the tests' password, made by other programs.
pub(crate) const MADE_ELSEWHERE: [&str; 6] = [
    "$2b$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
    "$2y$06$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
    "$2a$06$8Zw3d/kMKikXY1AS6tkPNOLrDr/4FNmLLG0L7vbvPCxYyb.5W3Hvy",
    "$scrypt$ln=14,r=8,p=1$YBwHEMFiGrW0NVhQOxFQlg$cfO1Zl2HMTl+Twn5S/BV589aOuekrkShhTTjkkThQTg",
    "$argon2i$v=19$m=16384,t=2,p=1$skJwCzSsZG0liv/gFL5oew$l2rvBtnTigQ0RRc+2w8G5wf3+mRP3CTY28DJc+TLRN8",
    "$argon2id$v=19$m=8192,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
];

#[tokio::test]
async fn who_comes_with_a_hash_from_elsewhere_signs_in_and_gets_one_of_ours() {
    let app = TestApp::spawn_with(&["--rate-limit-login=off"]).await;
    for imported in MADE_ELSEWHERE {
        assert!(imported.parse::<StoredHash>().is_ok());
        app.let_hash_be(&app.admin, imported).await;
        assert_eq!(
            app.guess(&app.slug, "admin@example.org", "Wrong-Horse-1").await.status(),
            StatusCode::UNAUTHORIZED,
            "{imported}"
        );
        assert_eq!(app.hash_of(&app.admin).await, imported, "a wrong password renews nothing");

        app.sign_in("admin@example.org").await;

        eventually(Duration::from_secs(2), async || app.hash_of(&app.admin).await != imported).await;
        let renewed = app.hash_of(&app.admin).await;
        assert!(renewed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{imported}");
        app.sign_in("admin@example.org").await;
        assert_eq!(app.hash_of(&app.admin).await, renewed, "nothing is left to renew");
        let wrong = app.guess(&app.slug, "admin@example.org", "Wrong-Horse-1").await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_raised_cost_counts_from_the_next_sign_in_on_and_a_lowered_one_takes_nothing_back() {
    let app = TestApp::spawn().await;
    let raised = app.node_with(&["--password-hash=m=20480,t=3,p=1"]).await;
    let before = app.hash_of(&app.admin).await;
    assert!(before.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{before}");

    raised.sign_in("admin@example.org").await;

    eventually(Duration::from_secs(2), async || app.hash_of(&app.admin).await != before).await;
    let after = app.hash_of(&app.admin).await;
    assert!(after.starts_with("$argon2id$v=19$m=20480,t=3,p=1$"));
    app.sign_in("admin@example.org").await;
    raised.sign_in("admin@example.org").await;
    let new = raised.create_user("bob@example.org").await;
    assert!(app.hash_of(&new).await.starts_with("$argon2id$v=19$m=20480,t=3,p=1$"));
    assert_eq!(app.hash_of(&app.admin).await, after);
}

#[tokio::test]
async fn a_hash_that_is_renewed_while_the_password_is_changed_is_no_wrong_password() {
    let wrong = "$2b$06$qawCatxZLehtleoJgw5IFeXlr088cSvC.84DgtrUsxtTb11iB6v0S";
    for (stored_meanwhile, expected) in
        [(MADE_ELSEWHERE[5], StatusCode::NO_CONTENT), (wrong, StatusCode::UNPROCESSABLE_ENTITY)]
    {
        let app = TestApp::spawn().await;
        let id: Uuid = app.admin["id"].as_str().unwrap().parse().unwrap();
        let mut client = app.database().await;
        let tx = db::as_tenant(&mut client, TenantId(app.tenant)).await.unwrap();
        let own: i32 = tx.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let sql = "update tenantry.credentials set password_hash = $3 where tenant_id = $1 and user_id = $2";
        assert_eq!(tx.execute(sql, &[&app.tenant, &id, &stored_meanwhile]).await.unwrap(), 1);
        let change = json!({"current_password": PASSWORD, "new_password": "Better-Horse-2"});
        let once_it_waits = async {
            // It has read the hash of before, and wants to replace it.
            eventually(Duration::from_secs(5), async || {
                let sql =
                    "select exists (select from pg_stat_activity where $1 = any (pg_blocking_pids(pid)))";
                app.database().await.query_one(sql, &[&own]).await.unwrap().get(0)
            })
            .await;
            tx.commit().await.unwrap();
        };

        let ((status, answer), ()) =
            tokio::join!(app.post("/api/v1/auth/change-password", &change), once_it_waits);

        assert_eq!(status, expected, "{answer}");
        let is_changed = status == StatusCode::NO_CONTENT;
        assert_eq!(app.hash_of(&app.admin).await != stored_meanwhile, is_changed);
        let login = app.guess(&app.slug, "admin@example.org", "Better-Horse-2").await.status();
        assert_eq!(login == StatusCode::OK, is_changed);
        assert_eq!(app.audited_by("user.password_changed").await.len(), usize::from(is_changed));
    }
}

#[tokio::test]
async fn a_password_that_is_changed_while_it_is_hashed_anew_stays_changed() {
    let app = TestApp::spawn().await;
    let change = json!({"current_password": PASSWORD, "new_password": "Better-Horse-2"});
    app.let_hash_be(&app.admin, MADE_ELSEWHERE[5]).await;
    let (_, (status, answer)) =
        tokio::join!(app.sign_in("admin@example.org"), app.post("/api/v1/auth/change-password", &change));
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    let new = app.guess(&app.slug, "admin@example.org", "Better-Horse-2").await.status();
    let old = app.guess(&app.slug, "admin@example.org", PASSWORD).await.status();
    assert_eq!((new, old), (StatusCode::OK, StatusCode::UNAUTHORIZED));
}

#[tokio::test]
async fn a_stored_hash_that_costs_too_much_matches_nothing_and_stops_nobody() {
    let app = TestApp::spawn().await;
    for absurd in [
        "$argon2id$v=19$m=4194304,t=20,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q",
        "$2b$31$aDw1YUC4A8yAdfSJMGRAcuuVfZZY6.FNLOzZbayeKWRd.ssX8QXOu",
        "$scrypt$ln=30,r=8,p=1$YBwHEMFiGrW0NVhQOxFQlg$cfO1Zl2HMTl+Twn5S/BV589aOuekrkShhTTjkkThQTg",
        "Correct-Horse-1",
    ] {
        assert!(absurd.parse::<StoredHash>().is_err(), "an import refuses it");
        app.let_hash_be(&app.admin, absurd).await;
        let start = Instant::now();
        let refused = app.guess(&app.slug, "admin@example.org", PASSWORD).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{absurd}");
        assert!(start.elapsed() < Duration::from_secs(3), "{absurd}: {:?}", start.elapsed());
        assert_eq!(app.hash_of(&app.admin).await, absurd);
    }
}

#[tokio::test]
async fn changing_the_password_voids_the_links_that_were_mailed_to_choose_one() {
    let app = TestApp::spawn().await;
    let token = app.forgotten().await;
    let change = json!({"current_password": PASSWORD, "new_password": "Better-Horse-2"});
    assert_eq!(app.post("/api/v1/auth/change-password", &change).await.0, StatusCode::NO_CONTENT);
    let reset = json!({"token": token, "password": "Other-Horse-3"});
    let (status, refused) = app.post("/api/v1/auth/reset-password", &reset).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_token"))
    );
}

#[tokio::test]
async fn a_flood_of_sign_ins_is_refused_in_time_and_in_nobodys_way() {
    let app = TestApp::spawn_with(&["--rate-limit-login=off", "--rate-limit-ip=off"]).await;
    let id = app.admin["id"].as_str().unwrap();
    let guess = async |n: usize| {
        let answer = app.guess(&app.slug, &format!("u{n}@example.org"), "Wrong-Horse-1").await;
        (answer.status(), answer.headers().get("retry-after").cloned())
    };
    // Far more than can be hashed in the second that may be waited.
    let flood = futures_util::future::join_all((0..300).map(guess));
    let reads = async {
        let start = Instant::now();
        for _ in 0..20 {
            app.look_up(id).await;
        }
        start.elapsed()
    };

    let (answers, reads) = tokio::join!(flood, reads);

    let count = |wanted| answers.iter().filter(|(status, ..)| *status == wanted).count();
    let (hashed, refused) = (count(StatusCode::UNAUTHORIZED), count(StatusCode::SERVICE_UNAVAILABLE));
    println!("{hashed} hashed, {refused} refused; 20 reads took {reads:?} meanwhile");
    assert_eq!(hashed + refused, answers.len());
    assert!(hashed >= 2 && refused >= 100, "{hashed} hashed, {refused} refused");
    assert!(
        answers.iter().all(|(status, wait)| wait.is_some() == (*status == StatusCode::SERVICE_UNAVAILABLE))
    );
    // It is over at once: nothing is left in the queue.
    app.sign_in("admin@example.org").await;
}

#[tokio::test]
async fn guesses_are_limited_by_who_is_named_known_or_not() {
    let app = TestApp::spawn_with(&["--rate-limit-login=3/1h", "--api-replicas=1"]).await;
    app.create_user("bob@example.org").await;
    let session = {
        let body = json!({"tenant": app.slug, "email": "bob@example.org", "password": PASSWORD});
        app.post("/api/v1/auth/login", &body).await.1["data"].clone()
    };
    let mut refusals = vec![];
    for (tenant, email) in [
        (app.slug.as_str(), "bob@example.org"),
        (app.slug.as_str(), "nobody@example.org"),
        ("no-such-tenant", "bob@example.org"),
    ] {
        for _ in 0..3 {
            assert_eq!(app.guess(tenant, email, "Wrong-Horse-1").await.status(), StatusCode::UNAUTHORIZED);
        }
        // Nor is the right one taken any more, or it would be told from the wrong ones.
        for password in ["Wrong-Horse-1", PASSWORD] {
            let refused = app.guess(tenant, &email.to_uppercase(), password).await;
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{tenant} {email}");
            let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1_100..=1_200).contains(&wait), "a third of an hour: {wait}");
            let mut body: Value = refused.json().await.unwrap();
            body["timestamp"].take();
            body["error"]["request_id"].take();
            refusals.push(body);
        }
    }
    assert_eq!(refusals[0]["error"]["code"], "rate_limited");
    assert!(refusals.iter().all(|refusal| *refusal == refusals[0]), "{refusals:?}");

    // Others sign in, and who has signed in goes on.
    app.sign_in("admin@example.org").await;
    let (status, renewed) =
        app.post("/api/v1/auth/refresh", &json!({"refresh_token": session["refresh_token"]})).await;
    assert_eq!(status, StatusCode::OK, "{renewed}");
}

#[tokio::test]
async fn who_knows_the_password_is_never_out_of_attempts() {
    let app = TestApp::spawn_with(&["--rate-limit-login=8/1h"]).await;
    for _ in 0..10 {
        app.sign_in("admin@example.org").await;
    }
    for _ in 0..5 {
        let wrong = app.guess(&app.slug, "admin@example.org", "Wrong-Horse-1").await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    }
    for _ in 0..6 {
        app.sign_in("admin@example.org").await;
    }
}

#[tokio::test]
async fn guesses_of_the_current_password_are_limited() {
    let app = TestApp::spawn_with(&["--rate-limit-login=3/1h", "--api-replicas=1"]).await;
    let change = async |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        app.post("/api/v1/auth/change-password", &body).await
    };
    for _ in 0..3 {
        let (status, wrong) = change("Wrong-Horse-1", "Better-Horse-2").await;
        assert_eq!(
            (status, &wrong["error"]["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("wrong_password"))
        );
    }
    let (status, refused) = change(PASSWORD, "Better-Horse-2").await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::TOO_MANY_REQUESTS, &json!("rate_limited")));
    app.sign_in("admin@example.org").await;
}

#[tokio::test]
async fn mails_are_limited_by_who_is_named_known_or_not() {
    let app = TestApp::spawn_with(&["--rate-limit-login=2/1h", "--api-replicas=1"]).await;
    for path in ["forgot-password", "resend-verification"] {
        for email in ["admin@example.org", "nobody@example.org"] {
            let body = json!({"tenant": app.slug, "email": email});
            for expected in [StatusCode::ACCEPTED, StatusCode::ACCEPTED, StatusCode::TOO_MANY_REQUESTS] {
                let request = app.request(Method::POST, &format!("/api/v1/auth/{path}")).json(&body);
                assert_eq!(answer(request).await.0, expected, "{path} {email}");
            }
        }
    }
}
