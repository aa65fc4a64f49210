//! A worker whose effects are rows: one each, in the transaction that completes the job. What a job does is told by its
//! payload, in a key beyond those of its kind.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::Kind;
use tenantry_queue::{CompleteError, Leased, Outcome, Settings, complete};
use tokio_postgres::{Config, NoTls};
use tokio_util::sync::CancellationToken;

use crate::Result;

/// Lets the harness know which process is which worker.
const HERE_I_AM: &str = "insert into chaos.workers (name, pid) values ($1, $2)";

pub(crate) async fn run() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let config: Config = std::env::var("DATABASE_URL")?.parse()?;
    let lease = Duration::from_secs_f64(std::env::var("LEASE")?.parse()?);
    let (own, handlers) = (pool(&config, 5)?, pool(&config, 16)?);
    let client = handlers.get().await?;
    let pid = i32::try_from(std::process::id())?;
    client.execute(HERE_I_AM, &[&std::env::var("WORKER")?, &pid]).await?;
    drop(client);
    let settings = Settings {
        concurrency: 24,
        lease,
        heartbeat: lease / 4,
        listen: Some(config),
        ..Settings::default()
    };
    let handler = move |job: Leased| -> BoxFuture<'static, Outcome> {
        let handlers = handlers.clone();
        async move { handle(&handlers, &job).await }.boxed()
    };
    Ok(tenantry_queue::run(own, settings, Kind::ALL, handler, CancellationToken::new()).await?)
}

fn pool(config: &Config, size: usize) -> Result<Pool> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Ok(Pool::builder(Manager::from_config(config.clone(), NoTls, recycling)).max_size(size).build()?)
}

async fn handle(pool: &Pool, job: &Leased) -> Outcome {
    match job.payload["do"].as_str() {
        Some("abort") => std::process::abort(),
        Some("slow") => tokio::time::sleep(Duration::from_millis(150)).await,
        Some("fail") if job.attempt <= 2 => return Outcome::Retry("not yet".into()),
        Some("panic") if job.attempt == 1 => panic!("as told"),
        Some("refuse") => return Outcome::Dead("as told".into()),
        _ => {}
    }
    match effect(pool, job).await {
        Ok(()) => Outcome::Done,
        Err(error) => Outcome::Retry(error.to_string()),
    }
}

async fn effect(pool: &Pool, job: &Leased) -> Result<()> {
    let mut client = pool.get().await?;
    let result = async {
        let tx = client.transaction().await?;
        let role =
            "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1::text, true)";
        tx.query_typed(role, &[(&job.tenant.to_string(), tokio_postgres::types::Type::TEXT)]).await?;
        let note = tx.prepare_cached("insert into chaos.effects (job, attempt) values ($1, $2)").await?;
        tx.execute(&note, &[&job.id.0, &i32::try_from(job.attempt)?]).await?;
        match complete(&tx, job).await {
            Ok(()) => Ok(tx.commit().await?),
            // Told by its error, and then committed all the same, by mistake: nothing may come of it.
            Err(CompleteError::LeaseLost) => Ok(tx.commit().await?),
            Err(error) => Err(error.into()),
        }
    }
    .await;
    if result.is_err() {
        // The database may have gone.
        drop(deadpool_postgres::Object::take(client));
    }
    result
}
