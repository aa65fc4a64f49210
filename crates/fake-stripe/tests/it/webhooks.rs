//! Events as they are delivered: signed, again, out of order, or not at all.

use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;
use tenantry_fake_stripe::Options;

use crate::stage::{Endpoint, Stage, faults, id};

async fn stage(endpoint: &Endpoint) -> Stage {
    let secrets = vec!["whsec_old".to_owned(), "whsec_new".to_owned()];
    Stage::new(Options { webhook_url: Some(endpoint.url.clone()), secrets, ..Options::default() }).await
}

#[tokio::test]
async fn each_secret_signs() {
    let endpoint = Endpoint::new(|_| 200).await;
    let stage = stage(&endpoint).await;
    let customer = stage.customer(None, &[("name", "Åse")]);
    let (head, event) = endpoint.wait(1).await.remove(0);

    assert_eq!(
        (&event["type"], &event["data"]["object"]["id"]),
        (&json!("customer.created"), &json!(customer))
    );
    let header = head.split("stripe-signature: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let mut parts = header.split(',');
    let at = parts.next().unwrap().strip_prefix("t=").unwrap();
    let body = serde_json::to_string_pretty(&event).unwrap();
    let signed = |secret: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{at}.{body}").as_bytes());
        let bytes = mac.finalize().into_bytes();
        "v1=".to_owned() + &bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert_eq!(parts.collect::<Vec<_>>(), [signed("whsec_old"), signed("whsec_new")]);
}

#[tokio::test]
async fn an_endpoint_gets_the_kinds_that_it_wants_until_it_takes_them() {
    let endpoint = Endpoint::new(|number| [500, 302, 200][number.min(2)]).await;
    let stage = Stage::new(Options::default()).await;
    stage.fake.set_faults(faults(json!({"webhooks": {"retry_ms": [1, 1, 1]}}))).unwrap();
    let made = stage.post(
        "/v1/webhook_endpoints",
        &[
            ("url", &endpoint.url),
            ("enabled_events[]", "product.*"),
            ("enabled_events[]", "customer.deleted"),
        ],
    );
    stage.customer(None, &[]);
    let price = stage.price(&[]);
    let received = endpoint.wait(3).await;

    let product = stage.get(&format!("/v1/prices/{price}"))["product"].clone();
    for (_, event) in &received {
        assert_eq!((&event["type"], &event["data"]["object"]["id"]), (&json!("product.created"), &product));
    }
    stage.post(&format!("/v1/webhook_endpoints/{}", id(&made)), &[("disabled", "true")]);
    stage.post(&format!("/v1/products/{}", product.as_str().unwrap()), &[("name", "Other")]);
    stage.fake.deliver().await;
    assert_eq!(endpoint.received().len(), 3);
}

#[tokio::test]
async fn what_is_never_taken_is_given_up() {
    let endpoint = Endpoint::new(|_| 500).await;
    let stage = stage(&endpoint).await;
    stage.fake.set_faults(faults(json!({"webhooks": {"retry_ms": [1, 1]}}))).unwrap();
    stage.customer(None, &[]);
    endpoint.wait(3).await;
    stage.fake.deliver().await;
    assert_eq!((stage.fake.pending(), endpoint.received().len()), (0, 3));
}

#[tokio::test]
async fn events_are_held_and_let_go_in_any_order_with_copies_and_losses() {
    let endpoint = Endpoint::new(|_| 200).await;
    let stage = stage(&endpoint).await;
    let storm = json!({"seed": 5, "webhooks": {"deliver": false, "lost": 0.2, "copies": [1, 5]}});
    stage.fake.set_faults(faults(storm)).unwrap();
    for _ in 0..50 {
        stage.customer(None, &[]);
    }
    let held = stage.fake.pending();
    assert_eq!(endpoint.received().len(), 0);
    stage.control("deliver", json!({})).await;

    let received = endpoint.received();
    assert_eq!((received.len(), stage.fake.pending()), (held, 0));
    let order: Vec<String> = received.iter().map(|(_, event)| id(event)).collect();
    assert!(!order.is_sorted());
    let mut copies = BTreeMap::<&str, usize>::new();
    order.iter().for_each(|event| *copies.entry(event).or_default() += 1);
    assert!((30..50).contains(&copies.len()), "{} events came", copies.len());
    assert_eq!(copies.values().copied().collect::<BTreeSet<_>>(), (1..=5).collect());

    // All of them are there to be asked for.
    assert_eq!(stage.kinds().len(), 50);
    stage.control(&format!("events/{}/resend", order[0]), json!({"copies": 50})).await;
    endpoint.wait(held + 50).await;
}

#[tokio::test]
async fn deliveries_that_were_stopped_go_on() {
    let endpoint = Endpoint::new(|_| 200).await;
    let stage = stage(&endpoint).await;
    stage.fake.set_faults(faults(json!({"webhooks": {"deliver": false}}))).unwrap();
    stage.customer(None, &[]);
    assert_eq!(stage.fake.pending(), 1);
    stage.fake.set_faults(faults(json!({}))).unwrap();
    endpoint.wait(1).await;
}

#[tokio::test]
async fn an_update_tells_what_was_and_two_may_share_a_second() {
    let stage = Stage::new(Options::default()).await;
    let customer = stage.customer(Some("visa"), &[]);
    let subscription = stage.subscribe(&customer, &stage.price(&[]), &[("metadata[a]", "1")]);
    let path = format!("/v1/subscriptions/{}", id(&subscription));
    let item = id(&subscription["items"]["data"][0]);
    stage.post(&path, &[("items[0][id]", &item), ("items[0][quantity]", "4"), ("metadata[b]", "2")]);
    stage.post(&path, &[("metadata[a]", "")]);
    // Nothing changed, nothing happened.
    stage.post(&path, &[("metadata[b]", "2")]);

    let kind = [("type", "customer.subscription.updated")];
    let events = stage.call("GET", "/v1/events", &kind)["data"].as_array().unwrap().clone();
    assert_eq!(events.len(), 2);
    let (second, first) = (&events[0]["data"], &events[1]["data"]);
    assert_eq!(first["previous_attributes"]["items"]["data"][0]["quantity"], 1);
    assert_eq!(first["object"]["items"]["data"][0]["quantity"], 4);
    assert_eq!(first["previous_attributes"]["metadata"], json!({"b": null}));
    assert_eq!(second["previous_attributes"], json!({"metadata": {"a": "1"}}));
    // Seconds, in which there is room for many.
    let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(events.iter().all(|event| (since - 60..=since).contains(&event["created"].as_u64().unwrap())));

    let events =
        |query: &[(&str, &str)]| stage.call("GET", "/v1/events", query)["data"].as_array().unwrap().len();
    assert_eq!(events(&[("types[]", "price.created"), ("types[]", "product.created")]), 2);
    let now = subscription["created"].as_i64().unwrap();
    assert_eq!(events(&[("created[gte]", &(now + 1000).to_string())]), 0);
    // They are kept for 30 days.
    stage.fake.advance(31 * 86_400);
    let kinds = stage.kinds();
    assert!(!kinds.is_empty() && !kinds.contains(&"price.created".to_owned()), "{kinds:?}");
}

#[tokio::test]
async fn one_at_a_time_they_come_in_order_unless_they_are_shuffled() {
    let endpoint = Endpoint::new(|_| 200).await;
    let stage = stage(&endpoint).await;
    for (shuffle, from) in [(0, 0), (300, 30)] {
        let order = json!({"seed": 1, "webhooks": {"concurrency": 1, "shuffle_ms": shuffle}});
        stage.fake.set_faults(faults(order)).unwrap();
        for _ in 0..30 {
            stage.customer(None, &[]);
        }
        let received = endpoint.wait(from + 30).await;
        let order: Vec<String> = received[from..].iter().map(|(_, event)| id(event)).collect();
        assert_eq!(order.is_sorted(), shuffle == 0, "{order:?}");
    }
}

#[tokio::test]
async fn an_answer_may_be_older_than_one_that_was_asked_for_later() {
    let stage = Stage::new(Options::default()).await;
    let path = format!("/v1/customers/{}", stage.customer(None, &[("name", "0")]));
    let slow = json!({"seed": 1, "api": {"latency_ms": [0, 200]}});
    stage.fake.set_faults(faults(slow)).unwrap();
    // What was read and when it was told are noted while the name goes up.
    let told = std::sync::Mutex::new(vec![]);
    let reads = (0..40).map(|_| async {
        let name =
            stage.ask("GET", &path, "", None).await.1["name"].as_str().unwrap().parse::<u32>().unwrap();
        told.lock().unwrap().push(name);
    });
    let writes = async {
        for name in 1..40 {
            stage.post(&path, &[("name", &name.to_string())]);
            tokio::time::sleep(std::time::Duration::from_millis(4)).await;
        }
    };
    tokio::join!(futures_util::future::join_all(reads), writes);
    let told = told.into_inner().unwrap();
    assert!(told.len() == 40 && !told.is_sorted(), "{told:?}");
}
