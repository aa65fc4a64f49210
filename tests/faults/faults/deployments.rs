//! Processes behind a balancer that are replaced, and some that are killed.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Promise, Scene, settle};
use crate::{
    Result,
    balancer::Balancer,
    cluster::Cluster,
    load::{Seen, statuses},
};

/// A process that was killed is known to be gone by then.
pub(super) const NOTICED: Duration = Duration::from_secs(1);

const READY: Promise =
    Promise::new("a process is ready within 0.5 s", Duration::from_millis(500), Duration::from_secs(5));

async fn behind_a_balancer(scene: &Scene<'_>) -> Result<(Cluster, Balancer)> {
    let cluster = scene.cluster(2, &[]).await?;
    balanced(scene, cluster).await
}

/// Clients ask a balancer from now on.
pub(super) async fn balanced(scene: &Scene<'_>, mut cluster: Cluster) -> Result<(Cluster, Balancer)> {
    let nodes: Vec<SocketAddr> = cluster.nodes.iter().filter_map(|node| node.address).collect();
    let balancer = Balancer::start(&nodes, scene.folder).await?;
    for node in 0..nodes.len() {
        balancer.sends_to(node).await?;
    }
    cluster.target.address = balancer.address;
    Ok((cluster, balancer))
}

pub(super) async fn one_after_the_other(mut scene: Scene<'_>) -> Result<()> {
    let (cluster, balancer) = behind_a_balancer(&scene).await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let mut badly = vec![];
    for n in 0..scene.settings.restarts {
        let node = n % cluster.nodes.len();
        let status = cluster.nodes[node].terminate().await?;
        if !status.success() {
            badly.push(status.to_string());
        }
        cluster.nodes[node].start().await?;
        balancer.sends_to(node).await?;
    }
    let seen = load.end().await?;
    let failed = seen.iter().filter(|one| !one.is_answered());
    let (restarts, all) = (scene.settings.restarts, seen.len());
    let told = format!("{restarts} x SIGTERM, {all} requests, failed: {}", statuses(failed.clone()));
    scene.judge("no request fails while processes are replaced", failed.count() == 0, told);
    scene.judge(
        "a process that is told to ends well",
        badly.is_empty(),
        if badly.is_empty() { "all".into() } else { badly.join("; ") },
    );
    scene.judge_changes(&cluster).await?;
    drop(balancer);
    cluster.stop().await
}

pub(super) async fn kills(mut scene: Scene<'_>) -> Result<()> {
    let (cluster, balancer) = behind_a_balancer(&scene).await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let (mut moments, mut longest) = (vec![], Duration::ZERO);
    for n in 0..scene.settings.restarts.div_ceil(4) {
        let node = n % cluster.nodes.len();
        moments.push(Instant::now());
        cluster.nodes[node].kill().await?;
        sleep(NOTICED).await;
        let begun = Instant::now();
        cluster.nodes[node].start().await?;
        cluster.ready(node).await?;
        longest = longest.max(begun.elapsed());
        balancer.sends_to(node).await?;
    }
    let seen = load.end().await?;
    let failed = seen.iter().filter(|one| !one.is_answered());
    let told =
        format!("{} x kill -9, {} requests, failed: {}", moments.len(), seen.len(), statuses(failed.clone()));
    // It was under way when it happened, or was sent before the balancer had noticed.
    let of_a_kill =
        |one: &Seen| moments.iter().any(|at| one.due < *at + NOTICED && one.due + one.took >= *at);
    let stray = failed.filter(|one| !of_a_kill(one)).count();
    scene.judge("requests fail within 1 s of a kill only", stray == 0 && !seen.is_empty(), told);
    scene.judge_changes(&cluster).await?;
    scene.judge_time(READY, longest);
    drop(balancer);
    cluster.stop().await
}
