//! Every operation, called by each role: who may not is told so, before anything else.

use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use serde_json::json;

use super::{
    operations::operations,
    world::{Caller, Dumps, Tenant, changed, send},
};
use crate::{app::TestApp, node};

#[tokio::test]
async fn whoever_may_not_call_an_operation_is_told_so_before_anything_else() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=off"]).await;
    let tenant = Tenant::sign_up(&app).await;
    let callers = [
        tenant.user(&app).await,
        tenant.admin(&app).await,
        Caller::super_admin(&app).await,
        Caller::api_key(&app, &tenant).await,
    ];
    let dumps = Dumps::of(node::connect("tenantry").await).await;
    let before = dumps.take(Some(tenant.id)).await;
    let mut refused = 0;
    for operation in operations() {
        // Nothing but who calls is right.
        let nonsense = |token: &str| {
            let path = operation.path.replace("{id}", "nonsense");
            let method: Method = operation.method.parse().unwrap();
            let request = app.http.request(method, format!("{}/api/v1{path}?limit=0", app.url));
            let request = request.header(CONTENT_TYPE, "application/json").body("{");
            if token.is_empty() { request } else { request.bearer_auth(token) }
        };
        for token in ["", "nonsense"] {
            let answer = send(nonsense(token), "").await;
            let unauthenticated = (answer.status, &answer.body["error"]["code"])
                == (StatusCode::UNAUTHORIZED, &json!("unauthenticated"));
            assert_eq!(unauthenticated, !operation.is_public(), "{}: {}", operation.id, answer.body);
        }
        for caller in &callers {
            if operation.id == "logoutEverywhere" {
                // All roles may, and nothing can be wrong with the request: it would end the session.
                continue;
            }
            if operation.id == "exportUsers" && operation.admits(caller.role) {
                // Likewise: the trail would tell of it.
                continue;
            }
            let answer = send(nonsense(&caller.token), "").await;
            let forbidden = (answer.status, &answer.body["error"]["code"])
                == (StatusCode::FORBIDDEN, &json!("forbidden"));
            let who = format!("{} by {}: {}", operation.id, caller.role, answer.body);
            assert_eq!(forbidden, !operation.admits(caller.role), "{who}");
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{who}");
            refused += usize::from(forbidden);
        }
    }
    assert!(refused > 10, "some operations are not for all");
    // Whoever asks for figures has them counted, and nothing about that can be wrong.
    let mut changed = changed(&before, &dumps.take(Some(tenant.id)).await);
    changed.retain(|table| table != "tenantry.user_stats");
    assert_eq!(changed, [""; 0]);
}
