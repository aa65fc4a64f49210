//! Many users at once.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::{TenantId, db};

use crate::{
    app::{PASSWORD, TestApp, answer, wrong_fields},
    node::{self, Cluster},
    passwords::MADE_ELSEWHERE,
    retries::said,
};

const PATH: &str = "/api/v1/users/bulk";
/// Of `PASSWORD`, with 2^4 rounds.
const BCRYPT: &str = "$2b$04$4Ci3dc/EI9eJTYG14S2efuDZj7xM3i6WqJDSUvmy7F9zSL5eR0Ih6";

fn user(name: &str) -> Value {
    json!({"email": format!("{name}@example.org"), "name": name})
}

/// What became of each, in order.
fn outcomes(answer: &Value) -> Vec<&str> {
    let results = answer["data"]["results"].as_array().unwrap_or_else(|| panic!("{answer}"));
    assert!(results.iter().enumerate().all(|(n, row)| row["index"] == n), "in their order: {answer}");
    results.iter().map(|row| row["outcome"].as_str().unwrap()).collect()
}

impl TestApp {
    async fn bulk(&self, users: &[Value], atomic: bool) -> (StatusCode, Value) {
        self.post(PATH, &json!({"users": users, "atomic": atomic})).await
    }

    /// Rows of the tenant that a query counts.
    async fn count(&self, sql: &str) -> i64 {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        tx.query_one(sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test]
async fn each_row_says_what_became_of_it() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=4"]).await;
    let users = [
        user("ada"),
        user("admin"),
        json!({"email": "ADA@example.org ", "name": "Ada again"}),
        json!({"email": "nobody", "name": "", "age": 7}),
        json!({"email": "root@example.org", "name": "Root", "role": "super_admin"}),
        json!({"email": "bob@example.org", "name": "Bob", "role": "admin", "password_hash": BCRYPT}),
        json!({"email": "eve@example.org", "name": "Eve", "password": PASSWORD}),
        json!(["carl@example.org"]),
        user("dora"),
        user("emil"),
    ];

    let (status, made) = app.bulk(&users, false).await;

    assert_eq!(status, StatusCode::MULTI_STATUS, "{made}");
    let expected = [
        "created",
        "exists",
        "repeated",
        "invalid",
        "forbidden",
        "created",
        "invalid",
        "invalid",
        "created",
        "no_seat",
    ];
    assert_eq!(outcomes(&made), expected);
    let data = &made["data"];
    assert_eq!((&data["created"], &data["failed"]), (&json!(3), &json!(7)));
    let results = data["results"].as_array().unwrap();
    let errors = |n: usize| wrong_fields(&json!({"error": {"errors": results[n]["errors"]}}));
    let pointer = |field: &str, code: &str| vec![(field.to_owned(), code.to_owned())];
    assert_eq!(errors(0), []);
    assert_eq!(errors(1), pointer("/users/1/email", "email_taken"));
    assert_eq!(errors(2), pointer("/users/2/email", "repeated"));
    assert_eq!(
        errors(3).iter().map(|(field, _)| field.as_str()).collect::<Vec<_>>(),
        ["/users/3/email", "/users/3/name", "/users/3/age"]
    );
    assert_eq!(errors(4), pointer("/users/4/role", "forbidden"));
    assert_eq!(errors(6), pointer("/users/6/password", "not_allowed"));
    assert!(results[6]["errors"][0]["message"].as_str().unwrap().contains("password_hash"), "{made}");
    assert_eq!(errors(7), pointer("/users/7", "wrong_type"));
    assert_eq!(errors(9), pointer("/users/9", "no_seat_left"));
    let shown = &results[5]["user"];
    assert_eq!(
        (&shown["email"], &shown["role"], &shown["version"]),
        (&json!("bob@example.org"), &json!("admin"), &json!(1))
    );
    assert!(!made.to_string().contains("$2b$"), "no hash is told");
    assert_eq!(app.seats().await, (4, 4));

    // Each is made as a single one would be: an event, a mail, and what the hash is of to sign in with.
    assert_eq!(
        app.audited_by("user.created").await,
        vec![("user".into(), Some(app.admin["id"].as_str().unwrap().into())); 3]
    );
    app.run_jobs().await;
    let mailed = |to: &str, path: &str| {
        let to = format!("To: {to}@example.org\r\n");
        app.mails().iter().filter(|mail| mail.contains(&to) && mail.contains(path)).count()
    };
    assert_eq!(["ada", "dora"].map(|name| mailed(name, "/reset-password?")), [1, 1]);
    assert_eq!((mailed("bob", "/verify-email?"), mailed("bob", "/reset-password?")), (1, 0));
    app.sign_in("bob@example.org").await;
}

#[tokio::test]
async fn an_atomic_request_makes_all_or_names_every_row_that_is_in_the_way() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=4"]).await;
    let jobs = "select count(*) from tenantry.jobs";
    let before = app.count(jobs).await;
    let mut users =
        vec![user("ada"), user("admin"), user("ada"), json!({"email": "x", "name": "X"}), user("bob")];
    let (status, refused) = app.bulk(&users, true).await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("validation_failed"))
    );
    let named = |refused: &Value| {
        wrong_fields(refused).into_iter().map(|(field, code)| format!("{field} {code}")).collect::<Vec<_>>()
    };
    assert_eq!(
        named(&refused),
        ["/users/1/email email_taken", "/users/2/email repeated", "/users/3/email invalid_email"]
    );

    users = ["ada", "bob", "carl", "dora", "emil"].map(user).to_vec();
    let (status, refused) = app.bulk(&users, true).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
    assert_eq!(named(&refused), ["/users/3 no_seat_left", "/users/4 no_seat_left"]);
    assert_eq!((app.seats().await, app.count(jobs).await), ((1, 1), before), "nothing was made");
    assert_eq!(
        app.count("select count(*) from tenantry.audit_events where action = 'user.created'").await,
        0
    );

    let (status, made) = app.bulk(&users[..3], true).await;
    assert_eq!((status, outcomes(&made)), (StatusCode::MULTI_STATUS, vec!["created"; 3]));
    assert_eq!(app.seats().await, (4, 4));
}

