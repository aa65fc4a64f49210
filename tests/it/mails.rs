use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, answer, token_in, wrong_fields};

const NEW_PASSWORD: &str = "Better-Horse-2";

impl TestApp {
    async fn forgot(&self, tenant: &str, email: &str) -> (StatusCode, Value) {
        self.post("/api/v1/auth/forgot-password", &json!({"tenant": tenant, "email": email})).await
    }

    async fn reset(&self, token: &str) -> (StatusCode, Value) {
        self.post("/api/v1/auth/reset-password", &json!({"token": token, "password": NEW_PASSWORD})).await
    }

    async fn signs_in(&self, email: &str, password: &str) -> bool {
        let body = json!({"tenant": self.slug, "email": email, "password": password});
        self.post("/api/v1/auth/login", &body).await.0 == StatusCode::OK
    }

    fn admin_path(&self) -> String {
        format!("/api/v1/users/{}", self.admin["id"].as_str().unwrap())
    }

    /// As if the mails of the tenant had been sent a minute ago.
    async fn let_mails_age(&self) {
        let mut client = self.database().await;
        let tenant = tenantry_accounts::TenantId(self.tenant);
        let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
        let sql = "update tenantry.email_tokens set created_at = created_at - interval '1 minute'";
        tx.execute(sql, &[]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_forgotten_password_is_chosen_anew_by_mail_and_every_session_ends() {
    let app = TestApp::spawn().await;
    assert_eq!(app.forgot(&app.slug, " Admin@Example.org").await.0, StatusCode::ACCEPTED);
    let mails = app.mails_to("admin@example.org").await;
    assert!(mails[1].contains("http://tenantry.test/reset-password?token="), "{}", mails[1]);
    let token = token_in(&mails[1]);

    let (status, refused) =
        app.post("/api/v1/auth/reset-password", &json!({"token": token, "password": "short"})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong_fields(&refused)[0], ("/password".into(), "too_short".into()));
    let (status, answered) = app.reset(&token).await;

    assert_eq!(status, StatusCode::NO_CONTENT, "{answered}");
    assert_eq!(app.get("/api/v1/users/me").await.0, StatusCode::UNAUTHORIZED);
    assert!(!app.signs_in("admin@example.org", PASSWORD).await);
    assert!(app.signs_in("admin@example.org", NEW_PASSWORD).await);
    let (status, used) = app.reset(&token).await;
    assert_eq!((status, &used["error"]["code"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_token")));
}

#[tokio::test]
async fn a_newer_mail_voids_the_link_of_the_one_before() {
    let app = TestApp::spawn().await;
    for _ in 0..2 {
        assert_eq!(app.forgot(&app.slug, "admin@example.org").await.0, StatusCode::ACCEPTED);
        app.run_jobs().await;
        app.let_mails_age().await;
    }
    let mails = app.mails_to("admin@example.org").await;
    assert_eq!(mails.len(), 3, "one to verify, two to choose a password");
    assert_eq!(app.reset(&token_in(&mails[1])).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(app.reset(&token_in(&mails[2])).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn whoever_asks_again_and_again_gets_one_mail() {
    let app = TestApp::spawn().await;
    for _ in 0..3 {
        app.forgot(&app.slug, "admin@example.org").await;
        app.forgot(&app.slug, "admin@example.org").await;
        app.run_jobs().await;
    }
    assert_eq!(app.mails_to("admin@example.org").await.len(), 2, "one to verify, one to choose a password");
}

#[tokio::test]
async fn asking_for_a_mail_tells_nothing_about_who_exists() {
    let app = TestApp::spawn().await;
    for path in ["forgot-password", "resend-verification"] {
        let mut answers = vec![];
        for (tenant, email) in [
            (app.slug.as_str(), "admin@example.org"),
            (app.slug.as_str(), "nobody@example.org"),
            ("no-such-tenant", "admin@example.org"),
        ] {
            let body = json!({"tenant": tenant, "email": email});
            let (status, mut body) = app.post(&format!("/api/v1/auth/{path}"), &body).await;
            body["timestamp"].take();
            answers.push((status, body));
        }
        assert_eq!(answers[0].0, StatusCode::ACCEPTED);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    let mails = app.mails_to("nobody@example.org").await;
    assert!(mails.is_empty());
}

#[tokio::test]
async fn a_link_works_for_its_purpose_only() {
    let app = TestApp::spawn().await;
    app.forgot(&app.slug, "admin@example.org").await;
    let mails = app.mails_to("admin@example.org").await;
    let (verify, reset) = (token_in(&mails[0]), token_in(&mails[1]));
    assert_eq!(app.reset(&verify).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = app.post("/api/v1/auth/verify-email", &json!({"token": reset})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let accept = json!({"token": reset, "name": "Eve", "password": NEW_PASSWORD});
    assert_eq!(app.post("/api/v1/invitations/accept", &accept).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_new_address_counts_when_it_is_proven_and_the_old_one_is_told() {
    let app = TestApp::spawn().await;
    let first = token_in(&app.mails_to("admin@example.org").await[0]);
    app.post("/api/v1/auth/verify-email", &json!({"token": first})).await;

    let (status, changed) = app.patch(&app.admin_path(), &json!({"email": "new@example.org"})).await;

    assert_eq!(status, StatusCode::OK, "{changed}");
    assert_eq!(changed["data"]["email"], "admin@example.org");
    assert_eq!(changed["data"]["pending_email"], "new@example.org");
    assert!(app.signs_in("admin@example.org", PASSWORD).await);
    assert!(!app.signs_in("new@example.org", PASSWORD).await);
    let told = app.mails_to("admin@example.org").await;
    assert_eq!(told.len(), 2);
    assert!(told[1].contains("another email address") && !told[1].contains("token="), "{}", told[1]);
    let token = token_in(&app.mails_to("new@example.org").await[0]);

    let (status, verified) = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;

    assert_eq!(status, StatusCode::OK, "{verified}");
    assert_eq!(verified["data"]["email"], "new@example.org");
    assert_eq!(verified["data"]["pending_email"], Value::Null);
    assert!(app.signs_in("new@example.org", PASSWORD).await);
    assert!(!app.signs_in("admin@example.org", PASSWORD).await);
    let (status, found) = app.get("/api/v1/users/lookup?email=new@example.org").await;
    assert_eq!((status, &found["data"]["id"]), (StatusCode::OK, &app.admin["id"]));
    assert_eq!(app.get("/api/v1/users/lookup?email=admin@example.org").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_link_to_an_address_that_is_no_longer_wanted_is_void() {
    let app = TestApp::spawn().await;
    app.patch(&app.admin_path(), &json!({"email": "typo@example.org"})).await;
    let typo = token_in(&app.mails_to("typo@example.org").await[0]);
    app.patch(&app.admin_path(), &json!({"email": "new@example.org"})).await;
    let (status, _) = app.post("/api/v1/auth/verify-email", &json!({"token": typo})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);

    let (_, kept) = app.patch(&app.admin_path(), &json!({"email": "admin@example.org"})).await;
    assert_eq!(kept["data"]["pending_email"], Value::Null, "asking for one's own address takes it back");
    assert!(app.mails_to("new@example.org").await.is_empty(), "by then nobody wanted it");
}

#[tokio::test]
async fn an_address_that_became_anothers_meanwhile_stays_theirs() {
    let app = TestApp::spawn().await;
    app.patch(&app.admin_path(), &json!({"email": "new@example.org"})).await;
    let token = token_in(&app.mails_to("new@example.org").await[0]);
    app.create_user("new@example.org").await;

    let (status, refused) = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;

    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("email_taken")));
    app.patch(&app.admin_path(), &json!({"email": "admin@example.org"})).await;
    let (status, refused) = app.patch(&app.admin_path(), &json!({"email": "new@example.org"})).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("email_taken")));
}

#[tokio::test]
async fn an_address_that_an_administrator_sets_for_another_counts_when_it_is_proven_too() {
    let app = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let first = token_in(&app.mails_to("bob@example.org").await[0]);
    app.post("/api/v1/auth/verify-email", &json!({"token": first})).await;
    let path = format!("/api/v1/users/{}", user["id"].as_str().unwrap());

    let (_, changed) = app.patch(&path, &json!({"email": "rob@example.org"})).await;

    assert_eq!(
        (&changed["data"]["email"], &changed["data"]["pending_email"], &changed["data"]["email_verified"]),
        (&json!("bob@example.org"), &json!("rob@example.org"), &json!(true))
    );
    assert!(app.signs_in("bob@example.org", PASSWORD).await);
    assert!(
        app.mails_to("bob@example.org").await[1].contains("another email address"),
        "the old one is told"
    );
    let token = token_in(&app.mails_to("rob@example.org").await[0]);
    let (status, _) = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(app.signs_in("rob@example.org", PASSWORD).await);
    assert!(!app.signs_in("bob@example.org", PASSWORD).await);
}

#[tokio::test]
async fn who_was_made_without_a_password_chooses_one_by_mail() {
    let app = TestApp::spawn().await;
    let body = json!({"email": "bob@example.org", "name": "Bob"});
    assert_eq!(app.post("/api/v1/users", &body).await.0, StatusCode::CREATED);
    let mails = app.mails_to("bob@example.org").await;
    assert_eq!(mails.len(), 1);
    assert_eq!(app.reset(&token_in(&mails[0])).await.0, StatusCode::NO_CONTENT);
    assert!(app.signs_in("bob@example.org", NEW_PASSWORD).await);
    let (_, bob) = app.get("/api/v1/users/lookup?email=bob@example.org").await;
    assert_eq!(bob["data"]["email_verified"], true);
}

#[tokio::test]
async fn the_page_behind_a_link_says_what_is_wrong_and_uses_nothing_up() {
    let app = TestApp::spawn().await;
    app.forgot(&app.slug, "admin@example.org").await;
    let token = token_in(&app.mails_to("admin@example.org").await[1]);
    let url = format!("{}/reset-password", app.url);

    let page = app.http.get(format!("{url}?token={token}")).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("type=\"password\"") && page.contains(&token), "{page}");
    let press = |password: &'static str| {
        app.http.post(&url).form(&[("token", token.as_str()), ("password", password)]).send()
    };
    let weak = press("weak").await.unwrap();
    assert_eq!(weak.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(weak.text().await.unwrap().contains("at least 8 characters long"));
    assert_eq!(press(NEW_PASSWORD).await.unwrap().status(), StatusCode::OK);
    assert!(app.signs_in("admin@example.org", NEW_PASSWORD).await);
    assert_eq!(press(NEW_PASSWORD).await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn somebody_who_is_invited_chooses_name_and_password() {
    let app = TestApp::spawn().await;
    let invite = json!({"emails": ["bob@example.org", "Eve@example.org"], "role": "admin"});
    let (status, invited) = app.post("/api/v1/invitations", &invite).await;
    assert_eq!(status, StatusCode::CREATED, "{invited}");
    let mails = app.mails_to("eve@example.org").await;
    assert!(mails[0].contains("http://tenantry.test/accept-invitation?token="), "{}", mails[0]);
    let accept = json!({"token": token_in(&mails[0]), "name": "Eve", "password": PASSWORD});

    let (status, user) = app.post("/api/v1/invitations/accept", &accept).await;

    assert_eq!(status, StatusCode::CREATED, "{user}");
    assert_eq!(
        (&user["data"]["email"], &user["data"]["role"], &user["data"]["email_verified"]),
        (&json!("eve@example.org"), &json!("admin"), &json!(true))
    );
    assert!(app.signs_in("eve@example.org", PASSWORD).await);
    assert_eq!(app.post("/api/v1/invitations/accept", &accept).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, open) = app.get("/api/v1/invitations").await;
    let open = open["data"]["invitations"].as_array().unwrap().clone();
    assert_eq!(
        open.iter().map(|one| one["email"].as_str().unwrap()).collect::<Vec<_>>(),
        ["bob@example.org"]
    );
}

#[tokio::test]
async fn an_invitation_keeps_a_seat_until_it_is_withdrawn_or_expires() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=2"]).await;
    let invite = |email: &str| json!({"emails": [email]});
    let (_, invited) = app.post("/api/v1/invitations", &invite("bob@example.org")).await;
    let id = invited["data"]["invitations"][0]["id"].as_str().unwrap().to_owned();
    let (status, full) = app.post("/api/v1/invitations", &invite("eve@example.org")).await;
    assert_eq!((status, &full["error"]["code"]), (StatusCode::CONFLICT, &json!("no_seat_left")));
    let path = format!("/api/v1/invitations/{id}");
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    assert_eq!(app.delete(&path).await.0, StatusCode::NOT_FOUND);
    assert!(app.mails_to("bob@example.org").await.is_empty(), "withdrawn before it was sent");

    assert_eq!(app.post("/api/v1/invitations", &invite("eve@example.org")).await.0, StatusCode::CREATED);
    let mut client = app.database().await;
    let tenant = tenantry_accounts::TenantId(app.tenant);
    let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
    tx.execute("update tenantry.invitations set expires_at = now()", &[]).await.unwrap();
    tx.commit().await.unwrap();
    let (status, again) = app.post("/api/v1/invitations", &invite("eve@example.org")).await;
    assert_eq!(status, StatusCode::CREATED, "{again}");
    let path = format!("/api/v1/invitations/{}", again["data"]["invitations"][0]["id"].as_str().unwrap());
    assert_eq!(app.delete(&path).await.0, StatusCode::NO_CONTENT);
    app.create_user("carl@example.org").await;
    let (_, seats) = app.post("/api/v1/invitations", &invite("dora@example.org")).await;
    assert_eq!(seats["error"]["code"], "no_seat_left", "administrator and Carl have both");
}

#[tokio::test]
async fn who_is_a_user_or_is_invited_is_not_invited_again() {
    let mut app = TestApp::spawn().await;
    app.create_user("bob@example.org").await;
    let invite = |emails: &[&str], role: &str| json!({"emails": emails, "role": role});
    for emails in [&["bob@example.org"][..], &["eve@example.org", "bob@example.org"]] {
        let (status, refused) = app.post("/api/v1/invitations", &invite(emails, "user")).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("email_taken")));
    }
    assert_eq!(
        app.post("/api/v1/invitations", &invite(&["eve@example.org"], "user")).await.0,
        StatusCode::CREATED
    );
    assert_eq!(
        app.post("/api/v1/invitations", &invite(&["eve@example.org"], "user")).await.0,
        StatusCode::CONFLICT
    );
    let (status, twice) = app.post("/api/v1/invitations", &invite(&["a@b.cd", "A@b.cd"], "user")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(wrong_fields(&twice), [("/emails/1".into(), "repeated".into())]);
    let (status, _) = app.post("/api/v1/invitations", &invite(&["x@example.org"], "super_admin")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    app.act_as("bob@example.org").await;
    assert_eq!(
        app.post("/api/v1/invitations", &invite(&["x@example.org"], "user")).await.0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(app.get("/api/v1/invitations").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_resent_invitation_works_by_the_new_link_only() {
    let app = TestApp::spawn().await;
    let (_, invited) = app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    let id = invited["data"]["invitations"][0]["id"].as_str().unwrap().to_owned();
    app.run_jobs().await;
    let resend = app.request(Method::POST, &format!("/api/v1/invitations/{id}/resend"));
    assert_eq!(answer(resend).await.0, StatusCode::OK);
    let mails = app.mails_to("eve@example.org").await;
    assert_eq!(mails.len(), 2);
    let accept = |mail: &str| json!({"token": token_in(mail), "name": "Eve", "password": PASSWORD});
    assert_eq!(
        app.post("/api/v1/invitations/accept", &accept(&mails[0])).await.0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    assert_eq!(app.post("/api/v1/invitations/accept", &accept(&mails[1])).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_super_administrator_invites_into_any_tenant() {
    let mut app = TestApp::spawn().await;
    app.token = app.super_admin().await;
    let invite = json!({"emails": ["eve@example.org"]});
    let request = app.request(Method::POST, "/api/v1/invitations").header("X-Tenant-ID", &app.slug);
    let (status, invited) = answer(request.json(&invite)).await;
    assert_eq!(status, StatusCode::CREATED, "{invited}");
    let mails = app.mails_to("eve@example.org").await;
    let accept = json!({"token": token_in(&mails[0]), "name": "Eve", "password": PASSWORD});
    let (status, user) = app.post("/api/v1/invitations/accept", &accept).await;
    assert_eq!((status, &user["data"]["tenant_id"]), (StatusCode::CREATED, &json!(app.tenant.to_string())));
}
