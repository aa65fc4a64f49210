//! HTTP on sockets: who may connect and for how long, TLS, and how a process lets go of its connections. (poem's own server
//! waits for ever for the end of a header, and counts no connections.)

mod compression;
mod connection;
mod places;
mod tls;
mod watch;

use std::{io, iter, net::SocketAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use poem::{Request, Response};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use connection::Connection;
use places::Places;
pub use tls::{Tls, TlsError};

/// How long no connection is accepted after one could not be: files and memory do not come back at once.
const PAUSE: Duration = Duration::from_millis(50);

/// So many connections may wait to be accepted; the system may allow fewer (`net.core.somaxconn`). Whoever comes when it is full tries
/// again a second later, and tokio's own 128 are there within the milliseconds that a process may wait for a processor. Those that wait
/// when it is time to stop have been let in by the system, and their clients have sent requests: they are answered.
const BACKLOG: u32 = 4096;

/// Listens there.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A process that is started anew gets the address of the one before it, whose connections may not all be over.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How much the system takes of an answer beyond what is on its way.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// Who may connect, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// From the first byte of a request to the end of its header; of a new connection, from its beginning, and TLS included.
    pub header_timeout: Duration,
    /// How long a connection stays open on which nothing is asked.
    pub keep_alive: Duration,
    /// How many connections there may be.
    pub connections: usize,
    /// And of one client, which is an IPv4 address or an IPv6 /64.
    pub connections_per_address: usize,
    /// Whose connections are not counted by address: many clients come through a proxy.
    pub proxies: Vec<IpNet>,
    /// Without it, HTTP in plain text.
    pub tls: Option<Arc<Tls>>,
    /// How long what was begun may take when the process stops.
    pub grace: Duration,
}

/// Serves HTTP/1.1 and HTTP/2 until `stop`: by ALPN over TLS, and by what the client begins with over plain TCP. Then what was
/// begun is finished.
pub async fn serve<S, F>(listener: TcpListener, settings: Settings, stop: CancellationToken, service: S)
where
    S: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (places, settings) = (Places::new(&settings), Arc::new(settings));
    let (tracker, abort) = (TaskTracker::new(), CancellationToken::new());
    let reloading = settings.tls.clone().map(|tls| tokio::spawn(tls.keep_reading()));
    let begin = |(socket, peer): (TcpStream, SocketAddr)| {
        // Refused by closing it: whoever has too many connections gets no work done by opening more.
        let Some(place) = places.take(peer.ip()) else { return };
        let connection =
            Connection { settings: settings.clone(), peer, stop: stop.clone(), service: service.clone() };
        let abort = abort.clone();
        tracker.spawn(async move {
            let _place = place;
            tokio::select! {
                () = connection.serve(socket) => {}
                () = abort.cancelled() => {}
            }
        });
    };
    while let Some(accepted) = accept(&listener, &stop).await {
        begin(accepted);
    }
    waiting(listener).for_each(begin);
    tracker.close();
    if timeout(settings.grace, tracker.wait()).await.is_err() {
        tracing::warn!(
            "{} connections were cut off: they had work to do for longer than SHUTDOWN_GRACE",
            tracker.len()
        );
        abort.cancel();
        tracker.wait().await;
    }
    if let Some(reloading) = reloading {
        reloading.abort();
    }
}

/// Who waits to be let in when no more are listened for.
fn waiting(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    // Not by tokio, which asks the system only when that has told it.
    let listener = listener.into_std().ok();
    let accept = move || {
        loop {
            match listener.as_ref()?.accept() {
                // The client went away again while it waited.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                accepted => return accepted.ok(),
            }
        }
    };
    iter::from_fn(accept).take(BACKLOG as usize).filter_map(|(socket, peer)| {
        socket.set_nonblocking(true).ok()?;
        let socket = TcpStream::from_std(socket).ok()?;
        tune(&socket);
        Some((socket, peer))
    })
}

/// The next connection; none when it is time to stop.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                tune(&socket);
                return Some((socket, peer));
            }
            // The client went away again while it waited.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::error!("no connection can be accepted: {error}");
                tokio::select! {
                    () = stop.cancelled() => return None,
                    () = sleep(PAUSE) => {}
                }
            }
        }
    }
}

fn tune(socket: &TcpStream) {
    // Answers are written at once or in large pieces; to wait for more would only delay them.
    let _ = socket.set_nodelay(true);
    // Or a slow client that takes what comes would seem to take nothing until megabytes have gone.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT);
}
