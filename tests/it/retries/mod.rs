//! Safe retries: a request with an `Idempotency-Key` that comes again is answered as before and has its effect once.

mod crashes;

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};
use uuid::Uuid;

use crate::{
    app::{PASSWORD, TestApp, answer, token_in, wrong_fields},
    document::{document, operations},
    node,
};

/// All of an answer that is said again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    etag: Option<String>,
    location: Option<String>,
    pub(crate) replayed: bool,
    retry_after: Option<String>,
    pub(crate) text: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// As it is when it is said once more.
    fn again(self) -> Self {
        Self { replayed: true, ..self }
    }
}

pub(crate) async fn said(request: RequestBuilder) -> Said {
    let response = request.send().await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    Said {
        status: response.status(),
        etag: header("etag"),
        location: header("location"),
        replayed: header("idempotency-replayed").is_some_and(|value| value == "true"),
        retry_after: header("retry-after"),
        text: response.text().await.unwrap(),
    }
}

fn new_key() -> String {
    Uuid::new_v4().to_string()
}

impl TestApp {
    pub(crate) fn keyed(&self, path: &str, key: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).header("Idempotency-Key", key).json(body)
    }

    /// What became of the tenant by so many rows of each table that grows by an effect.
    async fn effects(&self) -> Vec<i64> {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        let mut counts = vec![];
        for table in ["users", "credentials", "invitations", "jobs", "audit_events", "api_keys"] {
            let sql = format!("select count(*) from tenantry.{table} where tenant_id = $1");
            counts.push(tx.query_one(&sql, &[&self.tenant]).await.unwrap().get(0));
        }
        counts
    }
}

#[tokio::test]
async fn a_request_that_comes_again_is_answered_as_before_and_has_its_effect_once() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    let node = app.another_node().await;
    let user = json!({"email": "bob@example.org", "name": "Bob", "password": PASSWORD});
    let job = json!({"kind": "verify_email", "payload": {"user_id": app.admin["id"]}});
    for (path, body) in [
        ("/api/v1/users", user),
        ("/api/v1/users", json!({"email": "eve@example.org", "name": "Eve"})),
        ("/api/v1/invitations", json!({"emails": ["ida@example.org", "ivo@example.org"]})),
        ("/api/v1/jobs", job),
    ] {
        let key = new_key();
        let before = app.effects().await;
        let first = said(app.keyed(path, &key, &body)).await;
        assert_eq!((first.status, first.replayed), (StatusCode::CREATED, false), "{path}: {}", first.text);
        let once = app.effects().await;
        assert_ne!(once, before, "{path}");
        for other in [&app, &node] {
            let again = said(other.keyed(path, &key, &body)).await;
            assert_eq!(again, first.clone().again(), "{path}");
        }
        assert_eq!(app.effects().await, once, "{path}");
    }
}

