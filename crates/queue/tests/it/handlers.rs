//! What workers of the tests do, in the tests' process and in others.

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::VerifyEmail;
use tenantry_queue::{Leased, Outcome, Settings, complete};
use uuid::Uuid;

use crate::database::enter;

pub(crate) fn settings() -> Settings {
    Settings {
        lease: Duration::from_secs(2),
        heartbeat: Duration::from_millis(100),
        poll: Duration::from_millis(10),
        ..Settings::default()
    }
}

/// Whoever handles a mail for this user dies.
pub(crate) const POISON: Uuid = Uuid::max();

/// A handler whose effect is a row, in the transaction that completes the job.
pub(crate) fn ledger_entry(
    pool: Pool,
) -> impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static {
    move |job: Leased| -> BoxFuture<'static, Outcome> {
        let pool = pool.clone();
        async move {
            if job.decode::<VerifyEmail>().is_ok_and(|mail| mail.user_id == POISON) {
                std::process::abort();
            }
            let mut client = pool.get().await.unwrap();
            let tx = client.transaction().await.unwrap();
            enter(&tx, job.tenant).await;
            tx.execute("insert into tenantry.ledger (job) values ($1)", &[&job.id.0]).await.unwrap();
            if complete(&tx, &job).await.is_ok() {
                tx.commit().await.unwrap();
            }
            Outcome::Done
        }
        .boxed()
    }
}
