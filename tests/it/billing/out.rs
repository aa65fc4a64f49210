//! What we ask of Stripe: customers, checkouts, the portal, quantities.

use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{SOON, Stage, id};
use crate::app::{TestApp, eventually, wrong_fields};

pub(super) const CHECKOUT: &str = "/api/v1/billing/checkout-sessions";
pub(super) const PORTAL: &str = "/api/v1/billing/portal-sessions";
/// Where the portal leads back to.
pub(super) const HOME: &str = "https://app.example.org/";

pub(super) fn checkout(plan: &str) -> Value {
    json!({"plan": plan, "success_url": "https://app.example.org/done", "cancel_url": "https://app.example.org/pity"})
}

#[tokio::test]
async fn a_tenant_pays_in_the_checkout_and_changes_its_plan_in_the_portal() {
    let stage = Stage::new().await;
    let (status, page) = stage.app.post(CHECKOUT, &checkout("pro")).await;
    assert_eq!(status, StatusCode::CREATED, "{page}");
    let url = page["data"]["url"].as_str().unwrap();
    let paid = stage.app.http.post(url).body("action=pay").send().await.unwrap();
    assert_eq!(paid.headers()["location"], "https://app.example.org/done");
    stage.delivered().await;
    assert_eq!(stage.seen().await, ("active".into(), stage.prices[1].clone(), "pro".into()));

    let (status, refused) = stage.app.post(CHECKOUT, &checkout("pro")).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("already_subscribed")));
    let (status, page) = stage.app.post(PORTAL, &json!({"return_url": HOME})).await;
    assert_eq!(status, StatusCode::CREATED, "{page}");
    let url = page["data"]["url"].as_str().unwrap();
    let shown = stage.app.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(shown.contains("sub_") || shown.contains("Seats"), "{shown}");
}

#[tokio::test]
async fn nobody_is_sent_to_an_origin_that_is_not_known_or_sold_what_is_not() {
    let stage = Stage::new().await;
    for url in [
        "https://evil.example.org/",
        "https://app.example.org.evil.org/",
        "https://app.example.org@evil.org/",
        "http://app.example.org/",
        "https://app.example.org:8443/",
        "javascript:alert(1)",
    ] {
        let (status, answer) = stage.app.post(PORTAL, &json!({"return_url": url})).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{url}: {answer}");
        assert_eq!(wrong_fields(&answer)[0].0, "/return_url", "{url}");
    }
    let mut body = checkout("pro");
    body["success_url"] = json!("https://evil.example.org/");
    body["cancel_url"] = json!("https://evil.example.org/");
    let (_, answer) = stage.app.post(CHECKOUT, &body).await;
    let foreign = |field: &str| (field.to_owned(), "foreign_origin".to_owned());
    assert_eq!(wrong_fields(&answer), [foreign("/success_url"), foreign("/cancel_url")]);

    let mut body = checkout("pro");
    body["price_id"] = json!("price_free");
    let (_, answer) = stage.app.post(CHECKOUT, &body).await;
    assert_eq!(wrong_fields(&answer), [("/price_id".to_owned(), "not_sold".to_owned())]);
}

#[tokio::test]
async fn users_neither_see_nor_change_what_is_paid_for() {
    let mut stage = Stage::new().await;
    stage.app.create_user("bob@example.org").await;
    stage.app.act_as("bob@example.org").await;

    assert_eq!(stage.app.get("/api/v1/subscriptions").await.0, StatusCode::FORBIDDEN);
    assert_eq!(stage.app.post(CHECKOUT, &checkout("pro")).await.0, StatusCode::FORBIDDEN);
    let portal = stage.app.post(PORTAL, &json!({"return_url": HOME})).await;
    assert_eq!(portal.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn another_tenants_subscription_does_not_exist_and_cannot_be_fetched() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let ours = id(&stage.billing().await["subscriptions"][0]);
    let other = stage.neighbour().await;

    let (status, answer) = other.get(&format!("/api/v1/subscriptions/{ours}")).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::NOT_FOUND, &json!("subscription_not_found")));
    assert_eq!(other.get("/api/v1/subscriptions").await.1["data"]["subscriptions"], json!([]));

    stage.change_plan(&subscription, 2);
    let fetches = stage.fetches();
    let job = json!({"kind": "sync_subscription", "payload": {"subscription_id": subscription}});
    let (status, pushed) = other.post("/api/v1/jobs", &job).await;
    assert_eq!(status, StatusCode::CREATED, "{pushed}");
    other.run_jobs().await;
    let (_, pushed) = other.get(&format!("/api/v1/jobs/{}", id(&pushed["data"]))).await;
    assert_eq!(pushed["data"]["state"], "cancelled", "{pushed}");
    assert_eq!((stage.fetches(), stage.plan().await.as_str()), (fetches, "pro"));

    // The tenant's own administrator may have it fetched, but not keep it from being fetched.
    let (_, pushed) = stage.app.post("/api/v1/jobs", &job).await;
    let cancel = format!("/api/v1/jobs/{}/cancel", id(&pushed["data"]));
    assert_eq!(stage.app.post(&cancel, &json!({})).await.0, StatusCode::FORBIDDEN);
    stage.app.run_jobs().await;
    assert_eq!(stage.plan().await, "enterprise", "{pushed}");
}

