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
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::Either};
use poem::{
    PathPattern, Request, Response,
    error::ResponseError,
    http::{HeaderMap, StatusCode},
};
use tenantry_accounts::UserId;
use tenantry_trace::Work;
use tokio::time::{sleep, timeout};

use self::{
    admission::Admission,
    asked::Asked,
    served::Served,
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
    error::ApiError,
    log,
    state::State,
};

/// How long a look-up may take: with a database whose pool has run dry, or whose table somebody has locked, it is to be told within a
/// second. What it has asked goes on, for whoever asks next.
const LOOK_UP: Duration = Duration::from_millis(950);

/// What is around the routes.
pub(crate) struct Layers {
    state: State,
    routes: Routes,
    traffic: Traffic,
}

impl Layers {
    pub(crate) fn new(state: State) -> Self {
        Self { routes: Routes::new(&state), state, traffic: Traffic::new() }
    }

    /// Serves one request, from its first line to its last header. Never fails.
    pub(crate) fn around(self: Arc<Self>, mut request: Request) -> impl Future<Output = Response> {
        let start = Instant::now();
        let asked = Asked::of(&self.state, &request);
        match asked.user {
            // Of the request no more than that, and the rest in a place of its own: what a look-up carries along is copied
            // from hand to hand.
            Some(id) => {
                let headers = std::mem::take(request.headers_mut());
                Either::Left(self.look_up(start, asked, id, headers))
            }
            None => Either::Right(Box::pin(self.serve(start, asked, request))),
        }
    }

    async fn look_up(
        self: Arc<Self>,
        start: Instant,
        asked: Asked,
        id: UserId,
        headers: HeaderMap,
    ) -> Response {
        let (work, served) = (Work::request(asked.trace, asked.id()), Served::begin(&asked));
        let mut admission = Admission::default();
        let found = {
            // Pinned, so that it is not copied from hand to hand.
            let found = pin!(async {
                let credential = admission::admit(&self.state, &asked, &headers, &mut admission).await?;
                Ok(look_up::look_up(&self.state, id, &credential, asked.client, &headers).await)
            });
            guarded(&work, pin!(in_time(LOOK_UP, found))).await
        };
        let found = match found {
            Some(Some(found)) => found,
            Some(None) => Err(late(false)),
            None => Err(ApiError::internal()),
        };
        // As with other operations: what has not come as far counts as no route's, or many refusals would hide how slow it is.
        let route = if found.is_ok() { self.traffic.look_ups() } else { &self.traffic.route(None) };
        let found = found.flatten();
        let timing = Timing { took: start.elapsed(), work: &work };
        let status = found.as_ref().map_or_else(ResponseError::status, LookedUp::status);
        tell(route, &asked, &admission, status, &timing);
        served.end(&route.name, status);
        match found {
            Ok(found) => headers::looked_up(found, &self.state, asked, admission, &timing),
            Err(error) => {
                let response = error.into_response(asked.id(), asked.problem_details);
                headers::finish(response, &self.state, asked, admission, &timing)
            }
        }
    }

    async fn serve(self: Arc<Self>, start: Instant, asked: Asked, request: Request) -> Response {
        let (work, served) = (Work::request(asked.trace, asked.id()), Served::begin(&asked));
        let (mut admission, body) = (Admission::default(), Awaited::default());
        let deadline = body::deadline(&request);
        let answer = {
            let answer = timeout(deadline, self.answer(request, &asked, &mut admission, &body));
            guarded(&work, pin!(answer)).await
        };
        let answer = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(late(body.now()).into()),
            None => Err(ApiError::internal().into()),
        };
        let (pattern, response) = match answer {
            Ok(mut response) => (response.extensions_mut().remove::<PathPattern>(), response),
            Err(error) => {
                let pattern = error.data::<PathPattern>().cloned();
                let error = work.during(|| ApiError::from(error));
                (pattern, error.into_response(asked.id(), asked.problem_details))
            }
        };
        let timing = Timing { took: start.elapsed(), work: &work };
        let route = self.traffic.route(pattern.as_ref());
        tell(&route, &asked, &admission, response.status(), &timing);
        served.end(&route.name, response.status());
        headers::finish(response, &self.state, asked, admission, &timing)
    }

    async fn answer(
        &self,
        mut request: Request,
        asked: &Asked,
        admission: &mut Admission,
        body: &Awaited,
    ) -> poem::Result<Response> {
        let credential = admission::admit(&self.state, asked, request.headers(), admission).await?;
        if asked.is_preflight {
            return Ok(Response::builder().status(StatusCode::NO_CONTENT).finish());
        }
        request.set_data(credential);
        request.set_data(asked.client);
        request.set_data(self.state.clone());
        body::limit(&self.state, &mut request, body)?;
        self.routes.call(request).await
    }
}

/// What comes of something that takes no longer than `limit`. There is a timer only once it waits for anything: all processors
/// share what a timer takes, and most look-ups wait for nothing.
async fn in_time<T>(limit: Duration, mut something: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(done) = something.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        if timer.is_none() {
            timer.set(Some(sleep(limit)));
        }
        timer.as_mut().as_pin_mut().map_or(Poll::Pending, |timer| timer.poll(cx).map(|()| None))
    })
    .await
}

/// What becomes of something that is done for a request; none: it panicked, which is said.
async fn guarded<T>(work: &Work, something: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    let ended = tenantry_trace::within(work.clone(), AssertUnwindSafe(something).catch_unwind()).await;
    if ended.is_err() {
        work.during(|| tracing::error!("a handler panicked"));
    }
    ended.ok()
}

/// Whatever a database or a Redis that hangs does, the client gets an answer. Changes go on to their end.
fn late(is_body_awaited: bool) -> ApiError {
    if is_body_awaited {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_look_up_carries_along_is_small() {
        fn size<F: Future>(_: fn(Arc<Layers>, Request) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Layers::around);
        assert!(size < 2_500, "{size} bytes are copied from hand to hand for each request");
    }
}
