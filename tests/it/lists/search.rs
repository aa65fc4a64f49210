//! Searches: who is found, and who comes first.

use reqwest::StatusCode;
use serde_json::json;

use super::{get, ids, walk};
use crate::{
    app::{TestApp, wrong_fields},
    node,
};

async fn add(app: &TestApp, people: &[(&str, &str)]) {
    for (name, email) in people {
        let (status, body) = app.post("/api/v1/users", &json!({"name": name, "email": email})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// The names of those who are found, in order.
async fn found(app: &TestApp, query: &str) -> String {
    let body = get(app, query).await;
    let names = body["data"].as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap());
    names.collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn whoever_is_called_so_comes_first_then_whoever_is_called_so_at_the_beginning() {
    let app = TestApp::spawn().await;
    add(
        &app,
        &[
            ("Hannah Zett", "hz@example.org"),
            ("Johann", "jo@example.org"),
            ("Bert", "ann@example.org"),
            ("Joe Ann-Lee", "joe@example.org"),
            ("Anna", "a1@example.org"),
            ("ANN", "a2@example.org"),
            ("Nobody", "nobody@example.org"),
        ],
    )
    .await;

    let by_name = "sort_by=name&sort_order=asc";
    let all = found(&app, &format!("search=ann&{by_name}")).await;
    assert_eq!(all, "ANN, Anna, Bert, Joe Ann-Lee, Hannah Zett, Johann");
    let turned = found(&app, "search=ann&sort_by=name&sort_order=desc").await;
    assert_eq!(turned, "ANN, Joe Ann-Lee, Bert, Anna, Johann, Hannah Zett");
    assert_eq!(found(&app, "search=ann%40example.org").await, "Bert", "an address");
    assert_eq!(
        found(&app, &format!("search=an&{by_name}")).await,
        "ANN, Anna, Bert, Joe Ann-Lee",
        "two begin a word"
    );
    assert_eq!(found(&app, "search=nn").await, "", "and are not looked for inside");
    assert_eq!(found(&app, "search=h+z").await, "Hannah Zett");
    assert_eq!(found(&app, "search=zett+hz").await, "", "name and address are two");
    for sort_by in ["created_at", "email", "name", "last_login_at"] {
        for order in ["asc", "desc"] {
            let list = format!("search=ann&sort_by={sort_by}&sort_order={order}");
            let whole = ids(&get(&app, &list).await);
            assert_eq!(whole.len(), 6);
            assert_eq!(walk(&app, &format!("{list}&limit=1")).await, whole, "{list}");
            assert_eq!(walk(&app, &format!("{list}&limit=4")).await, whole, "{list}");
        }
    }
}

#[tokio::test]
async fn signs_are_signs_and_case_is_none() {
    let app = TestApp::spawn().await;
    let people = [
        ("100% Sure", "per_cent@example.org"),
        (r"Back\slash", "back@example.org"),
        ("O'Brien", "obrien@example.org"),
        ("Ünal Öz", "uo@example.org"),
        ("Plain", "plain@example.org"),
    ];
    add(&app, &people).await;
    for (search, who) in [
        ("0%25 s", "100% Sure"),
        ("%25%25", ""),
        ("%25%25%25", ""),
        ("0%25", ""),
        ("10", "100% Sure"),
        ("r_c", "100% Sure"),
        ("___", ""),
        ("k%5Cs", r"Back\slash"),
        ("%5C%5C%5C", ""),
        ("o'b", "O'Brien"),
        ("o'", "O'Brien"),
        ("ÜNAL", "Ünal Öz"),
        ("öz", "Ünal Öz"),
        ("++plain++", "Plain"),
        ("...", ""),
        ("%27%3B+drop+table+users", ""),
    ] {
        assert_eq!(found(&app, &format!("search={search}")).await, who, "{search}");
    }
    for wrong in ["x", "+x+", "", "a%0Ab", "a%00b", &"x".repeat(101)] {
        let (status, body) = app.get(&format!("/api/v1/users?search={wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
        assert_eq!(wrong_fields(&body)[0].0, "search");
    }
    assert_eq!(found(&app, &format!("search={}", "x".repeat(100))).await, "");
}

#[tokio::test]
async fn filters_hold_in_a_search_and_others_tenants_are_not_searched() {
    let (app, theirs) = (TestApp::spawn().await, TestApp::spawn().await);
    for app in [&app, &theirs] {
        super::gather(app, 60).await;
    }
    for (filter, condition) in [
        ("", "is_active"),
        ("&is_active=false", "not is_active"),
        ("&role=admin", "is_active and role = 'admin'"),
        ("&email_verified=false", "is_active and not email_verified"),
        ("&created_after=2026-01-04T12:00:00Z", "is_active and created_at >= '2026-01-04 12:00Z'"),
        ("&created_before=2026-01-04T12:00:00Z", "is_active and created_at < '2026-01-04 12:00Z'"),
    ] {
        let ours = super::expected(&app, &format!("{condition} and name ilike 'ann'"), "email, id").await;
        assert!(ours.len() >= 2, "{filter}");
        let list = format!("search=ann&sort_by=email&sort_order=asc&limit=100{filter}");
        let body = get(&app, &list).await;
        assert_eq!(ids(&body), ours, "{filter}");
        assert_eq!(body["pagination"]["total"], ours.len(), "{filter}");
    }
}

#[tokio::test]
async fn a_search_finds_users_as_they_are_now() {
    let app = TestApp::spawn().await;
    add(&app, &[("Early Bird", "bird@example.org")]).await;
    let user = ids(&get(&app, "search=early").await).remove(0);
    let path = format!("/api/v1/users/{user}");

    app.patch(&path, &json!({"name": "Night Owl"})).await;
    assert_eq!(found(&app, "search=early").await, "");
    assert_eq!(found(&app, "search=night").await, "Night Owl");
    // The address counts when it is proven.
    app.patch(&path, &json!({"email": "owl@example.org"})).await;
    assert_eq!(found(&app, "search=owl%40").await, "");
    let mails = app.mails_to("owl@example.org").await;
    let token = crate::app::token_in(mails.last().unwrap());
    let (status, body) = app.post("/api/v1/auth/verify-email", &json!({"token": token})).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        (found(&app, "search=owl%40").await, found(&app, "search=bird").await),
        ("Night Owl".into(), String::new())
    );

    app.delete(&path).await;
    assert_eq!(found(&app, "search=night").await, "");
}

/// Whoever writes users, and however: the database keeps what is searched.
#[tokio::test]
async fn what_is_searched_is_what_there_is() {
    let app = TestApp::spawn().await;
    super::gather(&app, 30).await;
    let database = node::connect("tenantry").await;
    let differ = "with there as (
                    select tenant_id, id, tenantry.search_words(name, email) from tenantry.users
                    where tenant_id = $1 and deleted_at is null
                  ), kept as (select tenant_id, user_id, words from tenantry.user_search where tenant_id = $1)
                  select (select count(*) from kept), (select count(*) from there),
                    (select count(*) from (select * from kept except select * from there) wrong)";
    for (change, left) in [
        ("update tenantry.users set name = 'Other' where email like 'p1%'", 31),
        ("update tenantry.users set last_login_at = now(), version = version + 1", 31),
        ("update tenantry.users set deleted_at = now() where email like 'p2%'", 20),
        ("update tenantry.users set email = 'was' || email, deleted_at = null where email like 'p2%'", 31),
        ("update tenantry.users set deleted_at = now() where email like 'p1%'", 20),
        ("delete from tenantry.users where email like 'p1%'", 20),
        ("delete from tenantry.users where email like 'was%'", 9),
    ] {
        database.execute(&format!("{change} {} tenant_id = $1", and(change)), &[&app.tenant]).await.unwrap();
        let row = database.query_one(differ, &[&app.tenant]).await.unwrap();
        let (kept, there, wrong): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        assert_eq!((kept, there, wrong), (left, left, 0), "{change}");
    }
}

fn and(change: &str) -> &'static str {
    if change.contains(" where ") { "and" } else { "where" }
}
