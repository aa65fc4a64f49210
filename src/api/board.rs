//! `/jobs`: a page on the queue for administrators. It is static and holds nothing; all it shows comes from the API, with
//! the access token that whoever opens it types in.

use poem::{Endpoint, Response, Route, endpoint::make_sync, get};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// Adds `/jobs`.
pub(super) fn mount(routes: Route) -> Route {
    routes
        .at("/jobs", get(file("text/html; charset=utf-8", include_str!("board/index.html"))))
        .at("/jobs/board.js", get(file("text/javascript", include_str!("board/board.js"))))
        .at("/jobs/board.css", get(file("text/css", include_str!("board/board.css"))))
}

fn file(content_type: &'static str, text: &'static str) -> impl Endpoint {
    make_sync(move |_| {
        Response::builder()
            .content_type(content_type)
            .header("Content-Security-Policy", POLICY)
            .header("Cache-Control", "no-cache")
            .body(text)
    })
}
