//! Static files, out of memory: each is coded once, after somebody has first wanted it so, and not for each who asks.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use async_compression::{
    Level,
    tokio::bufread::{BrotliEncoder, GzipEncoder, ZstdEncoder},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use poem::{
    Endpoint, Request, Response,
    endpoint::make_sync,
    http::{HeaderMap, StatusCode, header},
};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, runtime::Handle};

mod accepted;

use accepted::Coding;

/// What is shorter is sent in one packet anyway.
const WORTH: usize = 1_000;

/// Where ten times the work saves a percent it is not done. And browsers refuse what zstd writes beyond level 19: it would have
/// them keep more than 8 MiB at hand (RFC 9659).
const BROTLI: Level = Level::Precise(9);
const ZSTD: Level = Level::Precise(12);

/// A file, as it is and in each coding that was asked for.
pub(super) struct File {
    content_type: &'static str,
    policy: Option<&'static str>,
    cache_control: &'static str,
    /// Names the bytes.
    hash: String,
    plain: Bytes,
    coded: [Coded; Coding::ALL.len()],
}

/// What a file is in one coding.
#[derive(Default)]
struct Coded {
    begun: AtomicBool,
    bytes: OnceLock<Bytes>,
}

impl File {
    pub(super) fn new(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let plain = bytes.into();
        let hash = URL_SAFE_NO_PAD.encode(&Sha256::digest(&plain)[..12]);
        let (cache_control, coded) = ("public, max-age=3600, no-transform", Default::default());
        Self { content_type, policy: None, cache_control, hash, plain, coded }
    }

    /// With a Content-Security-Policy of its own.
    pub(super) fn policy(self, policy: &'static str) -> Self {
        Self { policy: Some(policy), ..self }
    }

    /// What GET and HEAD are answered.
    pub(super) fn endpoint(self) -> impl Endpoint<Output = Response> {
        let file = Arc::new(self);
        make_sync(move |request: Request| file.answer(&request))
    }

    fn answer(self: &Arc<Self>, request: &Request) -> Response {
        let (bytes, coding) = self.chosen(request.headers());
        // Each coding has bytes of its own, and so a tag of its own (RFC 9110, 8.8.3.3).
        let tag = match coding {
            Some(coding) => format!("\"{}-{}\"", self.hash, coding.name()),
            None => format!("\"{}\"", self.hash),
        };
        let is_known = knows(request.headers(), &tag);
        let mut response = Response::builder()
            .header(header::CACHE_CONTROL, self.cache_control)
            .header(header::VARY, "Accept-Encoding")
            .header(header::ETAG, tag);
        if let Some(policy) = self.policy {
            response = response.header(header::CONTENT_SECURITY_POLICY, policy);
        }
        if is_known {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        if let Some(coding) = coding {
            response = response.header(header::CONTENT_ENCODING, coding.name());
        }
        // Said here, since HEAD is answered without the bytes.
        response.header(header::CONTENT_LENGTH, bytes.len()).content_type(self.content_type).body(bytes)
    }

    /// The bytes as the client prefers them, if they are coded so already.
    fn chosen(self: &Arc<Self>, headers: &HeaderMap) -> (Bytes, Option<Coding>) {
        let wanted = (self.plain.len() >= WORTH).then(|| accepted::best(headers)).flatten();
        match wanted.and_then(|coding| Some((self.coded(coding)?, Some(coding)))) {
            Some(chosen) => chosen,
            None => (self.plain.clone(), None),
        }
    }

    /// Begun when it is first asked for. Nobody waits for it: until it is done the file comes as it is.
    fn coded(self: &Arc<Self>, coding: Coding) -> Option<Bytes> {
        let coded = &self.coded[coding as usize];
        if !coded.begun.swap(true, Relaxed) {
            let (file, runtime) = (self.clone(), Handle::current());
            tokio::task::spawn_blocking(move || match runtime.block_on(code(coding, &file.plain)) {
                Ok(bytes) => {
                    let _ = file.coded[coding as usize].bytes.set(bytes);
                }
                Err(error) => tracing::error!("a file cannot be coded: {error}"),
            });
        }
        coded.bytes.get().cloned()
    }
}

async fn code(coding: Coding, plain: &[u8]) -> io::Result<Bytes> {
    let mut coded = vec![];
    match coding {
        Coding::Zstd => ZstdEncoder::with_quality(plain, ZSTD).read_to_end(&mut coded).await,
        Coding::Brotli => BrotliEncoder::with_quality(plain, BROTLI).read_to_end(&mut coded).await,
        Coding::Gzip => GzipEncoder::with_quality(plain, Level::Best).read_to_end(&mut coded).await,
    }?;
    Ok(coded.into())
}

/// Whether the client has what this tag names.
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let lines = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}
