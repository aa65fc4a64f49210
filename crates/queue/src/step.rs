use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use tenantry_jobs::Kind;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    Leased, Outcome,
    attempt::attempt,
    store::{Store, StoreError, Wanted},
    worker::{bury, report_crashes, worker_name},
};

/// Runs every job that is due, of one tenant if one is named, one after the other and each at most once, until none
/// is left, those included that were enqueued meanwhile. Returns how many ran. A worker one can step, for tests:
/// fetch, attempt and outcome are those of [`run`](crate::run).
pub async fn run_due<H>(pool: &Pool, tenant: Option<Uuid>, handler: H) -> Result<usize, StoreError>
where
    H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
{
    // There is no heartbeat here, so the lease outlasts any handler.
    let store = Store::new(pool.clone(), Duration::from_secs(300));
    let worker = worker_name();
    let rooms: Vec<(Kind, usize)> = Kind::ALL.iter().map(|kind| (*kind, 1)).collect();
    // Without these, a job that fails or snoozes and is due again at once would keep us here.
    let mut ran = Vec::new();
    loop {
        let wanted = Wanted { worker: &worker, total: 1, rooms: &rooms, tenant, except: &ran };
        let fetched = store.fetch(wanted).await?;
        report_crashes(&fetched.crashed);
        if fetched.leased.is_empty() && fetched.unreadable.is_empty() {
            return Ok(ran.len());
        }
        ran.extend(fetched.leased.iter().chain(&fetched.unreadable).map(|job| job.id.0));
        for job in &fetched.unreadable {
            bury(&store, job).await;
        }
        for job in fetched.leased {
            attempt(&store, &TaskTracker::new(), &handler, job, CancellationToken::new()).await;
        }
    }
}
