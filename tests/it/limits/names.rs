//! Names of tenants, which anybody may make up.

use reqwest::StatusCode;
use serde_json::json;

use crate::node::Cluster;

impl Cluster {
    /// What somebody gets who signs in, or asks for a mail, in a tenant of this name.
    async fn named(&self, path: &str, tenant: &str) -> StatusCode {
        let url = format!("http://{}/api/v1/auth/{path}", self.nodes[0].address);
        let mut body = json!({"tenant": tenant, "email": "nobody@example.org"});
        if path == "login" {
            body["password"] = json!("Wrong-Horse-1");
        }
        reqwest::Client::new().post(url).json(&body).send().await.unwrap().status()
    }

    /// How often the database was asked which tenant has a name, who signs in, or for a mail, functions included; and how often a
    /// transaction was begun for it.
    async fn asked(&self) -> (i64, i64) {
        let sent = self.statements().await;
        let count =
            |is: fn(&str) -> bool| sent.iter().filter(|(sql, _)| is(sql)).map(|(_, calls)| calls).sum();
        let about_names = |sql: &str| {
            ["tenant_named($1)", "login_by_email($1", "request_mail($1"].iter().any(|name| sql.contains(name))
        };
        (count(about_names), count(|sql| sql.to_lowercase().starts_with("begin")))
    }
}

#[tokio::test]
async fn who_makes_names_up_is_counted_by_address_before_anything_is_asked_of_the_database() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_IP", "6/1h"), ("RATE_LIMIT_LOGIN", "1000/1h")]).await;
    let name = |n: usize| format!("no-such-{n}");
    for n in 0..3 {
        assert_eq!(cluster.named("login", &name(n)).await, StatusCode::UNAUTHORIZED);
        assert_eq!(cluster.named("forgot-password", &name(n)).await, StatusCode::ACCEPTED);
    }
    let before = cluster.asked().await;
    for n in 3..40 {
        for path in ["login", "forgot-password", "resend-verification"] {
            assert_eq!(cluster.named(path, &name(n)).await, StatusCode::TOO_MANY_REQUESTS, "{path}");
        }
    }
    assert_eq!(cluster.asked().await, before);
}

/// Known or not, and no more often than once a minute by each process.
#[tokio::test]
async fn the_name_of_a_tenant_costs_one_statement_whoever_has_it() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "1000/1h")]).await;
    let known: String = cluster
        .database
        .query_one("select slug from tenantry.tenants where id = $1", &[&cluster.tenant])
        .await
        .unwrap()
        .get(0);
    // All connections of the pool have prepared what they ask.
    let mut costs = vec![];
    for name in ["no-such-tenant", &known] {
        let before = cluster.asked().await;
        assert_eq!(cluster.named("login", name).await, StatusCode::UNAUTHORIZED);
        let first = cluster.asked().await;
        assert_eq!(cluster.named("login", name).await, StatusCode::UNAUTHORIZED);
        let second = cluster.asked().await;
        costs.push(((first.0 - before.0, first.1 - before.1), (second.0 - first.0, second.1 - first.1)));
    }
    // For the name and for the sign-in; the name is remembered.
    assert_eq!(costs, [((2, 0), (1, 0)), ((2, 0), (1, 0))]);
}
