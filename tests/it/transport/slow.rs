//! Clients that are slow, idle, or many.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use super::{HEALTH, connect, hear, statuses};
use crate::{
    app::{TestApp, eventually},
    node::Cluster,
};

/// Hears one answer and keeps the connection.
async fn hear_one(socket: &mut TcpStream) -> String {
    let (mut heard, mut byte) = (String::new(), [0]);
    while !heard.contains("\r\n\r\n") {
        assert_eq!(socket.read(&mut byte).await.unwrap(), 1, "{heard}");
        heard.push(char::from(byte[0]));
    }
    let length = heard.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    socket.read_exact(&mut body).await.unwrap();
    heard
}

/// Says a header a byte at a time, and never its end. How long it was listened to.
async fn dribble(mut socket: TcpStream, every: Duration) -> Duration {
    let began = Instant::now();
    let mut said = HEALTH.bytes().chain(b"X: ".iter().copied()).chain(std::iter::repeat(b'a'));
    let mut answer = [0; 16];
    loop {
        let byte = [said.next().unwrap()];
        tokio::select! {
            heard = socket.read(&mut answer) => {
                assert!(matches!(heard, Ok(0) | Err(_)), "a header without an end is no request");
                return began.elapsed();
            }
            () = tokio::time::sleep(every) => {
                if socket.write_all(&byte).await.is_err() {
                    return began.elapsed();
                }
            }
        }
    }
}

#[tokio::test]
async fn a_header_is_waited_for_until_its_deadline_however_it_dribbles() {
    let app = TestApp::spawn_with(&["--header-timeout=1s"]).await;
    let (silent, dribbling) = (connect(&app).await, connect(&app).await);
    let mut used = connect(&app).await;
    used.write_all(format!("{HEALTH}\r\n").as_bytes()).await.unwrap();
    hear_one(&mut used).await;
    let every = Duration::from_millis(50);
    let closed = tokio::join!(
        dribble(silent, Duration::from_secs(3600)),
        dribble(dribbling, every),
        dribble(used, every)
    );
    for took in [closed.0, closed.1, closed.2] {
        assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(20), "{took:?}");
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_request_and_not_for_ever() {
    let app = TestApp::spawn_with(&["--header-timeout=300ms", "--keep-alive=2s"]).await;
    let mut socket = connect(&app).await;
    for _ in 0..2 {
        socket.write_all(format!("{HEALTH}\r\n").as_bytes()).await.unwrap();
        assert_eq!(statuses(&hear_one(&mut socket).await), ["200"]);
        // Between requests the deadline of a header is none.
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let began = Instant::now();
    assert_eq!(hear(&mut socket).await, "");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_body_may_take_longer_than_a_header() {
    let app = TestApp::spawn_with(&["--header-timeout=200ms", "--keep-alive=400ms"]).await;
    let mut socket = connect(&app).await;
    let body = r#"{"tenant":"nobody","email":"a@example.org","password":"x"}"#;
    let head = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    for part in body.as_bytes().chunks(20) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        socket.write_all(part).await.unwrap();
    }
    assert_eq!(statuses(&hear_one(&mut socket).await), ["401"]);
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_others_are_served() {
    let app = TestApp::spawn_with(&["--max-connections-per-address=2", "--max-connections=4"]).await;
    let url = &app.url.trim_start_matches("http://").parse::<SocketAddr>().unwrap();
    let ask = |client: u8| async move {
        let socket = from(Ipv4Addr::new(127, 0, 9, client));
        let mut socket = socket.connect(*url).await.unwrap();
        let _ = socket.write_all(format!("{HEALTH}\r\n").as_bytes()).await;
        let mut byte = [0];
        matches!(socket.read(&mut byte).await, Ok(1)).then_some(socket)
    };
    let (one, other) = (ask(1).await, ask(1).await);
    assert!(one.is_some() && other.is_some());
    assert!(ask(1).await.is_none(), "the third of two");
    assert!(ask(2).await.is_some(), "somebody else");
    drop(one);
    eventually(Duration::from_secs(1), || async { ask(1).await.is_some() }).await;
}

fn from(client: Ipv4Addr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    socket
}

/// Promise: reads are unaffected by five thousand connections that dribble, and all of these are closed on their deadline.
#[tokio::test]
async fn five_thousand_that_dribble_do_no_harm() {
    const CLIENTS: u8 = 25;
    const EACH: usize = 200;
    rlimit::increase_nofile_limit(8_000).unwrap();
    let cluster = Cluster::start(1, 1, &[("HEADER_TIMEOUT", "4s")]).await;
    let (node, user) = (&cluster.nodes[0], cluster.users[0]);
    let mut reader = cluster.client(0).await;
    reader.look_up(user).await;

    let mut dribbling = JoinSet::new();
    for client in 1..=CLIENTS {
        for _ in 0..EACH {
            let socket = from(Ipv4Addr::new(127, 0, 8, client)).connect(node.address).await.unwrap();
            dribbling.spawn(dribble(socket, Duration::from_millis(500)));
        }
    }
    let mut read = 0;
    while !dribbling.is_empty() {
        let answer = reader.look_up(user).await;
        assert_eq!(answer.status, 200);
        read += 1;
        while let Some(took) = dribbling.try_join_next() {
            let took = took.unwrap();
            assert!(took < Duration::from_secs(40), "{took:?}");
        }
    }
    assert!(read > 100, "{read}");
    let closed = node.metric("tenantry_connections_closed_total", "reason=\"header\"").await;
    assert_eq!(closed, f64::from(CLIENTS) * EACH as f64);
}
