//! What happens around every request: who asks is found out and counted, the answer gets its headers, errors their form, and a
//! line of the log and the metrics say what it was.

mod admission;
mod asked;
mod body;
mod headers;
mod served;
mod slow_body;
mod timing;
mod trace;
mod traffic;

use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{PathPattern, Request, Response, http::StatusCode};
use tenantry_trace::Work;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use self::{admission::Admission, asked::Asked, served::Served, slow_body::Awaited, traffic::Traffic};
pub(crate) use self::{asked::Client, body::is_too_large};
use crate::{api::Routes, error::ApiError, state::State};

/// What is around the routes.
pub(crate) struct Layers {
    state: State,
    routes: Routes,
    traffic: Traffic,
}

impl Layers {
    pub(crate) fn new(state: State) -> Self {
        Self { routes: Routes::new(&state), state, traffic: Traffic::default() }
    }

    /// Serves one request, from its first line to its last header. Never fails.
    pub(crate) async fn around(&self, request: Request) -> Response {
        let start = Instant::now();
        let asked = Asked::of(&self.state, &request);
        let (span, work) = (asked.span(), Work::new(asked.trace));
        let served = Served::begin(&asked);
        let mut admission = Admission::default();
        let answer = self.in_time(request, &asked, &mut admission);
        let answer = AssertUnwindSafe(tenantry_trace::within(work.clone(), answer).instrument(span.clone()))
            .catch_unwind()
            .await
            .unwrap_or_else(|_| {
                tracing::error!(parent: &span, "a handler panicked");
                Err(ApiError::internal().into())
            });
        let (pattern, mut response) = match answer {
            Ok(mut response) => (response.extensions_mut().remove::<PathPattern>(), response),
            Err(error) => {
                let pattern = error.data::<PathPattern>().cloned();
                let error = span.in_scope(|| ApiError::from(error));
                (pattern, error.into_response(asked.id(), asked.problem_details))
            }
        };
        let took = start.elapsed();
        let route = self.traffic.count(pattern.as_ref(), &asked.method, response.status(), took);
        tell(&span, &asked, &admission, &route, response.status(), took);
        served.end(&route, response.status());
        headers::finish(&mut response, &self.state, asked, admission, (&work, took));
        response
    }

    /// The answer, or that it took too long: whatever a database or a Redis that hangs does, the client gets one. Changes go on
    /// to their end.
    async fn in_time(
        &self,
        request: Request,
        asked: &Asked,
        admission: &mut Admission,
    ) -> poem::Result<Response> {
        let (deadline, body) = (body::deadline(&request), Awaited::default());
        let answer = timeout(deadline, self.answer(request, asked, admission, &body));
        answer.await.unwrap_or_else(|_| Err(late(&body).into()))
    }

    async fn answer(
        &self,
        mut request: Request,
        asked: &Asked,
        admission: &mut Admission,
        body: &Awaited,
    ) -> poem::Result<Response> {
        let credential = admission::admit(&self.state, asked, &request, admission).await?;
        if asked.is_preflight {
            return Ok(Response::builder().status(StatusCode::NO_CONTENT).finish());
        }
        request.set_data(credential);
        request.set_data(asked.client.clone());
        request.set_data(self.state.clone());
        body::limit(&self.state, &mut request, body)?;
        self.routes.call(request).await
    }
}

fn late(body: &Awaited) -> ApiError {
    if body.now() {
        ApiError::slow_body()
    } else {
        ApiError::unavailable("This took too long, please try again", 1)
    }
}

/// Writes the request's line.
fn tell(span: &Span, asked: &Asked, admission: &Admission, route: &str, status: StatusCode, took: Duration) {
    let method = traffic::known(&asked.method);
    // The pattern and not the path: a path may carry what nobody should read.
    tracing::info!(
        parent: span,
        http.method = method, http.route = route, http.status = status.as_u16(),
        duration.ms = took.as_micros() as f64 / 1e3, user.id = admission.user.map(tracing::field::display),
        api_key.id = admission.api_key.map(tracing::field::display),
        "{method} {route} {}", status.as_u16()
    );
}