#[tokio::test]
async fn a_list_that_is_none_is_refused_as_a_whole() {
    let app = TestApp::spawn().await;
    let many: Vec<_> = (0..1001).map(|n| user(&format!("u{n}"))).collect();
    for (body, code) in [
        (json!({}), "missing"),
        (json!({"users": []}), "wrong_length"),
        (json!({"users": many}), "wrong_length"),
        (json!({"users": {}}), "wrong_type"),
    ] {
        let (status, refused) = app.post(PATH, &body).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(wrong_fields(&refused), [("/users".into(), code.into())]);
    }
    let long = json!({"users": [{"email": "a@example.org", "name": "x".repeat(1024 * 1024)}]});
    assert_eq!(app.post(PATH, &long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let below = json!({"users": [{"email": "a@example.org", "name": "x".repeat(1000 * 1024)}]});
    assert_eq!(outcomes(&app.post(PATH, &below).await.1), ["invalid"]);
    let elsewhere = json!({"email": "a@example.org", "name": "x".repeat(65 * 1024)});
    assert_eq!(app.post("/api/v1/users", &elsewhere).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn hashes_are_taken_that_can_be_verified_and_cost_no_more_than_a_sign_in_may() {
    let mut app = TestApp::spawn().await;
    let rows: Vec<_> = MADE_ELSEWHERE
        .iter()
        .enumerate()
        .map(|(n, hash)| json!({"email": format!("e{n}@example.org"), "name": "Some One", "password_hash": hash}))
        .collect();
    assert_eq!(outcomes(&app.bulk(&rows, true).await.1), ["created"; 6]);
    for n in 0..6 {
        app.sign_in(&format!("e{n}@example.org")).await;
    }

    let dear = "$2b$13$4Ci3dc/EI9eJTYG14S2efuDZj7xM3i6WqJDSUvmy7F9zSL5eR0Ih6";
    let memory =
        "$argon2id$v=19$m=131072,t=1,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q";
    let rows: Vec<_> = [json!(dear), json!(memory), json!("$1$md5$crypt"), json!(7), json!("x".repeat(1025))]
        .into_iter()
        .enumerate()
        .map(|(n, hash)| json!({"email": format!("u{n}@example.org"), "name": "Some One", "password_hash": hash}))
        .collect();
    let (_, refused) = app.bulk(&rows, true).await;
    let codes: Vec<_> = wrong_fields(&refused).into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes, ["too_costly", "too_costly", "invalid_hash", "wrong_type", "wrong_type"]);

    // A program that could bring one could sign in as whom it makes.
    app.token = app.api_key(&["users:write"]).await.0;
    let rows = [
        json!({"email": "bob@example.org", "name": "Bob", "password_hash": BCRYPT}),
        json!({"email": "eve@example.org", "name": "Eve", "role": "admin"}),
        user("ida"),
    ];
    let (_, made) = app.bulk(&rows, false).await;
    assert_eq!(outcomes(&made), ["forbidden", "forbidden", "created"]);
    assert_eq!(made["data"]["results"][0]["errors"][0]["field"], "/users/0/password_hash");
}

#[tokio::test]
async fn who_was_nobody_a_moment_ago_is_there_at_once_on_every_node() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let lookup = "/api/v1/users/lookup?email=ada@example.org";
    for node in [&app, &node] {
        assert_eq!(node.get(lookup).await.0, StatusCode::NOT_FOUND);
    }
    let (_, made) = app.bulk(&[user("ada"), user("bob")], false).await;
    let id = made["data"]["results"][0]["user"]["id"].as_str().unwrap();
    for node in [&app, &node] {
        let (status, found) = node.get(lookup).await;
        assert_eq!((status, &found["data"]), (StatusCode::OK, &made["data"]["results"][0]["user"]));
        assert_eq!(node.look_up(id).await.1, made["data"]["results"][0]["user"]);
    }
    assert_eq!(app.look_up(id).await.0, "local");
    assert_eq!(app.patch(&format!("/api/v1/users/{id}"), &json!({"name": "Ada L."})).await.0, StatusCode::OK);
    assert_eq!(app.look_up(id).await.1["name"], "Ada L.");
}

#[tokio::test]
async fn without_redis_every_node_is_told_by_the_feed() {
    let app = TestApp::spawn_with(&["--redis-url=redis://127.0.0.1:1/"]).await;
    let (status, made) = app.bulk(&[user("ada"), user("bob")], true).await;
    assert_eq!((status, outcomes(&made)), (StatusCode::MULTI_STATUS, vec!["created"; 2]));
    let told = "select count(*) from tenantry.revocations r join tenantry.users u on u.id = r.subject_id
                where r.subject = 'cached_user' and r.min_version = 1 and u.email in ('ada@example.org', 'bob@example.org')";
    assert_eq!(app.count(told).await, 2);
    let due = "select count(*) from tenantry.jobs where kind = 'invalidate_user' and run_at <= now()
               and jsonb_array_length(payload -> 'users') = 2";
    assert_eq!(app.count(due).await, 1);
}

#[tokio::test]
async fn an_address_that_somebody_proves_meanwhile_is_theirs() {
    let app = TestApp::spawn().await;
    let bob = app.create_user("bob@example.org").await;
    for atomic in [false, true] {
        // A change of address that has yet to commit.
        let prover = node::connect("tenantry").await;
        prover.batch_execute("begin").await.unwrap();
        let (id, wanted) = (
            bob["id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap(),
            format!("late-{atomic}@example.org"),
        );
        let sql = "update tenantry.users set email = $2, version = version + 1 where id = $1";
        prover.execute(sql, &[&id, &wanted]).await.unwrap();
        let users = [user(&format!("new-{atomic}")), json!({"email": wanted, "name": "Late"})];
        let made = {
            let bulk = app.bulk(&users, atomic);
            let commit = async {
                node::is_waited_for(&prover).await;
                prover.batch_execute("commit").await.unwrap();
            };
            tokio::join!(bulk, commit).0.1
        };
        if atomic {
            assert_eq!(wrong_fields(&made), [("/users/1/email".into(), "email_taken".into())], "{made}");
        } else {
            assert_eq!(outcomes(&made), ["created", "exists"]);
        }
        assert_eq!(app.seats().await, (3, 3));
    }
}

#[tokio::test]
async fn a_request_that_comes_again_makes_nobody_twice() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=300"]).await;
    let node = app.another_node().await;
    let users: Vec<_> = (0..200).map(|n| user(&format!("u{n}"))).chain([user("admin")]).collect();
    let body = json!({"users": users});
    let first = said(app.keyed(PATH, "key", &body)).await;
    assert_eq!(first.status, StatusCode::MULTI_STATUS, "{}", first.text);
    for node in [&app, &node] {
        let again = said(node.keyed(PATH, "key", &body)).await;
        assert_eq!((again.status, &again.text), (first.status, &first.text));
    }
    assert_eq!(app.seats().await, (201, 201));
    assert_eq!(
        app.count("select count(*) from tenantry.jobs where kind = 'reset_password_email'").await,
        200
    );
    let other = json!({"users": users, "atomic": true});
    assert_eq!(said(app.keyed(PATH, "key", &other)).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_thousand_cost_as_many_statements_as_two() {
    let cluster = Cluster::start(1, 3, &[]).await;
    let client = reqwest::Client::new();
    let bulk = async |batch: usize, n: usize| {
        let row = |m: usize| {
            let mut row = user(&format!("b{batch}-{m}"));
            if m.is_multiple_of(2) {
                row["password_hash"] = BCRYPT.into();
            }
            row
        };
        let body = json!({"users": (0..n).map(row).collect::<Vec<_>>(), "atomic": true});
        let url = format!("http://{}{PATH}", cluster.nodes[0].address);
        let start = Instant::now();
        let (status, made) = answer(client.post(url).bearer_auth(&cluster.token).json(&body)).await;
        assert_eq!((status, &made["data"]["created"]), (StatusCode::MULTI_STATUS, &json!(n)));
        start.elapsed()
    };
    let statements = async || {
        let all = cluster.statements().await;
        // Beside them the process follows the feed, looks who is the primary, and wakes workers.
        let others = ["revocations", "pg_is_in_recovery", "notify"];
        all.iter()
            .filter(|(sql, _)| others.iter().all(|other| !sql.contains(other)))
            .map(|(_, calls)| calls)
            .sum::<i64>()
    };
    // Connections are opened and statements are prepared.
    bulk(0, 2).await;
    let start = statements().await;
    bulk(1, 2).await;
    let for_two = statements().await - start;
    let took = bulk(2, 1000).await;
    let for_a_thousand = statements().await - start - for_two;
    assert!((10..=25).contains(&for_two), "{for_two}");
    assert_eq!(for_a_thousand, for_two);
    // Far below what a request may take, on a machine with other things to do.
    assert!(took < Duration::from_secs(4), "{took:?}");

    // Read by all, and by the address.
    let mut admin = cluster.client(0).await;
    let found = admin.ask(Method::GET, "/api/v1/users/lookup?email=b2-999@example.org", "").await;
    assert_eq!((found.status, &found.json()["data"]["name"]), (200, &json!("b2-999")));
}
