//! Metadata of users and tenants.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{
    app::{TestApp, answer, wrong_fields},
    node,
};

/// Sends what is JSON, but not of a kind that serde would write.
fn raw(app: &TestApp, path: &str, content_type: &str, body: &str) -> RequestBuilder {
    app.request(Method::PATCH, path).header("Content-Type", content_type).body(body.to_owned())
}

async fn patched(app: &TestApp, path: &str, patch: &Value) -> Value {
    let (status, body) = app.patch(path, patch).await;
    assert_eq!(status, StatusCode::OK, "{patch}: {body}");
    body["data"].clone()
}

fn of_user(user: &Value) -> String {
    format!("/api/v1/users/{}/metadata", user["id"].as_str().unwrap())
}

/// The table of RFC 7396, appendix A, and what it says in its text.
const MERGES: [(&str, &str, &str); 18] = [
    (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
    (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
    (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
    (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
    (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
    (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
    (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
    (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
    (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
    (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
    (r#"{"a":"foo"}"#, "null", "null"),
    (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
    (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
    (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
    (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    (r#"{"a":{"b":1}}"#, r#"{"a":{}}"#, r#"{"a":{"b":1}}"#),
    (r#"{"a":1}"#, r#"{"a":{"b":null,"c":[null,{"d":null}]}}"#, r#"{"a":{"c":[null,{"d":null}]}}"#),
    (r#"{"a":{"b":{"c":1,"d":2}}}"#, r#"{"a":{"b":{"c":null,"e":3}}}"#, r#"{"a":{"b":{"d":2,"e":3}}}"#),
];

#[tokio::test]
async fn patches_are_merged_as_rfc_7396_says() {
    let app = TestApp::spawn().await;
    let database = node::connect("tenantry").await;
    let path = of_user(&app.admin);
    for (target, patch, merged) in MERGES {
        let sql = "select tenantry.merge_patch($1::text::jsonb, $2::text::jsonb) = $3::text::jsonb";
        let row = database.query_one(sql, &[&target, &patch, &merged]).await.unwrap();
        assert!(row.get::<_, bool>(0), "{patch} on {target}");
        // The same through the door, for what metadata can be: nothing is null there, which a patch could not say.
        let [target, patch, merged]: [Value; 3] =
            [target, patch, merged].map(|text| serde_json::from_str(text).unwrap());
        if [&target, &patch, &merged].iter().all(|value| value.is_object()) && target.get("e").is_none() {
            patched(&app, &path, &json!({"public": null})).await;
            patched(&app, &path, &json!({"public": target})).await;
            assert_eq!(patched(&app, &path, &json!({"public": patch})).await["public"], merged);
        }
    }
}

#[tokio::test]
async fn metadata_has_a_version_of_its_own_and_the_user_stays_as_they_are() {
    let app = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let path = of_user(&user);
    let none = json!({"public": {}, "private": {}, "updated_at": null, "version": 0});
    assert_eq!(app.get(&path).await.1["data"], none);

    let first = answer(
        raw(&app, &path, "application/merge-patch+json; charset=utf-8", r#"{"public": {"team": "a"}}"#)
            .header("If-Match", "\"0\""),
    )
    .await;
    assert_eq!((first.0, &first.1["data"]["version"]), (StatusCode::OK, &json!(1)));
    assert_eq!(
        patched(&app, &path, &json!({"public": {"team": "a"}, "private": {}})).await["version"],
        1,
        "nothing was changed"
    );
    assert_eq!(patched(&app, &path, &json!({})).await, first.1["data"]);
    let second =
        patched(&app, &path, &json!({"private": {"crm": 7, "n": {"a": null}}, "public": {"team": null}}))
            .await;
    assert_eq!(
        (&second["public"], &second["private"], &second["version"]),
        (&json!({}), &json!({"crm": 7, "n": {}}), &json!(2))
    );

    for stale in ["\"0\"", "\"1\"", "\"x\""] {
        let (status, body) =
            answer(app.request(Method::PATCH, &path).header("If-Match", stale).json(&json!({}))).await;
        assert_eq!(
            (status, &body["error"]["code"]),
            (StatusCode::PRECONDITION_FAILED, &json!("version_mismatch"))
        );
    }
    let response = app.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(response.headers()["etag"], "\"2\"");
    assert_eq!(response.json::<Value>().await.unwrap()["data"], second);
    let (level, found) = app.look_up(user["id"].as_str().unwrap()).await;
    assert_eq!((found, level.as_str()), (user, "local"), "the cache has lost nothing");

    let mut client = app.database().await;
    let tx =
        tenantry_accounts::db::as_tenant(&mut client, tenantry_accounts::TenantId(app.tenant)).await.unwrap();
    let sql = "select detail from tenantry.audit_events where tenant_id = $1 and action = 'user.metadata_changed' order by id";
    let events: Vec<Value> =
        tx.query(sql, &[&app.tenant]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(
        events,
        [json!({"public": ["team"], "private": []}), json!({"public": ["team"], "private": ["crm", "n"]})]
    );
}

#[tokio::test]
async fn of_two_who_change_different_keys_at_once_both_have_theirs() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let path = of_user(&app.admin);
    let changes = (0..8).map(|n| {
        let body = json!({"public": {format!("k{n}"): n}});
        answer([&app, &node][n % 2].request(Method::PATCH, &path).json(&body))
    });
    let answers = futures_util::future::join_all(changes).await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK), "{answers:?}");
    let found = app.get(&path).await.1["data"].clone();
    assert_eq!((found["public"].as_object().unwrap().len(), &found["version"]), (8, &json!(8)));
    // Of those who name the version, one.
    let changes = (0..6).map(|n| {
        let change = [&app, &node][n % 2].request(Method::PATCH, &path).header("If-Match", "\"8\"");
        answer(change.json(&json!({"public": {"winner": n}})))
    });
    let answers = futures_util::future::join_all(changes).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::OK).count(), 1);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_with_every_wrong_place() {
    let app = TestApp::spawn().await;
    let path = of_user(&app.admin);
    let deep = format!("{}1{}", r#"{"a":"#.repeat(17), "}".repeat(17));
    let deepest = format!("{}1{}", r#"{"a":"#.repeat(16), "}".repeat(16));
    let wide: String = (0..1_001).map(|n| format!(r#""k{n}":1,"#)).collect();
    let many: String = (0..129).map(|n| format!(r#""k{n}":1,"#)).collect();
    let (wide, many) = (wide.trim_end_matches(','), many.trim_end_matches(','));
    let long = "x".repeat(16_384);
    for (body, wrong) in [
        ("[]".to_owned(), vec![("", "wrong_type")]),
        (
            r#"{"public": 5, "private": [], "secret": {}}"#.into(),
            vec![("/public", "wrong_type"), ("/private", "wrong_type"), ("/secret", "unknown_field")],
        ),
        (
            r#"{"public": {"a": "\u0000", "b": ["c", {"d\u0000": 1}], "": 1, "e/f": {"g": "\u0000"}}}"#
                .into(),
            vec![
                ("/public/", "invalid_key"),
                ("/public/a", "invalid_characters"),
                ("/public/b/1/d\0", "invalid_characters"),
                ("/public/e~1f/g", "invalid_characters"),
            ],
        ),
        (format!(r#"{{"private": {{"{}": 1}}}}"#, "k".repeat(65)), vec![("", "invalid_key")]),
        (r#"{"public": {"a\nb": null}}"#.into(), vec![("/public/a\nb", "invalid_key")]),
        (format!(r#"{{"public": {deep}}}"#), vec![("", "too_deep")]),
        (format!(r#"{{"public": {{{wide}}}}}"#), vec![("", "too_many_names")]),
        (format!(r#"{{"private": {{{many}}}}}"#), vec![("/private", "too_many_keys")]),
        (format!(r#"{{"public": {{"a": "{long}"}}}}"#), vec![("/public", "too_large")]),
        (format!(r#"{{"private": {{"a": "{long}"}}}}"#), vec![("/private", "too_large")]),
        (r#"{"public": {"a": 1e-20000}}"#.into(), vec![("", "out_of_range")]),
    ] {
        let (status, answer) = answer(raw(&app, &path, "application/json", &body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{}: {answer}", &body[..body.len().min(80)]);
        let told = wrong_fields(&answer);
        assert_eq!(told.len(), wrong.len(), "{answer}");
        for ((field, code), (at, known)) in wrong.iter().zip(&told) {
            assert!(known == code && (field.is_empty() && *code != "wrong_type" || at == field), "{answer}");
        }
    }
    for (body, status) in [
        (r#"{"public": {"a": 1, "a": 2}}"#, StatusCode::BAD_REQUEST),
        (r#"{"public": {"a": "\ud800"}}"#, StatusCode::BAD_REQUEST),
        (r#"{"public": {"a": 1e999}}"#, StatusCode::BAD_REQUEST),
        ("{", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(answer(raw(&app, &path, "application/json", body)).await.0, status, "{body}");
    }
    let form = answer(raw(&app, &path, "application/json-patch+json", "[]")).await;
    assert_eq!(form.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let large = format!(r#"{{"public": {{"a": "{}"}}}}"#, "x".repeat(70_000));
    assert_eq!(answer(raw(&app, &path, "application/json", &large)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(app.get(&path).await.1["data"]["version"], 0, "nothing was kept");
    assert_eq!(
        answer(raw(&app, &path, "application/json", &format!(r#"{{"public": {deepest}}}"#))).await.0,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_part_may_grow_to_its_size_and_no_further() {
    let app = TestApp::spawn().await;
    let path = of_user(&app.admin);
    // {"a": "..."} has nine characters beside the text.
    let most = "x".repeat(16_384 - 9);
    patched(&app, &path, &json!({"public": {"a": most}, "private": {"a": most}})).await;
    let (status, body) = app.patch(&path, &json!({"public": {"b": 1}})).await;
    assert_eq!(
        (status, wrong_fields(&body)),
        (StatusCode::UNPROCESSABLE_ENTITY, vec![("/public".into(), "too_large".into())])
    );
    patched(&app, &path, &json!({"public": {"a": null, "b": 1}})).await;
}

#[tokio::test]
async fn numbers_stay_what_they_are() {
    let app = TestApp::spawn().await;
    let path = of_user(&app.admin);
    let numbers = "[12345678901234567890123, 0.1000, 1e5, -0.5, 9007199254740993]";
    let request = raw(&app, &path, "application/json", &format!(r#"{{"public": {{"n": {numbers}}}}}"#));
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("[12345678901234567890123, 0.1000, 100000, -0.5, 9007199254740993]"), "{text}");
}

#[tokio::test]
async fn private_metadata_is_for_administrators_and_keys_with_the_scope() {
    let mut app = TestApp::spawn().await;
    let bob = app.create_user("bob@example.org").await;
    let (bobs, admins) = (of_user(&bob), of_user(&app.admin));
    let tenants = format!("/api/v1/tenants/{}/metadata", app.tenant);
    let (reader, _) = app.api_key(&["metadata:read"]).await;
    let (writer, _) = app.api_key(&["metadata:write"]).await;
    let (other, _) = app.api_key(&["users:read", "users:write", "tenant:read", "tenant:write"]).await;
    for path in [&bobs, &admins, &tenants] {
        patched(&app, path, &json!({"public": {"seen": "yes"}, "private": {"seen": "no"}})).await;
    }
    let find =
        |scope: &str, value: &str| format!("/api/v1/users/by-metadata?scope={scope}&key=seen&value={value}");

    app.act_as("bob@example.org").await;
    for path in [&bobs, &admins, &tenants] {
        let (status, body) = app.get(path).await;
        assert_eq!((status, &body["data"]["public"]), (StatusCode::OK, &json!({"seen": "yes"})));
        assert!(body["data"].get("private").is_none() && !body.to_string().contains("no\""), "{body}");
        assert_eq!(app.patch(path, &json!({"public": {"seen": "mine"}})).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(app.get(&find("private", "no")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(
        app.get(&find("public", "no")).await.1["data"],
        json!([]),
        "private values are not found as public ones"
    );
    assert_eq!(app.get(&find("public", "yes")).await.1["data"].as_array().unwrap().len(), 2);

    app.token = reader;
    for path in [&bobs, &admins, &tenants] {
        assert_eq!(app.get(path).await.1["data"]["private"], json!({"seen": "no"}));
        assert_eq!(app.patch(path, &json!({})).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(app.get(&find("private", "no")).await.1["data"].as_array().unwrap().len(), 2);
    app.token = writer;
    for path in [&bobs, &admins, &tenants] {
        patched(&app, path, &json!({"private": {"by": "a key"}})).await;
        assert_eq!(app.get(path).await.0, StatusCode::FORBIDDEN);
    }
    app.token = other;
    for path in [&bobs, &tenants, &find("public", "yes")] {
        assert_eq!(app.get(path).await.0, StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn users_are_found_by_what_stands_at_the_top_part_by_part() {
    let app = TestApp::spawn().await;
    let mut users = vec![];
    for n in 0..5 {
        let user = app.create_user(&format!("u{n}@example.org")).await;
        patched(
            &app,
            &of_user(&user),
            &json!({"public": {"team": "blue", "n": n, "on": true, "deep": {"team": "red"}, "list": ["x"]}}),
        )
        .await;
        users.push(user);
    }
    let found = async |query: &str| {
        let (status, body) = app.get(&format!("/api/v1/users/by-metadata?{query}")).await;
        assert_eq!(status, StatusCode::OK, "{query}: {body}");
        body
    };
    assert_eq!(found("key=team&value=blue").await["data"], json!(users));
    assert_eq!(found("key=n&value=3").await["data"], json!([users[3]]));
    assert_eq!(found("key=on&value=true&limit=100").await["data"], json!(users));
    for nobody in [
        "key=team&value=red",
        "key=team&value=blu",
        "key=team&value=",
        "key=list&value=x",
        "key=deep&value=x",
        "scope=private&key=team&value=blue",
    ] {
        assert_eq!(found(nobody).await["data"], json!([]), "{nobody}");
    }
    let (mut seen, mut cursor) = (vec![], String::new());
    loop {
        let part = found(&format!("key=team&value=blue&limit=2{cursor}")).await;
        seen.extend(part["data"].as_array().unwrap().clone());
        match part["pagination"]["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, users);

    // What is changed, taken away, or too long to be looked up, is found as it is now.
    let path = of_user(&users[0]);
    patched(&app, &path, &json!({"public": {"team": "green"}})).await;
    assert_eq!(found("key=team&value=green").await["data"], json!([users[0]]));
    assert_eq!(found("key=team&value=blue").await["data"], json!(users[1..]));
    patched(&app, &path, &json!({"public": {"team": "x".repeat(300)}})).await;
    assert_eq!(found("key=team&value=green").await["data"], json!([]));
    app.delete(&format!("/api/v1/users/{}", users[1]["id"].as_str().unwrap())).await;
    assert_eq!(found("key=team&value=blue").await["data"], json!(users[2..]));

    let (status, body) = app.get("/api/v1/users/by-metadata?scope=all&limit=0&cursor=x").await;
    let wrong: Vec<_> = wrong_fields(&body).into_iter().map(|(field, _)| field).collect();
    assert_eq!(
        (status, wrong),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            ["scope", "key", "value", "limit", "cursor"].map(Into::into).to_vec()
        )
    );
    let (status, _) = app.get(&format!("/api/v1/users/by-metadata?key=a%00&value={}", "x".repeat(256))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

/// Row-level security does not keep the look-up from its index.
#[tokio::test]
async fn users_are_looked_up_by_the_index() {
    let app = TestApp::spawn().await;
    let database = node::connect("tenantry").await;
    let many = "with u as (insert into tenantry.users (tenant_id, id, email, name)
                  select $1, gen_random_uuid(), 'm' || i || '@example.org', 'M' from generate_series(1, 2000) i returning id)
                insert into tenantry.user_metadata (tenant_id, user_id, public, version)
                  select $1, id, jsonb_build_object('n', row_number() over ()), 1 from u";
    database.execute(many, &[&app.tenant]).await.unwrap();
    database.batch_execute("analyze tenantry.user_metadata_keys").await.unwrap();
    let mut client = app.database().await;
    let tx =
        tenantry_accounts::db::as_tenant(&mut client, tenantry_accounts::TenantId(app.tenant)).await.unwrap();
    let sql = "explain (analyze, costs off, timing off, summary off, buffers off)
               select k.user_id from tenantry.user_metadata_keys k
               where k.tenant_id = $1 and k.scope = 'public' and k.key = 'n' and k.value = '77'
                 and k.user_id > '00000000-0000-0000-0000-000000000000' order by k.user_id limit 11";
    let rows = tx.query(sql, &[&app.tenant]).await.unwrap();
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    assert!(plan.contains("Index Only Scan using user_metadata_keys_pkey"), "{plan}");
    assert!(
        plan.contains("(value = '77'::text) AND (user_id > "),
        "the value is looked up, not filtered: {plan}"
    );
    assert!(!plan.contains("Rows Removed by Filter"), "{plan}");
    let (_, found) = app.get("/api/v1/users/by-metadata?key=n&value=77").await;
    assert_eq!(found["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_tenant_has_metadata_until_it_is_closed() {
    let app = TestApp::spawn().await;
    let path = format!("/api/v1/tenants/{}/metadata", app.tenant);
    let kept = patched(&app, &path, &json!({"public": {"region": "eu"}, "private": {"crm": "0017"}})).await;
    assert_eq!((&kept["version"], app.get(&path).await.1["data"].clone()), (&json!(1), kept.clone()));
    assert_eq!(app.audited_by("tenant.metadata_changed").await.len(), 1);
    let (_, tenant) = app.get(&format!("/api/v1/tenants/{}", app.tenant)).await;
    assert_eq!(tenant["data"]["version"], 1, "it is no change of the tenant");

    let root = app.super_admin().await;
    let by_root = |method: Method, path: &str| {
        app.http.request(method, format!("{}{path}", app.url)).bearer_auth(&root)
    };
    assert_eq!(answer(by_root(Method::GET, &path)).await.1["data"], kept);
    let changed = answer(by_root(Method::PATCH, &path).json(&json!({"private": {"crm": null}}))).await;
    assert_eq!(changed.1["data"]["private"], json!({}));
    let closing =
        app.request(Method::DELETE, &format!("/api/v1/tenants/{}", app.tenant)).header("If-Match", "\"1\"");
    assert_eq!(answer(closing).await.0, StatusCode::NO_CONTENT);
    assert_eq!(answer(by_root(Method::GET, &path)).await.0, StatusCode::NOT_FOUND);
}
