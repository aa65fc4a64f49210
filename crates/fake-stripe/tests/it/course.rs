//! What time does to subscriptions.

use serde_json::{Value, json};
use tenantry_fake_stripe::{Dunning, Options};

use crate::stage::{Stage, id};

const DAY: i64 = 86_400;
/// 2027-01-31, noon.
const NOW: i64 = 1_801_396_800;

struct Scene {
    stage: Stage,
    clock: String,
    customer: String,
    subscription: String,
}

impl Scene {
    async fn new(dunning: Dunning, card: Option<&str>, more: &[(&str, &str)]) -> Self {
        let stage = Stage::new(Options { dunning, ..Options::default() }).await;
        let (customer, clock) = stage.traveller(card, NOW);
        let subscription = id(&stage.subscribe(&customer, &stage.price(&[]), more));
        Self { stage, clock, customer, subscription }
    }

    fn now(&self) -> Value {
        self.stage.get(&format!("/v1/subscriptions/{}", self.subscription))
    }

    fn update(&self, parameters: &[(&str, &str)]) -> Value {
        self.stage.post(&format!("/v1/subscriptions/{}", self.subscription), parameters)
    }

    /// The status so many days after the beginning.
    fn at(&self, days: i64) -> String {
        self.stage.travel(&self.clock, NOW + days * DAY);
        self.now()["status"].as_str().unwrap().to_owned()
    }

    fn invoices(&self) -> Vec<Value> {
        self.stage.call("GET", "/v1/invoices", &[("customer", &self.customer)])["data"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// Kinds of the events about subscriptions and invoices since `from`.
    fn kinds(&self, from: usize) -> Vec<String> {
        let about = |kind: &&String| kind.starts_with("customer.subscription") || kind.starts_with("invoice");
        self.stage.kinds()[from..].iter().filter(about).cloned().collect()
    }

    fn count(&self) -> usize {
        self.stage.kinds().len()
    }
}

fn period(subscription: &Value) -> (i64, i64) {
    let item = &subscription["items"]["data"][0];
    (item["current_period_start"].as_i64().unwrap(), item["current_period_end"].as_i64().unwrap())
}

#[tokio::test]
async fn periods_follow_each_other_and_are_paid() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[("items[0][quantity]", "3")]).await;
    assert_eq!(period(&scene.now()), (NOW, NOW + 28 * DAY));
    let from = scene.count();
    assert_eq!(scene.at(30), "active");
    assert_eq!(period(&scene.now()), (NOW + 28 * DAY, NOW + 59 * DAY));
    let kinds = scene.kinds(from);
    let wanted = [
        "customer.subscription.updated",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ];
    assert_eq!(kinds, wanted);
    assert_eq!(scene.at(365), "active");
    let invoices = scene.invoices();
    assert!(invoices.iter().all(|invoice| invoice["status"] == "paid" && invoice["amount_paid"] == 2700));
    assert_eq!((invoices.len(), &invoices[0]["id"]), (10, &scene.now()["latest_invoice"]), "the first page");
}

#[tokio::test]
async fn a_payment_that_fails_is_tried_again_and_then_given_up() {
    for (dunning, status, reason) in [
        (Dunning::Cancel, "canceled", json!("payment_failed")),
        (Dunning::Unpaid, "unpaid", Value::Null),
        (Dunning::PastDue, "past_due", Value::Null),
    ] {
        let scene = Scene::new(dunning, Some("visa"), &[]).await;
        scene.stage.control("cards", json!({"customer": scene.customer, "declines": true})).await;
        assert_eq!(scene.at(28), "past_due");
        assert_eq!(scene.at(28 + 3 + 5), "past_due");
        assert_eq!(scene.invoices()[0]["attempt_count"], 3);
        assert_eq!(scene.at(28 + 3 + 5 + 7), status);
        assert_eq!(scene.now()["cancellation_details"]["reason"], reason);
        if status == "unpaid" {
            assert_eq!(scene.at(60), "unpaid");
            assert_eq!(scene.invoices()[0]["status"], "draft");
        }
    }
}

#[tokio::test]
async fn whoever_pays_late_is_active_again() {
    let scene = Scene::new(Dunning::Unpaid, Some("visa"), &[]).await;
    let cards = |declines: bool| {
        scene.stage.control("cards", json!({"customer": scene.customer, "declines": declines}))
    };
    cards(true).await;
    assert_eq!(scene.at(29), "past_due");
    let pay = format!("/v1/invoices/{}/pay", scene.now()["latest_invoice"].as_str().unwrap());
    let refused = scene.stage.fake.call("POST", &pay, &[]).unwrap_err();
    assert_eq!(refused["error"]["code"], "card_declined");
    cards(false).await;
    assert_eq!(scene.stage.post(&pay, &[])["status"], "paid");
    assert_eq!(scene.now()["status"], "active");
    assert_eq!(scene.at(31), "active");
    let again = scene.stage.fake.call("POST", &pay, &[]).unwrap_err();
    assert_eq!(again["error"]["code"], "invoice_already_paid");

    // Or the next attempt does it.
    cards(true).await;
    assert_eq!(scene.at(60), "past_due");
    cards(false).await;
    assert_eq!(scene.at(63), "active");
}

