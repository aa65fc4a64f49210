//! What happens below requests: connections, their deadlines and their number, HTTP/2, TLS, and what is no HTTP.

mod compression;
mod leaving;
mod slow;
mod tls;

use std::net::SocketAddr;

use hyper::{Request, client::conn::http2, header::HOST};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::app::TestApp;

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: tenantry.test\r\n";

fn address(app: &TestApp) -> SocketAddr {
    app.url.trim_start_matches("http://").parse().unwrap()
}

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(address(app)).await.unwrap()
}

/// Says it, and hears everything until the other side closes.
async fn say(app: &TestApp, bytes: &[u8]) -> String {
    let mut socket = connect(app).await;
    // It may be closed before all of it was said.
    let _ = socket.write_all(bytes).await;
    hear(&mut socket).await
}

async fn hear(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut heard = vec![];
    // Closed with some of what we said unread: a reset, after all that was heard.
    let _ = socket.read_to_end(&mut heard).await;
    String::from_utf8_lossy(&heard).into_owned()
}

/// The status of each answer.
fn statuses(heard: &str) -> Vec<&str> {
    heard.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

/// Two requests by HTTP/2 on one connection.
async fn ask_by_http2(
    socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> [hyper::Response<hyper::body::Incoming>; 2] {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    let request = || {
        Request::get("http://tenantry.test/health").header(HOST, "tenantry.test").body(String::new()).unwrap()
    };
    let (one, other) = (sender.send_request(request()), sender.clone().send_request(request()));
    let (one, other) = tokio::join!(one, other);
    [one.unwrap(), other.unwrap()]
}

#[tokio::test]
async fn http2_is_spoken_by_those_who_begin_with_it() {
    let app = TestApp::spawn().await;
    for answer in ask_by_http2(connect(&app).await).await {
        assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
        assert!(answer.headers().contains_key("x-request-id"));
    }
}

#[tokio::test]
async fn what_two_servers_might_read_as_two_things_is_refused() {
    let app = TestApp::spawn().await;
    let body = "0\r\n\r\n";
    for wrong in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 6",
        "Content-Length: +5",
        "Content-Length: 5 5",
        "Content-Length: -5",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: chunked\r\n Content-Length: 5",
        "Transfer-Encoding:\x0bchunked",
        "X: a\0b",
        "X: a\rb",
        "X",
        ": a",
        "X Y: a",
    ] {
        let smuggled = format!("{HEALTH}{wrong}\r\n\r\n{body}{HEALTH}X-Request-Id: smuggled\r\n\r\n");
        let heard = say(&app, smuggled.as_bytes()).await;
        assert_eq!(statuses(&heard), ["400"], "{wrong:?}: {heard}");
    }
    for wrong in [
        "GET  /health HTTP/1.1",
        "GET /health",
        "GET /health HTTP/1.1 x",
        "GET /hea\0lth HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
    ] {
        let heard = say(&app, format!("{wrong}\r\nHost: tenantry.test\r\n\r\n").as_bytes()).await;
        assert_eq!(statuses(&heard), ["400"], "{wrong:?}: {heard}");
    }
}

/// RFC 9112, 6.3: chunked wins, and whatever comes behind it on this connection is nobody's request.
#[tokio::test]
async fn a_request_with_two_lengths_is_the_last_of_its_connection() {
    let app = TestApp::spawn().await;
    let lines = [
        "Content-Length: 35\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 35",
    ];
    for lines in lines {
        let said = format!("{HEALTH}{lines}\r\n\r\n0\r\n\r\n{HEALTH}\r\n");
        let heard = say(&app, said.as_bytes()).await;
        assert_eq!(statuses(&heard), ["200"], "{lines:?}: {heard}");
    }
}

#[tokio::test]
async fn requests_one_behind_the_other_are_answered_in_order() {
    let app = TestApp::spawn().await;
    let said =
        format!("{HEALTH}X-Request-Id: one\r\n\r\n{HEALTH}X-Request-Id: two\r\nConnection: close\r\n\r\n");
    let heard = say(&app, said.as_bytes()).await;
    assert_eq!(statuses(&heard), ["200", "200"]);
    assert!(heard.find("x-request-id: one") < heard.find("x-request-id: two"), "{heard}");
}

#[tokio::test]
async fn a_header_has_an_end() {
    let app = TestApp::spawn().await;
    let large = format!("{HEALTH}X: {}\r\n\r\n", "a".repeat(32 * 1024));
    assert_eq!(statuses(&say(&app, large.as_bytes()).await), ["431"]);
    let many = format!("{HEALTH}{}\r\n", "X: a\r\n".repeat(200));
    assert_eq!(statuses(&say(&app, many.as_bytes()).await), ["431"]);
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(64 * 1024));
    let heard = say(&app, long.as_bytes()).await;
    assert!(["414", "431"].contains(&statuses(&heard)[0]), "{heard}");
}

#[tokio::test]
async fn nobody_is_led_anywhere_else() {
    let app = TestApp::spawn().await;
    let heard =
        say(&app, b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
            .await;
    assert_eq!(statuses(&heard), ["404"], "{heard}");
    let heard =
        say(&app, format!("{HEALTH}Connection: upgrade, close\r\nUpgrade: websocket\r\n\r\n").as_bytes())
            .await;
    assert_eq!(statuses(&heard), ["200"], "{heard}");
}
