//! The OpenAPI document, and Swagger UI on it: offline, under a policy that allows this server's own files only.
//! (poem-openapi's own page has its scripts inline, which such a policy forbids.)

use bytes::Bytes;
use poem::{Endpoint, Response, Route, endpoint::make_sync, get};
use poem_openapi::OpenApiService;

/// Swagger UI sets no inline style that a policy would see; its icons are data: images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// As it is: to code a megabyte for everybody who asks would be work that nobody has to sign in for.
const UNCODED: &str = "public, max-age=3600, no-transform";

/// The document, serialised once.
pub(super) fn document(document: String) -> impl Endpoint {
    make_sync(move |_| {
        Response::builder()
            .content_type("application/json")
            .header("Cache-Control", UNCODED)
            .body(document.clone())
    })
}

/// Adds `/docs`.
pub(super) fn mount(routes: Route) -> Route {
    let (bundle, style) = assets();
    routes
        .at("/docs", get(file("text/html; charset=utf-8", include_str!("docs/index.html").into())))
        .at("/docs/init.js", get(file("text/javascript", include_str!("docs/init.js").into())))
        .at("/docs/swagger-ui-bundle.js", get(file("text/javascript", bundle)))
        .at("/docs/swagger-ui.css", get(file("text/css", style)))
}

/// Swagger UI's script and style, cut out of the page that poem-openapi brings.
fn assets() -> (Bytes, Bytes) {
    let page = OpenApiService::new((), "", "").swagger_ui_html();
    let between = |start: &str, end: &str| {
        let (_, rest) = page.split_once(start)?;
        let (found, _) = rest.split_once(end)?;
        Some(Bytes::copy_from_slice(found.as_bytes()))
    };
    let bundle = between("<script charset=\"UTF-8\">", "</script>\n</head>");
    let style = between("<style charset=\"UTF-8\">", "</style>");
    (bundle.unwrap_or_default(), style.unwrap_or_default())
}

fn file(content_type: &'static str, bytes: Bytes) -> impl Endpoint {
    make_sync(move |_| {
        Response::builder()
            .content_type(content_type)
            .header("Content-Security-Policy", POLICY)
            .header("Cache-Control", UNCODED)
            .body(bytes.clone())
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn swagger_ui_is_found_in_the_page_that_brings_it() {
        let (bundle, style) = super::assets();
        assert!(bundle.len() > 1_000_000 && style.len() > 100_000);
    }
}
