//! A Redis that is killed, hangs, comes back empty or holds what nobody has written: nothing opens, nothing closes.

use std::time::{Duration, Instant};

use deadpool_redis::redis::cmd;
use reqwest::Method;

use super::{LetIn, nobody};
use crate::{
    app::eventually,
    node::{Cluster, is_waited_for},
};

/// Asks at a node until the quota is used up there; what was let in.
async fn use_up(cluster: &Cluster, node: usize) -> LetIn {
    let (mut let_in, mut client) = (vec![], cluster.client(node).await);
    for _ in 0..5_000 {
        let sent = Instant::now();
        match client.look_up(cluster.users[0]).await.status {
            200 => let_in.push((sent, Instant::now())),
            429 => return LetIn(let_in),
            status => panic!("{status}"),
        }
    }
    panic!("nothing is refused")
}

#[tokio::test]
async fn without_redis_nodes_let_in_their_shares_of_the_guesses_and_no_more_when_it_is_back() {
    let mut cluster = Cluster::start(2, 1, &[("RATE_LIMIT_LOGIN", "8/1h"), ("API_REPLICAS", "2")]).await;
    let email = "admin@example.org";
    for node in [0, 1] {
        assert_eq!(cluster.wrong_guess(node, email).await, 401);
    }
    // By this node 0 learns of the guess at node 1, and it is given back.
    assert_eq!(cluster.sign_in(0, email).await, 200);
    cluster.kill_redis().await;
    // Of the six that are left each lets half in.
    let without = [cluster.guess_until_refused(0, email).await, cluster.guess_until_refused(1, email).await];
    assert_eq!(without, [3, 3]);
    let other = nobody();
    assert_eq!(cluster.guess_until_refused(0, &other).await, 4, "half of eight");

    cluster.start_redis().await;
    cluster.redis_is_back().await;
    for node in [0, 1] {
        assert_eq!(cluster.guess_until_refused(node, email).await, 0, "an empty Redis knows what nodes know");
    }
    // Node 1 knows nothing of the other one, but node 0 does: half of its share was all that it let in.
    assert_eq!(cluster.guess_until_refused(0, &other).await, 0);
    assert_eq!(cluster.guess_until_refused(1, &other).await, 0);
    assert_eq!(cluster.nodes[0].metric("tenantry_limit_decisions_total", "process").await, 9.0);
}

#[tokio::test]
async fn without_redis_a_quota_is_shared_and_there_is_no_burst_when_it_is_back() {
    let settings = [("RATE_LIMIT_TENANT_ENTERPRISE", "600/10m"), ("CACHE_LOCAL_TTL", "60s")];
    let mut cluster = Cluster::start(2, 1, &settings).await;
    let mut all = LetIn::default();
    let mut clients = [cluster.client(0).await, cluster.client(1).await];
    for n in 0..100 {
        let sent = Instant::now();
        assert_eq!(clients[n % 2].look_up(cluster.users[0]).await.status, 200);
        all.0.push((sent, Instant::now()));
    }
    cluster.kill_redis().await;
    for node in [0, 1] {
        let let_in = use_up(&cluster, node).await;
        println!("node {node} let {} in without redis", let_in.0.len());
        assert!(let_in.0.len() > 100, "never closed");
        all.0.extend(let_in.0);
    }
    cluster.start_redis().await;
    cluster.redis_is_back().await;
    for node in [0, 1] {
        all.0.extend(use_up(&cluster, node).await.0);
    }
    // What the other has taken since a node last asked is not known to it: a chunk of six or two.
    all.hold_to(600 + 12, Duration::from_secs(1));
}

#[tokio::test]
async fn a_redis_that_hangs_costs_a_request_one_budget_for_limits_and_look_ups_together() {
    // Nothing is leased and nothing is held in the process, so each request asks Redis twice.
    let settings = [("RATE_LIMIT_TENANT_ENTERPRISE", "100/1s"), ("CACHE_LOCAL_TTL", "1ms")];
    let cluster = Cluster::start(1, 2, &settings).await;
    let node = &cluster.nodes[0];
    let mut client = cluster.client(0).await;
    assert_eq!(client.look_up(cluster.users[0]).await.status, 200);
    let waited = async || node.metric("tenantry_cache_redis_wait_seconds_sum", "").await;
    node.is_idle().await;
    cluster.signal_redis("STOP");
    let before = waited().await;
    assert_eq!(client.look_up(cluster.users[1]).await.status, 200);
    let one = waited().await - before;
    // Two budgets would be a tenth of a second; a timer of 50 ms may be late on a busy machine.
    assert!((0.045..0.095).contains(&one), "{one}");
    assert_eq!(node.metric("tenantry_limit_decisions_total", "process").await, 1.0);
    // Nor is it asked for the tenant again at once, and the tenant is let in.
    for _ in 0..5 {
        assert_eq!(client.look_up(cluster.users[0]).await.status, 200);
    }
    cluster.signal_redis("CONT");
    cluster.redis_is_back().await;
}

