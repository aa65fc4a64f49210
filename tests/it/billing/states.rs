//! What a subscription is like, and what its tenant has by it: here, and on every node.

use std::time::Duration;

use chrono::DateTime;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Stage, as_stored, id, out::CHECKOUT, out::checkout};
use crate::app::{TestApp, eventually};

const RAW: &str = "select raw from tenantry.subscriptions where tenant_id = $1 and stripe_id = $2";

#[tokio::test]
async fn every_state_is_stored_as_stripe_says_and_gives_or_takes_the_plan() {
    let stage = Stage::new().await;
    let mut subscription = stage.subscribe(&stage.customer, 1);
    for (status, stored, plan) in [
        ("active", "active", Some("pro")),
        ("trialing", "trialing", Some("pro")),
        ("past_due", "past_due", Some("pro")),
        ("unpaid", "unpaid", None),
        ("active", "active", Some("pro")),
        ("paused", "paused", None),
        // Stripe has thought of it since.
        ("resting", "unknown", Some("pro")),
        ("incomplete", "incomplete", None),
        ("incomplete_expired", "incomplete_expired", None),
        // Another one, since nothing follows that.
        ("active", "active", Some("pro")),
        ("canceled", "canceled", None),
    ] {
        if status == "active" && stage.truth(&subscription)["status"] == "incomplete_expired" {
            subscription = stage.subscribe(&stage.customer, 1);
        } else {
            let control = format!("subscriptions/{subscription}/status");
            stage.control(&control, &json!({"status": status})).await;
        }
        stage.delivered().await;

        let billing = stage.billing().await;
        let held = billing["subscriptions"].as_array().unwrap();
        let held = held.iter().find(|held| held["stripe_subscription_id"] == subscription).unwrap();
        assert_eq!((&held["status"], &billing["entitlement"]["plan"]), (&json!(stored), &json!(plan)));
        assert_eq!(stage.plan().await, plan.unwrap_or("basic"), "{status}");
        let until = if plan.is_some() { held["current_period_end"].clone() } else { json!(null) };
        assert_eq!(billing["entitlement"]["active_until"], until, "{status}");
        assert_eq!(billing["entitlement"]["grace_until"].is_string(), status == "past_due", "{status}");
        let raw = stage.database.query_one(RAW, &[&stage.app.tenant, &subscription]).await.unwrap();
        assert_eq!(raw.get::<_, Value>(0), as_stored(&stage.truth(&subscription)), "all that Stripe said");
        assert_eq!(raw.get::<_, Value>(0)["status"], status);
    }
}

#[tokio::test]
async fn trials_pauses_schedules_and_ends_are_shown_as_they_are() {
    let stage = Stage::new().await;
    let (price, customer) = (stage.prices[1].as_str(), stage.customer.as_str());
    let trial = [("customer", customer), ("items[0][price]", price), ("trial_period_days", "14")];
    let subscription = id(&stage.call("POST", "/v1/subscriptions", &trial));
    let shown = async || {
        stage.delivered().await;
        let one = &stage.billing().await["subscriptions"][0];
        let (status, again) = stage.app.get(&format!("/api/v1/subscriptions/{}", id(one))).await;
        assert_eq!((status, &again["data"]), (StatusCode::OK, one));
        one.clone()
    };
    let time = |value: &Value| json!(DateTime::from_timestamp(value.as_i64().unwrap(), 0).unwrap());
    let plain = |one: &Value| {
        let names = ["cancel_at", "canceled_at", "ended_at", "resumes_at", "stripe_schedule_id"];
        names.iter().all(|name| one[name].is_null())
            && one["cancel_at_period_end"] == false
            && one["payment_paused"] == false
    };

    let one = shown().await;
    assert_eq!((&one["status"], plain(&one)), (&json!("trialing"), true), "{one}");
    assert_eq!(one["trial_end"], time(&stage.truth(&subscription)["trial_end"]));

    let pause = [("pause_collection[behavior]", "void"), ("pause_collection[resumes_at]", "1900000000")];
    stage.change(&subscription, &pause);
    let one = shown().await;
    assert_eq!(
        (&one["payment_paused"], &one["resumes_at"], &one["status"]),
        (&json!(true), &time(&json!(1_900_000_000)), &json!("trialing"))
    );
    stage.change(&subscription, &[("pause_collection", "")]);
    assert!(plain(&shown().await));

    stage.change(&subscription, &[("cancel_at_period_end", "true")]);
    let one = shown().await;
    let truth = stage.truth(&subscription);
    assert_eq!(
        (&one["cancel_at_period_end"], &one["cancel_at"], &one["canceled_at"]),
        (&json!(true), &time(&truth["cancel_at"]), &time(&truth["canceled_at"]))
    );
    stage.change(&subscription, &[("cancel_at_period_end", "false")]);
    assert!(plain(&shown().await));
    let at = stage.truth(&subscription)["trial_end"].as_i64().unwrap() + 86_400;
    stage.change(&subscription, &[("cancel_at", &at.to_string())]);
    let one = shown().await;
    assert_eq!((&one["cancel_at"], &one["cancel_at_period_end"]), (&time(&json!(at)), &json!(false)));
    assert!(one["ended_at"].is_null() && one["canceled_at"].is_string());
    stage.change(&subscription, &[("cancel_at", "")]);

    let schedule = stage.call("POST", "/v1/subscription_schedules", &[("from_subscription", &subscription)]);
    let one = shown().await;
    assert_eq!(one["stripe_schedule_id"], schedule["id"]);
    stage.call("POST", &format!("/v1/subscription_schedules/{}/release", id(&schedule)), &[]);
    assert!(plain(&shown().await));

    stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
    let one = shown().await;
    assert_eq!(one["ended_at"], time(&stage.truth(&subscription)["ended_at"]));
}

