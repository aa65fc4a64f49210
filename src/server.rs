//! Listeners and the life of a process: start, serve, drain.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use poem::{
    EndpointExt, Response, Route, Server,
    endpoint::make_sync,
    get,
    listener::{Acceptor, Listener, TcpAcceptor, TcpListener},
};
use tokio_util::sync::CancellationToken;

use tenantry_workers::Mailer;

use crate::{api, error::sources, layers, migrate, state::State};

/// How long a connection may stay idle.
const IDLE: Duration = Duration::from_secs(60);

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
    acceptor: TcpAcceptor,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Binds the API's listener.
///
/// # Errors
/// When the address cannot be had.
pub async fn bind(state: State) -> Result<Bound, ServeError> {
    let (acceptor, address) = listen(state.config.listen, "LISTEN").await?;
    Ok(Bound { state, acceptor, address })
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
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { state, acceptor, .. } = self;
        let grace = state.config.shutdown_grace;
        let routes = Arc::new(api::routes(&state));
        let app = poem::endpoint::make(move |request| {
            let (state, routes) = (state.clone(), routes.clone());
            async move { layers::around(state, routes, request).await }
        });
        Server::new_with_acceptor(acceptor)
            .idle_timeout(IDLE)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(grace))
            .await?;
        Ok(())
    }
}

/// Refuses to start where tenants would not be walled off; a database that is away is waited for by the requests.
///
/// # Errors
/// In words for the operator.
pub async fn check_database(state: &State) -> Result<(), ServeError> {
    let url = state.config.database_url().map_err(|error| ServeError::Refused(error.to_string()))?;
    match migrate::connect(url).await {
        Ok(client) => migrate::check_role(&client).await.map_err(ServeError::Refused),
        Err(error) if error.code().is_some() => Err(ServeError::Refused(format!(
            "DATABASE_URL: PostgreSQL refused the connection: {}",
            sources(&error)
        ))),
        Err(error) => Err(ServeError::Refused(format!(
            "DATABASE_URL: PostgreSQL cannot be reached: {}; is it running, and is the address right?",
            sources(&error)
        ))),
    }
}

/// Serves the API, runs workers, or both, until `stop`; `ready` learns where the API listens.
///
/// # Errors
/// The first failure of a part; the other is stopped, too.
pub async fn run(
    state: State,
    roles: Roles,
    stop: CancellationToken,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let metrics = serve_metrics(&state, stop.clone());
    let api = async {
        match roles {
            Roles::Worker => pending().await,
            _ => {
                let bound = bind(state.clone()).await?;
                tracing::info!("the API listens on http://{}", bound.address);
                ready(bound.address);
                bound.serve(stop.clone()).await
            }
        }
    };
    let worker = async {
        match roles {
            Roles::Api => pending().await,
            _ => Ok(tenantry_workers::run(worker(&state)?, stop.clone()).await?),
        }
    };
    let both = async {
        match roles {
            Roles::All => tokio::try_join!(api, worker).map(|_| ()),
            Roles::Api => api.await,
            Roles::Worker => worker.await,
        }
    };
    let result = tokio::select! {
        result = both => result,
        result = metrics => result,
        () = state.keep_house() => Ok(()),
    };
    stop.cancel();
    result
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// Serves the API.
    Api,
    /// Runs workers.
    Worker,
    /// Both.
    All,
}

fn worker(state: &State) -> Result<tenantry_workers::Settings, ServeError> {
    let refused = |error: &dyn std::fmt::Display| ServeError::Refused(error.to_string());
    let config = &state.config;
    let direct = config.direct_url().map_err(|error| refused(&error))?;
    Ok(tenantry_workers::Settings {
        // Of its own: a heartbeat must not wait behind the statements of handlers.
        pool: crate::state::pool(direct, 4).map_err(|error| refused(&error))?,
        concurrency: config.worker_concurrency,
        drain: config.shutdown_grace,
        handlers: handlers(state)?,
    })
}

/// What the kinds of job work with.
///
/// # Errors
/// When SMTP_URL or MAIL_FROM cannot be read.
pub fn handlers(state: &State) -> Result<tenantry_workers::Handlers, ServeError> {
    let config = &state.config;
    let refused = |error: tenantry_workers::MailError| ServeError::Refused(error.to_string());
    let app_url = config.app_url.as_ref().map_or_else(|| config.public_url(), |url| url.0.clone());
    let mailer = match (&config.smtp_url, &config.mail_dir) {
        (Some(url), _) => Mailer::smtp(url, &config.mail_from),
        (None, Some(folder)) => Mailer::folder(folder.clone(), &config.mail_from),
        (None, None) => return Err(ServeError::Refused("SMTP_URL is not set: workers send mail; it looks like smtp://user:password@host:587?tls=required".into())),
    };
    let mailer = mailer.map_err(refused)?;
    Ok(tenantry_workers::Handlers { app: state.app.clone(), mailer, app_url })
}

/// The process's metrics; installed once.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
        let builder = PrometheusBuilder::new();
        let builder = builder.set_buckets(&buckets).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics stays empty");
        }
        handle
    })
}

async fn serve_metrics(state: &State, stop: CancellationToken) -> Result<(), ServeError> {
    let handle = metrics();
    let upkeep = async {
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tick.tick().await;
            handle.run_upkeep();
            if let Ok(ages) = tenantry_queue::oldest_waiting(state.app.db.pool()).await {
                for (kind, age) in ages {
                    metrics::gauge!("tenantry_jobs_oldest_seconds", "kind" => kind.as_str())
                        .set(age.as_secs_f64());
                }
            }
        }
    };
    let serve = async {
        let Some(address) = state.config.metrics_listen else { return pending().await };
        let (acceptor, address) = listen(address, "METRICS_LISTEN").await?;
        tracing::info!("metrics are at http://{address}/metrics");
        let page = make_sync(move |_| {
            Response::builder().content_type("text/plain; version=0.0.4").body(handle.render())
        });
        let routes = Route::new().at("/metrics", get(page)).map_to_response();
        Server::new_with_acceptor(acceptor)
            .run_with_graceful_shutdown(routes, stop.cancelled_owned(), None)
            .await?;
        // Serving ends with the process; the parts that drain decide when that is.
        pending().await
    };
    tokio::select! {
        result = serve => result,
        () = upkeep => Ok(()),
    }
}
