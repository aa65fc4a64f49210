//! What happens around every request: who asks is found out and counted, the answer gets its headers, errors their form, and a
//! line of the log and the metrics say what it was.

mod admission;
mod asked;
mod body;
mod headers;
mod slow_body;
mod timing;
mod trace;
mod traffic;

use std::{panic::AssertUnwindSafe, time::Instant};

use futures_util::FutureExt;
use poem::{PathPattern, Request, Response, http::StatusCode};
use tenantry_trace::Work;
use tokio::time::timeout;

use self::{
    admission::Admission,
    asked::Asked,
    slow_body::Awaited,
    timing::Timing,
    traffic::{Route, Traffic},
};
pub(crate) use self::{asked::Client, body::is_too_large};
use crate::{
    api::{
        Routes,
        look_up::{self, LookedUp},
    },
    caller::Credential,
    error::ApiError,
    log,
    state::State,
};

/// What is around the routes.
pub(crate) struct Layers {
    state: State,
    routes: Routes,
    traffic: Traffic,
}

/// What came of a request.
enum Answer {
    /// By a route.
    Whole(Response),
    /// By the way that look-ups have.
    User(LookedUp),
}

impl Layers {
    pub(crate) fn new(state: State) -> Self {
        Self { routes: Routes::new(&state), state, traffic: Traffic::new() }
    }

    /// Serves one request, from its first line to its last header. Never fails.
    pub(crate) async fn around(&self, request: Request) -> Response {
        let start = Instant::now();
        let asked = Asked::of(&self.state, &request);
        let work = Work::request(asked.trace, asked.id());
        let mut admission = Admission::default();
        let answer = AssertUnwindSafe(self.in_time(request, &asked, &mut admission)).catch_unwind();
        let answer = tenantry_trace::within(work.clone(), answer).await;
        let answer = answer.unwrap_or_else(|_| {
            work.during(|| tracing::error!("a handler panicked"));
            Err(ApiError::internal().into())
        });
        let (answer, pattern) = match answer {
            Ok(Answer::Whole(mut response)) => {
                let pattern = response.extensions_mut().remove::<PathPattern>();
                (Answer::Whole(response), pattern)
            }
            Ok(found @ Answer::User(_)) => (found, None),
            Err(error) => {
                let pattern = error.data::<PathPattern>().cloned();
                let error = work.during(|| ApiError::from(error));
                (Answer::Whole(error.into_response(asked.id(), asked.problem_details)), pattern)
            }
        };
        let timing = Timing { took: start.elapsed(), work: &work };
        let status = answer.status();
        match asked.user {
            Some(_) => tell(self.traffic.look_ups(), &asked, &admission, status, &timing),
            None => tell(&self.traffic.route(pattern.as_ref()), &asked, &admission, status, &timing),
        }
        match answer {
            Answer::Whole(response) => headers::finish(response, &self.state, asked, admission, &timing),
            Answer::User(found) => headers::looked_up(found, &self.state, asked, admission, &timing),
        }
    }

    /// The answer, or that it took too long: whatever a database or a Redis that hangs does, the client gets one. Changes go on
    /// to their end.
    async fn in_time(
        &self,
        request: Request,
        asked: &Asked,
        admission: &mut Admission,
    ) -> poem::Result<Answer> {
        let (deadline, body) = (body::deadline(&request), Awaited::default());
        let answer = timeout(deadline, self.answer(request, asked, admission, &body));
        answer.await.unwrap_or_else(|_| Err(late(&body).into()))
    }

    async fn answer(
        &self,
        request: Request,
        asked: &Asked,
        admission: &mut Admission,
        body: &Awaited,
    ) -> poem::Result<Answer> {
        let credential = admission::admit(&self.state, asked, &request, admission).await?;
        if let Some(id) = asked.user {
            let (client, headers) = (asked.client, request.headers());
            let found = look_up::look_up(&self.state, id, &credential, client, headers).await?;
            return Ok(Answer::User(found));
        }
        if asked.is_preflight {
            return Ok(Answer::Whole(Response::builder().status(StatusCode::NO_CONTENT).finish()));
        }
        // In a place of its own, so that look-ups do not carry it along.
        Box::pin(self.route(request, asked, credential, body)).await.map(Answer::Whole)
    }

    async fn route(
        &self,
        mut request: Request,
        asked: &Asked,
        credential: Credential,
        body: &Awaited,
    ) -> poem::Result<Response> {
        request.set_data(credential);
        request.set_data(asked.client);
        request.set_data(self.state.clone());
        body::limit(&self.state, &mut request, body)?;
        self.routes.call(request).await
    }
}

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Self::Whole(response) => response.status(),
            Self::User(LookedUp { body: Some(_), .. }) => StatusCode::OK,
            Self::User(LookedUp { body: None, .. }) => StatusCode::NOT_MODIFIED,
        }
    }
}

fn late(body: &Awaited) -> ApiError {
    if body.now() {
        ApiError::slow_body()
    } else {
        ApiError::unavailable("This took too long, please try again", 1)
    }
}

/// Counts a request, and writes its line.
fn tell(route: &Route, asked: &Asked, admission: &Admission, status: StatusCode, timing: &Timing<'_>) {
    let method = traffic::known(&asked.method);
    route.count(method, status, timing.took);
    log::Answered {
        work: timing.work,
        method,
        route: &route.name,
        status: status.as_u16(),
        took: timing.took,
        user: admission.user,
        api_key: admission.api_key,
    }
    .tell();
}