/// Waits until a node tells this plan with these seats: for a second at most.
async fn tells(node: &TestApp, plan: &str, seats: Value) {
    let path = format!("/api/v1/tenants/{}", node.tenant);
    eventually(Duration::from_millis(100), async || {
        let (_, tenant) = node.get(&path).await;
        (&tenant["data"]["plan"], &tenant["data"]["max_users"]) == (&json!(plan), &seats)
    })
    .await;
}

/// Whether a node gives somebody a seat.
async fn gives(node: &TestApp, address: &str) -> bool {
    let (status, answer) = node.post("/api/v1/users", &json!({"email": address, "name": "Some One"})).await;
    let code = &answer["error"]["code"];
    assert!(status == StatusCode::CREATED || code == "no_seat_left", "{answer}");
    status == StatusCode::CREATED
}

#[tokio::test]
async fn plan_and_seats_are_those_that_are_paid_for_on_every_node_within_a_second() {
    let stage = Stage::with(&["--plan-seats=basic=1,pro=2"]).await;
    let other = stage.app.another_node().await;
    // Both have looked, and might remember.
    for node in [&stage.app, &other] {
        tells(node, "basic", json!(1)).await;
        assert!(!gives(node, "bob@example.org").await);
    }

    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    for node in [&other, &stage.app] {
        tells(node, "pro", json!(2)).await;
    }
    assert!(gives(&other, "bob@example.org").await);
    assert!(!gives(&stage.app, "eve@example.org").await);

    stage.change_plan(&subscription, 2);
    stage.delivered().await;
    for node in [&other, &stage.app] {
        tells(node, "enterprise", json!(null)).await;
    }
    assert!(gives(&other, "eve@example.org").await);

    stage.call("DELETE", &format!("/v1/subscriptions/{subscription}"), &[]);
    stage.delivered().await;
    // Three have a seat and keep it; nobody gets another.
    for node in [&other, &stage.app] {
        tells(node, "basic", json!(1)).await;
        assert!(!gives(node, "zoe@example.org").await);
        let (_, users) = node.get("/api/v1/users?limit=100").await;
        assert_eq!(users["pagination"]["total"], 3);
    }
}

/// Two pages were open before either was paid, and Stripe takes both: the service cannot know of the first in time.
#[tokio::test]
async fn a_second_checkout_that_is_paid_beside_a_subscription_is_seen() {
    let stage = Stage::new().await;
    let mut pages = vec![];
    for plan in ["pro", "enterprise"] {
        let (status, page) = stage.app.post(CHECKOUT, &checkout(plan)).await;
        assert_eq!(status, StatusCode::CREATED, "{page}");
        pages.push(page["data"]["url"].as_str().unwrap().to_owned());
    }
    let mut paid = vec![];
    for (page, plan) in pages.iter().zip(["pro", "enterprise"]) {
        let answer = stage.app.http.post(page).body("action=pay").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        stage.delivered().await;
        // The better of the two counts.
        assert_eq!(stage.plan().await, plan);
        paid.push(stage.billing().await["subscriptions"][0]["stripe_subscription_id"].clone());
    }

    assert_eq!(stage.billing().await["subscriptions"].as_array().unwrap().len(), 2);
    let (_, trail) = stage.app.get("/api/v1/audit-events?action=subscription.created").await;
    let details: Vec<_> = trail["data"].as_array().unwrap().iter().map(|event| &event["detail"]).collect();
    assert_eq!(details[0]["beside"], json!([paid[0]]), "{details:?}");
    assert!(details[1]["beside"].is_null(), "{details:?}");
    let metrics = tenantry::server::metrics().render();
    assert!(metrics.contains("tenantry_stripe_second_subscriptions_total 1"), "{metrics}");

    // The operator cancels one of them, and what the other gives stays.
    stage.call("DELETE", &format!("/v1/subscriptions/{}", paid[1].as_str().unwrap()), &[]);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro");
}
