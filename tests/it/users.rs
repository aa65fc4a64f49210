use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{PASSWORD, TestApp, answer, eventually, wrong_fields};

fn path(user: &Value) -> String {
    format!("/api/v1/users/{}", user["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_user_is_made_without_showing_a_password() {
    let app = TestApp::spawn().await;
    let body = json!({"email": " Grace@Example.org ", "name": " Grace Hopper ", "password": PASSWORD});

    let response = app.request(Method::POST, "/api/v1/users").json(&body).send().await.unwrap();

    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["etag"], "\"1\"");
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let user: Value = response.json().await.unwrap();
    let user = &user["data"];
    assert_eq!(location, path(user));
    assert_eq!(
        (&user["email"], &user["name"], &user["role"]),
        (&json!("grace@example.org"), &json!("Grace Hopper"), &json!("user"))
    );
    assert!(!user.to_string().to_lowercase().contains("password") && !user.to_string().contains("argon2"));
    assert_eq!(&app.look_up(user["id"].as_str().unwrap()).await.1, user);
}

#[tokio::test]
async fn of_many_who_take_one_address_at_once_one_gets_it() {
    let app = TestApp::spawn().await;
    let body = json!({"email": "same@example.org", "name": "Same"});
    let attempts: Vec<_> = (0..6).map(|_| app.post("/api/v1/users", &body)).collect();

    let answers = futures_util::future::join_all(attempts).await;

    let count = |wanted| answers.iter().filter(|(status, _)| *status == wanted).count();
    assert_eq!((count(StatusCode::CREATED), count(StatusCode::CONFLICT)), (1, 5));
    let (_, taken) = answers.iter().find(|(status, _)| *status == StatusCode::CONFLICT).unwrap();
    assert_eq!(taken["error"]["message"], "User with this email already exists");
}

#[tokio::test]
async fn seats_hold_however_many_come_at_once() {
    let app = TestApp::spawn_with(&["--plan-seats=basic=4", "--rate-limit-ip=off"]).await;
    let attempts: Vec<_> = (0..12)
        .map(|n| {
            let body = json!({"email": format!("u{n}@example.org"), "name": "Someone"});
            app.request(Method::POST, "/api/v1/users").json(&body)
        })
        .map(answer)
        .collect();

    let answers = futures_util::future::join_all(attempts).await;

    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert_eq!(made, 3, "the administrator has the fourth seat: {answers:?}");
    assert!(
        answers
            .iter()
            .all(|(status, body)| *status == StatusCode::CREATED || body["error"]["code"] == "no_seat_left")
    );
    let (_, list) = app.get("/api/v1/users").await;
    assert_eq!(list["pagination"]["total"], 4);

    let (_, user) = answers.iter().find(|(status, _)| *status == StatusCode::CREATED).unwrap();
    assert_eq!(app.delete(&path(&user["data"])).await.0, StatusCode::NO_CONTENT);
    app.create_user("free@example.org").await;
}

#[tokio::test]
async fn all_wrong_fields_are_told_at_once_and_never_their_values() {
    let app = TestApp::spawn().await;
    let body = json!({
        "email": "hunter2-no-address", "name": "", "password": "short", "role": "king", "version": 7, "tenant_id": "x",
    });

    let (status, answer) = app.post("/api/v1/users", &body).await;

    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let expected = [
        ("/email", "invalid_email"),
        ("/name", "too_short"),
        ("/password", "too_short"),
        ("/password", "no_uppercase"),
        ("/password", "no_digit"),
        ("/role", "not_allowed"),
        ("/tenant_id", "unknown_field"),
        ("/version", "unknown_field"),
    ];
    assert_eq!(wrong_fields(&answer), expected.map(|(field, code)| (field.to_owned(), code.to_owned())));
    assert!(!answer.to_string().contains("hunter2") && !answer.to_string().contains("king"));
    assert_eq!(answer["error"]["message"], "Validation failed");
    assert_eq!(answer["error"]["errors"][2]["message"], "Password must be at least 8 characters long");
}

#[tokio::test]
async fn nobody_grants_a_role_above_their_own() {
    let mut app = TestApp::spawn().await;
    let someone = app.create_user("someone@example.org").await;
    let king = json!({"email": "king@example.org", "name": "King", "role": "super_admin"});
    assert_eq!(app.post("/api/v1/users", &king).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&path(&someone), &json!({"role": "super_admin"})).await.0, StatusCode::FORBIDDEN);

    let admin = app.admin.clone();
    app.act_as("someone@example.org").await;

    let queen = json!({"email": "queen@example.org", "name": "Queen"});
    assert_eq!(app.post("/api/v1/users", &queen).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&path(&someone), &json!({"role": "admin"})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&path(&someone), &json!({"is_active": true})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&path(&admin), &json!({"name": "Not yours"})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.delete(&path(&admin)).await.0, StatusCode::FORBIDDEN);
    assert_eq!(app.patch(&path(&someone), &json!({"name": "My Own"})).await.0, StatusCode::OK);
}

