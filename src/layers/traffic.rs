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

use crate::api::look_up;

/// What is counted, as far as there was any of it. The routes are ours, so they are few.
pub(super) struct Traffic {
    by_pattern: RwLock<HashMap<Arc<str>, Arc<Route>>>,
    look_ups: Arc<Route>,
}

/// One route. Names of metrics are looked up once.
pub(super) struct Route {
    pub(super) name: Arc<str>,
    took: Histogram,
    /// Few, so that they are looked through.
    requests: RwLock<Vec<((&'static str, StatusCode), Counter)>>,
}

impl Traffic {
    pub(super) fn new() -> Self {
        let look_ups = Arc::new(Route::new(look_up::PATTERN));
        let by_pattern = HashMap::from([(look_up::PATTERN.into(), look_ups.clone())]);
        Self { by_pattern: RwLock::new(by_pattern), look_ups }
    }

    /// That of look-ups.
    pub(super) fn look_ups(&self) -> &Route {
        &self.look_ups
    }

    /// That of a pattern, or of those that lead nowhere.
    pub(super) fn route(&self, pattern: Option<&PathPattern>) -> Arc<Route> {
        let pattern = pattern.map_or("unknown", |pattern| &pattern.0);
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

    /// Counts a request.
    pub(super) fn count(&self, method: &'static str, status: StatusCode, took: Duration) {
        self.took.record(took.as_secs_f64());
        let what = (method, status);
        let requests = self.requests.read().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, counter)) = requests.iter().find(|(known, _)| *known == what) {
            return counter.increment(1);
        }
        drop(requests);
        let counter = metrics::counter!("tenantry_http_requests_total", "route" => self.name.clone(), "method" => method, "status" => status.as_str().to_owned());
        counter.increment(1);
        let mut requests = self.requests.write().unwrap_or_else(PoisonError::into_inner);
        // Others may have found it missing as well; theirs counts for the same.
        if !requests.iter().any(|(known, _)| *known == what) {
            requests.push((what, counter));
        }
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
