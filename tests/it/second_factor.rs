//! The second factor: codes of an authenticator app, recovery codes, and tenants that require them.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sha2::Digest;
use tenantry_accounts::{TenantId, db};
use totp_rs::{Builder, Secret, Totp};

use crate::app::{PASSWORD, TestApp, answer, eventually, token_in, wrong_fields};

/// An authenticator app, which is a step early, on time, or a step late.
struct Phone(Totp);

impl Phone {
    fn with(secret: &Value) -> Self {
        let secret = Secret::try_from_base32(secret.as_str().unwrap()).unwrap();
        Self(Builder::new().with_secret(secret).build().unwrap())
    }

    /// The code of the present step (0) or of the next (1). Both are accepted, also when the step ends before they arrive.
    fn code(&self, step: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        self.0.generate(now.checked_add_signed(step * 30).unwrap()).to_string()
    }

    /// A code that is of no step from here to there.
    fn wrong(&self) -> String {
        let near: HashSet<_> = (-3..=5).map(|step| self.code(step)).collect();
        (0..1_000_000).map(|code| format!("{code:06}")).find(|code| !near.contains(code)).unwrap()
    }
}

type Answer = (StatusCode, Value);

fn code_of(answer: &Answer) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["error"]["code"].as_str().unwrap_or_default())
}

