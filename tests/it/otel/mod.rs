//! Traces as a collector gets them: from a request through SQL and Redis to the jobs that it left.

mod collector;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use reqwest::{Method, StatusCode};
use serde_json::json;

use self::collector::{Collector, Mood, has_failed, hex, kind, said};
use crate::{app::eventually, node::Cluster};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// A process of the API that sends its traces to `endpoint`.
async fn api(endpoint: &str, different: &[(&'static str, &str)]) -> Cluster {
    let mut settings = vec![("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("SHUTDOWN_DELAY", "0s")];
    settings.extend(different);
    Cluster::start(1, 1, &settings).await
}

/// Asks for a user of the cluster's; the flags that `traceresponse` has.
async fn look_up(cluster: &Cluster, flags: &str) -> String {
    let (address, user) = (cluster.nodes[0].address, cluster.users[0]);
    let request = reqwest::Client::new().get(format!("http://{address}/api/v1/users/{user}"));
    let request = request.bearer_auth(&cluster.token).header("traceparent", traceparent(flags));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let trace = response.headers()["traceresponse"].to_str().unwrap();
    trace.rsplit_once('-').unwrap().1.to_owned()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// The names of what a span has called.
fn called_by<'a>(spans: &'a [Span], parent: &Span) -> Vec<&'a str> {
    let below = spans.iter().filter(|span| span.parent_span_id == parent.span_id);
    below.map(|span| span.name.as_str()).collect()
}

#[tokio::test]
async fn a_request_and_its_jobs_are_one_tree_from_the_callers_span_on() {
    let collector = Collector::start(Mood::Taking).await;
    let different = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%3Dcret"),
        ("OTEL_SERVICE_NAME", "accounts"),
        // Nobody takes the mail.
        ("SMTP_URL", "smtp://somebody:hunter2@127.0.0.1:1"),
    ];
    let mut cluster = api(&collector.endpoint(), &different).await;
    let (address, user) = (cluster.nodes[0].address, cluster.users[0]);
    let request =
        reqwest::Client::new().request(Method::PATCH, format!("http://{address}/api/v1/users/{user}"));
    let request = request.bearer_auth(&cluster.token).header("traceparent", traceparent("01"));
    let request = request.json(&json!({"email": "another@example.org", "name": "Mary Shelley"}));
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answered = response.headers()["traceresponse"].to_str().unwrap().to_owned();

    let mut worker = tokio::process::Command::from(cluster.command());
    let _worker =
        worker.arg("worker").kill_on_drop(true).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let jobs = ["process verify_email", "process invalidate_user"];
    let all = |spans: &[Span]| {
        jobs.iter().all(|job| !named(spans, job).is_empty()) && !named(spans, "SMTP send").is_empty()
    };
    collector.of(TRACE, all).await;
    // What is left of the API's comes at its end.
    cluster.nodes[0].signal("TERM");
    assert!(cluster.nodes[0].end().await.success());
    let route = "PATCH /api/v1/users/{id}";
    let spans = collector.of(TRACE, |spans| all(spans) && !named(spans, route).is_empty()).await;

    let server = named(&spans, route)[0];
    assert_eq!(kind(server), SpanKind::Server);
    assert_eq!((hex(&server.parent_span_id).as_str(), has_failed(server)), (CALLER, false));
    assert_eq!(answered, format!("00-{TRACE}-{}-01", hex(&server.span_id)));
    for (key, value) in [
        ("http.request.method", "PATCH"),
        ("http.route", "/api/v1/users/{id}"),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
    ] {
        assert_eq!(said(server, key).as_deref(), Some(value), "{key}");
    }
    assert!(said(server, "tenantry.request_id").is_some());

    let below = called_by(&spans, server);
    for name in
        ["EVALSHA floor", "EVALSHA fill", "send verify_email", "send invalidate_user", jobs[0], jobs[1]]
    {
        assert!(below.contains(&name), "{name}: {below:?}");
    }
    let of = |key: &str, value: &str| {
        let such = move |span: &&Span| said(span, key).as_deref() == Some(value);
        spans.iter().filter(such).collect::<Vec<_>>()
    };
    let (sql, redis) = (of("db.system.name", "postgresql"), of("db.system.name", "redis"));
    assert!(sql.iter().chain(&redis).all(|span| kind(span) == SpanKind::Client));
    let change = sql.iter().find(|span| span.parent_span_id == server.span_id);
    let summary = said(change.expect("a transaction"), "db.query.summary").unwrap();
    assert!(summary.contains("session_stands") && summary.contains("users"), "{summary}");

    let attempt = named(&spans, jobs[0])[0];
    assert_eq!(kind(attempt), SpanKind::Consumer);
    assert_eq!(said(attempt, "tenantry.job.attempt").as_deref(), Some("1"));
    assert_eq!(said(attempt, "tenantry.job.outcome").as_deref(), Some("failed"));
    assert!(has_failed(attempt));
    let below = called_by(&spans, attempt);
    assert!(below.contains(&"SMTP send") && below.len() > 1, "SQL, too: {below:?}");
    assert!(has_failed(named(&spans, "SMTP send")[0]));

    // Everybody but the caller is there, once, and nobody ended before they began.
    let mut ids: Vec<_> = spans.iter().map(|span| hex(&span.span_id)).collect();
    ids.sort();
    let unique = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), unique);
    for span in &spans {
        let parent = hex(&span.parent_span_id);
        assert!(parent == CALLER || ids.contains(&parent), "{} has no parent", span.name);
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    tells_nothing_of_people(&collector, &cluster);
}

fn tells_nothing_of_people(collector: &Collector, cluster: &Cluster) {
    let mut instances = vec![];
    for got in collector.got() {
        assert_eq!((got.path.as_str(), got.content_type.as_str()), ("/v1/traces", "application/x-protobuf"));
        assert_eq!(got.api_key.as_deref(), Some("s=cret"));
        let resource = format!("{:?}", got.message.resource_spans[0].resource);
        assert!(
            resource.contains("\"accounts\"") && resource.contains(env!("CARGO_PKG_VERSION")),
            "{resource}"
        );
        instances.push(resource);
        let text = format!("{:?}", got.message);
        let (user, tenant) = (cluster.users[0].to_string(), cluster.tenant.to_string());
        let mut secrets = vec!["example.org", "Mary", "hunter2", "cret", "127.0.0.1", "$1", &cluster.token];
        secrets.extend([&*user, &*tenant]);
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    instances.sort();
    instances.dedup();
    assert_eq!(instances.len(), 2, "a process is an instance");
    assert!(!cluster.log(0).contains("cret"), "{}", cluster.log(0));
}

#[tokio::test]
async fn a_look_up_that_redis_answers_or_not_is_a_span_below_the_request() {
    let collector = Collector::start(Mood::Taking).await;
    let cluster = api(&collector.endpoint(), &[]).await;
    look_up(&cluster, "01").await;
    let spans = collector.of(TRACE, |spans| spans.len() >= 4).await;
    let server = named(&spans, "GET /api/v1/users/{id}")[0];
    let mut below = called_by(&spans, server);
    below.sort_unstable();
    assert_eq!(below, ["EVALSHA fill", "EVALSHA lease", "select user_by_id"]);
}

#[tokio::test]
async fn a_statement_that_fails_fails_its_transaction_and_not_the_request_that_knows_what_it_means() {
    let collector = Collector::start(Mood::Taking).await;
    let cluster = api(&collector.endpoint(), &[]).await;
    let request = reqwest::Client::new().post(format!("http://{}/api/v1/users", cluster.nodes[0].address));
    let request = request.bearer_auth(&cluster.token).header("traceparent", traceparent("01"));
    let response = request.json(&json!({"email": "admin@example.org", "name": "Ada"})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CONFLICT);
    let route = "POST /api/v1/users";
    let spans = collector.of(TRACE, |spans| !named(spans, route).is_empty()).await;
    let server = named(&spans, route)[0];
    assert!(!has_failed(server));
    let failed: Vec<_> = spans.iter().filter(|span| has_failed(span)).collect();
    let [transaction] = failed[..] else { panic!("{failed:?}") };
    assert_eq!(transaction.parent_span_id, server.span_id);
    assert_eq!(said(transaction, "db.system.name").as_deref(), Some("postgresql"));
    assert_eq!(said(transaction, "error.type").as_deref(), Some("23505"), "unique_violation");
}

#[tokio::test]
async fn nothing_is_sent_of_what_the_sampler_leaves_out_and_the_answer_says_so() {
    let collector = Collector::start(Mood::Taking).await;
    let endpoint = collector.endpoint();
    for (sampler, part, expected) in [
        // What the caller's flag 01 and 00 become.
        ("traceidratio", "0", ["00", "00"]),
        ("always_off", "1", ["00", "00"]),
        ("parentbased_always_off", "1", ["01", "00"]),
        ("always_on", "0", ["01", "01"]),
    ] {
        let different = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", part)];
        let mut cluster = api(&endpoint, &different).await;
        let before = collector.spans().len();
        let answered = [look_up(&cluster, "01").await, look_up(&cluster, "00").await];
        assert_eq!(answered, expected, "{sampler}");
        // What there is to be sent has been sent at the end.
        cluster.nodes[0].signal("TERM");
        assert!(cluster.nodes[0].end().await.success());
        let sent = collector.spans();
        let served = sent[before..].iter().filter(|span| kind(span) == SpanKind::Server).count();
        assert_eq!(served, expected.iter().filter(|flags| **flags == "01").count(), "{sampler}");
        if served == 0 {
            assert_eq!(sent.len(), before, "{sampler}");
        }
    }
}

#[tokio::test]
async fn a_collector_that_does_not_take_spans_costs_spans_and_nothing_else() {
    let (hanging, refusing) =
        (Collector::start(Mood::Hanging).await, Collector::start(Mood::Refusing(400)).await);
    for (endpoint, reason) in [
        (hanging.endpoint(), "failed"),
        // Nobody listens there.
        ("http://127.0.0.1:1".to_owned(), "failed"),
        (refusing.endpoint(), "refused"),
    ] {
        let cluster = api(&endpoint, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")]).await;
        for _ in 0..5 {
            assert_eq!(look_up(&cluster, "01").await, "01");
        }
        let reason = format!("reason=\"{reason}\"");
        let dropped =
            || async { cluster.nodes[0].metric("tenantry_spans_dropped_total", &reason).await >= 5.0 };
        eventually(Duration::from_secs(3), dropped).await;
        assert_eq!(cluster.nodes[0].metric("tenantry_spans_exported_total", "").await, 0.0);
        let told = || cluster.log(0).matches("the collector of traces did not take").count();
        eventually(Duration::from_secs(1), || async { told() == 1 }).await;
        let before = cluster.nodes[0].metric("tenantry_spans_dropped_total", &reason).await;
        look_up(&cluster, "01").await;
        let dropped =
            || async { cluster.nodes[0].metric("tenantry_spans_dropped_total", &reason).await > before };
        eventually(Duration::from_secs(3), dropped).await;
        assert_eq!(told(), 1, "once in a while");
    }
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_hold_up_the_end_of_a_process() {
    let collector = Collector::start(Mood::Hanging).await;
    let mut cluster = api(&collector.endpoint(), &[("OTEL_EXPORTER_OTLP_TIMEOUT", "60000")]).await;
    look_up(&cluster, "01").await;
    eventually(Duration::from_secs(3), || async { !collector.got().is_empty() }).await;
    let told = Instant::now();
    cluster.nodes[0].signal("TERM");
    assert!(cluster.nodes[0].end().await.success());
    // Two seconds of the spans', and as much for all else on a busy machine.
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}", told.elapsed());
    let log = cluster.log(0);
    assert!(log.contains("spans were not handed over"), "{log}");
}

#[tokio::test]
async fn check_says_whether_the_collector_takes_spans_and_never_its_password() {
    let [taking, refusing] = [Mood::Taking, Mood::Refusing(401)].map(Collector::start);
    let (taking, refusing) = (taking.await, refusing.await);
    for (endpoint, said) in [
        (taking.endpoint(), "ok     traces       the collector takes them"),
        (refusing.endpoint(), "WRONG  traces       OTEL_EXPORTER_OTLP_ENDPOINT: it answered 401"),
        (
            "http://a:s3cret@127.0.0.1:1".into(),
            "WRONG  traces       OTEL_EXPORTER_OTLP_ENDPOINT: error sending",
        ),
    ] {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        program.env_clear().current_dir("/").arg("check").env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        let output = program.output().await.unwrap();
        let lines = String::from_utf8_lossy(&output.stdout);
        assert!(lines.contains(said), "{said}: {lines}");
        assert!(!lines.contains("s3cret"), "{lines}");
    }
    assert_eq!(taking.spans(), []);
}

#[test]
fn settings_that_cannot_be_meant_are_refused_without_saying_a_secret() {
    for (variable, wrong) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a-s3cret"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
    ] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        program.env_clear().current_dir("/").arg("worker").env("DATABASE_URL", "postgres://127.0.0.1:1/x");
        program.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").env(variable, wrong);
        let output = program.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(variable), "{variable}={wrong}: {said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
