//! More people sign in than can be hashed: the others are told at once, for nothing, and whoever reads does not notice.

use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::task::JoinSet;

use crate::node::Cluster;

/// More than any machine hashes in the second that somebody may wait.
const SIGN_INS: usize = 800;

#[tokio::test]
async fn a_sign_in_that_cannot_be_hashed_soon_is_refused_before_it_costs_anything_and_readers_are_answered() {
    let cluster = Cluster::start(1, 1, &[]).await;
    let asked = async || -> i64 {
        let statements = cluster.statements().await;
        statements.iter().filter(|(sql, _)| sql.contains("login_by_email")).map(|(_, calls)| calls).sum()
    };
    // Whoever made the administrator's token did, too.
    let before = asked().await;
    let url = format!("http://{}/api/v1", cluster.nodes[0].address);
    let client = Client::new();
    let mut flood = JoinSet::new();
    for n in 0..SIGN_INS {
        // Nobody is known, so each is hashed once and none is signed in.
        let body = json!({"tenant": cluster.tenant, "email": format!("nobody-{n}@example.org"), "password": "Wrong-Horse-1"});
        let request = client.post(format!("{url}/auth/login")).json(&body);
        flood.spawn(async move {
            let response = request.send().await.unwrap();
            (response.status(), response.headers().contains_key("retry-after"))
        });
    }
    let (mut hashed, mut refused, mut read) = (0, 0, 0);
    while !flood.is_empty() {
        let look_up = client.get(format!("{url}/users/{}", cluster.users[0])).bearer_auth(&cluster.token);
        assert_eq!(look_up.send().await.unwrap().status(), StatusCode::OK);
        read += 1;
        while let Some(answer) = flood.try_join_next() {
            match answer.unwrap() {
                (StatusCode::UNAUTHORIZED, _) => hashed += 1,
                (StatusCode::SERVICE_UNAVAILABLE, true) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(hashed > 0 && refused > 0 && read > 1, "{hashed} hashed, {refused} refused, {read} read");

    let node = &cluster.nodes[0];
    assert_eq!(node.metric("tenantry_password_hashes_total", "refused").await, f64::from(refused));
    let counted = async |by| node.metric("tenantry_limit_decisions_total", by).await;
    assert_eq!(counted("redis").await + counted("process").await, f64::from(hashed), "attempts were counted");
    assert_eq!(asked().await - before, i64::from(hashed), "PostgreSQL was asked");
}
