//! What happens around every request: who asks is found out and counted, the answer gets its headers, errors their form, and a
//! line of the log and the metrics say what it was.

mod admission;
mod asked;
mod body;
mod headers;
mod slow_body;
mod timing;
mod trace;

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use poem::{
    Endpoint, PathPattern, Request, Response,
    http::{Method, StatusCode},
};
use tenantry_trace::Work;
use tokio::time::timeout;
use tracing::{Instrument, Span};

use self::{admission::Admission, asked::Asked, slow_body::Awaited};
pub(crate) use self::{asked::Client, body::is_too_large};
use crate::{error::ApiError, state::State};

/// Serves one request with `routes`, from its first line to its last header. Never fails.
pub(crate) async fn around<E: Endpoint<Output = Response>>(
    state: State,
    routes: Arc<E>,
    request: Request,
) -> Response {
    let start = Instant::now();
    let asked = Asked::of(&state, &request);
    let (span, work) = (asked.span(), Work::new(asked.trace));
    let mut admission = Admission::default();
    let answer = in_time(&state, routes.as_ref(), request, &asked, &mut admission);
    let answer = AssertUnwindSafe(tenantry_trace::within(work.clone(), answer).instrument(span.clone()))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            tracing::error!(parent: &span, "a handler panicked");
            Err(ApiError::internal().into())
        });
    let (route, mut response) = match answer {
        Ok(response) => (response.data::<PathPattern>().map(route), response),
        Err(error) => {
            let route = error.data::<PathPattern>().map(route);
            let error = span.in_scope(|| ApiError::from(error));
            (route, error.into_response(asked.id(), asked.problem_details))
        }
    };
    let (route, took) = (route.as_deref().unwrap_or("unknown"), start.elapsed());
    tell(&span, &asked, &admission, route, response.status(), took);
    headers::finish(&mut response, &state, asked, admission, (&work, took));
    response
}

/// The answer, or that it took too long: whatever a database or a Redis that hangs does, the client gets one. Changes go on to
/// their end.
async fn in_time<E: Endpoint<Output = Response>>(
    state: &State,
    routes: &E,
    request: Request,
    asked: &Asked,
    admission: &mut Admission,
) -> poem::Result<Response> {
    let (deadline, body) = (body::deadline(&request), Awaited::default());
    let answer = answer(state, routes, request, asked, admission, &body);
    timeout(deadline, answer).await.unwrap_or_else(|_| Err(late(&body).into()))
}

async fn answer<E: Endpoint<Output = Response>>(
    state: &State,
    routes: &E,
    mut request: Request,
    asked: &Asked,
    admission: &mut Admission,
    body: &Awaited,
) -> poem::Result<Response> {
    let credential = admission::admit(state, asked, &request, admission).await?;
    if asked.is_preflight {
        return Ok(Response::builder().status(StatusCode::NO_CONTENT).finish());
    }
    request.set_data(credential);
    request.set_data(asked.client.clone());
    request.set_data(state.clone());
    body::limit(state, &mut request, body)?;
    routes.call(request).await
}

fn late(body: &Awaited) -> ApiError {
    if body.now() {
        ApiError::slow_body()
    } else {
        ApiError::unavailable("This took too long, please try again", 1)
    }
}

/// Counts the request, and writes its line.
fn tell(span: &Span, asked: &Asked, admission: &Admission, route: &str, status: StatusCode, took: Duration) {
    let method = known(&asked.method);
    metrics::counter!("tenantry_http_requests_total", "route" => route.to_owned(), "method" => method, "status" => status.as_str().to_owned()).increment(1);
    metrics::histogram!("tenantry_http_request_duration_seconds", "route" => route.to_owned())
        .record(took.as_secs_f64());
    // The pattern and not the path: a path may carry what nobody should read.
    tracing::info!(
        parent: span,
        http.method = method, http.route = route, http.status = status.as_u16(),
        duration.ms = took.as_secs_f64() * 1e3, user.id = admission.user.map(tracing::field::display),
        api_key.id = admission.api_key.map(tracing::field::display),
        "{method} {route} {}", status.as_u16()
    );
}

/// The pattern of a path as the document writes it. (poem-openapi calls the parameters `param0` and `param1`.)
fn route(pattern: &PathPattern) -> String {
    pattern.0.replace(":param0", "{id}").replace(":param1", "{project_id}")
}

/// A method as a metric's label: the known ones, so that clients cannot make labels up.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
