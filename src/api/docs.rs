//! The OpenAPI document, and Swagger UI on it: offline, under a policy that allows this server's own files only.
//! (poem-openapi's own page has its scripts inline, which such a policy forbids.)

use bytes::Bytes;
use poem::{Endpoint, Route, get};
use poem_openapi::OpenApiService;

use super::files::File;

/// Swagger UI sets no inline style that a policy would see; its icons are data: images.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// The document, serialised once.
pub(super) fn document(document: String) -> impl Endpoint {
    File::new("application/json", document).endpoint()
}

/// Adds `/docs`.
pub(super) fn mount(routes: Route) -> Route {
    let (bundle, style) = assets();
    let file = |content_type, bytes: Bytes| get(File::new(content_type, bytes).policy(POLICY).endpoint());
    let own = |content_type, text: &'static str| file(content_type, Bytes::from_static(text.as_bytes()));
    routes
        .at("/docs", own("text/html; charset=utf-8", include_str!("docs/index.html")))
        .at("/docs/init.js", own("text/javascript", include_str!("docs/init.js")))
        .at("/docs/page.css", own("text/css", include_str!("docs/page.css")))
        .at("/docs/favicon.svg", own("image/svg+xml", include_str!("docs/favicon.svg")))
        .at("/docs/swagger-ui-bundle.js", file("text/javascript", bundle))
        .at("/docs/swagger-ui.css", file("text/css", style))
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

#[cfg(test)]
mod tests {
    #[test]
    fn swagger_ui_is_found_in_the_page_that_brings_it() {
        let (bundle, style) = super::assets();
        assert!(bundle.len() > 1_000_000 && style.len() > 100_000);
    }
}