#[tokio::test]
async fn a_sign_up_that_comes_again_makes_one_tenant_and_tells_it_again() {
    let app = TestApp::spawn().await;
    for path in ["/api/v1/auth/register", "/api/v1/tenants"] {
        let (key, slug) = (new_key(), format!("t-{}", Uuid::now_v7().simple()));
        let body = json!({
            "tenant": {"name": "Again", "slug": slug}, "email": "ada@example.org", "password": PASSWORD, "name": "Ada",
        });
        let first = said(app.keyed(path, &key, &body)).await;
        assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
        assert_eq!(said(app.keyed(path, &key, &body)).await, first.clone().again());
        assert_eq!(said(app.keyed(path, &new_key(), &body)).await.code(), "slug_taken");
        let login = json!({"tenant": slug, "email": "ada@example.org", "password": PASSWORD});
        assert_eq!(app.post("/api/v1/auth/login", &login).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn who_accepts_an_invitation_again_is_answered_as_before_though_the_token_was_used() {
    let app = TestApp::spawn().await;
    app.post("/api/v1/invitations", &json!({"emails": ["eve@example.org"]})).await;
    let token = token_in(&app.mails_to("eve@example.org").await[0]);
    let (path, key) = ("/api/v1/invitations/accept", new_key());
    let body = json!({"token": token, "name": "Eve", "password": PASSWORD});
    let first = said(app.keyed(path, &key, &body)).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    let made = app.effects().await;

    assert_eq!(said(app.keyed(path, &key, &body)).await, first.again());
    assert_eq!(said(app.keyed(path, &new_key(), &body)).await.code(), "invalid_token");
    // Whoever guesses the key has to have the token, and all of the rest.
    let other = json!({"token": token, "name": "Eve", "password": "Correct-Horse-2"});
    assert_eq!(said(app.keyed(path, &key, &other)).await.code(), "idempotency_key_reused");
    let nobodys = json!({"token": "x".repeat(64), "name": "Eve", "password": PASSWORD});
    assert_eq!(said(app.keyed(path, &key, &nobodys)).await.code(), "invalid_token");
    assert_eq!(app.effects().await, made);
}

#[tokio::test]
async fn an_api_key_is_made_once_and_never_told_again() {
    let app = TestApp::spawn().await;
    let (path, key) = ("/api/v1/api-keys", new_key());
    let body = json!({"name": "CI", "scopes": ["users:read"]});
    let first = said(app.keyed(path, &key, &body)).await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    let made = app.effects().await;

    let again = said(app.keyed(path, &key, &body)).await;
    assert_eq!((again.status, again.code()), (StatusCode::CONFLICT, "already_created".into()));
    assert_eq!(again.json()["error"]["id"], first.json()["data"]["api_key"]["id"]);
    let problem = app.keyed(path, &key, &body).header("Accept", "application/problem+json");
    assert_eq!(said(problem).await.json()["id"], first.json()["data"]["api_key"]["id"]);
    let other = json!({"name": "CD", "scopes": ["users:read"]});
    assert_eq!(said(app.keyed(path, &key, &other)).await.code(), "idempotency_key_reused");
    assert_eq!(app.effects().await, made);
    let secret = first.json()["data"]["key"].as_str().unwrap().to_owned();
    assert!(!again.text.contains(&secret));
    let kept = app.kept().await;
    assert_eq!(kept.len(), 1);
    assert!(!kept[0].contains("tk_"), "{}", kept[0]);
}

impl TestApp {
    /// What is kept of the tenant's answers.
    async fn kept(&self) -> Vec<String> {
        let sql = "select encode(answer, 'escape') || k::text from tenantry.idempotency_keys k where tenant_id = $1";
        let rows = node::connect("tenantry").await.query(sql, &[&self.tenant]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[tokio::test]
async fn a_key_stands_for_one_request() {
    let app = TestApp::spawn().await;
    let key = new_key();
    let first = json!({"email": "bob@example.org", "name": "Bob", "password": PASSWORD});
    let made = said(app.keyed("/api/v1/users", &key, &first)).await;
    assert_eq!(made.status, StatusCode::CREATED);
    for body in [
        json!({"email": "bob@example.org", "name": "Bob"}),
        json!({"email": "bob@example.org", "name": "Bob", "password": "Correct-Horse-2"}),
        json!({"email": "eve@example.org", "name": "Eve", "password": PASSWORD}),
    ] {
        let other = said(app.keyed("/api/v1/users", &key, &body)).await;
        assert_eq!(
            (other.status, other.code()),
            (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused".into())
        );
        assert_eq!(other.json()["error"]["errors"], json!([]), "{}", other.text);
    }
    let invite = json!({"emails": ["eve@example.org"]});
    assert_eq!(said(app.keyed("/api/v1/invitations", &key, &invite)).await.code(), "idempotency_key_reused");

    // The same, written in another way.
    let text =
        format!("{{\"password\" : {PASSWORD:?},\n \"name\":\"B\\u006fb\", \"email\":\"bob@example.org\"}}");
    let request = app.request(Method::POST, "/api/v1/users").header("Idempotency-Key", &key);
    let again = said(request.header("Content-Type", "application/json").body(text)).await;
    assert_eq!(again, made.again());
}

#[tokio::test]
async fn nobodys_keys_are_in_the_way_of_anybody_elses() {
    let (mut app, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let key = "1";
    let body = |name: &str| json!({"email": format!("{name}@example.org"), "name": "New"});
    let admin =
        json!({"email": "second@example.org", "name": "Second", "password": PASSWORD, "role": "admin"});
    assert_eq!(app.post("/api/v1/users", &admin).await.0, StatusCode::CREATED);
    let (secret, _) = app.api_key(&["users:write"]).await;
    assert_eq!(said(app.keyed("/api/v1/users", key, &body("a"))).await.status, StatusCode::CREATED);
    assert_eq!(said(theirs.keyed("/api/v1/users", key, &body("b"))).await.status, StatusCode::CREATED);
    app.act_as("second@example.org").await;
    assert_eq!(said(app.keyed("/api/v1/users", key, &body("c"))).await.status, StatusCode::CREATED);
    app.token = secret;
    assert_eq!(said(app.keyed("/api/v1/users", key, &body("d"))).await.status, StatusCode::CREATED);
    // A super administrator has one set of keys in each tenant.
    app.token = app.super_admin().await;
    for (tenant, name) in [(app.tenant, "e"), (theirs.tenant, "f")] {
        let request = app.keyed("/api/v1/users", key, &body(name)).header("X-Tenant-ID", tenant.to_string());
        assert_eq!(said(request).await.status, StatusCode::CREATED);
    }
}

#[tokio::test]
async fn who_may_no_longer_ask_is_not_answered_again() {
    let mut app = TestApp::spawn().await;
    let (owner, key) = (app.token.clone(), new_key());
    let second =
        json!({"email": "second@example.org", "name": "Second", "password": PASSWORD, "role": "admin"});
    let (_, second) = app.post("/api/v1/users", &second).await;
    app.act_as("second@example.org").await;
    let body = json!({"email": "bob@example.org", "name": "Bob"});
    assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.status, StatusCode::CREATED);

    let path = format!("/api/v1/users/{}", second["data"]["id"].as_str().unwrap());
    let demotion =
        app.http.patch(format!("{}{path}", app.url)).bearer_auth(&owner).json(&json!({"role": "user"}));
    assert_eq!(answer(demotion).await.0, StatusCode::OK);

    assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.status, StatusCode::UNAUTHORIZED);
    app.act_as("second@example.org").await;
    assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_failure_is_not_kept() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=3"]).await;
    let key = new_key();
    let bob = app.create_user("bob@example.org").await;
    let body = json!({"email": "bob@example.org", "name": "Bob"});
    assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.code(), "email_taken");
    let eve = app.create_user("eve@example.org").await;
    assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.code(), "no_seat_left");
    for user in [bob, eve] {
        app.delete(&format!("/api/v1/users/{}", user["id"].as_str().unwrap())).await;
    }
    let made = said(app.keyed("/api/v1/users", &key, &body)).await;
    assert_eq!((made.status, made.replayed), (StatusCode::CREATED, false), "{}", made.text);

    // Nor is a request that was never understood.
    let key = new_key();
    let wrong = said(app.keyed("/api/v1/users", &key, &json!({"email": "x"}))).await;
    assert_eq!(wrong_fields(&wrong.json()).len(), 2, "{}", wrong.text);
    assert_eq!(
        said(app.keyed("/api/v1/users", &key, &json!({"email": "ivo@example.org", "name": "Ivo"})))
            .await
            .status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_where_it_would_count_and_passed_over_elsewhere() {
    let app = TestApp::spawn().await;
    let body = json!({"email": "bob@example.org", "name": "Bob"});
    let (long, too_long) = ("x".repeat(255), "x".repeat(256));
    for keys in [
        vec![b"".as_slice()],
        vec![too_long.as_bytes()],
        vec![b"a b"],
        vec![b"\xc3\xa9"],
        vec![b"one", b"two"],
        vec![b"one", b"one"],
        vec![b"one", b"\xff"],
    ] {
        let mut request = app.request(Method::POST, "/api/v1/users").json(&body);
        for key in &keys {
            request =
                request.header("Idempotency-Key", reqwest::header::HeaderValue::from_bytes(key).unwrap());
        }
        let refused = said(request).await;
        assert_eq!(
            (refused.status, refused.code()),
            (StatusCode::BAD_REQUEST, "malformed".into()),
            "{keys:?}"
        );
        assert!(refused.json()["error"]["message"].as_str().unwrap().starts_with("Idempotency-Key must"));
    }
    let request = app.request(Method::POST, "/api/v1/users/batch-get").header("Idempotency-Key", "a b");
    assert_eq!(answer(request.json(&json!({"ids": [app.admin["id"]]}))).await.0, StatusCode::OK);
    assert_eq!(said(app.keyed("/api/v1/users", &long, &body)).await.status, StatusCode::CREATED);
    assert_eq!(
        said(app.keyed("/api/v1/users", "!~\"", &json!({"email": "eve@example.org", "name": "Eve"})))
            .await
            .status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn of_fifty_at_once_with_one_key_one_has_its_effect() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=20", "--rate-limit-ip=off"]).await;
    let node = app.another_node().await;
    // With a password, hashing is what most of the time is spent on, and it comes before the transaction.
    for password in [None, Some(PASSWORD)] {
        let (key, email) = (new_key(), format!("u{}@example.org", password.is_some()));
        let mut body = json!({"email": email, "name": "One"});
        if let Some(password) = password {
            body["password"] = password.into();
        }
        let before = app.effects().await;
        let requests = (0..50).map(|n| said([&app, &node][n % 2].keyed("/api/v1/users", &key, &body)));
        let all = join_all(requests).await;
        let (made, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|said| said.status == StatusCode::CREATED && !said.replayed);
        assert_eq!(made.len(), 1, "{made:?}");
        for other in others {
            match other.status {
                StatusCode::CREATED => assert_eq!(other, made[0].clone().again()),
                StatusCode::CONFLICT => {
                    assert_eq!(
                        (other.code().as_str(), other.retry_after.as_deref()),
                        ("request_in_flight", Some("1"))
                    );
                }
                // So many may find no connection.
                status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{}", other.text),
            }
        }
        let grown: Vec<_> =
            app.effects().await.iter().zip(&before).map(|(after, before)| after - before).collect();
        // A user, perhaps a password, two jobs (a mail and the cache), an event.
        assert_eq!(grown, [1, i64::from(password.is_some()), 0, 2, 1, 0]);
        assert_eq!(said(node.keyed("/api/v1/users", &key, &body)).await, made[0].clone().again());
    }
}

#[tokio::test]
async fn of_thirty_who_sign_up_at_once_with_one_key_one_makes_a_tenant() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off", "--rate-limit-login=3/10m"]).await;
    let (key, slug) = (new_key(), format!("t-{}", Uuid::now_v7().simple()));
    let body = json!({
        "tenant": {"name": "New", "slug": slug}, "email": "ada@example.org", "password": PASSWORD, "name": "Ada",
    });
    let all = join_all((0..30).map(|_| said(app.keyed("/api/v1/auth/register", &key, &body)))).await;
    let made: Vec<_> =
        all.iter().filter(|said| said.status == StatusCode::CREATED && !said.replayed).collect();
    assert_eq!(made.len(), 1, "{all:?}");
    for other in all.iter().filter(|said| *said != made[0]) {
        assert!(other.code() == "request_in_flight" || *other == made[0].clone().again(), "{other:?}");
    }
}

#[tokio::test]
async fn who_comes_while_the_first_is_under_way_is_told_to_wait() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let (key, body) = (new_key(), json!({"email": "bob@example.org", "name": "Bob"}));
    // Holds up whoever takes a seat.
    let holder = node::connect("tenantry").await;
    holder.batch_execute("begin").await.unwrap();
    let lock = "select from tenantry.tenant_seats where tenant_id = $1 for update";
    holder.execute(lock, &[&app.tenant]).await.unwrap();
    let first = tokio::spawn(said(app.keyed("/api/v1/users", &key, &body)));
    node::is_waited_for(&holder).await;
    for node in [&app, &node] {
        let second = said(node.keyed("/api/v1/users", &key, &body)).await;
        assert_eq!((second.code().as_str(), second.retry_after.as_deref()), ("request_in_flight", Some("1")));
    }

    holder.batch_execute("rollback").await.unwrap();
    let first = first.await.unwrap();
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text);
    assert_eq!(said(node.keyed("/api/v1/users", &key, &body)).await, first.again());
}

#[tokio::test]
async fn an_answer_is_kept_for_a_day_and_then_removed() {
    let app = TestApp::spawn().await;
    let key = new_key();
    let body = json!({"kind": "verify_email", "payload": {"user_id": app.admin["id"]}, "run_at": "2099-01-01T00:00:00Z"});
    let first = said(app.keyed("/api/v1/jobs", &key, &body)).await;
    let database = node::connect("tenantry").await;
    let age = async |time: &str| {
        let sql = format!(
            "update tenantry.idempotency_keys set made_at = now() - interval '{time}' where tenant_id = $1"
        );
        assert_eq!(database.execute(&sql, &[&app.tenant]).await.unwrap(), 1);
    };
    age("23 hours 59 minutes").await;
    tenantry_accounts::idempotency::prune(&app.state.app, 1000).await.unwrap();
    assert_eq!(said(app.keyed("/api/v1/jobs", &key, &body)).await, first.clone().again());

    age("24 hours 1 second").await;
    let anew = said(app.keyed("/api/v1/jobs", &key, &body)).await;
    assert_eq!((anew.status, anew.replayed), (StatusCode::CREATED, false));
    assert_ne!(anew.json()["data"]["id"], first.json()["data"]["id"]);
    assert_eq!(said(app.keyed("/api/v1/jobs", &key, &body)).await, anew.clone().again());

    age("24 hours 1 second").await;
    let upkeep = json!({"kind": "prune_jobs", "payload": {}});
    let root = app.super_admin().await;
    let push = app.http.post(format!("{}/api/v1/jobs", app.url)).bearer_auth(root).json(&upkeep);
    let push = push.header("X-Tenant-ID", &app.slug);
    assert_eq!(answer(push).await.0, StatusCode::CREATED);
    app.run_jobs().await;
    assert_eq!(app.kept().await, [""; 0]);
}

#[tokio::test]
async fn what_is_kept_tells_nothing_of_a_password() {
    let app = TestApp::spawn().await;
    let body = json!({"email": "bob@example.org", "name": "Bob", "password": PASSWORD});
    let node = TestApp::spawn().await;
    let (key, mut prints) = (new_key(), vec![]);
    for app in [&app, &node] {
        assert_eq!(said(app.keyed("/api/v1/users", &key, &body)).await.status, StatusCode::CREATED);
        let kept = app.kept().await;
        assert!(!kept[0].contains(PASSWORD), "{}", kept[0]);
        let sql = "select encode(fingerprint, 'hex') from tenantry.idempotency_keys where tenant_id = $1";
        let row = node::connect("tenantry").await.query_one(sql, &[&app.tenant]).await.unwrap();
        prints.push(row.get::<_, String>(0));
    }
    // Of the same request: who has not the key of the process cannot try passwords.
    assert_ne!(prints[0], prints[1]);
}

#[tokio::test]
async fn who_guesses_the_password_of_a_sign_up_by_its_key_is_stopped() {
    let app = TestApp::spawn_with(&["--rate-limit-login=3/10m"]).await;
    let (key, slug) = (new_key(), format!("t-{}", Uuid::now_v7().simple()));
    let body = |password: &str| json!({"tenant": {"name": "New", "slug": slug}, "email": "ada@example.org", "password": password, "name": "Ada"});
    let path = "/api/v1/auth/register";
    assert_eq!(said(app.keyed(path, &key, &body(PASSWORD))).await.status, StatusCode::CREATED);
    for _ in 0..5 {
        assert_eq!(
            said(app.keyed(path, &key, &body(PASSWORD))).await.status,
            StatusCode::CREATED,
            "no guess"
        );
    }
    for n in 0..3 {
        let guess = body(&format!("Wrong-Horse-{n}"));
        assert_eq!(said(app.keyed(path, &key, &guess)).await.code(), "idempotency_key_reused");
    }
    let more = said(app.keyed(path, &key, &body(PASSWORD))).await;
    assert_eq!((more.status, more.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "rate_limited"));
    assert!(more.retry_after.is_some());
}

#[tokio::test]
async fn the_document_has_the_key_at_every_operation_that_makes_something_and_at_no_other() {
    let (mut keyed, mut makes) = (vec![], vec![]);
    for operation in operations(&document()) {
        if operation.takes("Idempotency-Key") {
            keyed.push(operation.id.clone());
        }
        let answers = &operation.spec["responses"];
        let accepted = answers.pointer("/202/headers/Location");
        if answers.get("201").or(answers.get("207")).or(accepted).is_some() {
            makes.push(operation.id);
        }
    }
    assert!(keyed.len() > 8, "{keyed:?}");
    assert_eq!(keyed, makes);
}
