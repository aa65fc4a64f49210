use std::{collections::HashMap, time::Duration};

use deadpool_postgres::Pool;
use futures_util::future::BoxFuture;
use tenantry_jobs::Kind;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    Leased, Outcome,
    attempt::attempt,
    room::{KindRoom, Room},
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
    let room = one_of_each();
    let mut served = HashMap::new();
    // Without these, a job that fails or snoozes and is due again at once would keep us here.
    let mut ran = Vec::new();
    loop {
        let wanted = Wanted {
            worker: &worker,
            room: &room,
            running: &[],
            served: &served,
            suspect: true,
            tenant,
            except: &ran,
        };
        let fetched = store.fetch(wanted).await?;
        report_crashes(&fetched.crashed);
        if fetched.is_empty() {
            return Ok(ran.len());
        }
        served.extend(fetched.served.iter().map(|(kind, (_, tenant))| (*kind, *tenant)));
        for job in &fetched.unreadable {
            ran.push(job.id.0);
            bury(&store, job).await;
        }
        for job in fetched.leased.into_iter().chain(fetched.suspect) {
            ran.push(job.id.0);
            // Nothing else ever runs here.
            if !job.suspect || store.begin_alone(&job).await? {
                attempt(&store, &TaskTracker::new(), &handler, job, CancellationToken::new()).await;
            }
        }
    }
}

/// One job at a time.
fn one_of_each() -> Room {
    let kinds = Kind::ALL.iter().map(|kind| KindRoom { kind: *kind, room: 1, reserved: 0, cap: 1 });
    Room { kinds: kinds.collect(), shared: 1 }
}