#[tokio::test]
async fn a_change_while_redis_hangs_waits_once_and_is_counted_by_the_process_alone() {
    // Asked for at each request: nothing is leased.
    let settings = [("RATE_LIMIT_TENANT_ENTERPRISE", "16/1h"), ("API_REPLICAS", "2")];
    let cluster = Cluster::start(2, 1, &settings).await;
    let (node, path) = (&cluster.nodes[0], format!("/api/v1/users/{}", cluster.users[0]));
    let mut client = cluster.client(0).await;
    for name in ["One", "Two"] {
        let body = format!("{{\"name\": \"{name}\"}}");
        assert_eq!(client.ask(Method::PATCH, &path, &body).await.status, 200);
    }
    let alone = cluster.decided_alone().await;
    node.is_idle().await;
    cluster.signal_redis("STOP");
    let waited = async || node.metric("tenantry_cache_redis_wait_seconds_sum", "").await;
    let (mut let_in, before) = (0, waited().await);
    loop {
        let (body, wait, begun) =
            (format!("{{\"name\": \"Name {let_in}\"}}"), waited().await, Instant::now());
        let answer = client.ask(Method::PATCH, &path, &body).await;
        // For the quota and for both words to the cache together; a timer of 50 ms may be late on a busy machine.
        let wait = waited().await - wait;
        assert!(wait < 0.095, "{wait} s for Redis");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        match answer.status {
            200 => let_in += 1,
            429 => break,
            status => panic!("{status}"),
        }
        assert_eq!(answer.json()["data"]["name"], format!("Name {}", let_in - 1));
    }
    assert!(waited().await - before >= 0.045, "it was waited for");
    // Of the fourteen that are left a node of two lets half in: neither all nor none.
    assert_eq!((let_in, cluster.decided_alone().await), (7, alone + 8));
    cluster.signal_redis("CONT");
    cluster.redis_is_back().await;
    // When node 0 has told of them, what is left is there for both, and no more than that.
    let told = async || node.metric("tenantry_limit_refills_total", "outcome=\"taken\"").await;
    let (before, mut later) = (told().await, 0);
    while told().await == before {
        later += usize::from(client.ask(Method::PATCH, &path, r#"{"name": "Later"}"#).await.status == 200);
    }
    let mut other = cluster.client(1).await;
    for client in [&mut other, &mut client] {
        while client.ask(Method::PATCH, &path, r#"{"name": "Later"}"#).await.status == 200 {
            later += 1;
        }
    }
    let alone = cluster.decided_alone().await - 8;
    assert!(later > 0 && 2 + let_in + later <= 16 + alone, "{let_in}, {later} later, {alone} alone");
}

#[tokio::test]
async fn who_was_right_while_redis_was_too_slow_is_not_counted() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "3/1h")]).await;
    let (email, holder) = ("admin@example.org", cluster.another_client().await);
    let left = || {
        let shown = cluster.run(&["limits", "show", &format!("login:{}:{email}", cluster.tenant), "--json"]);
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()["remaining"].as_u64().unwrap()
    };
    let hold = format!("begin; select from tenantry.users where email = '{email}' for update");
    holder.batch_execute(&hold).await.unwrap();
    cluster.signal_redis("STOP");
    let meanwhile = async {
        // The node has let it in by itself, and it is on its way.
        is_waited_for(&holder).await;
        cluster.signal_redis("CONT");
        // What Redis has given too late was given back, and it was told of the one that was let in.
        eventually(Duration::from_millis(300), || async { left() == 2 }).await;
        holder.batch_execute("rollback").await.unwrap();
    };
    let (status, ()) = tokio::join!(cluster.sign_in(0, email), meanwhile);
    assert_eq!((status, cluster.decided_alone().await), (200, 1));
    eventually(Duration::from_secs(1), || async { left() == 3 }).await;
}

