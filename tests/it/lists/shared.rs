//! Answers that are shared for a second, and what may never be shared.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    app::answer,
    node::{Answer, Cluster, Connection},
};

const LIST: &str = "/api/v1/users?sort_by=name&sort_order=asc";

/// How often the list was read in the database.
async fn reads(cluster: &Cluster) -> i64 {
    let statements = cluster.statements().await;
    statements.iter().filter(|(statement, _)| statement.contains("keys as (")).map(|(_, calls)| calls).sum()
}

fn names(answer: &Answer) -> Vec<String> {
    let name = |user: &serde_json::Value| user["name"].as_str().unwrap().to_owned();
    answer.json()["data"].as_array().unwrap().iter().map(name).collect()
}

async fn rename(client: &mut Connection, cluster: &Cluster, name: &str) {
    let path = format!("/api/v1/users/{}", cluster.users[0]);
    let answer = client.ask(Method::PATCH, &path, &json!({"name": name}).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.json());
}

#[tokio::test]
async fn those_who_ask_for_the_same_list_within_a_second_cost_one_statement() {
    let cluster = Cluster::start(1, 5, &[]).await;
    let mut clients = vec![];
    for _ in 0..100 {
        clients.push(cluster.client(0).await);
    }
    let before = reads(&cluster).await;
    let mut crowd = JoinSet::new();
    let began = std::time::Instant::now();
    for mut client in clients {
        crowd.spawn(async move {
            let first = client.get(LIST).await;
            let second = client.get(LIST).await;
            assert_eq!(names(&first), names(&second));
            first.status
        });
    }
    assert!(crowd.join_all().await.into_iter().all(|status| status == 200));
    let (took, reads) = (began.elapsed(), reads(&cluster).await - before);
    assert!(reads <= 1 + took.as_secs() as i64, "{reads} in {took:?}");
    let from_memory = cluster.nodes[0].metric("tenantry_lists_total", "from=\"memory\"").await;
    assert_eq!(from_memory as i64, 200 - reads);

    let mut client = cluster.client(0).await;
    for other in [
        "/api/v1/users?sort_by=name&sort_order=desc",
        "/api/v1/users?sort_by=name&sort_order=asc&limit=11",
        "/api/v1/users?sort_by=name&sort_order=asc&role=user",
        "/api/v1/users?sort_by=name&sort_order=asc&cursor=first",
    ] {
        let before = self::reads(&cluster).await;
        client.get(other).await;
        assert_eq!(self::reads(&cluster).await, before + 1, "{other} is another list");
    }
}

#[tokio::test]
async fn what_was_written_through_a_node_is_in_its_next_list() {
    let cluster = Cluster::start(1, 5, &[]).await;
    let (mut writer, mut reader) = (cluster.client(0).await, cluster.client(0).await);
    // Somebody else keeps asking, so that there always is an answer to share.
    let (mut other, stop) = (cluster.client(0).await, tokio_util::sync::CancellationToken::new());
    let stopped = stop.clone();
    let asking = tokio::spawn(async move {
        while !stopped.is_cancelled() {
            assert_eq!(other.get(LIST).await.status, 200);
        }
    });
    for n in 0..50 {
        let name = format!("A{n}");
        rename(&mut writer, &cluster, &name).await;
        assert_eq!(names(&reader.get(LIST).await)[0], name);
    }
    let path = format!("/api/v1/users/{}", cluster.users[0]);
    assert_eq!(writer.ask(Method::DELETE, &path, "").await.status, 204);
    assert_ne!(names(&reader.get(LIST).await)[0], "A49");
    let body = json!({"email": "new@example.org", "name": "A-new"}).to_string();
    assert_eq!(writer.ask(Method::POST, "/api/v1/users", &body).await.status, 201);
    assert_eq!(names(&reader.get(LIST).await)[0], "A-new");
    stop.cancel();
    asking.await.unwrap();
}

#[tokio::test]
async fn what_was_written_through_another_node_is_seen_within_a_second_or_at_once_when_asked_for() {
    let cluster = Cluster::start(2, 5, &[]).await;
    let (mut writer, mut reader) = (cluster.client(0).await, cluster.client(1).await);
    for n in 0..5 {
        let name = format!("A{n}");
        let old = names(&reader.get(LIST).await)[0].clone();
        rename(&mut writer, &cluster, &name).await;
        let url = format!("http://{}{LIST}", cluster.nodes[1].address);
        let anew = reqwest::Client::new().get(url).bearer_auth(&cluster.token).header("X-Min-Version", "1");
        let (status, body) = answer(anew).await;
        assert_eq!(
            (status.as_u16(), body["data"][0]["name"].as_str()),
            (200, Some(name.as_str())),
            "asked for"
        );
        let written = std::time::Instant::now();
        loop {
            let seen = names(&reader.get(LIST).await)[0].clone();
            if seen == name {
                break;
            }
            assert_eq!(seen, old);
            assert!(written.elapsed() < Duration::from_millis(1_500), "a list is older than a second");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
