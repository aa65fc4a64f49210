//! Requests in the metrics, by route, method and status.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Counter, Histogram};
use poem::{
    PathPattern,
    http::{Method, StatusCode},
};

/// What is counted, as far as there was any of it. The routes are ours, so they are few.
#[derive(Default)]
pub(super) struct Traffic {
    by_pattern: RwLock<HashMap<Arc<str>, Arc<Route>>>,
}

/// One route. Names of metrics are looked up once.
struct Route {
    name: Arc<str>,
    took: Histogram,
    requests: RwLock<HashMap<(&'static str, StatusCode), Counter>>,
}

impl Traffic {
    /// Traffic a request, and says the name of its route.
    pub(super) fn count(
        &self,
        pattern: Option<&PathPattern>,
        method: &Method,
        status: StatusCode,
        took: Duration,
    ) -> Arc<str> {
        let route = self.route(pattern.map_or("unknown", |pattern| &pattern.0));
        route.took.record(took.as_secs_f64());
        let what = (known(method), status);
        let requests = route.requests.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(counter) = requests.get(&what) {
            counter.increment(1);
            return route.name.clone();
        }
        drop(requests);
        let counter = metrics::counter!("tenantry_http_requests_total", "route" => route.name.clone(), "method" => what.0, "status" => status.as_str().to_owned());
        counter.increment(1);
        route.requests.write().unwrap_or_else(PoisonError::into_inner).insert(what, counter);
        route.name.clone()
    }

    fn route(&self, pattern: &str) -> Arc<Route> {
        let known = self.by_pattern.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = known.get(pattern) {
            return route.clone();
        }
        drop(known);
        let mut known = self.by_pattern.write().unwrap_or_else(PoisonError::into_inner);
        known.entry(pattern.into()).or_insert_with(|| Arc::new(Route::new(pattern))).clone()
    }
}

impl Route {
    fn new(pattern: &str) -> Self {
        // As the document writes it. (poem-openapi calls the parameters `param0` and `param1`.)
        let name: Arc<str> = pattern.replace(":param0", "{id}").replace(":param1", "{project_id}").into();
        let took = metrics::histogram!("tenantry_http_request_duration_seconds", "route" => name.clone());
        Self { name, took, requests: RwLock::default() }
    }
}

/// A method as a metric's label: the known ones, so that clients cannot make labels up.
pub(super) fn known(method: &Method) -> &'static str {
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
