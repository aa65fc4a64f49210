//! PostgreSQL, which restarts, throws its sessions out, and is locked.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Promise, Scene, TOLD, settle};
use crate::{
    Result,
    cluster::{Cluster, until},
    load::{Kind, between, statuses},
};

const AWAY: Duration = Duration::from_secs(3);
const BACK: Promise =
    Promise::new("changes are taken 2 s after it is back", Duration::from_secs(2), Duration::from_secs(20));
/// A statement is ended after 3 s, and who waits for a connection gives up within one.
const ENDED: Promise =
    Promise::new("and is told within 4 s", Duration::from_secs(4), Duration::from_millis(5500));
/// Whatever look-ups wait for: less than a statement may take, which is more than is allowed to a slow machine, too.
const GIVEN_UP: Promise =
    Promise::new("look-ups are told within 1 s", Duration::from_secs(1), Duration::from_millis(2500));

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
    scene.judge_outage(&seen, [from, from + AWAY, back + recovered], TOLD)?;
    scene.judge_time(BACK, recovered);
    scene.judge_after(&seen, back + recovered);
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
    scene.judge_after(&seen, to);
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
    scene.judge_outage(&seen, [from, back, back + recovered], ENDED)?;
    let look_ups = between(&seen, from, back + recovered).filter(|one| one.kind == Kind::LookUp);
    scene.judge_time(GIVEN_UP, look_ups.map(|one| one.took).max().unwrap_or_default());
    scene.judge_time(BACK, recovered);
    scene.judge_after(&seen, back + recovered);
    scene.judge_processes(&cluster).await?;
    scene.judge_changes(&cluster).await?;
    cluster.stop().await
}

/// How long after `back` a change is taken.
async fn recovered(cluster: &Cluster, back: Instant) -> Result<Duration> {
    until("a change is taken", Duration::from_secs(60), async || cluster.target.changes().await).await?;
    Ok(back.elapsed())
}
