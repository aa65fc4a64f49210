//! What a tenant may ask for by its plan, on several nodes together.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Method, StatusCode};
use tenantry_accounts::{
    Actor, TenantId,
    tenants::{self, Change, Plan},
};

use super::LetIn;
use crate::{app::TestApp, node::Cluster};

/// Asks at these nodes, each by so many clients, for as long as that; what was let in, and how many were refused.
async fn hammer(cluster: &Cluster, clients: &[(usize, usize)], time: Duration) -> (LetIn, usize) {
    let end = Instant::now() + time;
    let nodes = clients.iter().flat_map(|&(node, clients)| std::iter::repeat_n(node, clients));
    let clients = nodes.map(|node| async move {
        let (mut let_in, mut refused) = (vec![], 0);
        let mut client = cluster.client(node).await;
        while Instant::now() < end {
            let sent = Instant::now();
            match client.look_up(cluster.users[0]).await.status {
                200 => let_in.push((sent, Instant::now())),
                429 => refused += 1,
                status => panic!("{status}"),
            }
        }
        (let_in, refused)
    });
    let answers = futures_util::future::join_all(clients).await;
    let refused = answers.iter().map(|(_, refused)| refused).sum();
    (LetIn(answers.into_iter().flat_map(|(let_in, _)| let_in).collect()), refused)
}

/// Whoever asks where: a share of the quota for each node would be less than that, or more.
#[tokio::test]
async fn two_nodes_together_never_exceed_a_quota_and_get_nearly_all_of_it() {
    let settings =
        [("RATE_LIMIT_TENANT_ENTERPRISE", "200/2s"), ("CACHE_LOCAL_TTL", "60s"), ("API_REPLICAS", "2")];
    for clients in [&[(0, 9), (1, 1)][..], &[(0, 4), (1, 4)], &[(0, 8)]] {
        let cluster = Cluster::start(2, 1, &settings).await;
        let begun = Instant::now();
        let (let_in, refused) = hammer(&cluster, clients, Duration::from_secs(2)).await;
        let time = begun.elapsed();
        let (count, each) = (let_in.0.len(), Duration::from_millis(10));
        let all = 200 + usize::try_from(time.as_millis() / each.as_millis()).unwrap();
        // Where Redis has not answered in time a process has decided by itself, and told Redis afterwards.
        let alone = cluster.decided_alone().await;
        println!("{clients:?}: {count} of {all} let in, {refused} refused, {alone} alone, in {time:?}");
        assert!(refused > 0, "this machine is too slow to exceed it");
        assert!(count * 10 > all * 8, "{clients:?}: {count} of {all}");
        let_in.hold_to(200 + alone, each);
    }
}

#[tokio::test]
async fn plans_of_different_periods_do_not_cut_off_what_the_other_has_counted() {
    let settings = ["--rate-limit-tenant-basic=20/1h", "--rate-limit-tenant-pro=20/1s"];
    let mut app = TestApp::spawn_with(&settings).await;
    let me = async |app: &TestApp| app.get("/api/v1/users/me").await.0;
    while me(&app).await == StatusCode::OK {}
    // It could not even sign in with that.
    let basic = std::mem::take(&mut app.token);
    let operator = Actor::operator(TenantId(app.tenant));
    let change = Change { plan: Some(Plan::Pro), ..Change::default() };
    tenants::update(&app.state.app, operator, operator.tenant, change, None).await.unwrap();
    app.act_as("admin@example.org").await;
    assert_eq!(me(&app).await, StatusCode::OK);
    // Not for luck: by then the shorter period is whole again, and so would be what shares its place.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(me(&app).await, StatusCode::OK);
    let mut node = app.another_node().await;
    node.token = basic;
    assert_eq!(me(&node).await, StatusCode::TOO_MANY_REQUESTS, "as far as Redis knows");
}

#[tokio::test]
async fn a_small_quota_is_exact_and_all_of_it_is_there_for_one_of_two_nodes() {
    let settings = [("RATE_LIMIT_TENANT_ENTERPRISE", "20/1h"), ("API_REPLICAS", "2")];
    let cluster = Cluster::start(2, 1, &settings).await;
    // Without Redis it would have half of it.
    let (mut let_in, refused) = hammer(&cluster, &[(0, 4)], Duration::from_millis(500)).await;
    assert!(refused > 0);
    let alone = cluster.decided_alone().await;
    assert!(let_in.0.len() + alone >= 20, "{} and {alone} decisions alone", let_in.0.len());
    assert!(cluster.nodes[0].metric("tenantry_limit_refills_total", "taken").await > 0.0);
    let_in.0.extend(hammer(&cluster, &[(1, 4)], Duration::from_millis(300)).await.0.0);
    let alone = cluster.decided_alone().await;
    assert!(let_in.0.len() <= 20 + alone, "{} and {alone} of them alone", let_in.0.len());
}

