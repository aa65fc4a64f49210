//! A clock that steps, on one process of two.

use std::{fs, path::PathBuf, time::Duration};

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Promise, Scene};
use crate::{Result, cluster::until};

/// Forwards, backwards by more than everything lasts that is kept in memory, and right again.
const STEPS: [&str; 4] = ["+5m", "-2h", "-30s", "+0"];

const SEEN: Promise =
    Promise::new("changes are seen by the other within 1 s", Duration::from_secs(1), Duration::from_secs(10));

pub(super) async fn steps(mut scene: Scene<'_>) -> Result<()> {
    let cluster = scene.cluster(2, &[]).await?;
    let clock = scene.folder.join("clock");
    fs::write(&clock, "+0")?;
    // The monotonic clock is the system's own: it does not step on any machine.
    cluster.nodes[1].set(vec![
        ("LD_PRELOAD".into(), library()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE".into(), clock.display().to_string()),
        ("FAKETIME_NO_CACHE".into(), "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ])?;
    cluster.nodes[1].kill().await?;
    cluster.nodes[1].start().await?;
    cluster.ready(1).await?;
    let address = |node: usize| cluster.nodes[node].address.ok_or("a node listens nowhere");
    let client = reqwest::Client::new();
    let user = cluster.target.users.first().ok_or("nobody was seeded")?;
    let url = |node: usize| Ok::<_, &str>(format!("http://{}/api/v1/users/{user}", address(node)?));
    let (mut longest, mut wrong) = (Duration::ZERO, vec![]);
    for step in STEPS {
        let known = client.get(url(1)?).bearer_auth(&cluster.target.token).send().await?.status();
        if known != 200 {
            wrong.push(format!("{known} before {step}"));
        }
        fs::write(&clock, step)?;
        until("the step is seen", Duration::from_secs(20), async || shows(&client, address(1), step).await)
            .await?;
        // Written on the one, read on the other: both ways.
        for (writer, reader) in [(0, 1), (1, 0)] {
            let name = format!("Name {step} {writer}");
            let written =
                client.patch(url(writer)?).bearer_auth(&cluster.target.token).json(&json!({"name": name}));
            let status = written.send().await?.status();
            let begun = Instant::now();
            if status != 200 {
                wrong.push(format!("{status} to a change at {step}"));
                continue;
            }
            loop {
                let answer = client.get(url(reader)?).bearer_auth(&cluster.target.token).send().await?;
                let status = answer.status();
                if status != 200 {
                    wrong.push(format!("{status} to a look-up at {step}"));
                    break;
                }
                if answer.json::<serde_json::Value>().await?["data"]["name"] == name {
                    break;
                }
                if begun.elapsed() > Duration::from_secs(30) {
                    wrong.push(format!("stale at {step}"));
                    break;
                }
                sleep(Duration::from_millis(5)).await;
            }
            longest = longest.max(begun.elapsed());
        }
    }
    let told = if wrong.is_empty() { format!("{} steps", STEPS.len()) } else { wrong.join("; ") };
    scene.judge("everybody is answered, whatever the time is said to be", wrong.is_empty(), told);
    scene.judge_time(SEEN, longest);
    scene.judge_processes(&cluster).await?;
    cluster.stop().await
}

/// Whether the process has the clock that it was given: what it says of the time is told in `/health`.
async fn shows(
    client: &reqwest::Client,
    address: std::result::Result<std::net::SocketAddr, &str>,
    step: &str,
) -> bool {
    let Ok(address) = address else { return false };
    let Ok(answer) = client.get(format!("http://{address}/health")).send().await else { return false };
    let Ok(body) = answer.json::<serde_json::Value>().await else { return false };
    let Some(said) =
        body["timestamp"].as_str().and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok())
    else {
        return false;
    };
    let ahead = (said.to_utc() - chrono::Utc::now()).num_seconds();
    let wanted = match step {
        "+5m" => 300,
        "-2h" => -7200,
        "-30s" => -30,
        _ => 0,
    };
    (ahead - wanted).abs() <= 5
}

fn library() -> Result<PathBuf> {
    let places = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path());
    places
        .chain([PathBuf::from("/usr/lib"), PathBuf::from("/usr/lib64")])
        .map(|place| place.join("faketime/libfaketime.so.1"))
        .find(|file| file.exists())
        .ok_or_else(|| "libfaketime is missing: scripts/setup test installs it".into())
}