#[tokio::test]
async fn the_quantity_follows_the_seats() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 2);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "enterprise");
    let jobs = "select count(*) from tenantry.jobs where kind = 'sync_seats' and state = 'pending' and tenant_id = $1";

    let bob = stage.app.create_user("bob@example.org").await;
    stage.app.create_user("eve@example.org").await;
    let invited = stage.app.post("/api/v1/invitations", &json!({"emails": ["zoe@example.org"]})).await;
    assert_eq!(invited.0, StatusCode::CREATED);
    assert_eq!(stage.count(jobs, &stage.app.tenant).await, 1, "one for all of a minute");
    stage.a_minute_later().await;
    assert_eq!(stage.truth(&subscription)["items"]["data"][0]["quantity"], 4);
    assert_eq!(stage.billing().await["subscriptions"][0]["items"][0]["quantity"], 4);

    assert_eq!(stage.app.delete(&format!("/api/v1/users/{}", id(&bob))).await.0, StatusCode::NO_CONTENT);
    stage.a_minute_later().await;
    assert_eq!(stage.truth(&subscription)["items"]["data"][0]["quantity"], 3);
    stage.a_minute_later().await;
    assert_eq!(stage.count(jobs, &stage.app.tenant).await, 0, "in step");

    // Somebody changes it in the dashboard.
    let item = id(&stage.truth(&subscription)["items"]["data"][0]);
    stage.change(&subscription, &[("items[0][id]", &item), ("items[0][quantity]", "1")]);
    stage.delivered().await;
    stage.a_minute_later().await;
    assert_eq!(stage.truth(&subscription)["items"]["data"][0]["quantity"], 3);
}

impl Stage {
    async fn a_minute_later(&self) {
        self.make_due("sync_seats").await;
        self.app.run_jobs().await;
        self.delivered().await;
    }

    /// Those that say in Stripe that they are this tenant's.
    pub(super) fn customers_of(&self, mark: &str) -> Vec<String> {
        let all = self.call("GET", "/v1/customers", &[("limit", "100")]);
        let all = all["data"].as_array().unwrap();
        all.iter().filter(|customer| customer["metadata"]["tenant_id"] == mark).map(id).collect()
    }
}

/// Stripe keeps the answer to a key, be it 500: asking again by it would never make a customer.
#[tokio::test]
async fn a_customer_is_made_once_although_stripe_has_a_fault() {
    let stage = Stage::with(&["--stripe-settle-delay=1s"]).await;
    for faults in [
        // It was made, and the answer is lost.
        ApiFaults { failed_after: 1.0, ..ApiFaults::default() },
        ApiFaults { cut_after: 1.0, ..ApiFaults::default() },
        // It was not.
        ApiFaults { failed: 1.0, ..ApiFaults::default() },
    ] {
        stage.faults(faults.clone(), WebhookFaults::default());
        let flags: Vec<_> = stage.flags.iter().map(String::as_str).collect();
        let other = TestApp::spawn_with(&flags).await;
        other.run_jobs().await;
        stage.faults(ApiFaults::default(), WebhookFaults::default());
        // What was asked for is no longer what will be.
        let sql = "update tenantry.users set email = 'eve@example.org' where tenant_id = $1";
        stage.database.execute(sql, &[&other.tenant]).await.unwrap();
        // As a checkout does which does not wait for the job.
        let opened = async || match other.post(PORTAL, &json!({"return_url": HOME})).await.0 {
            StatusCode::SERVICE_UNAVAILABLE => false,
            status => {
                assert_eq!(status, StatusCode::CREATED, "{faults:?}");
                true
            }
        };
        eventually(SOON, opened).await;
        assert_eq!(
            stage.customers_of(&other.tenant.to_string()),
            [stage.customer_of(&other).await],
            "{faults:?}"
        );
    }
}
