//! Customers that Stripe has deleted, and those that it does not know.

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tenantry_accounts::{Actor, TenantId, billing::customers};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{
    Stage, id,
    idempotency::with_key,
    out::{CHECKOUT, PORTAL, checkout},
};
use crate::app::TestApp;

fn portal() -> Value {
    json!({"return_url": "https://app.example.org/"})
}

impl Stage {
    fn delete(&self, customer: &str) {
        self.call("DELETE", &format!("/v1/customers/{customer}"), &[]);
    }

    async fn linked(&self) -> Option<String> {
        let sql = "select customer_id from tenantry.billing_customers where tenant_id = $1";
        self.database.query_one(sql, &[&self.app.tenant]).await.unwrap().get(0)
    }

    async fn attempt(&self) -> i32 {
        let sql = "select attempt from tenantry.billing_customers where tenant_id = $1";
        self.database.query_one(sql, &[&self.app.tenant]).await.unwrap().get(0)
    }

    /// Webhooks are lost from now on.
    fn deaf(&self) {
        self.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    }

    /// Opens a checkout for `pro`, and pays.
    async fn pay(&self) {
        let (status, page) = self.app.post(CHECKOUT, &checkout("pro")).await;
        assert_eq!(status, StatusCode::CREATED, "{page}");
        let url = page["data"]["url"].as_str().unwrap();
        assert!(self.app.http.post(url).body("action=pay").send().await.unwrap().status().is_redirection());
    }
}

#[tokio::test]
async fn a_customer_that_stripe_deletes_is_unlinked_and_the_next_checkout_makes_another() {
    let stage = Stage::new().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro");

    stage.delete(&stage.customer);
    stage.delivered().await;

    assert_eq!((stage.linked().await, stage.plan().await.as_str()), (None, "basic"));
    assert_eq!(stage.app.audited_by("billing.customer_unlinked").await, [("system".to_owned(), None)]);
    // What it paid for stays the tenant's, and has ended as it has in Stripe.
    let billing = stage.billing().await;
    let held = &billing["subscriptions"][0];
    assert_eq!(
        (&held["stripe_subscription_id"], &held["status"]),
        (&json!(subscription), &json!("canceled"))
    );
    assert_eq!(billing["entitlement"]["plan"], json!(null));

    stage.pay().await;
    stage.delivered().await;
    let new = stage.linked().await.unwrap();
    assert!(new != stage.customer && stage.plan().await == "pro", "{new}");
    assert_eq!(stage.billing().await["subscriptions"].as_array().unwrap().len(), 2);
    // The end of the old one, once more.
    assert!(!stage.take_in(&stage.event("customer.deleted")).await);
    let mut again = stage.event("customer.deleted");
    again["id"] = json!(format!("evt_{}", stage.app.tenant.simple()));
    assert!(stage.take_in(&again).await);
    stage.app.run_jobs().await;
    assert_eq!((stage.linked().await, stage.plan().await.as_str()), (Some(new), "pro"));
    assert_eq!(stage.attempt().await, 1);
}

#[tokio::test]
async fn the_subscriptions_of_a_deleted_customer_end_although_their_own_events_are_lost() {
    let stage = Stage::new().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.deaf();
    stage.delete(&stage.customer);

    stage.take_in(&stage.event("customer.deleted")).await;
    stage.app.run_jobs().await;

    assert_eq!((stage.linked().await, stage.plan().await.as_str()), (None, "basic"));
    assert_eq!(stage.billing().await["subscriptions"][0]["status"], "canceled");
}

/// An event is not enough: Stripe itself has to say so. Its copies may be behind the event.
#[tokio::test]
async fn a_customer_stays_linked_until_stripe_says_that_it_is_deleted() {
    let stage = Stage::new().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let early = json!({"id": format!("evt_{}", stage.app.tenant.simple()), "type": "customer.deleted", "created": 1,
        "data": {"object": {"object": "customer", "id": stage.customer}}});
    assert!(stage.take_in(&early).await);
    stage.app.run_jobs().await;
    assert_eq!((stage.linked().await.as_ref(), stage.plan().await.as_str()), (Some(&stage.customer), "pro"));

    stage.deaf();
    stage.delete(&stage.customer);
    stage.tried_again("sync_customer").await;
    assert_eq!((stage.linked().await, stage.plan().await.as_str()), (None, "basic"));
}

