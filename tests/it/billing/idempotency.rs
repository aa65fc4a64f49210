//! `Idempotency-Key` of what is asked of Stripe for a client.

use reqwest::{Method, StatusCode, header::HeaderValue};
use serde_json::{Value, json};
use tenantry_fake_stripe::{ApiFaults, WebhookFaults};

use super::{
    Stage,
    out::{CHECKOUT, HOME, PORTAL, checkout},
};
use crate::app::{TestApp, answer};

/// How many sessions of that kind there are at Stripe.
fn sessions(stage: &Stage) -> usize {
    stage.call("GET", "/v1/checkout/sessions", &[("limit", "100")])["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_same_key_opens_one_session_of_ones_own() {
    let stage = Stage::new().await;
    let other = stage.neighbour().await;

    let (_, first) = with_key(&stage.app, CHECKOUT, "once", &checkout("pro")).await;
    let (status, again) = with_key(&stage.app, CHECKOUT, "once", &checkout("pro")).await;
    let (_, theirs) = with_key(&other, CHECKOUT, "once", &checkout("pro")).await;

    assert_eq!(status, StatusCode::CREATED, "{again}");
    assert!(first["data"]["id"].is_string());
    assert_eq!(first["data"], again["data"]);
    assert_ne!(first["data"]["id"], theirs["data"]["id"]);
    // What is asked of the portal is another thing.
    let (status, portal) = with_key(&stage.app, PORTAL, "once", &json!({"return_url": HOME})).await;
    assert_eq!(status, StatusCode::CREATED, "{portal}");
}

#[tokio::test]
async fn the_same_key_with_another_body_is_refused() {
    let stage = Stage::new().await;
    let mut elsewhere = checkout("pro");
    elsewhere["cancel_url"] = json!(HOME);
    // What is sold is the same, and the body is not.
    let by_price = json!({"price_id": stage.prices[1], "success_url": checkout("pro")["success_url"],
        "cancel_url": checkout("pro")["cancel_url"]});
    let portal = |page: &str| json!({"return_url": format!("{HOME}{page}")});
    with_key(&stage.app, CHECKOUT, "once", &checkout("pro")).await;
    with_key(&stage.app, PORTAL, "once", &portal("a")).await;
    for (path, body) in
        [(CHECKOUT, checkout("basic")), (CHECKOUT, elsewhere), (CHECKOUT, by_price), (PORTAL, portal("b"))]
    {
        let (status, answer) = with_key(&stage.app, path, "once", &body).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused")),
            "{body}"
        );
    }
    assert_eq!(sessions(&stage), 1);
}

#[tokio::test]
async fn while_the_first_is_under_way_the_second_is_told_to_wait() {
    let stage = Stage::new().await;
    for (path, body) in [(CHECKOUT, checkout("pro")), (PORTAL, json!({"return_url": HOME}))] {
        let mut met = false;
        // How long the first is under way, out of what it takes, is left to chance.
        for key in (0..30).map(|n| format!("twice-{n}")) {
            let slow = ApiFaults { latency_ms: (300, 300), ..ApiFaults::default() };
            stage.faults(slow, WebhookFaults::default());
            let (one, two) = tokio::join!(ask(&stage, path, &key, &body), ask(&stage, path, &key, &body));
            stage.faults(ApiFaults::default(), WebhookFaults::default());

            let (made, told) = if one.0 == StatusCode::CREATED { (one, two) } else { (two, one) };
            assert_eq!(made.0, StatusCode::CREATED, "{}", made.2);
            met = told.0 == StatusCode::CONFLICT;
            if met {
                let code = &told.2["error"]["code"];
                assert_eq!((told.1.as_deref(), code), (Some("1"), &json!("request_in_flight")));
            } else {
                assert_eq!((told.0, &told.2["data"]), (StatusCode::CREATED, &made.2["data"]));
            }
            let (status, _, again) = ask(&stage, path, &key, &body).await;
            assert_eq!((status, &again["data"]), (StatusCode::CREATED, &made.2["data"]));
            if met {
                break;
            }
        }
        assert!(met, "{path}");
    }
}

