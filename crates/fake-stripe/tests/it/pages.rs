//! Checkout and the portal, as a browser uses them.

use serde_json::{Value, json};
use tenantry_fake_stripe::Options;

use crate::stage::{Stage, id};

async fn press(stage: &Stage, url: &str, form: &str) -> (u16, String, String) {
    let answer = stage.http.post(url).body(form.to_owned()).send().await.unwrap();
    let to = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
    (answer.status().as_u16(), to.unwrap_or_default(), answer.text().await.unwrap())
}

fn checkout(stage: &Stage, more: &[(&str, &str)]) -> Value {
    let price = stage.price(&[]);
    let parameters = [
        ("mode", "subscription"),
        ("line_items[0][price]", price.as_str()),
        ("line_items[0][quantity]", "2"),
        ("success_url", "https://example.org/ok?s={CHECKOUT_SESSION_ID}"),
    ];
    stage.post("/v1/checkout/sessions", &[&parameters, more].concat())
}

#[tokio::test]
async fn paying_begins_the_subscription_once() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(None, &[("email", "<b>@example.org")]);
    let session = checkout(
        &stage,
        &[
            ("customer", &customer),
            ("subscription_data[metadata][tenant]", "t"),
            ("client_reference_id", "r"),
        ],
    );
    let url = session["url"].as_str().unwrap();
    let page = stage.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(
        page.contains("2 × Seats") && page.contains("9.00 EUR per month") && !page.contains("<b>@"),
        "{page}"
    );

    let (status, _, page) = press(&stage, url, "action=decline").await;
    assert!(status == 200 && page.contains("declined") && stage.fake.truth().is_empty());
    let from = stage.kinds().len();
    let (status, to, _) = press(&stage, url, "action=pay").await;
    assert_eq!((status, to), (303, format!("https://example.org/ok?s={}", id(&session))));
    let kinds = &stage.kinds()[from..];
    let place = |kind: &str| kinds.iter().position(|one| one == kind).unwrap();
    assert!(place("customer.subscription.created") < place("invoice.paid"));
    assert!(place("invoice.paid") < place("customer.subscription.updated"));
    assert_eq!(kinds.last().unwrap(), "checkout.session.completed");
    // A second press leads on, and does no more.
    assert_eq!(press(&stage, url, "action=pay").await.0, 303);
    let truth = stage.fake.truth();
    assert_eq!(
        (truth.len(), &truth[0]["status"], &truth[0]["metadata"]),
        (1, &json!("active"), &json!({"tenant": "t"}))
    );
    assert_eq!(truth[0]["customer"], customer.as_str());
    let done = stage.get(&format!("/v1/checkout/sessions/{}", id(&session)));
    assert_eq!((&done["subscription"], &done["url"]), (&truth[0]["id"], &Value::Null));
    assert_eq!(done["client_reference_id"], "r");
}

#[tokio::test]
async fn whoever_has_no_customer_becomes_one() {
    let stage = Stage::new(Options::default()).await;
    let session = checkout(&stage, &[]);
    press(&stage, session["url"].as_str().unwrap(), "action=pay&email=new%40example.org").await;
    let customer = stage.get("/v1/customers")["data"][0].clone();
    assert_eq!(
        (&customer["email"], &stage.fake.truth()[0]["customer"]),
        (&json!("new@example.org"), &customer["id"])
    );
}

#[tokio::test]
async fn a_session_expires_after_a_day() {
    let stage = Stage::new(Options::default()).await;
    let session = checkout(&stage, &[]);
    stage.fake.advance(86_400);
    assert_eq!(stage.get(&format!("/v1/checkout/sessions/{}", id(&session)))["status"], "expired");
    assert_eq!(press(&stage, session["url"].as_str().unwrap(), "action=pay").await.0, 200);
    assert!(stage.fake.truth().is_empty());
}

#[tokio::test]
async fn no_page_leads_to_a_script() {
    let stage = Stage::new(Options::default()).await;
    let (customer, price) = (stage.customer(None, &[]), stage.price(&[]));
    for url in ["javascript:alert(1)", "/relative", "https://a\r\nx: y"] {
        let session = [("mode", "subscription"), ("line_items[0][price]", &price), ("success_url", url)];
        let portal = [("customer", customer.as_str()), ("return_url", url)];
        assert!(stage.fake.call("POST", "/v1/checkout/sessions", &session).is_err());
        assert!(stage.fake.call("POST", "/v1/billing_portal/sessions", &portal).is_err());
    }
}

#[tokio::test]
async fn the_portal_changes_the_subscriptions_of_its_customer_alone() {
    let stage = Stage::new(Options::default()).await;
    let (price, dearer) = (stage.price(&[]), stage.price(&[("unit_amount", "1900")]));
    let customers = [stage.customer(Some("visa"), &[]), stage.customer(Some("visa"), &[])];
    let [ours, theirs] = customers.each_ref().map(|customer| id(&stage.subscribe(customer, &price, &[])));
    let session = stage.post("/v1/billing_portal/sessions", &[("customer", &customers[0])]);
    let url = session["url"].as_str().unwrap();
    let page = stage.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains(&ours) && !page.contains(&theirs) && page.contains("19.00 EUR per month"));

    let before = stage.get(&format!("/v1/subscriptions/{theirs}"));
    press(&stage, url, &format!("action=cancel&subscription={theirs}")).await;
    assert_eq!(stage.get(&format!("/v1/subscriptions/{theirs}")), before);

    let now = || stage.get(&format!("/v1/subscriptions/{ours}"));
    let form = format!("action=change&subscription={ours}&price={dearer}&quantity=6");
    assert_eq!(press(&stage, url, &form).await.0, 303);
    let item = now()["items"]["data"][0].clone();
    assert_eq!((&item["price"]["id"], &item["quantity"]), (&json!(dearer), &json!(6)));
    for (action, ending) in [("cancel_at_period_end", true), ("keep", false)] {
        press(&stage, url, &format!("action={action}&subscription={ours}")).await;
        assert_eq!(now()["cancel_at_period_end"], ending);
    }
    press(&stage, url, &format!("action=cancel&subscription={ours}")).await;
    assert_eq!(now()["status"], "canceled");
}
