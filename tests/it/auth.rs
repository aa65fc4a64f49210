use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::app::{PASSWORD, TestApp, answer, token_in, wrong_fields};

#[tokio::test]
async fn signing_up_makes_tenant_administrator_and_one_mail() {
    let app = TestApp::spawn().await;
    assert_eq!(app.admin["role"], "admin");
    assert_eq!(app.admin["email_verified"], false);
    assert_eq!(app.admin["tenant_id"], app.tenant.to_string());
    assert!(app.mails().is_empty(), "the request itself sends nothing");

    app.run_jobs().await;

    let mails = app.mails();
    assert_eq!(mails.len(), 1);
    assert!(
        mails[0].contains("To: admin@example.org")
            && mails[0].contains("http://tenantry.test/verify-email?token=")
    );
}

#[tokio::test]
async fn a_sign_up_that_fails_leaves_nothing() {
    let app = TestApp::spawn().await;
    let body = json!({
        "tenant": {"name": "Other", "slug": app.slug},
        "email": "late@example.org", "password": PASSWORD, "name": "Late",
    });

    let (status, answer) = app.post("/api/v1/tenants", &body).await;

    assert_eq!((status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("slug_taken")));
    app.run_jobs().await;
    assert_eq!(app.mails().len(), 1, "only the first sign-up's");
}

#[tokio::test]
async fn a_mail_that_is_out_is_not_sent_again() {
    let app = TestApp::spawn().await;
    app.run_jobs().await;
    let database = app.database().await;
    let sql = "select s.message_id, j.state, j.id::text from tenantry.sent_mails s join tenantry.jobs j
      on j.tenant_id = s.tenant_id and j.id = s.job_id";
    let system = "begin; set local role tenantry_system";
    database.batch_execute(system).await.unwrap();
    let row = database.query_one(&format!("{sql} where s.tenant_id = $1"), &[&app.tenant]).await.unwrap();
    let (message_id, job): (String, String) = (row.get(0), row.get(2));
    assert_eq!(row.get::<_, &str>(1), "done");
    assert!(message_id.contains(&job) && app.mails()[0].contains(&format!("Message-ID: {message_id}")));

    // As if the worker had died after the COMMIT of another one's note: the job runs again.
    let again = "update tenantry.jobs set state = 'pending', finished_at = null where tenant_id = $1 and kind = 'verify_email'";
    assert_eq!(database.execute(again, &[&app.tenant]).await.unwrap(), 1);
    database.batch_execute("commit").await.unwrap();
    app.lose_mails();
    assert!(app.run_jobs().await > 0);

    assert!(app.mails().is_empty());
    database.batch_execute(system).await.unwrap();
    let row = database.query_one(&format!("{sql} where s.tenant_id = $1"), &[&app.tenant]).await.unwrap();
    assert_eq!(row.get::<_, &str>(1), "done");
    let gone = "delete from tenantry.jobs where tenant_id = $1";
    database.execute(gone, &[&app.tenant]).await.unwrap();
    assert!(database.query(sql, &[]).await.unwrap().iter().all(|row| row.get::<_, String>(2) != job));
    database.batch_execute("commit").await.unwrap();
}