#[tokio::test]
async fn checkout_and_portal_go_on_with_another_customer_when_stripe_has_deleted_theirs() {
    let stage = Stage::new().await;
    let bodies = [(CHECKOUT, checkout("pro")), (PORTAL, portal())];
    for (path, body) in &bodies {
        let before = stage.linked().await.unwrap();
        let (status, old) = with_key(&stage.app, path, path, body).await;
        assert_eq!(status, StatusCode::CREATED, "{old}");
        stage.deaf();
        stage.delete(&before);

        // However many ask at once, one customer is made. Who comes too early is told to ask again.
        let asked = join_all((0..4).map(|n| stage.post_until_made(path, body, n))).await;
        assert_eq!(asked[0], asked[3], "the same key opens one page");
        assert_ne!(asked[0], asked[1]);
        let (status, new) = with_key(&stage.app, path, path, body).await;
        assert_eq!(status, StatusCode::CREATED, "{new}");

        let after = stage.linked().await.unwrap();
        assert!(after != before && new["data"]["id"] != old["data"]["id"], "{path}: {before}, {after}");
        assert_eq!(stage.customers_of(&stage.app.tenant.to_string()), [after]);
    }
}

impl Stage {
    /// The id of the page that is opened; the fourth asks as the first does.
    async fn post_until_made(&self, path: &str, body: &Value, n: usize) -> String {
        loop {
            let (status, page) = with_key(&self.app, path, &format!("{path}-{}", n % 3), body).await;
            if status == StatusCode::CREATED {
                return id(&page["data"]);
            }
            // Stripe is busy, or is being asked by the same key.
            assert!([StatusCode::SERVICE_UNAVAILABLE, StatusCode::CONFLICT].contains(&status), "{page}");
        }
    }
}

#[tokio::test]
async fn what_a_deleted_customer_met_is_not_held_against_the_next() {
    let stage = Stage::new().await;
    let long_ago =
        "update tenantry.billing_customers set failed_at = now() - interval '1 day' where tenant_id = $1";
    stage.database.execute(long_ago, &[&stage.app.tenant]).await.unwrap();
    stage.delete(&stage.customer);
    stage.delivered().await;
    let attempt = stage.attempt().await;

    // It may have been made all the same, and be listed a little later.
    stage.faults(ApiFaults { failed_after: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    assert_eq!(stage.app.post(PORTAL, &portal()).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stage.attempt().await, attempt, "no other key is used yet");
}

#[tokio::test]
async fn a_customer_that_stripe_does_not_know_stays_linked() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let actor = Actor::operator(TenantId(stage.app.tenant));
    customers::relink(stage.house(), actor, "cus_of_another_account").await.unwrap();
    stage.run_all_jobs().await;

    for (path, body) in [(CHECKOUT, checkout("pro")), (PORTAL, portal())] {
        let (status, refused) = stage.app.post(path, &body).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::CONFLICT, &json!("billing_refused")));
        assert!(refused.to_string().contains("does not know the customer"), "{refused}");
    }
    let said = stage.command(&["backfill"]).await;
    assert!(said.contains("1 customers of tenants were not listed: Stripe has deleted 0"), "{said}");
    let said = stage.command(&["status"]).await;
    assert!(said.contains(&format!("cus_of_another_account of {}", stage.app.slug)), "{said}");
    assert_eq!(stage.linked().await.unwrap(), "cus_of_another_account");

    // With the right one it is no longer named.
    customers::relink(stage.house(), actor, &stage.customer).await.unwrap();
    let said = stage.command(&["backfill"]).await;
    assert!(!said.contains("not listed") && !said.contains("unknown to Stripe"), "{said}");
    assert_eq!(stage.plan().await, "pro");
}

#[tokio::test]
async fn a_backfill_unlinks_what_stripe_has_deleted_unheard() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let other = stage.neighbour().await;
    stage.deaf();
    stage.delete(&stage.customer);
    assert_eq!(stage.plan().await, "pro", "nothing is known of it");

    let said = stage.command(&["backfill"]).await;

    assert!(said.contains("Stripe has deleted 1 of them"), "{said}");
    assert_eq!((stage.linked().await, stage.plan().await.as_str()), (None, "basic"));
    assert_eq!(stage.billing().await["subscriptions"][0]["status"], "canceled");
    assert!(!stage.customer_of(&other).await.is_empty());
    let output = stage.process(&["link", &stage.app.slug, &stage.customer]).output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("stripe has deleted the customer"), "{said}");
    stage.pay().await;
    assert_ne!(stage.linked().await.unwrap(), stage.customer);
}

/// Stripe keeps the answer to a key: by the same one it would name the customer for a day.
#[tokio::test]
async fn a_customer_that_was_deleted_before_it_was_linked_is_made_again() {
    let stage = Stage::new().await;
    stage.faults(ApiFaults { cut_after: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    let flags: Vec<_> = stage.flags.iter().map(String::as_str).collect();
    let other = TestApp::spawn_with(&flags).await;
    other.run_jobs().await;
    stage.faults(ApiFaults::default(), WebhookFaults::default());
    let made = stage.customers_of(&other.tenant.to_string());
    stage.delete(&made[0]);
    stage.fake.deliver().await;

    let (status, answer) = other.post(PORTAL, &portal()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    let (status, answer) = other.post(PORTAL, &portal()).await;

    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(stage.customers_of(&other.tenant.to_string()), [stage.customer_of(&other).await]);
}