#[tokio::test]
async fn an_administrator_who_was_removed_changes_nothing_with_an_old_token() {
    let mut app = TestApp::spawn().await;
    let first = app.token.clone();
    for (email, removal) in
        [("demoted@example.org", json!({"role": "user"})), ("idle@example.org", json!({"is_active": false}))]
    {
        app.token.clone_from(&first);
        let removed = app.create_user(email).await;
        app.patch(&path(&removed), &json!({"role": "admin"})).await;
        app.act_as(email).await;
        let old = app.token.clone();
        app.token.clone_from(&first);
        assert_eq!(app.patch(&path(&removed), &removal).await.0, StatusCode::OK);

        app.token = old;

        let friend = json!({"email": "friend@example.org", "name": "Friend", "role": "admin"});
        let comeback = json!({"role": "admin", "is_active": true});
        let tenant = format!("/api/v1/tenants/{}", app.tenant);
        for (status, body) in [
            app.post("/api/v1/users", &friend).await,
            app.patch(&path(&removed), &comeback).await,
            app.patch(&path(&app.admin), &json!({"role": "user"})).await,
            app.delete(&path(&app.admin)).await,
            app.patch(&tenant, &json!({"name": "Mine"})).await,
        ] {
            assert_eq!(
                (status, &body["error"]["code"]),
                (StatusCode::UNAUTHORIZED, &json!("unauthenticated"))
            );
        }
    }
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let app = TestApp::spawn().await;
    for change in [json!({"role": "user"}), json!({"is_active": false})] {
        let (status, answer) = app.patch(&path(&app.admin), &change).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::CONFLICT, &json!("last_admin")));
    }
    assert_eq!(app.delete(&path(&app.admin)).await.0, StatusCode::CONFLICT);
    let second = app.create_user("second@example.org").await;
    assert_eq!(app.patch(&path(&second), &json!({"role": "admin"})).await.0, StatusCode::OK);

    let (demote_one, demote_other) = (json!({"role": "user"}), json!({"role": "user"}));
    let (first, second) = (path(&app.admin), path(&second));
    let (one, other) = tokio::join!(app.patch(&first, &demote_one), app.patch(&second, &demote_other));

    let mut statuses = [one.0, other.0];
    statuses.sort();
    // Whoever is second is either the last one, or was no administrator any more when asking.
    assert!([StatusCode::CONFLICT, StatusCode::UNAUTHORIZED].contains(&statuses[1]), "{statuses:?}");
    assert_eq!(statuses[0], StatusCode::OK);
}

#[tokio::test]
async fn a_change_by_an_old_version_is_refused() {
    let app = TestApp::spawn().await;
    let user = app.create_user("etag@example.org").await;
    let change = |etag: &'static str, name: &str| {
        answer(app.request(Method::PATCH, &path(&user)).header("If-Match", etag).json(&json!({"name": name})))
    };

    assert_eq!(change("\"1\"", "First").await.0, StatusCode::OK);
    let (status, stale) = change("\"1\"", "Second").await;
    assert_eq!(
        (status, &stale["error"]["code"]),
        (StatusCode::PRECONDITION_FAILED, &json!("version_mismatch"))
    );
    assert_eq!(change("W/\"2-gzip\"", "Third").await.0, StatusCode::OK);
    assert_eq!(change("*", "Fourth").await.0, StatusCode::OK);
    assert_eq!(change("\"3\", \"4\"", "Fifth").await.0, StatusCode::OK);
    assert_eq!(change("five", "Sixth").await.0, StatusCode::PRECONDITION_FAILED);
    assert_eq!(app.look_up(user["id"].as_str().unwrap()).await.1["name"], "Fifth");
}

