//! Bodies that are larger than what a process may need for them.

use reqwest::StatusCode;
use serde_json::json;

use super::{NDJSON, PATH};
use crate::{app::answer, node::Cluster};

#[tokio::test]
async fn a_large_body_and_its_report_need_little_memory() {
    const ROWS: usize = 12_000;
    let cluster = Cluster::start(1, 1, &[]).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}{PATH}", cluster.nodes[0].address);
    let upload = |body: String| {
        let request = client.post(&url).bearer_auth(&cluster.token).header("Content-Type", NDJSON);
        answer(request.body(body))
    };
    // Connections are opened, statements prepared, buffers had.
    assert_eq!(
        upload(json!({"email": "a@example.org", "name": "A"}).to_string()).await.0,
        StatusCode::ACCEPTED
    );
    let before = cluster.nodes[0].memory();

    // Most of it is in rows that are as long as they may be.
    let pad = "x".repeat(10_000);
    let row =
        |n| format!("{{\"email\": \"u{n}@example.org\", \"name\": \"User {n}\", \"pad\": \"{pad}\"}}\n");
    let body: String = (0..ROWS).map(row).collect();
    assert!(body.len() > 100 << 20);
    let (status, accepted) = upload(body).await;
    assert_eq!((status, &accepted["data"]["total"]), (StatusCode::ACCEPTED, &json!(ROWS)), "{accepted}");
    let id = accepted["data"]["id"].as_str().unwrap();
    let report = client.get(format!("{url}/{id}/report")).bearer_auth(&cluster.token).send().await.unwrap();
    assert_eq!(report.text().await.unwrap().lines().count(), ROWS);

    let more = cluster.nodes[0].most_memory().saturating_sub(before);
    assert!(more < 40 << 20, "{} MiB more than before", more >> 20);
}
