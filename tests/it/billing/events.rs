//! What Stripe tells, and what comes of it.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{SOON, Stage, id, signature};
use crate::app::eventually;

#[tokio::test]
async fn what_is_paid_for_is_what_the_tenant_has() {
    let stage = Stage::new().await;
    assert_eq!(stage.plan().await, "basic");

    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;

    let billing = stage.billing().await;
    let held = &billing["subscriptions"][0];
    assert_eq!(held["stripe_subscription_id"], subscription);
    assert_eq!(held["stripe_customer_id"], stage.customer);
    assert_eq!((&held["status"], &held["items"][0]["quantity"]), (&json!("active"), &json!(1)));
    assert_eq!(held["items"][0]["price_id"], stage.prices[1]);
    assert_eq!(billing["entitlement"]["plan"], "pro");
    assert_eq!(billing["entitlement"]["active_until"], held["current_period_end"]);
    let (_, tenant) = stage.app.get(&format!("/api/v1/tenants/{}", stage.app.tenant)).await;
    let seats = stage.house().settings.seats.of(tenantry_accounts::tenants::Plan::Pro);
    assert_eq!(
        (&tenant["data"]["plan"], &tenant["data"]["max_users"]),
        (&json!("pro"), &json!(seats)),
        "{tenant}"
    );
    for action in ["subscription.created", "tenant.updated"] {
        assert_eq!(stage.app.audited_by(action).await, [("system".to_owned(), None)], "{action}");
    }
    let (status, one) = stage.app.get(&format!("/api/v1/subscriptions/{}", id(held))).await;
    assert_eq!((status, &one["data"]), (StatusCode::OK, held));

    stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
    stage.delivered().await;

    let billing = stage.billing().await;
    assert_eq!(
        (&billing["subscriptions"][0]["status"], &billing["entitlement"]["plan"]),
        (&json!("canceled"), &json!(null))
    );
    assert_eq!(stage.plan().await, "basic");
}

#[tokio::test]
async fn fifty_copies_of_an_event_at_once_have_one_effect() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    let body = stage.event("customer.subscription.created").to_string();
    let signature = signature("whsec_new", &body, 0);

    let answers = join_all((0..50).map(|_| stage.send(&body, &signature))).await;

    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, answer)| answer["data"]["new"] == true).count(), 1);
    let dirty = "select dirty from tenantry.stripe_objects where id = $1";
    assert_eq!(stage.count(dirty, &subscription).await, 1);
    let jobs = "select count(*) from tenantry.jobs where kind = 'sync_subscription' and tenant_id = $1";
    assert_eq!(stage.count(jobs, &stage.app.tenant).await, 1);
    stage.app.run_jobs().await;
    assert_eq!(stage.seen().await.2, "pro");
    assert_eq!(stage.fetches(), 1);
    assert_eq!(stage.app.audited_by("subscription.created").await.len(), 1);
}

#[tokio::test]
async fn events_in_any_order_lead_to_what_is_true_now() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    let created = stage.event("customer.subscription.created");
    // Within one second, as far as events can tell.
    stage.change_plan(&subscription, 0);
    let first = stage.event("customer.subscription.updated");
    stage.change_plan(&subscription, 2);
    let second = stage.event("customer.subscription.updated");
    assert_ne!(first["id"], second["id"]);

    stage.take_in(&second).await;
    stage.app.run_jobs().await;
    assert_eq!(stage.seen().await, ("active".into(), stage.prices[2].clone(), "enterprise".into()));
    stage.take_in(&first).await;
    stage.take_in(&created).await;
    stage.app.run_jobs().await;
    assert_eq!(stage.seen().await, ("active".into(), stage.prices[2].clone(), "enterprise".into()));

    stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
    stage.take_in(&stage.event("customer.subscription.deleted")).await;
    stage.app.run_jobs().await;
    assert_eq!(stage.seen().await.2, "basic");
    // All of it once more, the end included, in whatever order it comes.
    stage.delivered().await;
    assert_eq!((stage.seen().await.0.as_str(), stage.plan().await.as_str()), ("canceled", "basic"));
}

