//! Lists of users: their order, their parts and pages, and cursors.

mod large;
mod search;
mod shared;

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    app::{TestApp, wrong_fields},
    node,
};

/// Adds users to the tenant who are alike in much: names, times and whatever lists are filtered by come many times over.
async fn gather(app: &TestApp, users: i32) {
    let sql = "insert into tenantry.users
                 (tenant_id, id, email, name, role, is_active, email_verified, last_login_at, created_at)
               select $1, gen_random_uuid(), 'p' || i || '@example.org', (array['Ann', 'ann', 'Bo', 'Ünal', 'Zoe'])[1 + i % 5],
                 case when i % 7 = 3 then 'admin' else 'user' end, i % 6 <> 0, i % 4 <> 1,
                 case when i % 3 <> 0 then timestamptz '2026-05-05 12:00Z' - i % 5 * interval '1 h' end,
                 timestamptz '2026-01-01 12:00Z' + i % 9 * interval '1 day'
               from generate_series(1, $2::int) i";
    node::connect("tenantry").await.execute(sql, &[&app.tenant, &users]).await.unwrap();
}

/// Who a list has to have, in order, as the database sorts all there are.
async fn expected(app: &TestApp, condition: &str, order: &str) -> Vec<String> {
    let sql = format!(
        "select id::text from tenantry.users where tenant_id = $1 and deleted_at is null and {condition} order by {order}"
    );
    let rows = node::connect("tenantry").await.query(&sql, &[&app.tenant]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn get(app: &TestApp, query: &str) -> Value {
    let (status, body) = app.get(&format!("/api/v1/users?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{query}: {body}");
    body
}

fn ids(body: &Value) -> Vec<String> {
    body["data"].as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect()
}

fn next_cursor(body: &Value) -> Option<String> {
    body["pagination"]["next_cursor"].as_str().map(str::to_owned)
}

/// The list part by part, to its end.
async fn walk(app: &TestApp, query: &str) -> Vec<String> {
    let (mut found, mut cursor) = (vec![], Some("first".to_owned()));
    while let Some(place) = cursor {
        let part = get(app, &format!("{query}&cursor={place}")).await;
        cursor = next_cursor(&part);
        found.extend(ids(&part));
        assert!(cursor.is_none() || !ids(&part).is_empty(), "there is somebody in each part");
    }
    found
}

#[tokio::test]
async fn every_list_has_everybody_once_and_in_order_by_parts_and_by_pages() {
    let app = TestApp::spawn().await;
    gather(&app, 60).await;
    for (filter, condition) in [
        ("", "is_active"),
        ("&is_active=false", "not is_active"),
        ("&role=admin", "is_active and role = 'admin'"),
        ("&role=super_admin", "false"),
        ("&email_verified=false&role=user", "is_active and role = 'user' and not email_verified"),
        (
            "&created_after=2026-01-03T12:00:00Z&created_before=2026-01-06T12:00:00Z",
            "is_active and created_at >= '2026-01-03 12:00Z' and created_at < '2026-01-06 12:00Z'",
        ),
    ] {
        for sort_by in ["created_at", "email", "name", "last_login_at"] {
            for order in ["asc", "desc"] {
                let list = format!("sort_by={sort_by}&sort_order={order}&limit=7{filter}");
                let sorted = format!("{sort_by} {order} nulls last, id {order}");
                let expected = expected(&app, condition, &sorted).await;
                assert!(filter.contains("super") || expected.len() > 5, "{list}");

                assert_eq!(walk(&app, &list).await, expected, "{list}");

                let mut by_pages = vec![];
                for page in 1..=(expected.len() / 7 + 1) {
                    let body = get(&app, &format!("{list}&page={page}")).await;
                    by_pages.extend(ids(&body));
                    let (total, pages) = (expected.len(), expected.len().div_ceil(7));
                    let counted = json!({"page": page, "limit": 7, "total": total, "total_is_estimate": false, "pages": pages});
                    assert_eq!(body["pagination"], counted, "{list}");
                }
                assert_eq!(by_pages, expected, "{list}");
            }
        }
    }
}

#[tokio::test]
async fn whoever_comes_and_goes_meanwhile_moves_nobody_else() {
    let app = TestApp::spawn().await;
    gather(&app, 40).await;
    let before = expected(&app, "is_active", "name, id").await;
    let (mut found, mut cursor, mut gone) = (vec![], Some("first".to_owned()), BTreeSet::new());
    let mut round = 0;
    while let Some(place) = cursor {
        let part = get(&app, &format!("sort_by=name&sort_order=asc&limit=4&cursor={place}")).await;
        cursor = next_cursor(&part);
        found.extend(ids(&part));
        // Somebody in front of all, and the last who was seen goes: the place is where they were.
        let last = found.last().unwrap();
        app.delete(&format!("/api/v1/users/{last}")).await;
        gone.insert(last.clone());
        let body = json!({"email": format!("new{round}@example.org"), "name": "Aaa"});
        assert_eq!(app.post("/api/v1/users", &body).await.0, StatusCode::CREATED);
        round += 1;
    }
    assert!(round > 8 && gone.len() > 8);
    assert_eq!(found, before);
}

#[tokio::test]
async fn a_cursor_leads_on_in_its_own_list_alone_and_on_every_node() {
    let (app, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    gather(&app, 20).await;
    gather(&theirs, 20).await;
    let list = "sort_by=name&sort_order=asc&role=user&limit=5";
    let first = get(&app, &format!("{list}&cursor=first")).await;
    assert_eq!(first["pagination"]["limit"], 5);
    let cursor = next_cursor(&first).unwrap();
    let second = get(&app, &format!("{list}&cursor={cursor}")).await;

    let elsewhere = app.another_node().await;
    assert_eq!(get(&elsewhere, &format!("{list}&cursor={cursor}")).await["data"], second["data"]);
    let longer = get(&app, &format!("sort_by=name&sort_order=asc&role=user&limit=6&cursor={cursor}")).await;
    assert_eq!(ids(&longer)[..5], ids(&second)[..], "a part may be longer than the one before");

    let changed = cursor.replacen(|c: char| c.is_ascii_lowercase(), "A", 1);
    let short = &cursor[..cursor.len() - 1];
    for (who, query) in [
        (&theirs, format!("{list}&cursor={cursor}")),
        (&app, format!("{list}&cursor={changed}")),
        (&app, format!("{list}&cursor={short}")),
        (&app, format!("{list}&cursor={cursor}{cursor}")),
        (&app, format!("{list}&cursor={cursor}%00")),
        (&app, format!("{list}&cursor=")),
        (&app, format!("{list}&cursor=FIRST")),
        (&app, format!("{list}&cursor={}", app.admin["id"].as_str().unwrap())),
        (&app, format!("{list}&cursor={}", "A".repeat(5_000))),
        (&app, format!("{list}&is_active=false&cursor={cursor}")),
        (&app, format!("{list}&email_verified=true&cursor={cursor}")),
        (&app, format!("{list}&search=ann&cursor={cursor}")),
        (&app, format!("{list}&created_after=2020-01-01T00:00:00Z&cursor={cursor}")),
        (&app, format!("sort_by=name&sort_order=asc&role=admin&limit=5&cursor={cursor}")),
        (&app, format!("sort_by=email&sort_order=asc&role=user&limit=5&cursor={cursor}")),
        (&app, format!("sort_by=name&sort_order=desc&role=user&limit=5&cursor={cursor}")),
    ] {
        let (status, body) = who.get(&format!("/api/v1/users?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {body}");
        assert_eq!(wrong_fields(&body), [("cursor".to_owned(), "invalid_cursor".to_owned())], "{query}");
    }
}

#[tokio::test]
async fn pages_end_where_cursors_go_on() {
    let app = TestApp::spawn().await;
    for query in ["page=10000&limit=1", "page=1000", "page=100&limit=100"] {
        assert_eq!(ids(&get(&app, query).await), [""; 0], "{query}");
    }
    for (query, code) in [
        ("page=1001", "too_deep"),
        ("page=101&limit=100", "too_deep"),
        ("page=10001&limit=1", "out_of_range"),
        ("page=9223372036854775807&limit=100", "out_of_range"),
        ("page=1&cursor=first", "not_allowed"),
    ] {
        let (status, body) = app.get(&format!("/api/v1/users?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}: {body}");
        assert_eq!(wrong_fields(&body), [("page".to_owned(), code.to_owned())], "{query}");
    }
    let (_, body) = app.get("/api/v1/users?page=1001").await;
    assert!(body["error"]["errors"][0]["message"].as_str().unwrap().contains("cursor=first"), "{body}");
    let (_, body) = app.get("/api/v1/users?created_after=yesterday&created_before=9&email_verified=1").await;
    let fields: Vec<_> = wrong_fields(&body).into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["email_verified", "created_after", "created_before"]);
}
