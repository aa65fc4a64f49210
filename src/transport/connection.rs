//! One connection, from its first byte to its last.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::combinators::BoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use poem::{
    Addr, Request, Response,
    http::{self, Version, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::{
    Settings, compression,
    watch::{Answer, Reason, Watch, Watched},
};

/// The header of a request may take so much, and so much of a body is read at a time.
const BUFFER: usize = 16 * 1024;
/// How much of the bodies of a connection, and of each of them, may come before somebody reads it; and of an answer, how much may
/// wait for the client.
const WINDOW: u32 = 512 * 1024;
const WINDOW_OF_STREAM: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// Requests at once on a connection, and how many that the client took back may wait to be forgotten (CVE-2023-44487).
const STREAMS: u32 = 100;
const TAKEN_BACK: usize = 20;
/// For saying goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Connection<S> {
    pub(super) settings: Arc<Settings>,
    pub(super) peer: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) service: S,
}

impl<S, F> Connection<S>
where
    S: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    pub(super) async fn serve(self, socket: TcpStream) {
        let watch = Watch::new(&self.settings);
        let Ok(local) = socket.local_addr() else { return };
        let socket = Watched { socket, watch: watch.clone() };
        let Some(tls) = self.settings.tls.clone() else {
            return self.speak(socket, watch, local, Scheme::HTTP).await;
        };
        let accepted = tokio::select! {
            accepted = timeout(self.settings.header_timeout, tls.accept(socket)) => accepted,
            () = stopped(&self.stop, &watch) => return,
        };
        match accepted {
            Ok(Ok(socket)) => self.speak(socket, watch, local, Scheme::HTTPS).await,
            Ok(Err(error)) => tracing::debug!("a client and we agree on no TLS: {error}"),
            Err(_) => closed("header"),
        }
    }

    async fn speak<T>(self, socket: T, watch: Arc<Watch>, local: SocketAddr, scheme: Scheme)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { peer, stop, service, .. } = self;
        let answering = compression::around(Answering { watch: watch.clone(), local, peer, scheme, service });
        let service = service_fn(move |request| {
            // It is always ready.
            let answer = answering.clone().call(request);
            async move {
                let mut answer = answer.await?;
                compression::weaken_tag(&mut answer);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().max_buf_size(BUFFER);
        builder
            .http2()
            .max_concurrent_streams(STREAMS)
            .initial_connection_window_size(WINDOW)
            .initial_stream_window_size(WINDOW_OF_STREAM)
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(TAKEN_BACK)
            .max_header_list_size(BUFFER as u32);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
        let mut stopped = pin!(stopped(&stop, &watch));
        let mut leaving = false;
        loop {
            if leaving && !watch.is_busy() {
                // A client of HTTP/2 may never say that it has heard it, and may have asked for something before it has.
                if timeout(FAREWELL, connection.as_mut()).await.is_ok() || !watch.is_busy() {
                    return;
                }
                continue;
            }
            let (mut at, reason) = watch.deadline();
            if let Some(reason) = reason
                && at <= Instant::now()
            {
                closed(reason.as_str());
                if matches!(reason, Reason::Stalled) {
                    // It would not hear it.
                    return;
                }
                leaving = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            if leaving {
                at = at.min(Instant::now() + FAREWELL);
            }
            tokio::select! {
                biased;
                // What the client did wrong it has been told, if it could be.
                _ = connection.as_mut() => return,
                () = stopped.as_mut(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(at) => {}
            }
        }
    }
}

/// Answers the requests of a connection.
#[derive(Clone)]
pub(super) struct Answering<S> {
    watch: Arc<Watch>,
    local: SocketAddr,
    peer: SocketAddr,
    scheme: Scheme,
    service: S,
}

impl<S, F> Service<http::Request<Incoming>> for Answering<S>
where
    S: Fn(Request) -> F,
    F: Future<Output = Response> + Send + 'static,
{
    type Response = http::Response<Answer<BoxBody<Bytes, io::Error>>>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Self::Future {
        let busy = self.watch.request(request.version() == Version::HTTP_2);
        let (local, remote) =
            (LocalAddr(Addr::SocketAddr(self.local)), RemoteAddr(Addr::SocketAddr(self.peer)));
        let answer = (self.service)((request, local, remote, self.scheme.clone()).into());
        Box::pin(answer.map(|answer| {
            let answer: http::Response<BoxBody<Bytes, io::Error>> = answer.into();
            Ok(answer.map(|body| Answer::new(body, busy)))
        }))
    }
}

/// It is time to stop. A connection on which nothing has been asked yet has a moment for it: its first request is on its way, or
/// even here without our having been told.
async fn stopped(stop: &CancellationToken, watch: &Watch) {
    stop.cancelled().await;
    if !watch.was_asked() {
        sleep(FAREWELL).await;
    }
}

fn closed(reason: &'static str) {
    metrics::counter!("tenantry_connections_closed_total", "reason" => reason).increment(1);
}
