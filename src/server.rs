//! Listeners and the life of a process: start, serve, drain.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use poem::{
    EndpointExt, Response, Route, Server,
    endpoint::make_sync,
    get,
    listener::{Acceptor, Listener, TcpAcceptor, TcpListener},
};
use tokio_util::sync::CancellationToken;

use tenantry_accounts::{
    App,
    feed::Feed,
    primary::{NotPrimary, timeline},
};
use tenantry_cache::planted::{self, Bug};
use tenantry_otel::Export;
use tenantry_workers::Mailer;

use crate::{api, config::Config, error::sources, layers::Layers, migrate, state::State, transport};

/// Files that a process has open beside its connections.
const OTHER_FILES: u64 = 200;

/// What the program runs on.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Why a process stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The settings do not do.
    #[error("{0}")]
    Refused(String),
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; another process may have it, choose another with {variable}"
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The setting.
        variable: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The listener failed.
    #[error("the listener failed: {0}")]
    Io(#[from] std::io::Error),
    /// The worker failed.
    #[error(transparent)]
    Worker(#[from] tenantry_workers::RunError),
}

/// A bound API that does not serve yet: its address is known, which with port 0 is not before.
pub struct Bound {
    state: State,
    listener: tokio::net::TcpListener,
    transport: transport::Settings,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Binds the API's listener.
///
/// # Errors
/// When the address cannot be had, or the files of TLS do not do.
pub async fn bind(state: State) -> Result<Bound, ServeError> {
    let transport = state.config.transport().map_err(|error| ServeError::Refused(error.to_string()))?;
    let wanted = state.config.listen;
    let failed = |source| ServeError::Listen { address: wanted, variable: "LISTEN", source };
    let listener = transport::listen(wanted).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    allow_files(transport.connections as u64 + OTHER_FILES);
    Ok(Bound { state, listener, transport, address })
}

/// Every connection is a file, and many systems give a process 1,024 until it asks for more.
fn allow_files(wanted: u64) {
    match rlimit::increase_nofile_limit(wanted) {
        Ok(allowed) if allowed < wanted => tracing::warn!(
            "the system lets this process open {allowed} files, which MAX_CONNECTIONS is too many for: raise `ulimit -Hn` to {wanted}"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!("how many files may be open cannot be told: {error}"),
    }
}

async fn listen(
    address: SocketAddr,
    variable: &'static str,
) -> Result<(TcpAcceptor, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address, variable, source };
    let acceptor = TcpListener::bind(address).into_acceptor().await.map_err(failed)?;
    let bound = acceptor.local_addr().first().and_then(|local| local.as_socket_addr().copied());
    Ok((acceptor, bound.unwrap_or(address)))
}

impl Bound {
    /// Serves until `stop`, then finishes what has begun for as long as `SHUTDOWN_GRACE`.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { state, listener, transport, .. } = self;
        let house = state.clone();
        let layers = Arc::new(Layers::new(state));
        let service = move |request| tenantry_cache::one_request(layers.clone().around(request));
        let serve = transport::serve(listener, transport, stop.clone(), service);
        let served = following(&house.app, &stop, async {
            tokio::select! {
                () = serve => Ok(()),
                () = house.keep_house() => Ok(()),
            }
        });
        let served = served.await;
        // Or a key that was used within the last minute would look as if it were not.
        house.write_down_used_keys().await;
        served
    }
}

/// Does `work` while following the feed, from the first look at it on: before that a node does not know what its caches
/// may show. Told to stop before that, it does nothing.
async fn following(
    app: &App,
    stop: &CancellationToken,
    work: impl Future<Output = Result<(), ServeError>>,
) -> Result<(), ServeError> {
    let mut feed = Feed::new(app.clone());
    // Each in a place of its own: one inside the other, a build without optimisation has no stack for them.
    tokio::select! {
        () = Box::pin(feed.begin()), if !planted::bug(Bug::AnswersBlindly) => {}
        () = async {}, if planted::bug(Bug::AnswersBlindly) => {}
        () = stop.cancelled() => return Ok(()),
    }
    tokio::select! {
        result = Box::pin(work) => result,
        () = Box::pin(feed.follow()) => Ok(()),
    }
}

/// Refuses to start on a database that is away, not migrated, or that would not wall tenants off from each other.
///
/// # Errors
/// In words for the operator.
pub async fn check_database(config: &Config) -> Result<(), ServeError> {
    let refused = |error: crate::config::ConfigError| ServeError::Refused(error.to_string());
    let (url, direct) = (config.database_url().map_err(refused)?, config.direct_url().map_err(refused)?);
    for (variable, url) in [("DATABASE_URL", url), ("DATABASE_DIRECT_URL", direct)] {
        let refused = |problem: String| ServeError::Refused(format!("{variable}: {problem}"));
        let client = migrate::connect(url).await.map_err(|error| {
            refused(match error.code() {
                Some(_) => format!("PostgreSQL refused the connection: {}", sources(&error)),
                None => format!(
                    "PostgreSQL cannot be reached: {}; is it running, and is the address right?",
                    sources(&error)
                ),
            })
        })?;
        migrate::check_role(&client).await.map_err(refused)?;
        // A standby may be promoted yet, and is waited for.
        if let Err(hidden @ NotPrimary::Hidden(_)) = timeline(&client, config.database_epoch.is_some()).await
        {
            return Err(refused(hidden.to_string()));
        }
        let pending = migrate::pending(url).await.map_err(|error| refused(error.to_string()))?;
        if !pending.is_empty() {
            let problem = format!("{} migrations are pending: run `tenantry migrate` first", pending.len());
            return Err(refused(problem));
        }
        if url == direct {
            break;
        }
    }
    Ok(())
}

/// Serves the API until `stop`, and runs workers beside it where `workers` says so. `ready` learns where it listens.
///
/// # Errors
/// The first failure of a part; the other is stopped, too.
pub async fn run(
    state: State,
    workers: bool,
    stop: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let api = async {
        let bound = bind(state.clone()).await?;
        tracing::info!("the API listens on {}://{}", state.config.scheme(), bound.address);
        ready(bound.address);
        bound.serve(stop.clone()).await
    };
    let parts = async {
        match workers {
            true => tokio::try_join!(api, work(&state.app, &state.config, &stop)).map(|_| ()),
            false => api.await,
        }
    };
    let served = async {
        tokio::select! {
            result = parts => result,
            result = serve_metrics(&state.app, &state.config, &stop) => result,
        }
    };
    let result = exporting(&state.config, served).await;
    stop.cancel();
    result
}

/// Runs workers alone until `stop`. They sign nothing and need no keys.
///
/// # Errors
/// When a setting is wrong, or the workers end by themselves.
pub async fn run_workers(app: App, config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    let worked = async {
        tokio::select! {
            result = work(&app, &config, &stop) => result,
            result = serve_metrics(&app, &config, &stop) => result,
        }
    };
    exporting(&config, worked).await
}

/// Does `work` while its spans are sent to a collector, if there is to be one; what has not been sent at its end is sent then, for
/// two seconds at most.
async fn exporting(
    config: &Config,
    work: impl Future<Output = Result<(), ServeError>>,
) -> Result<(), ServeError> {
    let refused = |error: &dyn std::error::Error| ServeError::Refused(error.to_string());
    let Some(settings) = config.traces().map_err(|error| refused(&error))? else { return work.await };
    tracing::info!(
        "traces go to the collector of OTEL_EXPORTER_OTLP_ENDPOINT, by {}",
        config.otel_traces_sampler
    );
    let export = Export::begin(settings).map_err(|error| refused(&error))?;
    let result = work.await;
    export.end().await;
    result
}

async fn work(app: &App, config: &Config, stop: &CancellationToken) -> Result<(), ServeError> {
    let direct = config.direct_url().map_err(|error| ServeError::Refused(error.to_string()))?;
    let settings = tenantry_workers::Settings {
        // Of its own: a heartbeat must not wait behind the statements of handlers.
        pool: crate::state::pool(direct, 5, app.db.primary())
            .map_err(|error| ServeError::Refused(error.to_string()))?,
        listen: Some(
            crate::state::connection(direct).map_err(|error| ServeError::Refused(error.to_string()))?,
        ),
        concurrency: config.worker_concurrency,
        drain: config.shutdown_grace,
        handlers: handlers(app, config)?,
    };
    // What workers make Redis forget must be of the database's present timeline, too.
    following(app, stop, async { Ok(tenantry_workers::run(settings, stop.clone()).await?) }).await
}

/// What the kinds of job work with.
///
/// # Errors
/// When SMTP_URL or MAIL_FROM cannot be read.
pub fn handlers(app: &App, config: &Config) -> Result<tenantry_workers::Handlers, ServeError> {
    let refused = |error: tenantry_workers::MailError| ServeError::Refused(error.to_string());
    let app_url = match &config.app_url {
        Some(url) => url.0.clone(),
        None => config.public_url().map_err(|error| ServeError::Refused(error.to_string()))?,
    };
    let mailer = match (&config.smtp_url, &config.mail_dir) {
        (Some(url), _) => Mailer::smtp(url, &config.mail_from),
        (None, Some(folder)) => Mailer::folder(folder.clone(), &config.mail_from),
        (None, None) => return Err(ServeError::Refused("SMTP_URL is not set: workers send mail; it looks like smtp://user:password@host:587?tls=required".into())),
    };
    let mailer = mailer.map_err(refused)?;
    let letters = tenantry_workers::Letters::new(config.mail_templates_dir.as_deref(), &config.product_name)
        .map_err(|error| ServeError::Refused(error.to_string()))?;
    let stripe = config.stripe().map_err(|error| ServeError::Refused(error.to_string()))?;
    let stretch = tenantry_workers::STRETCH;
    Ok(tenantry_workers::Handlers { app: app.clone(), mailer, letters, app_url, stripe, stretch })
}

/// The process's metrics; installed once.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets(&buckets).unwrap_or_else(|_| PrometheusBuilder::new());
        // The budget of a request is 50 ms: what a timer was late is not what somebody waited too long.
        let waits = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.055, 0.1, 0.25];
        let wait = Matcher::Full("tenantry_cache_redis_wait_seconds".into());
        let builder =
            builder.set_buckets_for_metric(wait, &waits).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics stays empty");
        }
        handle
    })
}