#[tokio::test]
async fn what_is_whole_is_soon_forgotten_so_that_a_clock_set_back_does_not_use_it_up() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "5/1h")]).await;
    let kept = async || {
        let name = cluster.limit_in_redis("login").await;
        cmd("PTTL").arg(name).query_async::<i64>(&mut cluster.redis().await).await.unwrap()
    };
    assert_eq!(cluster.sign_in(0, "admin@example.org").await, 200);
    // It is given back within the request, or, on a busy machine, soon after.
    eventually(Duration::from_secs(1), || async { (1..=10_000).contains(&kept().await) }).await;
    assert_eq!(cluster.wrong_guess(0, "admin@example.org").await, 401);
    assert!(kept().await > 10_000, "what is used is kept");
}

#[tokio::test]
async fn who_was_let_in_before_redis_was_emptied_is_not_let_in_again() {
    let cluster = Cluster::start(2, 1, &[("RATE_LIMIT_LOGIN", "6/1h")]).await;
    let (email, mut redis) = (nobody(), cluster.redis().await);
    assert_eq!(cluster.guess_until_refused(0, &email).await, 6);
    cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    // The other node knows nothing, and brings the limit back as one that is whole.
    assert_eq!(cluster.wrong_guess(1, &email).await, 401);
    for node in [0, 1] {
        assert_eq!(cluster.guess_until_refused(node, &email).await, 0, "node {node}");
    }
}

#[tokio::test]
async fn a_redis_that_refuses_to_count_is_complained_of_and_closes_nothing() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "6/1h"), ("API_REPLICAS", "2")]).await;
    let mut redis = cluster.redis().await;
    let mut acl = cmd("ACL");
    acl.arg("SETUSER").arg("default").arg("resetkeys").arg("~u:*").arg("~e:*");
    acl.query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(cluster.guess_until_refused(0, &nobody()).await, 3, "its share");
    let node = &cluster.nodes[0];
    assert!(node.metric("tenantry_limit_decisions_total", "process").await >= 4.0);
    assert_eq!(node.metric("tenantry_cache_breaker_open", "").await, 0.0, "which is what the alert is about");
    let log = cluster.log(0);
    let complaints: Vec<_> =
        log.lines().filter(|line| line.contains("redis does not count limits")).collect();
    assert!(complaints.len() == 1 && complaints[0].contains("NoPerm"), "once: {log}");
}

#[tokio::test]
async fn what_somebody_else_writes_under_a_limit_opens_nothing_and_closes_nothing_for_long() {
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "3/1h")]).await;
    let email = nobody();
    assert_eq!(cluster.guess_until_refused(0, &email).await, 3);
    let (name, mut redis) = (cluster.limit_in_redis("login").await, cluster.redis().await);
    for garbage in [
        "",
        "garbage",
        "-5",
        "1e300",
        "nan",
        "inf",
        "0x10",
        " 12",
        "1 2",
        "1",
        "1:",
        ":1",
        "1:1:1",
        "0:99999999999999999",
    ] {
        cmd("SET").arg(&name).arg(garbage).query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(cluster.guess_until_refused(0, &email).await, 0, "{garbage:?}");
    }
    for (command, more) in [("LPUSH", vec!["1"]), ("HSET", vec!["v", "1"]), ("SADD", vec!["1"])] {
        cmd("DEL").arg(&name).query_async::<()>(&mut redis).await.unwrap();
        cmd(command).arg(&name).arg(more).query_async::<()>(&mut redis).await.unwrap();
        assert_eq!(cluster.guess_until_refused(0, &email).await, 0, "{command}");
    }
    cmd("FLUSHALL").query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(cluster.guess_until_refused(0, &email).await, 0, "emptied");

    // Later than it can be is no later than it can be.
    let cluster = Cluster::start(1, 1, &[("RATE_LIMIT_LOGIN", "2/2s")]).await;
    let mut redis = cluster.redis().await;
    assert_eq!(cluster.wrong_guess(0, &email).await, 401);
    let name = cluster.limit_in_redis("login").await;
    for huge in ["99999999999999999999", &"9".repeat(400)] {
        cmd("SET").arg(&name).arg(format!("{huge}:1")).query_async::<()>(&mut redis).await.unwrap();
        let begun = Instant::now();
        assert_eq!(cluster.wrong_guess(0, &email).await, 429, "used up, at most");
        while cluster.wrong_guess(0, &email).await == 429 {
            assert!(begun.elapsed() < Duration::from_secs(4), "closed for longer than a period");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
