//! Which projects users are in.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::{
    app::{TestApp, answer, wrong_fields},
    node,
};

impl TestApp {
    pub(crate) async fn put(&self, path: &str) -> (StatusCode, serde_json::Value) {
        answer(self.request(Method::PUT, path)).await
    }
}

async fn projects(app: &TestApp, path: &str) -> Vec<String> {
    let (status, body) = app.get(path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let ids = body["data"].as_array().unwrap().iter();
    ids.map(|project| project["project_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_user_is_in_a_project_once_however_often_it_is_said() {
    let app = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let path = format!("/api/v1/users/{}/projects", user["id"].as_str().unwrap());

    for project in ["zeus", "Apollo", "zeus", "a:1~2._-", "01a204cc-832c-72ee-a1a3-967187f1e3dd"] {
        let (status, body) = app.put(&format!("{path}/{project}")).await;
        assert_eq!((status, body), (StatusCode::NO_CONTENT, json!("")));
    }

    let all = ["01a204cc-832c-72ee-a1a3-967187f1e3dd", "Apollo", "a:1~2._-", "zeus"];
    assert_eq!(projects(&app, &path).await, all);
    let (_, part) = app.get(&format!("{path}?limit=3")).await;
    assert_eq!(part["pagination"], json!({"limit": 3, "next_cursor": "a:1~2._-"}));
    assert_eq!(projects(&app, &format!("{path}?limit=3&cursor=a:1~2._-")).await, ["zeus"]);

    for _ in 0..2 {
        assert_eq!(app.delete(&format!("{path}/zeus")).await.0, StatusCode::NO_CONTENT);
    }
    assert_eq!(projects(&app, &path).await, all[..3]);
    assert_eq!(app.audited_by("user.project_added").await.len(), 4);
    assert_eq!(app.audited_by("user.project_removed").await.len(), 1);
    let (_, found) = app.look_up(user["id"].as_str().unwrap()).await;
    assert_eq!(found["version"], user["version"], "it is no change of the user");
}

#[tokio::test]
async fn an_id_that_is_none_is_refused_before_anything_is_asked() {
    let app = TestApp::spawn().await;
    let id = app.admin["id"].as_str().unwrap();
    let long = "a".repeat(129);
    for project in [".hidden", "-x", "a%2Fb", "a%00b", "a%20b", "%C3%BC", &long] {
        for method in [Method::PUT, Method::DELETE] {
            let path = format!("/api/v1/users/{id}/projects/{project}");
            let (status, body) = answer(app.request(method, &path)).await;
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{project}: {body}");
            assert_eq!(wrong_fields(&body), [("project_id".into(), "invalid_project_id".into())]);
        }
    }
    let (status, body) = app.get(&format!("/api/v1/users/{id}/projects?cursor=%2F&limit=0")).await;
    assert_eq!((status, wrong_fields(&body).len()), (StatusCode::UNPROCESSABLE_ENTITY, 2));
    let versioned = app.request(Method::PUT, &format!("/api/v1/users/{id}/projects/a"));
    let (status, _) = answer(versioned.header("If-Match", "\"1\"")).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "a project has no versions");
}

#[tokio::test]
async fn of_many_who_take_the_last_place_one_has_it() {
    let app = TestApp::spawn().await;
    let node = app.another_node().await;
    let id = app.admin["id"].as_str().unwrap();
    let fill = "insert into tenantry.user_projects (tenant_id, user_id, project_id)
                select $1, $2::text::uuid, 'p' || n from generate_series(1, 999) n";
    node::connect("tenantry").await.execute(fill, &[&app.tenant, &id]).await.unwrap();

    let taken = (0..6).map(|n| {
        let path = format!("/api/v1/users/{id}/projects/new-{n}");
        answer([&app, &node][n % 2].request(Method::PUT, &path))
    });
    let answers = futures_util::future::join_all(taken).await;

    let (made, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|(status, _)| *status == StatusCode::NO_CONTENT);
    assert_eq!(made.len(), 1);
    for (status, body) in refused {
        assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("too_many_projects")));
    }
    let again = app.put(&format!("/api/v1/users/{id}/projects/p1")).await;
    assert_eq!(again.0, StatusCode::NO_CONTENT, "they are in it already");
}

#[tokio::test]
async fn who_is_deleted_is_in_no_project_and_what_is_purged_leaves_none() {
    let app = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let id = user["id"].as_str().unwrap();
    let path = format!("/api/v1/users/{id}/projects");
    app.put(&format!("{path}/zeus")).await;
    app.patch(&format!("/api/v1/users/{id}/metadata"), &json!({"public": {"a": 1}})).await;
    app.delete(&format!("/api/v1/users/{id}")).await;

    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::PUT, format!("{path}/zeus")),
        (Method::DELETE, format!("{path}/zeus")),
        (Method::GET, format!("/api/v1/users/{id}/metadata")),
    ] {
        let (status, body) = answer(app.request(method, &path)).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("user_not_found")));
    }
    let (_, found) = app.get("/api/v1/users/by-metadata?key=a&value=1").await;
    assert_eq!(found["data"], json!([]));

    let database = node::connect("tenantry").await;
    let old = "update tenantry.users set deleted_at = now() - interval '31 days' where tenant_id = $1 and id = $2::text::uuid";
    database.execute(old, &[&app.tenant, &id]).await.unwrap();
    let left = "select (select count(*) from tenantry.user_projects where tenant_id = $1 and user_id = $2::text::uuid)
                  + (select count(*) from tenantry.user_metadata where tenant_id = $1 and user_id = $2::text::uuid)
                  + (select count(*) from tenantry.user_metadata_keys where tenant_id = $1 and user_id = $2::text::uuid)";
    assert_eq!(database.query_one(left, &[&app.tenant, &id]).await.unwrap().get::<_, i64>(0), 3);
    tenantry_accounts::users::purge_deleted(
        &app.state.app,
        std::time::Duration::from_secs(30 * 24 * 3600),
        100_000,
    )
    .await
    .unwrap();
    assert_eq!(database.query_one(left, &[&app.tenant, &id]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn users_see_their_own_projects_and_change_none() {
    let mut app = TestApp::spawn().await;
    let user = app.create_user("bob@example.org").await;
    let path = format!("/api/v1/users/{}/projects", user["id"].as_str().unwrap());
    app.put(&format!("{path}/zeus")).await;
    let (key, _) = app.api_key(&["users:read"]).await;
    let others = format!("/api/v1/users/{}/projects", app.admin["id"].as_str().unwrap());

    app.act_as("bob@example.org").await;
    assert_eq!(projects(&app, &path).await, ["zeus"]);
    assert_eq!(app.get(&others).await.0, StatusCode::FORBIDDEN);
    for (method, who) in
        [(Method::PUT, app.token.clone()), (Method::DELETE, app.token.clone()), (Method::PUT, key.clone())]
    {
        app.token = who;
        assert_eq!(answer(app.request(method, &format!("{path}/a"))).await.0, StatusCode::FORBIDDEN);
    }
    app.token = key;
    assert_eq!(projects(&app, &path).await, ["zeus"]);
}