#[tokio::test]
async fn a_first_invoice_that_is_not_paid_expires() {
    let scene = Scene::new(Dunning::Cancel, Some("chargeCustomerFail"), &[]).await;
    assert_eq!(scene.now()["status"], "incomplete");
    assert_eq!(scene.at(1), "incomplete_expired");

    let scene = Scene::new(Dunning::Cancel, None, &[("payment_behavior", "default_incomplete")]).await;
    let invoice = scene.now()["latest_invoice"].as_str().unwrap().to_owned();
    scene.stage.post(&format!("/v1/invoices/{invoice}/pay"), &[("paid_out_of_band", "true")]);
    assert_eq!(scene.now()["status"], "active");
}

#[tokio::test]
async fn a_trial_is_announced_and_ends() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[("trial_period_days", "14")]).await;
    assert_eq!((&scene.now()["status"], period(&scene.now())), (&json!("trialing"), (NOW, NOW + 14 * DAY)));
    assert_eq!(scene.invoices()[0]["total"], 0);
    let from = scene.count();
    assert_eq!(scene.at(12), "trialing");
    assert_eq!(scene.kinds(from), ["customer.subscription.trial_will_end"]);
    assert_eq!(scene.at(15), "active");
    assert_eq!(period(&scene.now()).0, NOW + 14 * DAY);
    assert_eq!(scene.invoices()[0]["amount_paid"], 900);

    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[("trial_period_days", "14")]).await;
    assert_eq!(scene.update(&[("trial_end", "now")])["status"], "active");
}

#[tokio::test]
async fn a_trial_without_a_card_ends_as_was_chosen() {
    let choice = "trial_settings[end_behavior][missing_payment_method]";
    let scene = Scene::new(Dunning::Cancel, None, &[("trial_period_days", "2"), (choice, "pause")]).await;
    // Shorter than the notice: announced at once.
    assert!(scene.kinds(0).contains(&"customer.subscription.trial_will_end".to_owned()));
    let from = scene.count();
    assert_eq!(scene.at(3), "paused");
    assert_eq!(scene.kinds(from), ["customer.subscription.updated", "customer.subscription.paused"]);
    let resume = format!("/v1/subscriptions/{}/resume", scene.subscription);
    assert!(scene.stage.fake.call("POST", &resume, &[]).is_err());
    let card = [("customer", scene.customer.as_str())];
    let card = id(&scene.stage.post("/v1/payment_methods/pm_card_visa/attach", &card));
    scene.update(&[("default_payment_method", &card)]);
    assert_eq!(scene.stage.post(&resume, &[])["status"], "active");
    assert_eq!(scene.kinds(0).last().unwrap(), "customer.subscription.resumed");

    let scene = Scene::new(Dunning::Cancel, None, &[("trial_period_days", "2"), (choice, "cancel")]).await;
    assert_eq!(scene.at(3), "canceled");
    let scene = Scene::new(Dunning::Cancel, None, &[("trial_period_days", "2")]).await;
    assert_eq!(scene.at(3), "past_due");
}

#[tokio::test]
async fn a_subscription_ends_when_it_was_told_to() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    let ending = scene.update(&[("cancel_at_period_end", "true")]);
    assert_eq!((&ending["cancel_at"], &ending["canceled_at"]), (&json!(NOW + 28 * DAY), &json!(NOW)));
    let staying = scene.update(&[("cancel_at_period_end", "false")]);
    assert_eq!((&staying["cancel_at"], &staying["canceled_at"]), (&Value::Null, &Value::Null));
    scene.update(&[("cancel_at_period_end", "true")]);
    let from = scene.count();
    assert_eq!(scene.at(40), "canceled");
    // No invoice for a period that is not.
    assert_eq!(scene.kinds(from), ["customer.subscription.deleted"]);
    assert_eq!(scene.now()["ended_at"], NOW + 28 * DAY);
    let refused = scene.stage.fake.call("DELETE", &format!("/v1/subscriptions/{}", scene.subscription), &[]);
    assert_eq!(refused.unwrap_err()["error"]["code"], "resource_missing");

    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    scene.update(&[("cancel_at", &(NOW + 40 * DAY).to_string())]);
    assert_eq!(scene.at(39), "active");
    assert_eq!(scene.at(41), "canceled");
}

