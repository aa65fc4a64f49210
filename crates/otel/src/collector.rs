//! The collector, as OTLP over HTTP talks to it.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message;
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Settings;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
/// The longest answer that is read; a collector has little to say.
const LONGEST_ANSWER: usize = 64 * 1024;
/// Between two attempts, at first and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) struct Collector {
    http: reqwest::Client,
    url: String,
    timeout: Duration,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// How many of it the collector did not want.
    pub(crate) refused: usize,
    /// Why none was taken.
    pub(crate) problem: Option<String>,
    /// And that was the collector's word.
    pub(crate) is_refusal: bool,
}

/// How an attempt ended that did not hand the batch over.
enum Failure {
    /// Another attempt may do, after this time if that was said.
    Passing(String, Option<Duration>),
    /// None will.
    Final(String),
}

impl Collector {
    pub(crate) fn new(settings: &Settings) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(settings.timeout)
            .redirect(Policy::none())
            .default_headers(settings.headers.0.clone())
            .user_agent(format!("tenantry/{}", settings.service.version))
            .build()?;
        let url = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        Ok(Self { http, url, timeout: settings.timeout })
    }

    /// Hands a batch over, by several attempts where that may help. Once `stop` says so the attempt that is under way is the last.
    pub(crate) async fn take(&self, batch: &ExportTraceServiceRequest, stop: &CancellationToken) -> Taken {
        let (deadline, body) = (Instant::now() + self.timeout, batch.encode_to_vec());
        let mut pause = PAUSE;
        loop {
            let asked = timeout_at(deadline, self.ask(body.clone())).await;
            let asked = asked.unwrap_or_else(|_| Err(Failure::Passing("it does not answer".into(), None)));
            let (problem, wanted) = match asked {
                Ok(refused) => return Taken { refused, ..Taken::default() },
                Err(Failure::Final(problem)) => {
                    return Taken { problem: Some(problem), is_refusal: true, refused: 0 };
                }
                Err(Failure::Passing(problem, wanted)) => (problem, wanted),
            };
            // Its wish, within reason: neither at once nor never.
            let next = wanted.map_or(pause, |wanted| wanted.clamp(pause.min(self.timeout), self.timeout));
            let is_over = Instant::now() + next >= deadline || stop.is_cancelled();
            if is_over || stop.run_until_cancelled(sleep(next)).await.is_none() {
                return Taken { problem: Some(problem), ..Taken::default() };
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Whether it takes what there is to be sent, by an empty batch.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let nothing = ExportTraceServiceRequest::default().encode_to_vec();
        match self.ask(nothing).await {
            Ok(_) => Ok(()),
            Err(Failure::Passing(problem, _) | Failure::Final(problem)) => Err(problem),
        }
    }

    /// One attempt: how many spans were not wanted.
    async fn ask(&self, body: Vec<u8>) -> Result<usize, Failure> {
        // Without the URL, which may hold a password.
        let away = |error: reqwest::Error| {
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            Failure::Passing(format!("{error}{}", cause.unwrap_or_default()), None)
        };
        let request = self.http.post(&self.url).header(CONTENT_TYPE, PROTOBUF).body(body);
        let mut response = request.send().await.map_err(away)?;
        let status = response.status();
        if !status.is_success() {
            let wanted =
                response.headers().get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok());
            let problem = format!("it answered {status}");
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Failure::Passing(problem, wanted.map(Duration::from_secs)),
                _ => Failure::Final(problem),
            });
        }
        let mut answer = Vec::new();
        while let Some(part) = response.chunk().await.map_err(away)? {
            if answer.len() + part.len() > LONGEST_ANSWER {
                return Ok(0);
            }
            answer.extend_from_slice(&part);
        }
        // It has the batch, whatever else it says.
        let answer = ExportTraceServiceResponse::decode(&*answer).unwrap_or_default();
        let refused = answer.partial_success.map_or(0, |partial| partial.rejected_spans);
        Ok(usize::try_from(refused).unwrap_or(0))
    }
}