#[tokio::test]
async fn ten_events_cost_one_fetch() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    for n in 0..8 {
        stage.change(&subscription, &[("metadata[n]", &n.to_string())]);
    }

    stage.delivered().await;

    assert_eq!((stage.fetches(), stage.seen().await.2.as_str()), (1, "pro"));
}

/// At first not even that there is such a subscription. No other event comes.
#[tokio::test]
async fn what_a_copy_that_lags_tells_is_put_right_by_itself() {
    let stage = Stage::with(&["--stripe-settle-delay=2s"]).await;
    let lag = ApiFaults { stale: 1.0, stale_seconds: 1, ..ApiFaults::default() };
    stage.faults(lag, WebhookFaults::default());
    let subscription = stage.subscribe(&stage.customer, 1);
    for (plan, change) in [("pro", 1), ("enterprise", 2)] {
        if change > 1 {
            stage.change_plan(&subscription, change);
        }
        stage.delivered().await;
        let settled = async || {
            stage.app.run_jobs().await;
            stage.plan().await == plan
        };
        eventually(3 * SOON, settled).await;
    }
}

#[tokio::test]
async fn what_had_only_just_happened_is_fetched_once_more() {
    let stage = Stage::with(&["--stripe-settle-delay=1s"]).await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let before = stage.fetches();
    assert_eq!(before, 1);

    eventually(SOON, async || {
        stage.app.run_jobs().await;
        let open = "select count(*) from tenantry.jobs where kind = 'sync_subscription' and state = 'pending' and tenant_id = $1";
        stage.count(open, &stage.app.tenant).await == 0
    })
    .await;

    assert!((2..=4).contains(&stage.fetches()), "{} fetches", stage.fetches());
}

#[tokio::test]
async fn a_renewal_that_is_not_paid_ends_the_plan_after_the_grace() {
    let stage = Stage::with(&["--stripe-grace=2s"]).await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.control(&format!("subscriptions/{subscription}/status"), &json!({"status": "past_due"})).await;
    stage.delivered().await;

    let billing = stage.billing().await;
    assert_eq!(billing["subscriptions"][0]["status"], "past_due");
    assert!(billing["entitlement"]["grace_until"].is_string(), "{billing}");
    assert_eq!(stage.plan().await, "pro");
    stage.loses_its_plan().await;
}

impl Stage {
    async fn loses_its_plan(&self) {
        eventually(SOON, async || {
            self.app.run_jobs().await;
            self.plan().await == "basic"
        })
        .await;
    }
}

#[tokio::test]
async fn a_second_grace_ends_although_the_first_had_not() {
    let stage = Stage::with(&["--stripe-grace=2s"]).await;
    let subscription = stage.subscribe(&stage.customer, 1);
    let becomes = async |status: &str| {
        stage.control(&format!("subscriptions/{subscription}/status"), &json!({"status": status})).await;
        stage.delivered().await;
    };
    becomes("past_due").await;
    let until = stage.billing().await["entitlement"]["grace_until"].as_str().unwrap().to_owned();
    let until: chrono::DateTime<chrono::Utc> = until.parse().unwrap();
    // What waits for the end of the first is to come before the end of the second.
    eventually(SOON, async || chrono::Utc::now() > until - chrono::TimeDelta::milliseconds(500)).await;
    becomes("active").await;
    becomes("past_due").await;
    assert_eq!(stage.plan().await, "pro");

    stage.loses_its_plan().await;
}

#[tokio::test]
async fn lost_and_doubled_webhooks_leave_what_is_true() {
    let stage = Stage::new().await;
    stage.faults(ApiFaults::default(), WebhookFaults { copies: (3, 3), ..WebhookFaults::default() });
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    stage.change_plan(&subscription, 2);

    stage.delivered().await;

    // The event of the second plan never came, but one did after it.
    assert_eq!(stage.seen().await.2, "enterprise");
}
