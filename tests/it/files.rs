//! Static files: the pages of the documentation, and the document.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode};

use crate::app::{TestApp, decoded, eventually};

const FILES: [&str; 2] = ["/openapi.json", "/docs/swagger-ui-bundle.js"];

async fn ask(app: &TestApp, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = app.http.request(method, format!("{}{path}", app.url));
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    request.send().await.unwrap()
}

async fn accepting(app: &TestApp, path: &str, accepted: &str) -> Response {
    ask(app, Method::GET, path, &[("Accept-Encoding", accepted)]).await
}

/// Waits until the file has been coded as is preferred here.
async fn coded(app: &TestApp, path: &str, accepted: &str) {
    eventually(Duration::from_secs(2), || async {
        !header(&accepting(app, path, accepted).await, "content-encoding").is_empty()
    })
    .await;
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_file_comes_as_the_client_prefers_it_and_is_the_same_when_it_is_decoded() {
    let app = TestApp::spawn().await;
    for path in FILES {
        let plain = accepting(&app, path, "identity").await;
        assert_eq!(header(&plain, "content-encoding"), "", "{path}");
        let mut tags = vec![header(&plain, "etag").to_owned()];
        let plain = plain.bytes().await.unwrap();
        for (accepted, coding) in [
            ("gzip", "gzip"),
            ("gzip;q=0.4, br;q=0.8", "br"),
            ("gzip, deflate, br, zstd", "zstd"),
            ("zstd;q=0, br;q=0, *", "gzip"),
        ] {
            coded(&app, path, accepted).await;
            let response = accepting(&app, path, accepted).await;
            assert_eq!(header(&response, "content-encoding"), coding, "{path} {accepted}");
            let vary: Vec<_> =
                response.headers().get_all("vary").iter().map(|line| line.to_str().unwrap()).collect();
            assert!(vary.contains(&"Accept-Encoding"), "{vary:?}");
            let tag = header(&response, "etag").to_owned();
            assert!(tag.starts_with('"'), "these are the same bytes each time: {tag}");
            tags.push(tag);
            let bytes = response.bytes().await.unwrap();
            assert!(bytes.len() * 2 < plain.len(), "{path} {coding}: {} of {}", bytes.len(), plain.len());
            assert!(decoded(coding, &bytes).await.unwrap() == plain, "{path} {coding}");
        }
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 4, "a tag for each coding: {tags:?}");
    }
}

#[tokio::test]
async fn whoever_has_a_file_is_not_sent_it_again() {
    let app = TestApp::spawn().await;
    for path in FILES {
        coded(&app, path, "gzip").await;
        coded(&app, path, "br").await;
        for coding in ["identity", "gzip"] {
            let tag = header(&accepting(&app, path, coding).await, "etag").to_owned();
            for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".into()] {
                let headers = [("Accept-Encoding", coding), ("If-None-Match", known.as_str())];
                let response = ask(&app, Method::GET, path, &headers).await;
                assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{path} {coding} {known}");
                assert_eq!(header(&response, "etag"), tag);
                assert!(response.bytes().await.unwrap().is_empty());
            }
            // Of another coding the client does not have the bytes.
            let other = if coding == "gzip" { "br" } else { "gzip" };
            let headers = [("Accept-Encoding", other), ("If-None-Match", tag.as_str())];
            assert_eq!(ask(&app, Method::GET, path, &headers).await.status(), StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn head_is_answered_as_get_without_the_bytes() {
    let app = TestApp::spawn().await;
    for path in FILES {
        coded(&app, path, "gzip").await;
        let headers = [("Accept-Encoding", "gzip")];
        let (get, head) =
            (ask(&app, Method::GET, path, &headers).await, ask(&app, Method::HEAD, path, &headers).await);
        assert_eq!(head.status(), StatusCode::OK);
        for name in ["etag", "content-type", "content-encoding", "cache-control", "content-length"] {
            assert_eq!(header(&head, name), header(&get, name), "{path} {name}");
        }
        assert!(head.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nobody_waits_until_a_file_is_coded() {
    let app = TestApp::spawn().await;
    let response = accepting(&app, FILES[1], "br").await;
    assert_eq!(header(&response, "content-encoding"), "", "the first who asks gets it as it is");
    assert!(response.bytes().await.unwrap().len() > 1_000_000);
}