/// Status, `Retry-After` and body.
async fn ask(stage: &Stage, path: &str, key: &str, body: &Value) -> (StatusCode, Option<String>, Value) {
    let request = stage.app.request(Method::POST, path).header("idempotency-key", key).json(body);
    let response = request.send().await.unwrap();
    let wait = response.headers().get("retry-after").map(|wait| wait.to_str().unwrap().to_owned());
    (response.status(), wait, response.json().await.unwrap())
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_refused_and_not_ignored() {
    let stage = Stage::new().await;
    let longest = "k".repeat(255);
    assert_eq!(with_key(&stage.app, CHECKOUT, &longest, &checkout("pro")).await.0, StatusCode::CREATED);
    for key in [vec![], b"   ".to_vec(), longest.into_bytes().repeat(2), "schlüssel".as_bytes().to_vec()] {
        for (path, body) in [(CHECKOUT, checkout("pro")), (PORTAL, json!({"return_url": HOME}))] {
            let request = stage.app.request(Method::POST, path);
            let request = request.header("idempotency-key", HeaderValue::from_bytes(&key).unwrap());
            refused(answer(request.json(&body)).await);
        }
    }
    let two = stage.app.request(Method::POST, PORTAL).header("idempotency-key", "a");
    let two = two.header("idempotency-key", "b").json(&json!({"return_url": HOME}));
    refused(answer(two).await);
    assert_eq!(sessions(&stage), 1);
}

fn refused((status, answer): (StatusCode, Value)) {
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("malformed")),
        "{answer}"
    );
    assert!(answer["error"]["message"].as_str().unwrap().starts_with("Idempotency-Key must"), "{answer}");
}

/// What is sold by seat costs something else by then, and the body is the same.
#[tokio::test]
async fn the_same_key_and_body_are_the_same_although_seats_have_been_taken() {
    let stage = Stage::new().await;
    let (_, first) = with_key(&stage.app, CHECKOUT, "seats", &checkout("enterprise")).await;
    stage.app.create_user("bob@example.org").await;

    let (status, again) = with_key(&stage.app, CHECKOUT, "seats", &checkout("enterprise")).await;
    assert_eq!((status, &again["data"]), (StatusCode::CREATED, &first["data"]), "{again}");
    let (status, answer) = with_key(&stage.app, CHECKOUT, "seats", &checkout("pro")).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused"))
    );
    assert_eq!(sessions(&stage), 1);
}

/// Stripe tells a fault again for a day to who asks by the same key.
#[tokio::test]
async fn a_key_outlives_a_fault_of_stripes() {
    let stage = Stage::new().await;
    for (path, body) in [(CHECKOUT, checkout("pro")), (PORTAL, json!({"return_url": HOME}))] {
        for (faults, times) in [
            // The second is a fault under the key that is used after the first.
            (ApiFaults { failed_after: 1.0, ..ApiFaults::default() }, 2),
            (ApiFaults { failed: 1.0, ..ApiFaults::default() }, 2),
            // It was made, and the answer is lost: the next who asks gets it.
            (ApiFaults { cut_after: 1.0, ..ApiFaults::default() }, 1),
        ] {
            let key = format!("{faults:?}").replace(char::is_whitespace, "");
            stage.faults(faults.clone(), WebhookFaults::default());
            for _ in 0..times {
                let (status, answer) = with_key(&stage.app, path, &key, &body).await;
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{faults:?}: {answer}");
            }
            stage.faults(ApiFaults::default(), WebhookFaults::default());

            let made = with_key(&stage.app, path, &key, &body).await;
            assert_eq!(made.0, StatusCode::CREATED, "{faults:?}: {}", made.1);
            let again = with_key(&stage.app, path, &key, &body).await;
            assert_eq!((again.0, &again.1["data"]), (StatusCode::CREATED, &made.1["data"]), "{faults:?}");
        }
    }
}

pub(super) async fn with_key(app: &TestApp, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
    answer(app.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}
