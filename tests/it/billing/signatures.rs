//! Who sends a webhook is known by its signature, or it leaves no trace.

use reqwest::{Method, StatusCode, header::HeaderValue};
use serde_json::{Value, json};

use super::{EVENTS, Stage, id, signature};
use crate::app::answer;

const LIMIT: usize = 512 * 1024;
const JOBS: &str = "select count(*) from tenantry.jobs where kind = 'sync_subscription' and tenant_id = $1";

/// An event of a subscription of the stage's customer.
fn event(stage: &Stage, name: &str) -> (String, String) {
    let event = json!({"id": format!("evt_{}_{name}", stage.app.tenant.simple()), "type": "customer.subscription.updated",
        "created": 1, "data": {"object": {"object": "subscription", "id": format!("sub_{name}"), "customer": stage.customer}}});
    (id(&event), event.to_string())
}

/// Sends it with these headers as they are.
async fn send(stage: &Stage, body: &str, signatures: &[HeaderValue]) -> (StatusCode, Value) {
    let mut request = stage.app.request(Method::POST, "/api/v1/webhooks/stripe");
    request = request.header("content-type", "application/json");
    for signature in signatures {
        request = request.header("stripe-signature", signature.clone());
    }
    answer(request.body(body.to_owned())).await
}

fn text(signature: &str) -> HeaderValue {
    HeaderValue::from_str(signature).unwrap()
}

#[tokio::test]
async fn what_is_not_signed_by_stripe_leaves_no_trace() {
    let stage = Stage::new().await;
    let (name, body) = event(&stage, "forged");
    let good = signature("whsec_new", &body, 0);
    let (time, v1) = good.split_once(',').unwrap();
    let other = signature("whsec_unknown", &body, 0);
    let other = other.split_once(',').unwrap().1;
    let refused = [
        ("no header", vec![]),
        ("nothing", vec![text("")]),
        ("garbled", vec![text(";;;=,=,,t,v1")]),
        ("no text", vec![HeaderValue::from_bytes(b"t=1,v1=\xff").unwrap()]),
        ("the time alone", vec![text(time)]),
        ("the signature alone", vec![text(v1)]),
        ("a time that is none", vec![text(&format!("t=now,{v1}"))]),
        ("a time below nothing", vec![text(&format!("t=-1,{v1}"))]),
        ("half a signature", vec![text(&good[..good.len() - 32])]),
        ("a signature that is no number", vec![text(&format!("{time},v1={}", "z".repeat(64)))]),
        ("v0 only", vec![text(&good.replace("v1=", "v0="))]),
        ("another secret", vec![text(&format!("{time},{other}"))]),
        (
            "eleven, the last of them good",
            vec![text(&format!("{time}{},{v1}", format!(",{other}").repeat(10)))],
        ),
        ("another time", vec![text(&format!("t={},{v1}", chrono::Utc::now().timestamp() + 5))]),
        ("old", vec![text(&signature("whsec_new", &body, 302))]),
        ("early", vec![text(&signature("whsec_new", &body, -302))]),
    ];
    for (what, signatures) in refused {
        let (status, answer) = send(&stage, &body, &signatures).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (StatusCode::BAD_REQUEST, &json!("invalid_signature")),
            "{what}: {answer}"
        );
    }
    for altered in [body.replace("updated", "deleted"), format!("{body} "), body[1..].to_owned()] {
        let (status, answer) = stage.send(&altered, &good).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{altered}: {answer}");
    }
    for no_event in ["[]", "{", ""] {
        let (status, answer) = stage.send(no_event, &signature("whsec_new", no_event, 0)).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("malformed")));
    }
    let long = format!("{body}{}", " ".repeat(LIMIT + 1 - body.len()));
    let (status, answer) = stage.send(&long, &signature("whsec_new", &long, 0)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{answer}");

    assert_eq!(stage.count(EVENTS, &name).await, 0);
    assert_eq!(stage.count(JOBS, &stage.app.tenant).await, 0);
    let dirty = "select count(*) from tenantry.stripe_objects where customer_id = $1";
    assert_eq!(stage.count(dirty, &stage.customer).await, 0);
}

#[tokio::test]
async fn what_stripe_has_signed_is_taken_whichever_secret_and_signature_it_is() {
    let stage = Stage::new().await;
    let zeros = format!("v1={}", "0".repeat(64));
    for (name, secret, ago) in [
        ("new", "whsec_new", 0),
        // One secret takes the other's place.
        ("old", "whsec_old", 0),
        ("late", "whsec_new", 298),
        ("early", "whsec_new", -298),
    ] {
        let (event, body) = event(&stage, name);
        let good = signature(secret, &body, ago);
        let (time, v1) = good.split_once(',').unwrap();
        // Several, as while a secret is rolled, and what other schemes there may be.
        for (header, new) in [
            (format!("{time},v0=abc,{zeros},{v1},{zeros}, v2=abc"), true),
            (good.clone(), false),
            (format!("{v1},{time}"), false),
        ] {
            let (status, answer) = send(&stage, &body, &[text(&header)]).await;
            assert_eq!((status, &answer["data"]["new"]), (StatusCode::OK, &json!(new)), "{name}: {answer}");
        }
        assert_eq!(stage.count(EVENTS, &event).await, 1);
    }
    // To the very limit.
    let (event, body) = event(&stage, "large");
    let body = format!("{body}{}", " ".repeat(LIMIT - body.len()));
    let (status, answer) = stage.send(&body, &signature("whsec_new", &body, 0)).await;
    assert_eq!((status, &answer["data"]["new"]), (StatusCode::OK, &json!(true)), "{answer}");
    assert_eq!(stage.count(EVENTS, &event).await, 1);
    assert_eq!(stage.count(JOBS, &stage.app.tenant).await, 5);
}

#[tokio::test]
async fn nobody_signs_for_a_secret_that_is_not_there() {
    for secrets in ["--stripe-webhook-secrets=", "--stripe-webhook-secrets=whsec_new, ,"] {
        let stage = Stage::with(&[secrets]).await;
        let (name, body) = event(&stage, "unsigned");
        for secret in ["", " "] {
            let (status, answer) = stage.send(&body, &signature(secret, &body, 0)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{secrets}: {answer}");
        }
        assert_eq!(stage.count(EVENTS, &name).await, 0);
    }
}