#[tokio::test]
async fn collection_rests_until_it_is_taken_up() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    let until = (NOW + 40 * DAY).to_string();
    scene.update(&[("pause_collection[behavior]", "void"), ("pause_collection[resumes_at]", &until)]);
    assert_eq!(scene.at(29), "active");
    assert_eq!(scene.invoices()[0]["status"], "void");
    assert_eq!(scene.at(41), "active");
    assert_eq!(scene.now()["pause_collection"], Value::Null);
    assert_eq!(scene.at(60), "active");
    assert_eq!(scene.invoices()[0]["status"], "paid");
}

#[tokio::test]
async fn another_interval_begins_a_new_period() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    let yearly = scene.stage.price(&[("recurring[interval]", "year"), ("unit_amount", "9000")]);
    let item = id(&scene.now()["items"]["data"][0]);
    scene.stage.travel(&scene.clock, NOW + 10 * DAY);
    let changed = scene.update(&[("items[0][id]", &item), ("items[0][price]", &yearly)]);
    assert_eq!(period(&changed), (NOW + 10 * DAY, NOW + 375 * DAY));
    assert_eq!((&changed["items"]["data"][0]["id"], scene.invoices().len()), (&json!(item), 2));
    let monthly = scene.stage.price(&[]);
    let mixed = [("items[0][price]", monthly.as_str())];
    let path = format!("/v1/subscriptions/{}", scene.subscription);
    assert!(scene.stage.fake.call("POST", &path, &mixed).is_err());
    let none = [("items[0][id]", item.as_str()), ("items[0][deleted]", "true")];
    assert!(scene.stage.fake.call("POST", &path, &none).is_err());
    let swapped = [none[0], none[1], ("items[1][price]", &monthly), ("items[1][quantity]", "2")];
    let swapped = scene.update(&swapped);
    assert_eq!(swapped["items"]["data"].as_array().unwrap().len(), 1);
    assert_eq!(swapped["items"]["data"][0]["quantity"], 2);
}

#[tokio::test]
async fn phases_follow_each_other_until_the_schedule_lets_go() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    let from = [("from_subscription", scene.subscription.as_str())];
    let schedule = scene.stage.post("/v1/subscription_schedules", &from);
    let path = format!("/v1/subscription_schedules/{}", id(&schedule));
    let (first, other) =
        (id(&scene.now()["items"]["data"][0]["price"]), scene.stage.price(&[("unit_amount", "1900")]));
    let end = (NOW + 28 * DAY).to_string();
    scene.stage.post(
        &path,
        &[
            ("phases[0][items][0][price]", &first),
            ("phases[0][end_date]", &end),
            ("phases[1][items][0][price]", &other),
            ("phases[1][items][0][quantity]", "2"),
            ("phases[1][duration][interval]", "month"),
        ],
    );
    assert_eq!(scene.at(27), "active");
    assert_eq!(scene.now()["items"]["data"][0]["price"]["id"], first);
    assert_eq!(scene.at(29), "active");
    assert_eq!(scene.now()["items"]["data"][0]["price"]["id"], other);
    assert_eq!(scene.invoices()[0]["amount_paid"], 3800);
    assert_eq!(scene.at(70), "active");
    assert_eq!(
        (&scene.now()["schedule"], &scene.stage.get(&path)["status"]),
        (&Value::Null, &json!("released"))
    );
    assert_eq!(scene.now()["items"]["data"][0]["price"]["id"], other);
}

#[tokio::test]
async fn without_a_clock_time_passes_when_it_is_told_to() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(Some("visa"), &[]);
    let subscription = stage.subscribe(&customer, &stage.price(&[]), &[]);
    let path = format!("subscriptions/{}", id(&subscription));
    let next = stage.control(&format!("{path}/next"), json!({})).await;
    assert_eq!(period(&next).0, period(&subscription).1);
    stage.fake.advance(70 * 86_400);
    assert!(period(&stage.fake.truth()[0]).0 > period(&next).0);
    for status in ["past_due", "unpaid", "paused", "trialing", "incomplete", "active"] {
        assert_eq!(
            stage.control(&format!("{path}/status"), json!({"status": status})).await["status"],
            status
        );
        assert_eq!(stage.fake.truth()[0]["status"], status);
    }
    let unknown =
        stage.http.post(format!("{}/_fake/{path}/status", stage.fake.url())).body(r#"{"status": "all"}"#);
    assert_eq!(unknown.send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_customer_takes_its_subscriptions_along() {
    let scene = Scene::new(Dunning::Cancel, Some("visa"), &[]).await;
    let from = scene.count();
    let gone = scene.stage.call("DELETE", &format!("/v1/customers/{}", scene.customer), &[]);
    assert_eq!(gone, json!({"id": scene.customer, "object": "customer", "deleted": true}));
    assert_eq!(scene.stage.kinds()[from..], ["customer.subscription.deleted", "customer.deleted"]);
    assert_eq!(scene.stage.get(&format!("/v1/customers/{}", scene.customer))["deleted"], true);
    assert_eq!(scene.now()["status"], "canceled");
    assert_eq!(scene.stage.get("/v1/customers")["data"], json!([]));
}
