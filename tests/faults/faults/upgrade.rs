//! An older program and its schema are replaced by this one: first the schema, while the old processes serve, then they.

use std::{net::SocketAddr, path::Path, time::Duration};

use tenantry::dev::postgres;
use tokio::time::Instant;

use super::{
    Scene,
    deployments::{NOTICED, balanced},
    settle,
};
use crate::{
    Result,
    cluster::{Cluster, until},
    harness::Process,
    load::{between, statuses},
    program::built,
    servers::{Servers, tenantry},
};

/// As the owner does it, before anything else of a deployment.
async fn migrate(program: &Path, servers: &Servers) -> Result<()> {
    let url = |name: &str, url: String| (name.to_owned(), url);
    let settings = [
        url("DATABASE_OWNER_URL", postgres::owner_url(&servers.home)),
        url("DATABASE_URL", postgres::app_url(&servers.home)),
    ];
    tenantry(program, &settings, &["migrate"]).await.map(drop)
}

async fn migrations(cluster: &Cluster) -> Result<i64> {
    let sql = "select count(*) from tenantry.refinery_schema_history";
    Ok(cluster.servers.database().await?.query_one(sql, &[]).await?.try_get(0)?)
}

pub(super) async fn under_load(mut scene: Scene<'_>) -> Result<()> {
    let old = scene.settings.old.as_ref().ok_or("--old names the program that is upgraded from")?;
    // It is run in other folders.
    let old = std::fs::canonicalize(old).map_err(|error| format!("{}: {error}", old.display()))?;
    let new = built("tenantry")?;
    let servers = Servers::empty(&scene.folder.join("home")).await?;
    migrate(&old, &servers).await?;
    // Workers want an address for mails; nobody is sent any here.
    let mails = [("SMTP_URL", "smtp://127.0.0.1:1")];
    let (mut cluster, balancer) = balanced(&scene, scene.cluster_of(&old, servers, 2, &mails).await?).await?;
    let worker = worker(&cluster, &old);
    worker.start().await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;

    let before = migrations(&cluster).await?;
    let begun = Instant::now();
    migrate(&new, &cluster.servers).await?;
    let added = migrations(&cluster).await? - before;
    settle().await;
    let migrated = Instant::now();
    // One of the old may end by itself just now, and is started again by whoever watches it.
    cluster.nodes[0].kill().await?;
    let killed = Instant::now();
    cluster.nodes[0].start().await?;
    balancer.sends_to(0).await?;
    settle().await;
    let replaced_from = Instant::now();

    for node in 0..cluster.nodes.len() {
        cluster.nodes[node].terminate().await?;
        let (name, address) = (cluster.nodes[node].name.clone(), cluster.nodes[node].address);
        cluster.nodes[node] = process(&cluster, name, "api", address, &new);
        cluster.nodes[node].start().await?;
        balancer.sends_to(node).await?;
    }
    worker.terminate().await?;
    let worker = self::worker(&cluster, &new);
    worker.start().await?;
    settle().await;
    let (ended, seen) = (Instant::now(), load.end().await?);

    let failed = |from, to| between(&seen, from, to).filter(|one| !one.is_answered());
    let told = |from, to| {
        format!("{} requests, failed: {}", between(&seen, from, to).count(), statuses(failed(from, to)))
    };
    let wrong = failed(begun, migrated).count();
    let seen_then = format!("{added} migrations, {}", told(begun, migrated));
    scene.judge("no request fails while the schema is replaced", wrong == 0 && added > 0, seen_then);
    let stray = failed(killed + NOTICED, replaced_from).count();
    scene.judge(
        "the old program starts on the new schema",
        stray == 0,
        told(killed + NOTICED, replaced_from),
    );
    let wrong = failed(replaced_from, ended).count();
    scene.judge("no request fails while processes are replaced", wrong == 0, told(replaced_from, ended));
    scene.judge_changes(&cluster).await?;
    let jobs = jobs_are_done(&cluster).await;
    let told = jobs.as_ref().map_or_else(ToString::to_string, |()| "all".into());
    scene.judge("what the old ones enqueued the new one does", jobs.is_ok(), told);
    worker.terminate().await?;
    drop(balancer);
    cluster.stop().await
}

fn process(
    cluster: &Cluster,
    name: String,
    command: &'static str,
    address: Option<SocketAddr>,
    program: &Path,
) -> Process {
    Process::new(name, command, address, program, cluster.settings.clone(), &cluster.logs)
}

fn worker(cluster: &Cluster, program: &Path) -> Process {
    process(cluster, "worker".into(), "worker", None, program)
}

/// Of changes; others are due at their own times.
async fn jobs_are_done(cluster: &Cluster) -> Result<()> {
    let database = cluster.servers.database().await?;
    let sql = "select from tenantry.jobs where kind = 'invalidate_user' and state <> 'done' limit 1";
    until("the jobs are done", Duration::from_secs(30), async || {
        database.query_opt(sql, &[]).await.is_ok_and(|row| row.is_none())
    })
    .await
}
