//! Content codings: zstd, brotli or gzip as the client prefers, of what is worth it. (poem's own middleware knows no q values.)

use poem::http::{
    self, Extensions, HeaderMap, HeaderValue, StatusCode, Version,
    header::{CACHE_CONTROL, CONTENT_ENCODING, ETAG},
};
use tower::Layer;
use tower_http::compression::{
    Compression, CompressionLayer,
    predicate::{NotForContentType, Predicate, SizeAbove},
};

use super::connection::Answering;

/// What is shorter is sent in one packet anyway.
const WORTH: u16 = 1_000;

/// Around what answers. No coding of secrets: what is guessed in a request would tell by its length whether it is in the answer
/// (BREACH). Such answers are those that nobody may store. Nor of what says that it is not to be.
pub(super) fn around<S>(service: Answering<S>) -> Compression<Answering<S>, impl Predicate> {
    let may_be_coded = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        headers.get(CACHE_CONTROL).is_none_or(|control| control != "no-store") && !is_final(headers)
    };
    let worth = SizeAbove::new(WORTH).and(NotForContentType::IMAGES).and(may_be_coded);
    CompressionLayer::new().compress_when(worth).layer(service)
}

/// It says that its bytes are not to be changed: a file that is coded already, with a tag of its own.
fn is_final(headers: &HeaderMap) -> bool {
    headers.get(CACHE_CONTROL).is_some_and(|control| control.as_bytes().ends_with(b"no-transform"))
}

/// The version is the same and the bytes are not: what is left is a weak tag (RFC 9110, 8.8.3).
pub(super) fn weaken_tag<B>(response: &mut http::Response<B>) {
    let headers = response.headers_mut();
    if headers.contains_key(CONTENT_ENCODING)
        && !is_final(headers)
        && let Some(tag) = headers.get_mut(ETAG)
        && tag.as_bytes().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        *tag = weak;
    }
}