async fn serve_metrics(app: &App, config: &Config, stop: &CancellationToken) -> Result<(), ServeError> {
    let handle = metrics();
    let upkeep = async {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            handle.run_upkeep();
            if let Ok(ages) = tenantry_queue::oldest_waiting(app.db.pool()).await {
                for (kind, age) in ages {
                    metrics::gauge!("tenantry_jobs_oldest_seconds", "kind" => kind.as_str())
                        .set(age.as_secs_f64());
                }
            }
        }
    };
    let serve = async {
        let Some(address) = config.metrics_listen else { return pending().await };
        let (acceptor, address) = listen(address, "METRICS_LISTEN").await?;
        tracing::info!("metrics are at http://{address}/metrics");
        let cache = app.cache.clone();
        let page = make_sync(move |_| {
            cache.measure();
            Response::builder().content_type("text/plain; version=0.0.4").body(handle.render())
        });
        // A worker listens nowhere else, and who runs it wants to know that it lives, too.
        let routes =
            Route::new().at("/metrics", get(page)).at("/health", get(api::health::alive)).map_to_response();
        Server::new_with_acceptor(acceptor)
            .run_with_graceful_shutdown(routes, stop.clone().cancelled_owned(), None)
            .await?;
        // Serving ends with the process; the parts that drain decide when that is.
        pending().await
    };
    tokio::select! {
        result = serve => result,
        () = upkeep => Ok(()),
    }
}
