//! Checkout and the portal, as a browser uses them.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
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
async fn its_pages_let_in_nothing_and_lead_nowhere_else() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(Some("visa"), &[("name", "<script>1</script>"), ("email", "\"><b>@x")]);
    stage.subscribe(&customer, &stage.price(&[("product_data[name]", "<i>Seats")]), &[]);
    let session = checkout(&stage, &[("customer", &customer), ("cancel_url", "https://example.org/\"><b>")]);
    let portal = stage.post("/v1/billing_portal/sessions", &[("customer", &customer)]);
    let overview = format!("{}/", stage.fake.url());
    for (url, next) in [
        (session["url"].as_str().unwrap(), " https://example.org"),
        (portal["url"].as_str().unwrap(), ""),
        (&overview, ""),
    ] {
        let answer = stage.http.get(url).send().await.unwrap();
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(policy.ends_with(&format!("form-action 'self'{next}")), "{policy}");
        let page = answer.text().await.unwrap();
        let style = page.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        let hash = STANDARD.encode(Sha256::digest(style));
        assert!(policy.contains(&format!("'sha256-{hash}'")), "its own style is let in");
        assert!(!["<script>", "<b>", "<i>"].iter().any(|tag| page.contains(tag)), "{page}");
        assert!(page.contains("Seats"), "{page}");
    }
}

#[tokio::test]
async fn other_sites_press_no_buttons_and_read_nothing() {
    let stage = Stage::new(Options::default()).await;
    let overview = format!("{}/", stage.fake.url());
    let advance = |name: &'static str, value: String| {
        stage.http.post(&overview).header(name, value).body("action=advance&days=1").send()
    };
    let now = async || stage.http.get(format!("{}/_fake/state", stage.fake.url())).send().await.unwrap();
    let days = async |since: i64| {
        (now().await.json::<Value>().await.unwrap()["now"].as_i64().unwrap() - since) / 86_400
    };
    let since = now().await.json::<Value>().await.unwrap()["now"].as_i64().unwrap();
    for (name, value) in
        [("origin", "https://evil.example"), ("origin", "null"), ("host", "evil.example"), ("origin", "")]
    {
        assert_eq!(advance(name, value.to_owned()).await.unwrap().status(), 403, "{name}: {value}");
    }
    assert_eq!(days(since).await, 0);
    assert_eq!(advance("origin", stage.fake.url()).await.unwrap().status(), 303);
    assert_eq!(days(since).await, 1);
    // One that is asked for by a name on the network has one that we do not know.
    let named = stage.http.get(&overview).header("host", "evil.example").send().await.unwrap();
    assert_eq!(named.status(), 403);
    let options = Options { listen: ([0, 0, 0, 0], 0).into(), ..Options::default() };
    let open = Stage::new(options).await;
    let port = open.fake.url().rsplit(':').next().unwrap().to_owned();
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(open.http.get(&url).header("host", "stripe:80").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn the_buttons_let_time_pass_and_payments_fail() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(Some("visa"), &[]);
    let subscription = id(&stage.subscribe(&customer, &stage.price(&[]), &[]));
    let overview = format!("{}/", stage.fake.url());
    let status = || stage.get(&format!("/v1/subscriptions/{subscription}"))["status"].clone();
    for (form, wanted) in [
        (format!("action=decline&customer={customer}"), "active"),
        ("action=advance&days=31".to_owned(), "past_due"),
        (format!("action=next&subscription={subscription}"), "past_due"),
        (format!("action=accept&customer={customer}"), "past_due"),
        (format!("action=next&subscription={subscription}"), "active"),
    ] {
        let (code, to, page) = press(&stage, &overview, &form).await;
        assert_eq!((code, to.as_str()), (303, "/"), "{form}: {page}");
        assert_eq!(status(), wanted, "{form}");
    }
    assert_eq!(press(&stage, &overview, "action=advance&days=0").await.0, 400);
    assert_eq!(press(&stage, &overview, "action=explode").await.0, 400);
    let (code, to, _) = press(&stage, &overview, &format!("action=portal&customer={customer}")).await;
    assert!(code == 303 && to.starts_with("/p/session/bps_"), "{code} {to}");
}

#[tokio::test]
async fn another_card_pays_what_is_owed() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(Some("visa"), &[]);
    let subscription = id(&stage.subscribe(&customer, &stage.price(&[]), &[]));
    stage.control("cards", json!({"customer": customer, "declines": true})).await;
    stage.fake.advance(31 * 86_400);
    let session = stage.post("/v1/billing_portal/sessions", &[("customer", &customer)]);
    let url = session["url"].as_str().unwrap();
    let page = stage.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("past due") && page.contains("Pay 9.00 EUR"), "{page}");

    let form = format!("action=pay&subscription={subscription}");
    assert_eq!(press(&stage, url, &form).await.0, 303);
    let truth = stage.fake.truth().remove(0);
    assert_eq!(truth["status"], "active");
    let invoice = stage.get(&format!("/v1/invoices/{}", truth["latest_invoice"].as_str().unwrap()));
    assert_eq!(invoice["status"], "paid");
    let overview = stage.http.get(format!("{}/", stage.fake.url())).send().await.unwrap();
    assert!(!overview.text().await.unwrap().contains("the next payment fails"), "that was the other card");
    // There is nothing left to pay, and the page says so.
    let (code, _, page) = press(&stage, url, &form).await;
    assert!(code == 200 && page.contains("already paid"), "{code} {page}");
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
