//! One connection, from its first byte to its last.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

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
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    watch::{Watch, Watched},
};

/// The header of a request may take so much, and so much of a body is read at a time.
const BUFFER: usize = 16 * 1024;
/// Requests at once on a connection, and how many that the client took back may wait to be forgotten (CVE-2023-44487).
const STREAMS: u32 = 100;
const TAKEN_BACK: usize = 20;
/// For saying goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Connection<S> {
    pub(super) settings: Settings,
    pub(super) peer: SocketAddr,
    pub(super) stop: CancellationToken,
    pub(super) service: S,
}

impl<S, F> Connection<S>
where
    S: Fn(Request) -> F + Send + Sync + 'static,
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
            () = self.stop.cancelled() => return,
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
        let noted = watch.clone();
        let service = service_fn(move |request: http::Request<Incoming>| {
            let busy = noted.request(request.version() == Version::HTTP_2);
            let (local, remote) = (LocalAddr(Addr::SocketAddr(local)), RemoteAddr(Addr::SocketAddr(peer)));
            let answer = service((request, local, remote, scheme.clone()).into());
            async move {
                let _busy = busy;
                Ok::<http::Response<_>, Infallible>(answer.await.into())
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().max_buf_size(BUFFER);
        builder
            .http2()
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(TAKEN_BACK)
            .max_header_list_size(BUFFER as u32);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), service));
        let mut stopping = false;
        loop {
            let (at, reason) = watch.deadline();
            if let Some(reason) = reason
                && at <= Instant::now()
            {
                closed(reason.as_str());
                connection.as_mut().graceful_shutdown();
                let _ = timeout(FAREWELL, connection).await;
                return;
            }
            tokio::select! {
                biased;
                // What the client did wrong it has been told, if it could be.
                _ = connection.as_mut() => return,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = sleep_until(at) => {}
            }
        }
    }
}

fn closed(reason: &'static str) {
    metrics::counter!("tenantry_connections_closed_total", "reason" => reason).increment(1);
}