#[tokio::test]
async fn what_has_not_changed_is_not_sent_again() {
    let app = TestApp::spawn().await;
    let user = app.create_user("same@example.org").await;
    let conditional =
        |etag: &'static str| app.request(Method::GET, &path(&user)).header("If-None-Match", etag).send();

    let response = conditional("\"1\"").await.unwrap();

    assert_eq!(
        (response.status(), &response.headers()["etag"]),
        (StatusCode::NOT_MODIFIED, &"\"1\"".parse().unwrap())
    );
    assert_eq!(response.bytes().await.unwrap().len(), 0);
    assert_eq!(conditional("\"2\"").await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_change_that_changes_nothing_makes_no_version() {
    let app = TestApp::spawn().await;
    let user = app.create_user("Still@example.org").await;
    let (_, same) = app.patch(&path(&user), &json!({"name": "Some One", "email": "STILL@example.org"})).await;
    assert_eq!(same["data"]["version"], 1);
    assert_eq!(app.patch(&path(&user), &json!({})).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_deleted_user_is_gone_and_the_address_is_free() {
    let app = TestApp::spawn().await;
    let user = app.create_user("gone@example.org").await;

    assert_eq!(app.delete(&path(&user)).await.0, StatusCode::NO_CONTENT);

    let (status, answer) = app.get(&path(&user)).await;
    assert_eq!((status, &answer["error"]["message"]), (StatusCode::NOT_FOUND, &json!("User not found")));
    assert_eq!(app.delete(&path(&user)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(app.patch(&path(&user), &json!({"name": "Ghost"})).await.0, StatusCode::NOT_FOUND);
    let again = app.create_user("gone@example.org").await;
    assert_ne!(again["id"], user["id"]);
}

#[tokio::test]
async fn another_tenants_user_does_not_exist() {
    let (ours, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    let user = ours.create_user("ada@example.org").await;
    ours.look_up(user["id"].as_str().unwrap()).await;

    for (status, body) in [
        theirs.get(&path(&user)).await,
        theirs.patch(&path(&user), &json!({"name": "Mine"})).await,
        theirs.delete(&path(&user)).await,
    ] {
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("user_not_found")));
    }
    assert_eq!(ours.look_up(user["id"].as_str().unwrap()).await.1["name"], "Some One");
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_counted() {
    let app = TestApp::spawn().await;
    for email in ["zoe@example.org", "amy@example.org", "per_cent@example.org"] {
        app.create_user(email).await;
    }
    let inactive = app.create_user("idle@example.org").await;
    app.patch(&path(&inactive), &json!({"is_active": false})).await;
    let emails = |query: &'static str| {
        let app = &app;
        async move {
            let (status, body) = app.get(&format!("/api/v1/users?{query}")).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            let emails: Vec<_> = body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|user| user["email"].as_str().unwrap().split('@').next().unwrap().to_owned())
                .collect();
            (emails.join(" "), body["pagination"].clone())
        }
    };

    let (all, pagination) = emails("sort_by=email&sort_order=asc").await;
    assert_eq!(all, "admin amy per_cent zoe");
    assert_eq!(
        pagination,
        json!({"page": 1, "limit": 10, "total": 4, "total_is_estimate": false, "pages": 1})
    );
    let (second, pagination) = emails("sort_by=email&sort_order=asc&limit=3&page=2").await;
    assert_eq!((second.as_str(), &pagination["pages"]), ("zoe", &json!(2)));
    let (beyond, pagination) = emails("page=9").await;
    assert_eq!((beyond.as_str(), &pagination["total"]), ("", &json!(4)));
    assert_eq!(emails("is_active=false").await.0, "idle");
    assert_eq!(emails("role=admin").await.0, "admin");
    assert_eq!(emails("search=AMY").await.0, "amy");
    assert_eq!(emails("search=r_c").await.0, "per_cent", "an underscore is an underscore");
    assert_eq!(emails("search=%25%25").await.0, "", "a per cent sign is a per cent sign");
    assert_eq!(
        emails("sort_by=last_login_at&limit=1").await.0,
        "admin",
        "those who never signed in come last"
    );
}

#[tokio::test]
async fn every_wrong_parameter_is_told_at_once() {
    let app = TestApp::spawn().await;
    let query =
        "limit=-1&page=1000000000&sort_by=password_hash&sort_order=up&is_active=maybe&role=king&search=x";

    let (status, body) = app.get(&format!("/api/v1/users?{query}")).await;

    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let fields: Vec<_> = wrong_fields(&body).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["page", "limit", "search", "role", "is_active", "sort_by", "sort_order"]);
}

#[tokio::test]
async fn a_change_is_whole_even_when_the_client_leaves() {
    let app = TestApp::spawn().await;
    let user = app.create_user("hasty@example.org").await;
    for n in 0..20 {
        let change =
            answer(app.request(Method::PATCH, &path(&user)).json(&json!({"name": format!("Name {n}")})));
        let _ = tokio::time::timeout(Duration::from_millis(n), change).await;
    }
    // Whichever of the changes came through, and some may still be on their way: the cache ends at the row.
    eventually(Duration::from_secs(1), || async {
        let (_, cached) = app.look_up(user["id"].as_str().unwrap()).await;
        app.get("/api/v1/users?search=hasty").await.1["data"][0] == cached
    })
    .await;
}
