//! Stripe or the database is away.

use reqwest::StatusCode;
use serde_json::json;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{EVENTS, SOON, Stage, id, signature};
use crate::{app::eventually, node::connect};

#[tokio::test]
async fn what_stripe_does_not_answer_is_asked_again() {
    let stage = Stage::new().await;
    let job = "select state, last_error from tenantry.jobs
               where kind = 'sync_subscription' and state <> 'done' and unique_key not like 'settle:%' and tenant_id = $1";
    for (faults, becomes, plan) in [
        (ApiFaults { rate_limited: 1.0, ..ApiFaults::default() }, "pending", 1),
        (ApiFaults { failed: 1.0, ..ApiFaults::default() }, "failed", 2),
        (ApiFaults { cut: 1.0, ..ApiFaults::default() }, "failed", 1),
    ] {
        stage.faults(faults, WebhookFaults::default());
        let subscription = stage.subscribe(&stage.customer, plan);
        stage.delivered().await;
        let row = stage.database.query_one(job, &[&stage.app.tenant]).await.unwrap();
        let (state, error): (&str, Option<&str>) = (row.get("state"), row.get("last_error"));
        // That Stripe is busy is no failure of the job.
        assert_eq!((state, error.is_some()), (becomes, becomes == "failed"), "{error:?}");
        assert!(!error.unwrap_or_default().contains(&stage.fake.url()), "no address in it: {error:?}");

        stage.faults(ApiFaults::default(), WebhookFaults::default());
        eventually(SOON, async || {
            stage.app.run_jobs().await;
            stage.plan().await == ["basic", "pro", "enterprise"][plan]
        })
        .await;
        stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
        stage.delivered().await;
        assert_eq!(stage.plan().await, "basic");
    }
}

#[tokio::test]
async fn without_a_database_stripe_is_told_to_send_it_again() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    let body = stage.event("customer.subscription.created").to_string();
    let name = id(&stage.event("customer.subscription.created"));
    let database: String =
        stage.database.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let elsewhere = connect("postgres").await;
    let closed = format!("alter database {database} allow_connections false");
    elsewhere.batch_execute(&closed).await.unwrap();
    let end =
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = 'tenantry'";
    elsewhere.execute(end, &[&database]).await.unwrap();

    let (status, answer) = stage.send(&body, &signature("whsec_new", &body, 0)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(stage.count(EVENTS, &name).await, 0);

    elsewhere.batch_execute(&closed.replace("false", "true")).await.unwrap();
    eventually(SOON, async || {
        let (status, answer) = stage.send(&body, &signature("whsec_new", &body, 0)).await;
        status == StatusCode::OK && answer["data"]["new"] == json!(true)
    })
    .await;
}