fn claims(token: &Value) -> Value {
    let part = token.as_str().unwrap().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

impl TestApp {
    async fn log_in(&self, email: &str, code: Option<&str>) -> Answer {
        let mut body = json!({"tenant": self.slug, "email": email, "password": PASSWORD});
        if let Some(code) = code {
            body["code"] = json!(code);
        }
        self.post("/api/v1/auth/login", &body).await
    }

    async fn start(&self) -> Answer {
        self.post("/api/v1/auth/totp", &json!({"current_password": PASSWORD})).await
    }

    /// Sets a second factor up for who acts, a while ago: the codes of now have not been used.
    async fn enrol(&self) -> (Phone, Vec<String>) {
        let (phone, _, codes) = self.enrol_now().await;
        self.change("update tenantry.second_factors set last_step = last_step - 100").await;
        (phone, codes)
    }

    /// Sets a second factor up for who acts; the code that proved it.
    async fn enrol_now(&self) -> (Phone, String, Vec<String>) {
        let (status, started) = self.start().await;
        assert_eq!(status, StatusCode::OK, "{started}");
        let phone = Phone::with(&started["data"]["secret"]);
        let code = phone.code(0);
        let (status, confirmed) = self.post("/api/v1/auth/totp/confirm", &json!({"code": code})).await;
        assert_eq!(status, StatusCode::OK, "{confirmed}");
        let codes = confirmed["data"]["recovery_codes"].as_array().unwrap();
        (phone, code, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
    }

    /// What a request with this access token is answered with.
    async fn with_token(&self, method: Method, path: &str, token: &Value) -> Answer {
        let request = self.http.request(method, format!("{}{path}", self.url));
        answer(request.bearer_auth(token.as_str().unwrap())).await
    }

    async fn renew(&self, session: &Value) -> Answer {
        self.post("/api/v1/auth/refresh", &json!({"refresh_token": session["refresh_token"]})).await
    }

    /// One value out of the tenant's rows.
    async fn sql(&self, sql: &str) -> String {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let value = tx.query_one(&format!("select ({sql})::text"), &[]).await.unwrap();
        tx.commit().await.unwrap();
        value.get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// As time or an intruder would.
    async fn change(&self, sql: &str) {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        assert!(tx.execute(sql, &[]).await.unwrap() > 0);
        tx.commit().await.unwrap();
    }

    async fn events(&self, action: &str) -> String {
        self.sql(&format!("select count(*) from tenantry.audit_events where action = 'user.{action}'")).await
    }

    async fn me(&self) -> Answer {
        self.get("/api/v1/users/me").await
    }
}

#[tokio::test]
async fn a_second_factor_counts_once_it_is_proven_and_login_asks_for_it() {
    let app = TestApp::spawn().await;
    let (_, other) = app.log_in("admin@example.org", None).await;
    assert_eq!(claims(&other["data"]["token"])["amr"], json!(["pwd"]));
    let request = app.request(Method::POST, "/api/v1/auth/totp").json(&json!({"current_password": PASSWORD}));
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().unwrap())
    );
    let first: Value = response.json().await.unwrap();
    let uri = first["data"]["uri"].as_str().unwrap();
    assert!(uri.starts_with("otpauth://totp/Acme:admin%40example.org?"), "{uri}");
    assert_eq!(app.log_in("admin@example.org", None).await.0, StatusCode::OK, "it is pending");
    let (_, second) = app.start().await;
    let (lost, phone) = (Phone::with(&first["data"]["secret"]), Phone::with(&second["data"]["secret"]));

    let confirm = |code: String| {
        let app = &app;
        async move { app.post("/api/v1/auth/totp/confirm", &json!({"code": code})).await }
    };
    assert_eq!(
        code_of(&confirm(lost.code(0)).await),
        (422, "wrong_second_factor"),
        "a newer secret takes its place"
    );
    assert_eq!(code_of(&confirm(phone.wrong()).await), (422, "wrong_second_factor"));
    let (status, confirmed) = confirm(phone.code(0)).await;

    assert_eq!(status, StatusCode::OK, "{confirmed}");
    let codes = confirmed["data"]["recovery_codes"].as_array().unwrap();
    assert_eq!(codes.iter().map(Value::to_string).collect::<HashSet<_>>().len(), 10);
    assert_eq!(code_of(&confirm(phone.code(1)).await), (409, "second_factor_enabled"));
    assert_eq!(code_of(&app.start().await), (409, "second_factor_enabled"));
    let (_, status) = app.get("/api/v1/auth/totp").await;
    assert_eq!(
        (&status["data"]["enabled"], &status["data"]["recovery_codes_left"]),
        (&json!(true), &json!(10))
    );
    assert_eq!(
        app.with_token(Method::GET, "/api/v1/users/me", &other["data"]["token"]).await.0,
        StatusCode::UNAUTHORIZED,
        "the other sessions have ended"
    );
    assert_eq!(code_of(&app.log_in("admin@example.org", None).await), (401, "second_factor_required"));
    assert_eq!(
        code_of(&app.log_in("admin@example.org", Some(&phone.wrong())).await),
        (401, "second_factor_invalid")
    );
    let (status, signed_in) = app.log_in("admin@example.org", Some(&phone.code(1))).await;
    assert_eq!(status, StatusCode::OK, "{signed_in}");
    assert_eq!(claims(&signed_in["data"]["token"])["amr"], json!(["pwd", "otp"]));
    let (_, renewed) = app.renew(&signed_in["data"]).await;
    assert_eq!(claims(&renewed["data"]["token"])["amr"], json!(["pwd", "otp"]));
    let (_, sessions) = app.get("/api/v1/auth/sessions").await;
    let amr: Vec<_> = sessions["data"]["sessions"].as_array().unwrap().iter().map(|s| &s["amr"]).collect();
    assert_eq!(amr, [&json!(["pwd", "otp"]), &json!(["pwd", "otp"])]);
    assert_eq!(app.events("second_factor_enabled").await, "1");
    let mails = app.mails_to("admin@example.org").await;
    assert!(mails.iter().any(|mail| mail.contains("asks for a code of an")), "{mails:?}");
}

#[tokio::test]
async fn setting_up_takes_the_password() {
    let app = TestApp::spawn().await;
    let wrong = app.post("/api/v1/auth/totp", &json!({"current_password": "Wrong-Horse-1"})).await;
    assert_eq!(code_of(&wrong), (422, "wrong_password"));
    let nothing_pending = app.post("/api/v1/auth/totp/confirm", &json!({"code": "123456"})).await;
    assert_eq!(code_of(&nothing_pending), (404, "second_factor_not_found"));
    let (status, refused) = app.post("/api/v1/auth/totp/confirm", &json!({"code": "12345"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong_fields(&refused), [("/code".into(), "invalid_code".into())]);
}

#[tokio::test]
async fn a_pending_secret_is_not_guessed_and_does_not_wait_for_ever() {
    let app = TestApp::spawn().await;
    let confirm = |code: String| {
        let app = &app;
        async move { app.post("/api/v1/auth/totp/confirm", &json!({"code": code})).await }
    };
    let (_, started) = app.start().await;
    let phone = Phone::with(&started["data"]["secret"]);
    for _ in 0..5 {
        assert_eq!(code_of(&confirm(phone.wrong()).await), (422, "wrong_second_factor"));
    }
    assert_eq!(code_of(&confirm(phone.code(0)).await), (404, "second_factor_not_found"));
    let trail = app.trail("action=user.second_factor_failed").await;
    let failures: Vec<_> = trail.iter().map(|event| event["detail"]["failures"].clone()).collect();
    assert_eq!(failures, [5, 4, 3, 2, 1], "{trail:?}");
    assert!(trail.iter().all(|event| event["actor_id"] == app.admin["id"]), "{trail:?}");

    let (_, started) = app.start().await;
    let phone = Phone::with(&started["data"]["secret"]);
    app.change("update tenantry.second_factors set created_at = created_at - interval '61 minutes'").await;
    assert_eq!(code_of(&confirm(phone.code(0)).await), (404, "second_factor_not_found"));
    assert_eq!(app.start().await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_code_works_once() {
    let app = TestApp::spawn().await;
    let (phone, proof, _) = app.enrol_now().await;
    let log_in = |code: &str| {
        let (app, code) = (&app, code.to_owned());
        async move { app.log_in("admin@example.org", Some(&code)).await }
    };
    let refused = (401, "second_factor_invalid");
    assert_eq!(code_of(&log_in(&proof).await), refused, "it has proven the secret");
    let next = phone.code(1);
    assert_eq!(log_in(&next).await.0, StatusCode::OK);
    assert_eq!(code_of(&log_in(&next).await), refused);
    assert_eq!(code_of(&log_in(&proof).await), refused, "nor an older one");
}

#[tokio::test]
async fn of_many_who_come_with_the_same_code_one_is_let_in() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let (phone, recovery_codes) = app.enrol().await;
    for code in [phone.code(0), recovery_codes[0].clone()] {
        let email = "admin@example.org";
        let (a, b, c, d) = tokio::join!(
            app.log_in(email, Some(&code)),
            node.log_in(email, Some(&code)),
            app.log_in(email, Some(&code)),
            node.log_in(email, Some(&code)),
        );
        let answers = [a, b, c, d];
        let mut codes: Vec<_> = answers.iter().map(code_of).collect();
        codes.sort_unstable();
        let refused = (401, "second_factor_invalid");
        assert_eq!(codes, [(200, ""), refused, refused, refused]);
    }
}

#[tokio::test]
async fn too_many_wrong_codes_lock_for_a_growing_time_on_every_process() {
    // More at once than the limit of guesses would let through on both.
    let app = TestApp::spawn_with(&["--rate-limit-login=1000/10m"]).await;
    let node = app.another_node().await;
    let (phone, _) = app.enrol().await;
    let (email, wrong) = ("admin@example.org", phone.wrong());
    // All at once: what comes while others are being counted is counted as well.
    let attempts = (0..12).map(|n| {
        let app = if n % 2 == 0 { &app } else { &node };
        app.log_in(email, Some(&wrong))
    });
    let answers = futures_util::future::join_all(attempts).await;
    let looked_at = answers.iter().filter(|answer| code_of(answer) == (401, "second_factor_invalid")).count();
    let locked = answers.iter().filter(|answer| code_of(answer) == (429, "second_factor_locked")).count();
    assert_eq!((looked_at, locked), (5, 7), "{answers:?}");

    let right = app.log_in(email, Some(&phone.code(0))).await;
    assert_eq!(code_of(&right), (429, "second_factor_locked"), "the right one is not looked at either");
    let request = node.http.post(format!("{}/api/v1/auth/login", node.url));
    let body = json!({"tenant": app.slug, "email": email, "password": PASSWORD, "code": wrong});
    let response = request.json(&body).send().await.unwrap();
    let after = |headers: &HeaderMap| headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=60).contains(&after(response.headers())));
    assert_eq!(code_of(&app.log_in(email, None).await), (401, "second_factor_required"));
    let both = json!({"current_password": PASSWORD, "code": phone.code(0)});
    let elsewhere = app.post("/api/v1/auth/totp/disable", &both).await;
    assert_eq!(code_of(&elsewhere), (429, "second_factor_locked"), "there is one count for all that asks");
    let mails = app.mails_to(email).await;
    let told = mails.iter().filter(|mail| mail.contains("somebody who knows the password")).count();
    assert_eq!((told, app.events("second_factor_failed").await.as_str()), (1, "5"));
}

#[tokio::test]
async fn the_lock_grows_to_a_day_and_ends_with_a_right_code() {
    let app = TestApp::spawn().await;
    let (phone, recovery_codes) = app.enrol().await;
    let (email, wrong) = ("admin@example.org", phone.wrong());
    for (failures, minutes) in [(4, 1), (5, 2), (8, 16), (14, 1024), (15, 1440), (100, 1440)] {
        app.change(&format!("update tenantry.second_factors set failures = {failures}, locked_until = null"))
            .await;
        assert_eq!(code_of(&app.log_in(email, Some(&wrong)).await), (401, "second_factor_invalid"));
        let left = app
            .sql("select round(extract(epoch from locked_until - now()) / 60) from tenantry.second_factors");
        assert_eq!(left.await, minutes.to_string());
    }
    let wrong = app.log_in(email, Some(&["AAAA"; 7].join("-"))).await;
    assert_eq!(code_of(&wrong), (401, "second_factor_invalid"));
    let failures = app.sql("select failures from tenantry.second_factors").await;
    assert_eq!(failures, "101", "what cannot be guessed does not lock for longer");
    // Recovery codes are not guessed, and whoever has the password must not keep the owner out.
    assert_eq!(app.log_in(email, Some(&recovery_codes[0])).await.0, StatusCode::OK);
    assert_eq!(app.log_in(email, Some(&phone.code(0))).await.0, StatusCode::OK, "that has ended the lock");
    assert_eq!(app.sql("select failures from tenantry.second_factors").await, "0");
}

#[tokio::test]
async fn a_recovery_code_works_once_and_new_ones_void_the_old() {
    let app = TestApp::spawn().await;
    let (phone, codes) = app.enrol().await;
    let email = "admin@example.org";
    // Five bits each.
    assert!(codes.iter().all(|code| code.replace('-', "").len() * 5 >= 128), "{codes:?}");
    let typed = codes[3].replace('-', " ").to_lowercase();
    let (status, signed_in) = app.log_in(email, Some(&typed)).await;
    assert_eq!(status, StatusCode::OK, "{signed_in}");
    assert_eq!(claims(&signed_in["data"]["token"])["amr"], json!(["pwd", "otp"]));
    assert_eq!(code_of(&app.log_in(email, Some(&codes[3])).await), (401, "second_factor_invalid"));
    let (_, status) = app.get("/api/v1/auth/totp").await;
    assert_eq!(status["data"]["recovery_codes_left"], 9);
    assert_eq!(app.events("recovery_code_used").await, "1");
    assert!(app.mails_to(email).await.iter().any(|mail| mail.contains("a recovery code of your account")));

    let renew = |password: &str, code: &str| {
        let body = json!({"current_password": password, "code": code});
        let app = &app;
        async move { app.post("/api/v1/auth/totp/recovery-codes", &body).await }
    };
    assert_eq!(code_of(&renew("Wrong-Horse-1", &phone.code(0)).await), (422, "wrong_password"));
    assert_eq!(code_of(&renew(PASSWORD, &phone.wrong()).await), (422, "wrong_second_factor"));
    let (status, renewed) = renew(PASSWORD, &phone.code(0)).await;

    assert_eq!(status, StatusCode::OK, "{renewed}");
    assert_eq!(code_of(&app.log_in(email, Some(&codes[0])).await), (401, "second_factor_invalid"));
    let new = renewed["data"]["recovery_codes"][0].as_str().unwrap();
    assert_eq!(app.log_in(email, Some(new)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn removing_it_takes_password_and_code_and_changes_the_session() {
    let mut app = TestApp::spawn().await;
    let (phone, codes) = app.enrol().await;
    let email = "admin@example.org";
    let (_, here) = app.log_in(email, Some(&phone.code(0))).await;
    let (_, there) = app.log_in(email, Some(&codes[0])).await;
    app.token = here["data"]["token"].as_str().unwrap().to_owned();
    let disable = |password: &str, code: &str| {
        let body = json!({"current_password": password, "code": code});
        let app = &app;
        async move { app.post("/api/v1/auth/totp/disable", &body).await }
    };
    assert_eq!(code_of(&disable("Wrong-Horse-1", &codes[1]).await), (422, "wrong_password"));
    assert_eq!(
        code_of(&disable(PASSWORD, &phone.code(0)).await),
        (422, "wrong_second_factor"),
        "it was used to sign in"
    );
    assert_eq!(app.log_in(email, None).await.0, StatusCode::UNAUTHORIZED);

    assert_eq!(disable(PASSWORD, &codes[1]).await.0, StatusCode::NO_CONTENT);

    assert_eq!(app.log_in(email, None).await.0, StatusCode::OK);
    assert_eq!(app.me().await.0, StatusCode::UNAUTHORIZED, "the access token says otp");
    assert_eq!(app.renew(&there["data"]).await.0, StatusCode::UNAUTHORIZED, "the others have ended");
    let (status, renewed) = app.renew(&here["data"]).await;
    assert_eq!(status, StatusCode::OK, "{renewed}");
    assert_eq!(claims(&renewed["data"]["token"])["amr"], json!(["pwd"]));
    assert_eq!(app.sql("select count(*) from tenantry.recovery_codes").await, "0");
    assert_eq!(app.events("second_factor_disabled").await, "1");
    app.token = renewed["data"]["token"].as_str().unwrap().to_owned();
    let body = json!({"current_password": PASSWORD, "code": codes[2]});
    let again = app.post("/api/v1/auth/totp/disable", &body).await;
    assert_eq!(code_of(&again), (404, "second_factor_not_found"));
}

#[tokio::test]
async fn an_administrator_resets_who_has_lost_it_and_nobody_else_does() {
    let mut app = TestApp::spawn().await;
    let others = TestApp::spawn().await;
    let bob = app.create_user("bob@example.org").await;
    app.create_user("eve@example.org").await;
    let path = format!("/api/v1/users/{}/totp", bob["id"].as_str().unwrap());
    assert_eq!(code_of(&app.delete(&path).await), (404, "second_factor_not_found"));
    let admin = app.token.clone();
    app.act_as("bob@example.org").await;
    app.enrol().await;
    let bobs = json!(app.token);
    let own = app.delete(&path).await;
    assert_eq!(code_of(&own), (403, "forbidden"), "one's own takes a code");
    app.act_as("eve@example.org").await;
    assert_eq!(code_of(&app.delete(&path).await), (403, "forbidden"));
    assert_eq!(code_of(&others.delete(&path).await), (404, "user_not_found"));
    assert_eq!(code_of(&app.log_in("bob@example.org", None).await), (401, "second_factor_required"));
    app.token = admin;
    let own = format!("/api/v1/users/{}/totp", app.admin["id"].as_str().unwrap());
    assert_eq!(code_of(&app.delete(&own).await), (403, "forbidden"), "an administrator's, too");

    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);

    assert_eq!(app.with_token(Method::GET, "/api/v1/users/me", &bobs).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(app.log_in("bob@example.org", None).await.0, StatusCode::OK);
    assert_eq!(app.events("second_factor_reset").await, "1");
    assert!(
        app.mails_to("bob@example.org")
            .await
            .iter()
            .any(|mail| mail.contains("an administrator of Acme has"))
    );
}

#[tokio::test]
async fn a_tenant_that_requires_it_lets_who_has_none_set_it_up_and_nothing_else() {
    let mut app = TestApp::spawn().await;
    let node = app.another_node().await;
    app.create_user("bob@example.org").await;
    let tenant = format!("/api/v1/tenants/{}", app.tenant);
    let require = json!({"require_second_factor": true});
    assert_eq!(code_of(&app.patch(&tenant, &require).await), (409, "second_factor_missing"));
    let (_, existing) = app.log_in("bob@example.org", None).await;
    let existing = &existing["data"];
    let (phone, _) = app.enrol().await;

    let (status, changed) = app.patch(&tenant, &require).await;

    assert_eq!(
        (status, &changed["data"]["require_second_factor"]),
        (StatusCode::OK, &json!(true)),
        "{changed}"
    );
    for node in [&app, &node] {
        eventually(Duration::from_secs(1), || async {
            let (status, _) = node.with_token(Method::GET, "/api/v1/users/me", &existing["token"]).await;
            status == StatusCode::UNAUTHORIZED
        })
        .await;
    }
    let (_, renewed) = app.renew(existing).await;
    let (_, fresh) = app.log_in("bob@example.org", None).await;
    for session in [&renewed["data"], &fresh["data"]] {
        let token = &session["token"];
        let said = claims(token);
        assert_eq!((&said["mfa"], &said["amr"]), (&json!("required"), &json!(["pwd"])));
        assert_ne!(said["iss"], "http://tenantry.test", "who verifies it alone refuses it");
        for (method, path) in [
            (Method::GET, "/api/v1/users"),
            (Method::GET, tenant.as_str()),
            (Method::GET, "/api/v1/auth/sessions"),
            (Method::POST, "/api/v1/auth/change-password"),
            (Method::POST, "/api/v1/auth/totp/disable"),
        ] {
            let refused = node.with_token(method, path, token).await;
            assert_eq!(code_of(&refused), (403, "second_factor_setup_required"), "{path}");
        }
        assert_eq!(node.with_token(Method::GET, "/api/v1/users/me", token).await.0, StatusCode::OK);
        let (_, status) = node.with_token(Method::GET, "/api/v1/auth/totp", token).await;
        assert_eq!((&status["data"]["required"], &status["data"]["enabled"]), (&json!(true), &json!(false)));
    }

    app.token = fresh["data"]["token"].as_str().unwrap().to_owned();
    app.enrol().await;
    let (_, whole) = app.renew(&fresh["data"]).await;
    let said = claims(&whole["data"]["token"]);
    assert_eq!((&said["mfa"], &said["iss"]), (&Value::Null, &json!("http://tenantry.test")));
    assert_eq!(
        node.with_token(Method::GET, "/api/v1/users", &whole["data"]["token"]).await.0,
        StatusCode::OK
    );
    // Who has one goes on as before, and turns it off again.
    let (_, admin) = app.log_in("admin@example.org", Some(&phone.code(0))).await;
    app.token = admin["data"]["token"].as_str().unwrap().to_owned();
    assert_eq!(app.patch(&tenant, &json!({"require_second_factor": false})).await.0, StatusCode::OK);
    app.create_user("eve@example.org").await;
    assert_eq!(claims(&app.log_in("eve@example.org", None).await.1["data"]["token"])["mfa"], Value::Null);
}

#[tokio::test]
async fn who_removes_it_where_it_is_required_is_back_at_setting_it_up() {
    let mut app = TestApp::spawn().await;
    let (phone, codes) = app.enrol().await;
    let tenant = format!("/api/v1/tenants/{}", app.tenant);
    assert_eq!(app.patch(&tenant, &json!({"require_second_factor": true})).await.0, StatusCode::OK);
    let (_, session) = app.log_in("admin@example.org", Some(&phone.code(0))).await;
    app.token = session["data"]["token"].as_str().unwrap().to_owned();
    let body = json!({"current_password": PASSWORD, "code": codes[0]});
    assert_eq!(app.post("/api/v1/auth/totp/disable", &body).await.0, StatusCode::NO_CONTENT);

    let (_, renewed) = app.renew(&session["data"]).await;

    app.token = renewed["data"]["token"].as_str().unwrap().to_owned();
    assert_eq!(code_of(&app.get("/api/v1/users").await), (403, "second_factor_setup_required"));
    let off = app.patch(&tenant, &json!({"require_second_factor": false})).await;
    assert_eq!(code_of(&off), (403, "second_factor_setup_required"), "nor is the rule taken down");
}

#[tokio::test]
async fn without_the_password_nobody_learns_of_a_second_factor() {
    let app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let (phone, codes) = app.enrol().await;
    let mut seen = HashSet::new();
    for email in ["admin@example.org", "bob@example.org", "nobody@example.org"] {
        for code in [None, Some(phone.wrong()), Some(phone.code(0)), Some(codes[0].clone())] {
            let mut body = json!({"tenant": app.slug, "email": email, "password": "Wrong-Horse-1"});
            if let Some(code) = code {
                body["code"] = json!(code);
            }
            let (status, mut answer) = app.post("/api/v1/auth/login", &body).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            answer["timestamp"].take();
            answer["error"]["request_id"].take();
            seen.insert(answer.to_string());
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(app.sql("select failures from tenantry.second_factors").await, "0");
    assert_eq!(
        app.log_in("admin@example.org", Some(&phone.code(0))).await.0,
        StatusCode::OK,
        "nothing was used up"
    );
    assert_eq!(app.log_in("admin@example.org", Some(&codes[0])).await.0, StatusCode::OK);
    let (status, _) = app.log_in("bob@example.org", Some("123456")).await;
    assert_eq!(status, StatusCode::OK, "a code without a factor is not looked at");
}

#[tokio::test]
async fn a_reset_password_does_not_take_the_place_of_the_code() {
    let app = TestApp::spawn().await;
    let (phone, _) = app.enrol().await;
    let forgot = json!({"tenant": app.slug, "email": "admin@example.org"});
    assert_eq!(app.post("/api/v1/auth/forgot-password", &forgot).await.0, StatusCode::ACCEPTED);
    let mails = app.mails_to("admin@example.org").await;
    let mail = mails.iter().find(|mail| mail.contains("/reset-password?token=")).unwrap();
    let body = json!({"token": token_in(mail), "password": PASSWORD});
    assert_eq!(app.post("/api/v1/auth/reset-password", &body).await.0, StatusCode::NO_CONTENT);

    assert_eq!(code_of(&app.log_in("admin@example.org", None).await), (401, "second_factor_required"));
    assert_eq!(app.log_in("admin@example.org", Some(&phone.code(0))).await.0, StatusCode::OK);
}

#[tokio::test]
async fn what_is_stored_tells_neither_secret_nor_codes() {
    let app = TestApp::spawn().await;
    let (_, started) = app.start().await;
    let secret = started["data"]["secret"].as_str().unwrap();
    let phone = Phone::with(&started["data"]["secret"]);
    let (_, confirmed) = app.post("/api/v1/auth/totp/confirm", &json!({"code": phone.code(0)})).await;
    let shown = confirmed["data"]["recovery_codes"][0].as_str().unwrap();
    assert_eq!(app.log_in("admin@example.org", Some(shown)).await.0, StatusCode::OK);
    app.run_jobs().await;

    let tables =
        "select string_agg(c.relname, ' ') from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where n.nspname = 'tenantry' and c.relkind = 'r' and has_table_privilege(c.oid, 'select')
        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')";
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let raw = phone.0.secret().as_bytes();
    let hidden = [
        secret.to_lowercase(),
        hex(raw),
        hex(secret.as_bytes()),
        shown.to_lowercase(),
        shown.replace('-', "").to_lowercase(),
        hex(shown.replace('-', "").as_bytes()),
        hex(shown.as_bytes()),
    ];
    let mut scanned = 0;
    for table in app.sql(tables).await.split_whitespace() {
        let rows =
            app.sql(&format!("select string_agg(t::text, ' ') from tenantry.{table} t")).await.to_lowercase();
        scanned += rows.len();
        for (n, hidden) in hidden.iter().enumerate() {
            assert!(!rows.contains(hidden), "form {n} is in {table}");
        }
    }
    // It would have been found: the hash of the code is.
    let hash = hex(&sha2::Sha256::digest(shown.replace('-', "")));
    let rows = app.sql("select string_agg(t::text, ' ') from tenantry.recovery_codes t").await;
    assert!(scanned > 1000 && rows.contains(&hash), "{rows}");
    assert!(!app.mails().iter().any(|mail| mail.contains(secret) || mail.contains(shown)));
}

#[tokio::test]
async fn a_secret_works_in_its_own_row_only() {
    let mut app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let (phone, _) = app.enrol().await;
    app.act_as("bob@example.org").await;
    app.enrol().await;
    let admin = app.admin["id"].as_str().unwrap();
    app.change(&format!(
        "update tenantry.second_factors set (secret, key_id) = (
           select secret, key_id from tenantry.second_factors where user_id = '{admin}'
         ) where user_id <> '{admin}'"
    ))
    .await;

    let moved = app.log_in("bob@example.org", Some(&phone.code(0))).await;

    assert_eq!(code_of(&moved), (500, "internal"));
}

#[tokio::test]
async fn a_new_key_takes_over_and_a_lost_one_leaves_the_recovery_codes() {
    let app = TestApp::spawn().await;
    let (phone, codes) = app.enrol().await;
    let email = "admin@example.org";
    let key_of = || app.sql("select key_id from tenantry.second_factors");
    let first = key_of().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::copy(app.folder().join("keys/first.key"), path("first.key")).unwrap();
    std::fs::write(path("next.key"), "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=\n").unwrap();
    let keys = format!("--encryption-keys-dir={}", folder.path().display());
    let rotating = app.node_with(&[&keys]).await;
    assert_eq!(rotating.log_in(email, Some(&phone.code(0))).await.0, StatusCode::OK);
    assert_eq!(key_of().await, first, "a key that is new to other processes does not write yet");
    let rotated = app.node_with(&[&keys, "--jwt-key-rest=100ms"]).await;
    eventually(Duration::from_secs(1), || async {
        rotated.state.app.encryption.writing_key().as_deref() != Some(first.as_str())
    })
    .await;
    assert_eq!(rotated.log_in(email, Some(&phone.code(1))).await.0, StatusCode::OK);
    assert_ne!(key_of().await, first, "who signs in is encrypted anew");

    std::fs::remove_file(path("next.key")).unwrap();
    let forgetful = app.node_with(&[&keys]).await;
    assert_eq!(code_of(&forgetful.log_in(email, Some(&phone.code(0))).await), (500, "internal"));
    let (status, session) = forgetful.log_in(email, Some(&codes[0])).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let body = json!({"current_password": PASSWORD, "code": codes[1]});
    let request = forgetful.http.post(format!("{}/api/v1/auth/totp/disable", forgetful.url)).json(&body);
    let (status, _) = answer(request.bearer_auth(session["data"]["token"].as_str().unwrap())).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "and so the way to a new one is open");
}

#[tokio::test]
async fn an_operator_needs_no_code_and_tokens_say_so() {
    let app = TestApp::spawn().await;
    app.enrol().await;
    let tenant = format!("/api/v1/tenants/{}", app.tenant);
    assert_eq!(app.patch(&tenant, &json!({"require_second_factor": true})).await.0, StatusCode::OK);
    let keys = app.folder().join("keys").display().to_string();
    let url = crate::app::from_stack("TEST_DATABASE_URL");
    let variables =
        [("DATABASE_URL", url.as_str()), ("JWT_KEYS_DIR", &keys), ("PUBLIC_URL", "http://tenantry.test")];
    let arguments = ["token", "--tenant", &app.slug, "--email", "admin@example.org"];
    let output = crate::cli::tenantry(&arguments, &variables);
    let token = json!(String::from_utf8(output.stdout).unwrap().trim());
    assert_eq!((&claims(&token)["amr"], &claims(&token)["mfa"]), (&json!([]), &Value::Null));
    assert_eq!(app.with_token(Method::GET, "/api/v1/users", &token).await.0, StatusCode::OK);
}

#[tokio::test]
async fn check_names_the_keys_that_are_missing() {
    let app = TestApp::spawn().await;
    app.enrol().await;
    let key = app.sql("select key_id from tenantry.second_factors").await;
    let url = crate::app::from_stack("TEST_DATABASE_URL");
    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("other.key"), "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVoxMjM0NTY=\n").unwrap();
    let line = |folder: &std::path::Path| {
        let variables = [("DATABASE_URL", url.as_str()), ("ENCRYPTION_KEYS_DIR", folder.to_str().unwrap())];
        let said = String::from_utf8(crate::cli::tenantry(&["check"], &variables).stdout).unwrap();
        said.lines().find(|line| line.contains("encryption")).unwrap().to_owned()
    };

    let lacking = line(other.path());

    assert!(lacking.starts_with("WRONG") && lacking.contains(&format!("{key} (1 secrets)")), "{lacking}");
    // Other tests have keys of their own, of which this folder knows nothing either.
    let known = line(&app.folder().join("keys"));
    assert!(known.starts_with("ok") || !known.contains(&key), "{known}");
}

#[tokio::test]
async fn no_process_starts_with_a_key_of_its_own_beside_secrets_of_another() {
    let app = TestApp::spawn().await;
    app.enrol().await;
    let (url, empty) = (crate::app::from_stack("TEST_DATABASE_URL"), tempfile::tempdir().unwrap());
    let keys = empty.path().join("keys");
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("JWT_KEYS_DIR", keys.to_str().unwrap()),
        ("LISTEN", "127.0.0.1:0"),
        ("PUBLIC_URL", "http://tenantry.test"),
    ];

    for _ in 0..2 {
        let refused = crate::cli::tenantry(&["api"], &variables);

        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && said.contains("ENCRYPTION_KEYS_DIR: "), "{said}");
        assert!(!keys.join("first.key").exists(), "and it is no other the next time");
    }
}

#[tokio::test]
async fn who_is_deleted_leaves_no_secret_behind() {
    let mut app = TestApp::spawn().await;
    let bob = app.create_user("bob@example.org").await;
    let admin = app.token.clone();
    app.act_as("bob@example.org").await;
    app.enrol().await;
    app.token = admin;
    let path = format!("/api/v1/users/{}", bob["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.sql("select count(*) from tenantry.second_factors").await, "0");
    assert_eq!(app.sql("select count(*) from tenantry.recovery_codes").await, "0");
}
