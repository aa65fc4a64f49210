//! Whatever a client says of its address, it is one client.

use reqwest::{StatusCode, header::HeaderValue};

use crate::app::TestApp;

/// Asks without a credential, with these lines of headers.
async fn ask(app: &TestApp, headers: &[(&'static str, &[u8])]) -> StatusCode {
    let mut request = app.http.get(format!("{}/api/v1/users/me", app.url));
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
    }
    request.send().await.unwrap().status()
}

async fn forwarded(app: &TestApp, lines: &[&str]) -> StatusCode {
    let headers: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", line.as_bytes())).collect();
    ask(app, &headers).await
}

/// How many of these are let in.
async fn let_in(app: &TestApp, asked: &[&[&str]]) -> usize {
    let mut count = 0;
    for lines in asked {
        match forwarded(app, lines).await {
            StatusCode::UNAUTHORIZED => count += 1,
            StatusCode::TOO_MANY_REQUESTS => {}
            status => panic!("{status}"),
        }
    }
    count
}

#[tokio::test]
async fn without_a_trusted_proxy_no_header_says_who_asks() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=5/1h"]).await;
    // Signing up and in were two.
    assert_eq!(ask(&app, &[("x-forwarded-for", b"198.51.100.1")]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&app, &[("forwarded", b"for=198.51.100.2")]).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask(&app, &[("x-real-ip", b"198.51.100.3")]).await, StatusCode::UNAUTHORIZED);
    for name in
        ["x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "cf-connecting-ip", "true-client-ip"]
    {
        assert_eq!(ask(&app, &[(name, b"198.51.100.4")]).await, StatusCode::TOO_MANY_REQUESTS, "{name}");
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_every_spelling_of_an_address_is_one_client() {
    let app =
        TestApp::spawn_with(&["--rate-limit-ip=4/1h", "--trusted-proxies=::ffff:127.0.0.1,10.0.0.0/8"]).await;
    let one: &[&[&str]] = &[
        &["198.51.100.7"],
        &["6.6.6.1, 198.51.100.7"],
        &["6.6.6.2", "198.51.100.7"],
        &["6.6.6.3,,198.51.100.7"],
        &["198.51.100.7:4711"],
        &["::ffff:198.51.100.7"],
        &["[::ffff:198.51.100.7]:80"],
        &["::ffff:c633:6407"],
        &["198.51.100.7, 10.1.2.3"],
        &["198.51.100.7", "10.1.2.3, 127.0.0.1"],
        &["198.51.100.7, ::ffff:10.1.2.3"],
        &["nonsense, 198.51.100.7"],
        &["\"198.51.100.8\", 198.51.100.7"],
        &["  198.51.100.7\t"],
    ];
    assert_eq!(let_in(&app, one).await, 4);
    assert_eq!(let_in(&app, &[&["198.51.100.8"]]).await, 1, "another client");
    // `Forwarded` and others are of no weight beside it.
    let both: &[(&str, &[u8])] = &[("forwarded", b"for=198.51.100.9"), ("x-forwarded-for", b"198.51.100.7")];
    assert_eq!(ask(&app, both).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn an_ipv6_network_of_a_subscriber_is_one_client() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=4/1h", "--trusted-proxies=127.0.0.1"]).await;
    let addresses: Vec<_> = (0..20_u128)
        .map(|n| {
            std::net::Ipv6Addr::from_bits((0x2001_0db8_0000_0001_u128 << 64) | (n << 59) | n).to_string()
        })
        .collect();
    let lines: Vec<_> = addresses.iter().map(|address| [address.as_str()]).collect();
    let asked: Vec<&[&str]> = lines.iter().map(|line| &line[..]).collect();
    assert_eq!(let_in(&app, &asked).await, 4);
    assert_eq!(let_in(&app, &[&["2001:db8:0:2::1"]]).await, 1, "another network");
}

#[tokio::test]
async fn what_a_proxy_vouches_for_that_cannot_be_read_is_the_proxy() {
    let app = TestApp::spawn_with(&["--rate-limit-ip=6/1h", "--trusted-proxies=127.0.0.1"]).await;
    // Signing up and in were two of the proxy's own.
    let garbage: &[&[&str]] = &[
        &["198.51.100.1, nonsense"],
        &["198.51.100.2", ""],
        &["198.51.100.3, 300.1.1.1"],
        &["198.51.100.4, unknown"],
        &["198.51.100.5, _hidden"],
        &["198.51.100.6, 1.2.3.4.5"],
        &["198.51.100.7, 2001:db8::1::2"],
        &["198.51.100.8,"],
    ];
    assert_eq!(let_in(&app, garbage).await, 4);
    let headers: &[(&str, &[u8])] = &[("x-forwarded-for", b"198.51.100.9, \xff\xfe")];
    assert_eq!(ask(&app, headers).await, StatusCode::TOO_MANY_REQUESTS);
    // A thousand hops are as many as one.
    let long = "6.6.6.6, ".repeat(800) + "198.51.100.20";
    assert_eq!(forwarded(&app, &[&long]).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_client_of_ipv4_on_a_socket_of_ipv6_is_a_client_of_ipv4() {
    // The peer of a dual-stack socket is written ::ffff:127.0.0.1, and is the proxy that is trusted.
    let app = TestApp::spawn().await;
    let node =
        app.node_with(&["--listen=[::]:0", "--rate-limit-ip=2/1h", "--trusted-proxies=127.0.0.1"]).await;
    let port = node.url.rsplit(':').next().unwrap();
    for (address, expected) in [
        ("198.51.100.1", StatusCode::UNAUTHORIZED),
        ("198.51.100.1", StatusCode::UNAUTHORIZED),
        ("198.51.100.1", StatusCode::TOO_MANY_REQUESTS),
        ("198.51.100.2", StatusCode::UNAUTHORIZED),
    ] {
        let request = node.http.get(format!("http://127.0.0.1:{port}/api/v1/users/me"));
        assert_eq!(request.header("x-forwarded-for", address).send().await.unwrap().status(), expected);
    }
}