#[tokio::test]
async fn what_a_process_has_leased_costs_no_question() {
    let settings = [("RATE_LIMIT_TENANT_ENTERPRISE", "6000000/10m"), ("CACHE_LOCAL_TTL", "60s")];
    let cluster = Cluster::start(1, 1, &settings).await;
    let mut client = cluster.client(0).await;
    client.look_up(cluster.users[0]).await;
    let (before, begun) = (cluster.nodes[0].metric("tenantry_limit_refills_total", "").await, Instant::now());
    for _ in 0..500 {
        assert_eq!(client.look_up(cluster.users[0]).await.status, 200);
    }
    let refills = cluster.nodes[0].metric("tenantry_limit_refills_total", "").await - before;
    // A lease is a second long, and each is renewed once and given back once.
    let most = 3.0 * (begun.elapsed().as_secs_f64() + 2.0);
    assert!(refills <= most, "{refills} questions for 500 requests in {:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_not_used_is_given_back() {
    // A hundred pauses take a chunk each: all of the quota, if nothing came back.
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_TENANT_ENTERPRISE", "1000/1h")]).await;
    let mut client = cluster.client(0).await;
    let returned = async || cluster.nodes[0].metric("tenantry_limit_refills_total", "returned").await;
    for n in 1..=3 {
        assert_eq!(client.look_up(cluster.users[0]).await.status, 200);
        crate::app::eventually(Duration::from_secs(2), || async { returned().await >= f64::from(n) }).await;
    }
    let shown = cluster.run(&["limits", "show", &cluster.tenant.to_string(), "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    // Three were used; of the period a second is kept back for leases, which is less than one.
    let remaining = shown["remaining"].as_u64().unwrap();
    assert!((995..=997).contains(&remaining), "{shown}");
}

#[tokio::test]
async fn a_quota_follows_the_plan_with_the_next_token() {
    let mut app =
        TestApp::spawn_with(&["--rate-limit-tenant-basic=5000/1h", "--rate-limit-tenant-pro=7000/1h"]).await;
    let policy = async |app: &TestApp| {
        let response = app.request(Method::GET, "/api/v1/users/me").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.headers()["ratelimit-policy"].to_str().unwrap().to_owned()
    };
    let (key, _) = app.api_key(&["users:read"]).await;
    assert!(policy(&app).await.ends_with("\"tenant\";q=5000;w=3600"));

    let operator = Actor::operator(TenantId(app.tenant));
    let change = Change { plan: Some(Plan::Pro), ..Change::default() };
    tenants::update(&app.state.app, operator, operator.tenant, change, None).await.unwrap();

    assert!(policy(&app).await.ends_with("\"tenant\";q=5000;w=3600"), "as the token says");
    app.act_as("admin@example.org").await;
    assert!(policy(&app).await.ends_with("\"tenant\";q=7000;w=3600"));
    // A process that has not seen the key looks it up.
    let mut node = app.another_node().await;
    node.token = key;
    let response = node.request(Method::GET, "/api/v1/users").send().await.unwrap();
    assert!(response.headers()["ratelimit-policy"].to_str().unwrap().ends_with("\"tenant\";q=7000;w=3600"));
}

#[tokio::test]
async fn a_token_from_before_plans_were_in_tokens_has_the_largest_quota() {
    let mut app = TestApp::spawn_with(&["--rate-limit-tenant-enterprise=9000/1h"]).await;
    let part = |n: usize| -> serde_json::Value {
        let text = app.token.split('.').nth(n).unwrap();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    let (header, mut claims) = (part(0), part(1));
    assert_eq!(claims["plan"], "basic");
    claims.as_object_mut().unwrap().remove("plan");
    let kid = header["kid"].as_str().map(str::to_owned);
    let header = Header { kid, typ: Some("at+jwt".into()), ..Header::new(Algorithm::EdDSA) };
    let key = EncodingKey::from_ed_pem(&app.signing_key()).unwrap();
    app.token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    let response = app.request(Method::GET, "/api/v1/users/me").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.headers()["ratelimit-policy"].to_str().unwrap().ends_with("\"tenant\";q=9000;w=3600"));
}
