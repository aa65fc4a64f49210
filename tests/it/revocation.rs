//! What it costs to know what has been revoked. That it is known in time: `tests/revocations/`.

use std::time::Instant;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::Method;
use serde_json::Value;

use crate::node::{Cluster, Connection};

const REQUESTS: usize = 1_000;
/// Of them with a token that has not been seen yet, and as many with one that is revoked.
const NEW: usize = 100;

/// What a process asks for by itself, at least four times a second: the feed, its server's timeline, ages of queues.
const BY_ITSELF: [&str; 6] = [
    "tenantry.follow_revocations(",
    "tenantry.note_token_lifetime(",
    "tenantry.prune_revocations(",
    "pg_walfile_name(",
    "tenantry.jobs",
    "tenantry.oldest",
];

/// As many tokens of one session, none of which anybody has verified yet.
fn tokens(cluster: &Cluster, count: usize) -> Vec<String> {
    let mut parts = cluster.token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_default());
    let (header, claims) = (parts.next().unwrap(), parts.next().unwrap());
    let [header, claims]: [Value; 2] = [header, claims].map(|json| serde_json::from_slice(&json).unwrap());
    let pem = std::fs::read(cluster.keys().join("first.pem")).unwrap();
    let key = EncodingKey::from_ed_pem(&pem).unwrap();
    let text = |name: &str| header[name].as_str().map(str::to_owned);
    let header = Header { kid: text("kid"), typ: text("typ"), ..Header::new(Algorithm::EdDSA) };
    let sign = |n: usize| {
        let mut claims = claims.clone();
        claims["exp"] = (claims["exp"].as_i64().unwrap() - n as i64 % 300).into();
        claims["iat"] = (claims["iat"].as_i64().unwrap() - n as i64).into();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    (1..=count).map(sign).collect()
}

#[tokio::test]
async fn to_authorise_a_thousand_requests_asks_neither_postgresql_nor_redis() {
    let cluster = Cluster::start(1, 20, &[("CACHE_LOCAL_TTL", "5m")]).await;
    let address = cluster.nodes[0].address;
    let mut client = cluster.client(0).await;
    // Something has been revoked, so that there is something to look into.
    let tenant = cluster.tenant.to_string();
    let other = cluster.run(&["token", "--tenant", &tenant, "--email", "admin@example.org"]);
    let mut gone = Connection::open(address, other.trim()).await;
    assert_eq!(gone.ask(Method::POST, "/api/v1/auth/logout", "{}").await.status, 204);
    for user in &cluster.users {
        assert_eq!(client.look_up(*user).await.status, 200);
    }
    let mut tokens = tokens(&cluster, NEW).into_iter();
    let (statements, commands) = (cluster.statements().await, cluster.redis_commands().await);
    let start = Instant::now();

    // The token is known already, mostly. Who holds one that is revoked asks again and again.
    let mut new = Connection::open(address, "").await;
    for n in 0..REQUESTS {
        let user = cluster.users[n % cluster.users.len()];
        match n * NEW % REQUESTS {
            rest if rest >= 2 * NEW => assert_eq!(client.look_up(user).await.level, "local"),
            rest if rest >= NEW => assert_eq!(gone.look_up(user).await.status, 401),
            _ => {
                new.token = tokens.next().unwrap();
                assert_eq!(new.look_up(user).await.level, "local");
            }
        }
    }
    assert_eq!(tokens.next(), None);

    let took = start.elapsed();
    let commands = cluster.redis_commands().await - commands;
    let asked = cluster.statements().await.into_iter().filter_map(|(query, calls)| {
        let calls = calls - statements.get(&query).copied().unwrap_or_default();
        (calls > 0).then_some((query, calls))
    });
    let asked: Vec<_> = asked.collect();
    println!("{REQUESTS} requests in {took:?}: {commands} commands of Redis, {asked:#?}");
    // Each of them is asked for by a clock, and not once by a request.
    let looks = took.as_secs_f64() * 4.0 + 2.0;
    for (query, calls) in &asked {
        assert!(BY_ITSELF.iter().any(|known| query.contains(known)), "{calls} times {query}");
        assert!(*calls as f64 <= 2.0 * looks, "{calls} times {query} in {took:?}");
    }
    // Its run is looked at now and then.
    assert!((commands as f64) < 20.0 + 20.0 * took.as_secs_f64(), "{commands} commands in {took:?}");
}
