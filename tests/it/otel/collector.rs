//! A collector of OpenTelemetry, as the wire format has it: OTLP by HTTP, with protobuf.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinHandle};

/// What it does with what it gets.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mood {
    Taking,
    /// It takes connections and says nothing.
    Hanging,
    /// It answers with this status.
    Refusing(u16),
}

pub(crate) struct Collector {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    task: JoinHandle<()>,
}

/// One message, and what came with it.
#[derive(Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) content_type: String,
    pub(crate) api_key: Option<String>,
    pub(crate) message: ExportTraceServiceRequest,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Collector {
    pub(crate) async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got = Arc::new(Mutex::new(vec![]));
        let kept = got.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let kept = kept.clone();
                let service = service_fn(move |request| take(request, mood, kept.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, got, task }
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let all = self.got().into_iter().flat_map(|got| got.message.resource_spans);
        all.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
    }

    /// Those of a trace, once they are as wanted.
    pub(crate) async fn of(&self, trace: &str, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let mut spans = self.spans();
            spans.retain(|span| hex(&span.trace_id) == trace);
            if wanted(&spans) {
                return spans;
            }
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            assert!(begun.elapsed() < Duration::from_secs(30), "{names:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn take(
    request: Request<Incoming>,
    mood: Mood,
    got: Arc<Mutex<Vec<Got>>>,
) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (path, content_type) = (request.uri().path().to_owned(), header("content-type").unwrap_or_default());
    let api_key = header("api-key");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = ExportTraceServiceRequest::decode(body).unwrap();
    got.lock().unwrap().push(Got { path, content_type, api_key, message });
    let status = match mood {
        Mood::Taking => 200,
        Mood::Refusing(status) => status,
        Mood::Hanging => std::future::pending().await,
    };
    Ok(Response::builder().status(status).body(Full::default()).unwrap())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a span says, as text.
pub(crate) fn said(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

pub(crate) fn kind(span: &Span) -> SpanKind {
    span.kind()
}

pub(crate) fn has_failed(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
}
