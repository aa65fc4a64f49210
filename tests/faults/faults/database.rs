//! PostgreSQL, which restarts, throws its sessions out, and is locked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Scene, settle};
use crate::{
    Result,
    cluster::{Cluster, until},
    load::{between, statuses},
};

const AWAY: Duration = Duration::from_secs(3);
/// What was in the middle of it when it happened.
const UNDER_WAY: Duration = Duration::from_millis(100);

pub(super) async fn restarts(mut scene: Scene<'_>) -> Result<()> {
    let cluster = scene.cluster(1, &[]).await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let from = Instant::now();
    // An immediate shutdown: nobody is asked to finish.
    cluster.servers.crash_postgres("QUIT", AWAY).await?;
    let back = Instant::now();
    let recovered = recovered(&cluster, back).await?;
    settle().await;
    let seen = load.end().await?;
    scene.judge_outage(between(&seen, from + UNDER_WAY, from + AWAY));
    scene.judge_time("changes are taken 2 s after it is back", Duration::from_secs(2), recovered);
    judge_after(&mut scene, &seen, back + recovered);
    scene.judge_processes(&cluster).await?;
    scene.judge_changes(&cluster).await?;
    cluster.stop().await
}

pub(super) async fn throws_sessions_out(mut scene: Scene<'_>) -> Result<()> {
    let cluster = scene.cluster(1, &[]).await?;
    let database = cluster.servers.database().await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let from = Instant::now();
    let mut ended = 0;
    while from.elapsed() < AWAY {
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'tenantry'";
        ended += database.query_one(sql, &[]).await?.try_get::<_, i64>(0)?;
        sleep(Duration::from_millis(200)).await;
    }
    recovered(&cluster, Instant::now()).await?;
    let to = Instant::now();
    settle().await;
    let seen = load.end().await?;
    let failed = between(&seen, from, to).filter(|one| !one.is_answered());
    let wrong = failed.clone().filter(|one| !one.is_put_off()).count();
    let told = format!("{ended} sessions ended; failed: {}", statuses(failed));
    scene.judge("who fails gets 503 with Retry-After", wrong == 0 && ended > 0, told);
    judge_after(&mut scene, &seen, to);
    scene.judge_processes(&cluster).await?;
    scene.judge_changes(&cluster).await?;
    cluster.stop().await
}

pub(super) async fn is_locked(mut scene: Scene<'_>) -> Result<()> {
    let cluster = scene.cluster(1, &[]).await?;
    let mut database = cluster.servers.database().await?;
    let load = cluster.target.start(scene.settings.rate);
    settle().await;
    let from = Instant::now();
    let lock = database.transaction().await?;
    lock.batch_execute("lock table tenantry.users in access exclusive mode").await?;
    sleep(AWAY + AWAY).await;
    lock.rollback().await?;
    let back = Instant::now();
    let recovered = recovered(&cluster, back).await?;
    settle().await;
    let seen = load.end().await?;
    // Statements are ended after 3 s, and who waits for a connection gives up after one.
    scene.judge_outage(between(&seen, from + UNDER_WAY, back - AWAY - Duration::from_secs(1)));
    scene.judge_time("changes are taken 2 s after it is released", Duration::from_secs(2), recovered);
    judge_after(&mut scene, &seen, back + recovered);
    scene.judge_processes(&cluster).await?;
    scene.judge_changes(&cluster).await?;
    cluster.stop().await
}

/// How long after `back` a change is taken.
async fn recovered(cluster: &Cluster, back: Instant) -> Result<Duration> {
    until("a change is taken", Duration::from_secs(60), async || cluster.target.changes().await).await?;
    Ok(back.elapsed())
}

fn judge_after(scene: &mut Scene<'_>, seen: &[crate::load::Seen], from: Instant) {
    let after = between(seen, from, from + Duration::from_secs(3600));
    let failed = after.clone().filter(|one| !one.is_answered());
    let told = format!("{} requests, failed: {}", after.count(), statuses(failed.clone()));
    scene.judge("and nothing fails from then on", failed.count() == 0, told);
}
