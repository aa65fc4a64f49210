//! What goes through all that Stripe has, on a database of its own.

use std::time::Duration;

use tenantry_accounts::{
    Actor, TenantId,
    billing::{customers, walk},
};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};
use tenantry_workers::stripe::{Seen, subscriptions};

use super::{Stage, id};
use crate::cli::tenantry;

const RECONCILE: &str =
    "select tenantry.enqueue_job('stripe_reconcile', '{}', '00000000-0000-0000-0000-000000000000')";

impl Stage {
    fn stranger(&self) -> String {
        let customer = id(&self.call("POST", "/v1/customers", &[("name", "Somebody")]));
        self.give_card(&customer);
        customer
    }

    async fn reconcile(&self) {
        self.database.execute(RECONCILE, &[]).await.unwrap();
        self.run_all_jobs().await;
    }

    /// Runs `tenantry stripe` beside the API.
    fn command(&self, arguments: &[&str]) -> String {
        let url = self.app.config().database_url().unwrap().to_owned();
        let settings = [
            ("DATABASE_URL", url.as_str()),
            ("STRIPE_SECRET_KEY", "sk_test_1"),
            ("STRIPE_API_BASE", &self.fake.url()),
            ("STRIPE_PRICES", &format!("{}=pro,{}=enterprise", self.prices[1], self.prices[2])),
        ];
        let output = tenantry(&[&["stripe"], arguments].concat(), &settings);
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(output.status.success(), "{said}");
        said
    }
}

#[tokio::test]
async fn what_nobody_pays_for_is_parked_until_somebody_does() {
    let stage = Stage::alone().await;
    let customer = stage.stranger();
    let subscription = stage.subscribe(&customer, 1);
    stage.fake.deliver().await;
    stage.run_all_jobs().await;
    assert_eq!(customers::parked(stage.house()).await.unwrap(), [(customer.clone(), 1)]);
    assert_eq!(stage.plan().await, "basic");
    assert!(stage.command(&["status"]).contains(&customer));
    // What it says itself is nobody's word.
    stage.change(&subscription, &[("metadata[tenant_id]", &stage.app.tenant.to_string())]);
    stage.fake.deliver().await;
    stage.run_all_jobs().await;
    assert_eq!(stage.plan().await, "basic");

    let said = stage.command(&["link", &stage.app.slug, &customer]);
    assert!(said.contains(&customer), "{said}");
    stage.run_all_jobs().await;

    assert_eq!(stage.seen().await, ("active".into(), stage.prices[1].clone(), "pro".into()));
    assert_eq!(customers::parked(stage.house()).await.unwrap(), []);
    assert_eq!(stage.app.audited_by("billing.customer_linked").await, [("operator".to_owned(), None)]);
}

#[tokio::test]
async fn a_customer_that_pays_for_another_tenant_now_pays_for_this_one_no_longer() {
    let stage = Stage::alone().await;
    stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    let (other, stranger) = (stage.neighbour().await, stage.stranger());
    let link = async |tenant, customer| {
        let actor = Actor::operator(TenantId(tenant));
        customers::relink(stage.house(), actor, customer).await.unwrap();
        stage.run_all_jobs().await;
    };

    link(stage.app.tenant, &stranger).await;
    assert_eq!(stage.plan().await, "basic");
    assert_eq!(stage.billing().await["subscriptions"].as_array().unwrap().len(), 0);
    link(other.tenant, &stage.customer).await;

    assert_eq!(stage.plan().await, "basic");
    let (_, theirs) = other.get(&format!("/api/v1/tenants/{}", other.tenant)).await;
    assert_eq!(theirs["data"]["plan"], "pro");
}

#[tokio::test]
async fn a_customer_pays_for_one_tenant() {
    let stage = Stage::alone().await;
    let other = stage.neighbour().await;
    let actor = Actor::operator(TenantId(other.tenant));

    let error = customers::relink(stage.house(), actor, &stage.customer).await.unwrap_err();

    assert!(matches!(error, tenantry_accounts::Error::CustomerTaken), "{error}");
}

// The program runs beside the test, and asks the fake that is in the test's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_events_are_found_and_what_differs_is_put_right() {
    let stage = Stage::alone().await;
    let subscription = stage.subscribe(&stage.customer, 1);
    stage.delivered().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    stage.change_plan(&subscription, 2);
    stage.delivered().await;
    assert_eq!(stage.plan().await, "pro", "nothing is known of it");

    stage.reconcile().await;

    assert_eq!(stage.seen().await, ("active".into(), stage.prices[2].clone(), "enterprise".into()));
    let walk = walk::find(stage.house(), "comparison").await.unwrap().unwrap();
    assert!(walk.ended_at.is_some() && walk.done == 1, "{walk:?}");

    // Not even an event tells of what somebody did to our own rows.
    let wrong = "update tenantry.subscriptions set status = 'canceled'";
    stage.database.execute(wrong, &[]).await.unwrap();
    stage.database.execute("update tenantry.subscription_items set quantity = 9", &[]).await.unwrap();
    stage.reconcile().await;
    assert_eq!(stage.seen().await.0, "canceled", "all are compared once a day");
    let said = stage.command(&["reconcile"]);
    assert!(said.contains("1 were different"), "{said}");
    let billing = stage.billing().await;
    assert_eq!(
        (&billing["subscriptions"][0]["status"], &billing["subscriptions"][0]["items"][0]["quantity"]),
        (&"active".into(), &1.into())
    );
}

#[tokio::test]
async fn a_backfill_goes_on_where_it_was_stopped() {
    let stage = Stage::alone().await;
    stage.faults(ApiFaults::default(), WebhookFaults { lost: 1.0, ..WebhookFaults::default() });
    for _ in 0..250 {
        stage.subscribe(&stage.customer, 1);
    }
    let (house, client) = (stage.house(), stage.client());
    let mut pages = vec![];

    let ended = subscriptions(house, &client, "backfill", Some(Duration::ZERO), |seen| pages.push(seen))
        .await
        .unwrap();
    assert!(!ended && pages == [Seen { seen: 100, drifted: 100, parked: 0 }], "{pages:?}");
    // Stripe is away in the middle of it.
    stage.faults(ApiFaults { failed: 1.0, ..ApiFaults::default() }, WebhookFaults::default());
    subscriptions(house, &client, "backfill", None, |seen| pages.push(seen)).await.unwrap_err();
    stage.faults(ApiFaults::default(), WebhookFaults::default());
    assert!(subscriptions(house, &client, "backfill", None, |seen| pages.push(seen)).await.unwrap());

    assert_eq!(pages.iter().map(|page| page.seen).collect::<Vec<_>>(), [100, 100, 50]);
    let stored = stage
        .count("select count(*) from tenantry.subscriptions where tenant_id = $1", &stage.app.tenant)
        .await;
    assert_eq!((stored, stage.plan().await.as_str()), (250, "pro"));
}
