//! Whether the process lives, and whether it can do its work.

use std::time::Duration;

use chrono::SubsecRound;
use poem::{Response, handler, http::StatusCode, web::Data};
use serde_json::json;
use tokio::time::timeout;

use crate::{error::sources, migrate, state::State};

/// How long one part may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How old the oldest due job may be before the workers count as away.
const QUEUE_AGE: Duration = Duration::from_secs(300);

/// Alive: says nothing of what the process depends on, so that a database that is away restarts nobody.
#[handler]
pub(crate) fn alive() -> Response {
    answer(StatusCode::OK, &status("healthy"))
}

/// Ready: each part within a second, or 503 that names what failed. Redis never makes a process unready, because
/// without it every request is still answered. A process that is about to stop is not: who sends it requests shall go elsewhere.
#[handler]
pub(super) async fn ready(state: Data<&State>) -> Response {
    if state.leaving.is_cancelled() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, &status("stopping"));
    }
    let (database, redis) = tokio::join!(database(&state), redis(&state));
    let ready = database.is_ok();
    let say =
        |part: &Result<&'static str, String>| part.clone().map_or_else(|error| json!(error), |ok| json!(ok));
    let (migrations, queue) = match ready {
        // One after the other: there is one connection for this.
        true => (migrations(&state).await, queue(&state).await),
        false => (Err("unknown".into()), Err("unknown".into())),
    };
    let ready = ready && migrations.is_ok();
    let mut body = status(if ready { "ready" } else { "unavailable" });
    body["parts"] = json!({
        "postgres": say(&database),
        "redis": say(&redis),
        "migrations": say(&migrations),
        "queue": say(&queue),
    });
    answer(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &body)
}

fn status(status: &str) -> serde_json::Value {
    json!({
        "status": status,
        "timestamp": chrono::Utc::now().trunc_subsecs(3),
        "version": env!("CARGO_PKG_VERSION"),
    })
}

fn answer(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::builder()
        .status(status)
        .content_type("application/json")
        .header("Cache-Control", "no-store");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response = response.header("Retry-After", "1");
    }
    response.body(body.to_string())
}

/// `work` within its time. What failed in detail is for the log: the answer is public.
async fn part<E: std::error::Error + 'static>(
    name: &str,
    work: impl Future<Output = Result<(), E>>,
) -> Result<&'static str, String> {
    match timeout(PATIENCE, work).await {
        Ok(Ok(())) => Ok("ok"),
        Ok(Err(error)) => {
            tracing::warn!("{name} is not ready: {}", sources(&error));
            Err("not reachable".into())
        }
        Err(_) => Err("no answer within a second".into()),
    }
}

async fn database(state: &State) -> Result<&'static str, String> {
    let work = async {
        state.probe.get().await?.simple_query("select 1").await?;
        Ok::<_, tenantry_accounts::Error>(())
    };
    part("postgres", work).await
}

async fn redis(state: &State) -> Result<&'static str, String> {
    if !state.app.cache.has_redis() {
        return Ok("not configured");
    }
    part("redis", state.app.cache.ping()).await
}

async fn migrations(state: &State) -> Result<&'static str, String> {
    let mut newest = 0;
    let work = async {
        let client = state.probe.get().await?;
        let row = client.query_one("select max(version) from tenantry.refinery_schema_history", &[]).await?;
        newest = row.try_get::<_, Option<i32>>(0)?.unwrap_or(0);
        Ok::<_, tenantry_accounts::Error>(())
    };
    part("migrations", work).await?;
    if newest < migrate::newest() { Err("pending: run `tenantry migrate`".into()) } else { Ok("ok") }
}

async fn queue(state: &State) -> Result<&'static str, String> {
    let mut oldest = Duration::ZERO;
    let work = async {
        let ages = tenantry_queue::oldest_waiting(&state.probe).await?;
        oldest = ages.into_values().max().unwrap_or_default();
        Ok::<_, tenantry_queue::StoreError>(())
    };
    part("queue", work).await?;
    if oldest > QUEUE_AGE {
        Err("jobs wait for more than five minutes: are workers running?".into())
    } else {
        Ok("ok")
    }
}
