//! W3C trace context: from a request into its answer, its jobs and the log lines of all of them.

use std::{
    fs::{self, File},
    process::Stdio,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    app::{TestApp, answer, eventually},
    node::Cluster,
};

const ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn traceparent() -> String {
    format!("00-{ID}-{SPAN}-01")
}

/// The parts of the answer's `traceresponse`.
async fn traced(app: &TestApp, path: &str, headers: &[(&str, &str)]) -> (String, String, String) {
    let mut request = app.request(Method::GET, path);
    for &(name, value) in headers {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let trace = response.headers()["traceresponse"].to_str().unwrap();
    let parts: Vec<_> = trace.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{parts:?}") };
    assert_eq!((version, trace.len(), span.len()), ("00", 32, 16));
    (trace.into(), span.into(), flags.into())
}

#[tokio::test]
async fn an_answer_names_the_trace_of_its_request_and_a_span_of_its_own() {
    let app = TestApp::spawn().await;
    let sent = traceparent();
    // Errors and what nobody knows, too.
    for path in ["/api/v1/users/me", "/api/v1/users/nobody", "/health", "/nowhere"] {
        let (trace, span, flags) = traced(&app, path, &[("traceparent", &sent)]).await;
        assert_eq!((trace.as_str(), flags.as_str()), (ID, "01"), "{path}");
        assert_ne!(span, SPAN);
    }
    let future = format!("01-{ID}-{SPAN}-01-and-more");
    assert_eq!(traced(&app, "/health", &[("traceparent", &future)]).await.0, ID);
}

#[tokio::test]
async fn a_request_without_a_trace_that_can_be_read_begins_one() {
    let app = TestApp::spawn().await;
    let sent = traceparent();
    let (one, _, flags) = traced(&app, "/health", &[]).await;
    assert_eq!(flags, "02", "random, and nobody has asked to record it");
    let mut seen = vec![one, "0".repeat(32), ID.to_owned()];
    for headers in [
        vec![],
        vec![("traceparent", "")],
        vec![("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01")],
        vec![("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
        vec![("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01")],
        vec![("traceparent", &sent), ("traceparent", &sent)],
        vec![("tracestate", "congo=t61rcWkgMzE")],
    ] {
        let (trace, _, _) = traced(&app, "/health", &headers).await;
        assert!(!seen.contains(&trace), "{headers:?} is continued, or its trace is somebody else's");
        seen.push(trace);
    }
}

#[tokio::test]
async fn a_huge_tracestate_does_no_harm() {
    let app = TestApp::spawn().await;
    let state = format!("vendor={}", "x".repeat(10_000));
    let headers = [("traceparent", traceparent()), ("tracestate", state), ("tracestate", ",,=".into())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(traced(&app, "/api/v1/users/me", &headers).await.0, ID);
}

#[tokio::test]
async fn a_browser_of_a_listed_origin_may_send_and_see_traces() {
    let app = TestApp::spawn_with(&["--allowed-origins=https://app.example.org"]).await;
    let asked = app.request(Method::OPTIONS, "/api/v1/users").header("Origin", "https://app.example.org");
    let preflight = asked.header("Access-Control-Request-Method", "POST").send().await.unwrap();
    let allowed = preflight.headers()["access-control-allow-headers"].to_str().unwrap();
    assert!(allowed.contains("Traceparent"), "{allowed}");
    let asked = app.request(Method::GET, "/health").header("Origin", "https://app.example.org");
    let response = asked.send().await.unwrap();
    let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap();
    assert!(exposed.contains("Traceresponse"), "{exposed}");
}

/// The jobs of the tenant as administrators see them: kind and trace.
async fn jobs(app: &TestApp) -> Vec<(String, Value)> {
    let (_, list) = app.get("/api/v1/jobs?limit=100").await;
    let jobs = list["data"].as_array().unwrap();
    jobs.iter().map(|job| (job["kind"].as_str().unwrap().to_owned(), job["trace_id"].clone())).collect()
}

#[tokio::test]
async fn a_job_has_the_trace_of_the_request_that_enqueued_it() {
    let app = TestApp::spawn().await;
    app.run_jobs().await;
    let body = json!({"email": "grace@example.org", "name": "Grace", "password": "Correct-Horse-2"});
    let request = app.request(Method::POST, "/api/v1/users").json(&body);
    let (status, made) = answer(request.header("traceparent", traceparent())).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let made = jobs(&app).await;
    assert!(made.contains(&("verify_email".into(), json!(ID))), "{made:?}");
    let of_others = made.iter().filter(|(_, trace)| *trace != json!(ID));
    assert!(of_others.clone().next().is_some(), "the sign-up has one of its own: {made:?}");
    assert!(of_others.clone().all(|(_, trace)| trace.as_str().unwrap().len() == 32), "{made:?}");
}

#[tokio::test]
async fn a_job_that_a_function_of_the_database_enqueues_has_it_too() {
    let app = TestApp::spawn().await;
    let body = json!({"tenant": app.slug, "email": "admin@example.org"});
    let request = app.request(Method::POST, "/api/v1/auth/forgot-password").json(&body);
    let (status, _) = answer(request.header("traceparent", traceparent())).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert!(jobs(&app).await.contains(&("reset_password_email".into(), json!(ID))));
    // The connection is anybody's next.
    let (_, _) = app.post("/api/v1/users", &json!({"email": "lin@example.org", "name": "Lin"})).await;
    let traces: Vec<_> = jobs(&app).await.into_iter().filter(|(_, trace)| *trace == json!(ID)).collect();
    assert_eq!(traces.len(), 1, "{traces:?}");
}

/// The lines of a log in JSON that belong to our trace.
fn lines(log: &str) -> Vec<Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["span"]["trace.id"] == ID).collect()
}

#[tokio::test]
async fn the_log_lines_of_a_request_and_of_its_jobs_have_one_trace() {
    let folder = tempfile::tempdir().unwrap();
    // Nobody takes the mail: the attempt says so.
    let different = [("RUST_LOG", "info"), ("LOG_FORMAT", "json"), ("SMTP_URL", "smtp://127.0.0.1:1")];
    let cluster = Cluster::start(1, 1, &different).await;
    let url = format!("http://{}/api/v1/users", cluster.nodes[0].address);
    let request = reqwest::Client::new().post(url).bearer_auth(&cluster.token);
    let body = json!({"email": "grace@example.org", "name": "Grace"});
    let response = request.json(&body).header("traceparent", traceparent()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let answered = response.headers()["traceresponse"].to_str().unwrap();
    // Lines are written a moment after what they tell of.
    eventually(Duration::from_secs(1), || async { !lines(&cluster.log(0)).is_empty() }).await;
    let api = lines(&cluster.log(0));
    let span = api.last().unwrap()["span"]["span.id"].as_str().unwrap();
    assert_eq!(answered, format!("00-{ID}-{span}-01"));

    let log = folder.path().join("worker.log");
    let mut worker = tokio::process::Command::from(cluster.command());
    worker.arg("worker").kill_on_drop(true).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
    let _worker = worker.spawn().unwrap();
    let has_failed = |line: &Value| {
        let (job, said) = (&line["span"], line["message"].as_str().unwrap());
        said.starts_with("failed") && job["job.kind"] == "reset_password_email" && job["span.id"] != span
    };
    let told = || async { lines(&fs::read_to_string(&log).unwrap()).iter().any(has_failed) };
    eventually(Duration::from_secs(3), told).await;
}
