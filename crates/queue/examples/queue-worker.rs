//! A worker that the queue's tests start, and kill: `queue-worker hang|ledger DATABASE`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "part of the tests")]

use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::Kind;
use tenantry_queue::{Leased, Outcome, run};
use tokio_util::sync::CancellationToken;

#[path = "../tests/it/database.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod database;
#[path = "../tests/it/handlers.rs"]
mod handlers;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (handler, database) = (arguments.next().expect("a handler"), arguments.next().expect("a database"));
    let (pool, settings, stop) = (database::pool(&database), handlers::settings(), CancellationToken::new());
    let end = match handler.as_str() {
        "hang" => {
            let hang = |_: Leased| -> BoxFuture<'static, Outcome> { std::future::pending().boxed() };
            run(pool, settings, Kind::ALL, hang, stop).await
        }
        _ => run(pool.clone(), settings, Kind::ALL, handlers::ledger_entry(pool), stop).await,
    };
    end.unwrap();
}