#[tokio::test]
async fn the_mailed_link_verifies_once() {
    let app = TestApp::spawn().await;
    app.run_jobs().await;
    let token = token_in(&app.mails()[0]);

    let page = app.http.get(format!("{}/verify-email?token={token}", app.url)).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(page.text().await.unwrap().contains(&format!("value=\"{token}\"")));
    let (_, me) = app.get("/api/v1/users/me").await;
    assert_eq!(me["data"]["email_verified"], false, "opening the page consumes nothing");

    let press = || app.http.post(format!("{}/verify-email", app.url)).form(&[("token", &token)]).send();
    assert_eq!(press().await.unwrap().status(), StatusCode::OK);
    assert_eq!(press().await.unwrap().status(), StatusCode::UNPROCESSABLE_ENTITY);

    let (_, me) = app.get("/api/v1/users/me").await;
    assert_eq!(me["data"]["email_verified"], true);
    let (status, again) = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;
    assert_eq!(
        (status, &again["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("invalid_token"))
    );
}

#[tokio::test]
async fn of_two_who_use_a_token_at_once_one_succeeds() {
    let app = TestApp::spawn().await;
    app.run_jobs().await;
    let body = json!({"token": token_in(&app.mails()[0])});

    let (one, two) = tokio::join!(
        app.post("/api/v1/auth/verify-email", &body),
        app.post("/api/v1/auth/verify-email", &body)
    );

    let mut statuses = [one.0, two.0];
    statuses.sort();
    assert_eq!(statuses, [StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY]);
}

#[tokio::test]
async fn who_cannot_sign_in_is_not_told_why() {
    let app = TestApp::spawn().await;
    let attempt = |tenant: &str, email: &str, password: &str| {
        let body = json!({"tenant": tenant, "email": email, "password": password});
        let request = app.http.post(format!("{}/api/v1/auth/login", app.url)).json(&body);
        async move {
            let (status, mut body) = answer(request).await;
            body["timestamp"].take();
            body["error"]["request_id"].take();
            (status, body)
        }
    };
    let wrong_password = attempt(&app.slug, "admin@example.org", "Wrong-Horse-1").await;
    assert_eq!(wrong_password.0, StatusCode::UNAUTHORIZED);
    assert_eq!(attempt(&app.slug, "nobody@example.org", PASSWORD).await, wrong_password);
    assert_eq!(attempt("no-such-tenant", "admin@example.org", PASSWORD).await, wrong_password);
    assert_eq!(
        attempt(&app.tenant.to_string().replace('0', "1"), "admin@example.org", PASSWORD).await,
        wrong_password
    );

    let someone = app.create_user("gone@example.org").await;
    let (status, _) = app
        .patch(&format!("/api/v1/users/{}", someone["id"].as_str().unwrap()), &json!({"is_active": false}))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(attempt(&app.slug, "gone@example.org", PASSWORD).await, wrong_password);
}

#[tokio::test]
async fn one_signs_in_by_slug_or_id_in_body_or_header() {
    let app = TestApp::spawn().await;
    for tenant in [app.slug.clone(), app.tenant.to_string(), app.tenant.to_string().to_uppercase()] {
        let body = json!({"tenant": tenant, "email": " Admin@Example.ORG", "password": PASSWORD});
        assert_eq!(app.post("/api/v1/auth/login", &body).await.0, StatusCode::OK);
        let body = json!({"email": "admin@example.org", "password": PASSWORD});
        let request =
            app.http.post(format!("{}/api/v1/auth/login", app.url)).header("X-Tenant-ID", tenant).json(&body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
    let (status, body) =
        app.post("/api/v1/auth/login", &json!({"email": "nobody", "password": PASSWORD})).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let wrong = [("/email", "invalid_email"), ("/tenant", "missing")];
    assert_eq!(wrong_fields(&body), wrong.map(|(field, code)| (field.to_owned(), code.to_owned())));
}

#[tokio::test]
async fn the_published_key_verifies_the_token() {
    let app = TestApp::spawn().await;
    let (_, jwks) = app.get("/.well-known/jwks.json").await;
    let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(jwks["keys"][0].clone()).unwrap();
    let key = jsonwebtoken::DecodingKey::from_jwk(&jwk).unwrap();
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::EdDSA);
    validation.set_issuer(&["http://tenantry.test"]);

    let token = jsonwebtoken::decode::<serde_json::Value>(&app.token, &key, &validation).unwrap();

    assert_eq!(token.claims["tid"], app.tenant.to_string());
    assert_eq!(token.claims["exp"].as_i64().unwrap() - token.claims["iat"].as_i64().unwrap(), 600);
}

#[tokio::test]
async fn a_token_that_is_forged_or_missing_opens_nothing() {
    let mut app = TestApp::spawn().await;
    let real = app.token.clone();
    let other = TestApp::spawn().await.token;
    let tampered = format!("{}x", &real[..real.len() - 1]);
    let unsigned = {
        let mut parts = real.split('.');
        parts.next();
        format!("eyJhbGciOiJub25lIn0.{}.", parts.next().unwrap())
    };
    for token in [String::new(), "nonsense".into(), tampered, unsigned, other] {
        app.token = token;
        let response = app.request(Method::GET, "/api/v1/users/me").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn what_the_key_signs_for_another_purpose_is_no_access_token() {
    let mut app = TestApp::spawn().await;
    let mut header = jsonwebtoken::decode_header(&app.token).unwrap();
    let payload = URL_SAFE_NO_PAD.decode(app.token.split('.').nth(1).unwrap()).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ed_pem(&app.signing_key()).unwrap();
    for (name, status) in [
        (Some("at+jwt"), StatusCode::OK),
        (Some("JWT"), StatusCode::UNAUTHORIZED),
        (None, StatusCode::UNAUTHORIZED),
    ] {
        header.typ = name.map(str::to_owned);
        app.token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        assert_eq!(app.get("/api/v1/users/me").await.0, status, "{name:?}");
    }
}

#[tokio::test]
async fn unverified_people_stay_out_where_that_is_required() {
    let app = TestApp::spawn().await;
    let strict = {
        let mut arguments = app.state.app.settings.as_ref().clone();
        arguments.require_verified_email = true;
        let settings = std::sync::Arc::new(arguments);
        tenantry_accounts::App::new(tenantry_accounts::House { settings, ..(*app.state.app).clone() })
    };
    let email = tenantry_accounts::fields::FromText::from_text("admin@example.org").unwrap();
    let password = tenantry_accounts::fields::FromText::from_text(PASSWORD).unwrap();
    let origin = tenantry_accounts::sessions::Origin { user_agent: String::new(), address: None };

    let turn = strict.passwords.turn().unwrap();

    let refused =
        tenantry_accounts::sessions::login(&strict, turn, &app.slug, &email, password, None, origin).await;

    assert!(matches!(refused, Err(tenantry_accounts::Error::NotVerified)));
}
