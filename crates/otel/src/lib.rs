//! Hands the spans of this process to a collector by OTLP over HTTP (`http/protobuf`).
//!
//! Work never waits for it: a span that ends goes into a queue of bounded length, or is dropped and counted. One task empties the
//! queue. A collector that is down or hangs costs spans and nothing else, at the end of the process a short while at most.
#![warn(missing_docs)]

mod collector;
mod headers;
mod message;
mod queue;

use std::time::Duration;

use tenantry_trace::Sampler;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::headers::{Headers, WrongHeaders};
use self::{collector::Collector, message::Resource, queue::Queue};

/// How long the end of a process is held up by what is in the queue yet.
const AT_THE_END: Duration = Duration::from_secs(2);

/// Where spans go, and which.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the collector is, without `/v1/traces`.
    pub endpoint: String,
    /// What it wants to be sent along, such as a key.
    pub headers: Headers,
    /// How long a batch may take, all attempts together.
    pub timeout: Duration,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// Whose spans they are.
    pub service: Service,
}

/// Who makes the spans.
#[derive(Debug, Clone)]
pub struct Service {
    /// What all processes are called.
    pub name: String,
    /// Of the program.
    pub version: &'static str,
    /// Names this process among all.
    pub instance: String,
}

/// Why nothing can be exported.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is no client to be had.
    #[error("no HTTP client for the collector of traces: {0}")]
    Client(#[source] reqwest::Error),
    /// There is an exporter already.
    #[error("spans of this process are exported already")]
    Twice,
}

/// Asks the collector once whether it takes what would be sent.
///
/// # Errors
/// Why it does not; without its address, which may hold a password.
pub async fn check(settings: &Settings) -> Result<(), String> {
    let collector = Collector::new(settings).map_err(|error| SetupError::Client(error).to_string())?;
    collector.check().await
}

/// The export of this process's spans.
#[must_use = "what is in the queue is lost unless the export is ended"]
pub struct Export {
    stop: CancellationToken,
    task: JoinHandle<()>,
    queue: Queue,
}

impl Export {
    /// Begins to export: from here on there are spans. Needs a runtime, and the recorder of metrics.
    ///
    /// # Errors
    /// When there is no client, or when it has begun before.
    pub fn begin(settings: Settings) -> Result<Self, SetupError> {
        let (queue, spans) = Queue::new();
        let collector = Collector::new(&settings).map_err(SetupError::Client)?;
        let resource = Resource::new(&settings.service);
        let sink = queue.clone();
        if !tenantry_trace::install(settings.sampler, move |span| sink.push(span)) {
            return Err(SetupError::Twice);
        }
        let stop = CancellationToken::new();
        let task = tokio::spawn(queue::empty(spans, queue.clone(), collector, resource, stop.clone()));
        Ok(Self { stop, task, queue })
    }

    /// Hands over what is left, for two seconds at most; what is not handed over then is dropped and counted.
    pub async fn end(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(AT_THE_END, &mut self.task).await.is_err() {
            self.task.abort();
        }
        let left = self.queue.abandon();
        if left > 0 {
            tracing::warn!(
                "{left} spans were not handed over: the collector of traces did not take them in time"
            );
        }
    }
}
