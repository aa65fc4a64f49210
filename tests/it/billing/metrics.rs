//! What a process tells of Stripe to whoever watches it.

use std::{collections::BTreeSet, net::TcpListener};

use tenantry::{server, state::State};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};
use tokio_util::sync::CancellationToken;

use super::{SOON, Stage, signature};
use crate::app::eventually;

/// `/metrics` of a process like the stage's, over HTTP.
async fn metrics(stage: &Stage) -> String {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = stage.app.config();
    config.metrics_listen = Some(address);
    let stop = CancellationToken::new();
    let stopped = stop.clone().drop_guard();
    let state = State::new(config).unwrap();
    let process = tokio::spawn(async move { server::run(state, false, stop, |_| {}).await });
    let url = format!("http://{address}/metrics");
    eventually(SOON, async || reqwest::get(&url).await.is_ok()).await;
    let page = reqwest::get(&url).await.unwrap().text().await.unwrap();
    drop(stopped);
    process.await.unwrap().unwrap();
    page
}

#[tokio::test]
async fn every_metric_of_stripe_is_told_as_it_is_documented() {
    let stage = Stage::alone().await;
    // Taken, taken before, and refused; fetched.
    let first = stage.subscribe(&stage.customer, 1);
    let body = stage.event("customer.subscription.created").to_string();
    for secret in ["whsec_new", "whsec_old", "whsec_unknown"] {
        stage.send(&body, &signature(secret, &body, 0)).await;
    }
    stage.app.run_jobs().await;
    // Beside another.
    let second = stage.subscribe(&stage.customer, 2);
    stage.delivered().await;
    // Of the second an event is lost; the first is another one here, of which Stripe knows nothing.
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    stage.change_plan(&second, 1);
    for (table, column) in [("stripe_objects", "id"), ("subscriptions", "stripe_id")] {
        let lose = format!("update tenantry.{table} set {column} = 'sub_gone' where {column} = $1");
        assert_eq!(stage.database.execute(&lose, &[&first]).await.unwrap(), 1);
    }
    let reconcile =
        "select tenantry.enqueue_job('stripe_reconcile', '{}', '00000000-0000-0000-0000-000000000000')";
    stage.database.execute(reconcile, &[]).await.unwrap();
    stage.run_all_jobs().await;
    stage.run_all_jobs().await;

    let page = metrics(&stage).await;

    for (metric, labels) in [
        ("webhooks_total", [("outcome", "new"), ("outcome", "known"), ("outcome", "refused")].as_slice()),
        ("fetches_total", &[("why", "event"), ("why", "again")]),
        ("second_subscriptions_total", &[]),
        ("compared_total", &[]),
        ("drift_total", &[("reason", "missed_event"), ("reason", "different"), ("reason", "missing")]),
    ] {
        let name = format!("tenantry_stripe_{metric}");
        let series = labels.iter().map(|(label, value)| format!("{name}{{{label}=\"{value}\"}} "));
        let series: Vec<_> = if labels.is_empty() { vec![format!("{name} ")] } else { series.collect() };
        for series in series {
            let line = page.lines().find(|line| line.starts_with(&series));
            let line = line.unwrap_or_else(|| panic!("{series} is not in {page}"));
            assert!(line[series.len()..].parse::<f64>().unwrap() > 0.0, "{line}");
        }
    }
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/stripe.md")).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `tenantry_stripe_"));
    let documented: BTreeSet<_> = rows.filter_map(|row| row.split(['{', '`']).next()).collect();
    let told = page.lines().filter_map(|line| line.strip_prefix("# TYPE tenantry_stripe_"));
    let told: BTreeSet<_> = told.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(told, documented);
}
