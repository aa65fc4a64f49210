//! What must hold of webhooks, whatever they say; see `laws` of the program. The fuzz targets call the same functions.

use std::time::{Duration, SystemTime};

use arbitrary::{Result, Unstructured};
use hmac::Mac;

use crate::{
    Event, Subscription,
    signature::{NotStripe, Secrets, TOLERANCE, signed},
};

/// What is signed now is taken; with another byte, of another secret or another time it is not.
pub fn signature(data: &[u8]) {
    let _ = check(&mut Unstructured::new(data));
}

fn check(u: &mut Unstructured<'_>) -> Result<()> {
    let (at, shift) = (u64::from(u.arbitrary::<u32>()?), i64::from(u.arbitrary::<i16>()?));
    let (place, flip, header): (usize, u8, String) =
        (u.arbitrary()?, u.int_in_range(1..=255)?, u.arbitrary()?);
    let body: Vec<u8> = u.arbitrary()?;
    let secrets = Secrets::new(&["whsec_law"]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    let Some(mac) = signed("whsec_law", &at.to_string(), &body) else { panic!("cannot be signed") };
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let good = format!("t={at},v1={hex}");

    assert_eq!(secrets.verify(&good, &body, now), Ok(()));
    assert_eq!(Secrets::new(&["whsec_other"]).verify(&good, &body, now), Err(NotStripe::WrongSignature));
    let mut other = body.clone();
    match other.len() {
        0 => other.push(flip),
        length => other[place % length] ^= flip,
    }
    assert_eq!(secrets.verify(&good, &other, now), Err(NotStripe::WrongSignature));
    if let Some(later) = at.checked_add_signed(shift) {
        let verdict = secrets.verify(&good, &body, SystemTime::UNIX_EPOCH + Duration::from_secs(later));
        assert_eq!(verdict.is_ok(), shift.unsigned_abs() <= TOLERANCE.as_secs(), "{shift} seconds apart");
    }
    // Nobody guesses one.
    assert!(secrets.verify(&header, &body, now).is_err());
    Ok(())
}

/// Whatever Stripe sends is an event or none, and what is stored of one can be.
pub fn event(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    if let Some(event) = Event::read(&value) {
        let Event { id, kind, subscription, customer, .. } = &event;
        for text in [Some(id), Some(kind), subscription.as_ref(), customer.as_ref()].into_iter().flatten() {
            assert!((1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
        }
        // What its signature was over is read once, and said again it is the same.
        assert_eq!(
            serde_json::from_str(&value.to_string()).ok().and_then(|again| Event::read(&again)),
            Some(event)
        );
    }
    if let Some(subscription) = Subscription::read(value) {
        assert!(!subscription.id.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    #[test]
    fn what_the_fuzzer_begins_with_keeps_its_law() {
        for (law, check) in [("event", super::event as fn(&[u8])), ("signature", super::signature)] {
            let kept =
                std::fs::read_dir(format!("{}/../../fuzz/seeds/{law}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            for input in kept {
                check(&std::fs::read(input.unwrap().path()).unwrap());
            }
        }
    }

    #[test]
    fn the_fuzzer_begins_with_events_of_each_kind_and_a_subscription() {
        let read = |name: &str| {
            let path = format!("{}/../../fuzz/seeds/event/{name}.json", env!("CARGO_MANIFEST_DIR"));
            serde_json::from_slice::<serde_json::Value>(&std::fs::read(path).unwrap()).unwrap()
        };
        for name in ["subscription", "invoice", "checkout", "customer"] {
            assert!(crate::Event::read(&read(name)).is_some(), "{name}");
        }
        assert!(crate::Subscription::read(read("object")).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn what_is_signed_is_taken_and_nothing_else(data in vec(any::<u8>(), 20..600)) {
            super::signature(&data);
        }

        #[test]
        fn what_is_read_has_an_id(id in "[a-z0-9_]{0,3}", kind in "event|subscription|[a-z]{0,4}", created in any::<i64>()) {
            let value = serde_json::json!({
                "object": kind, "id": id, "type": "customer.created", "created": created, "livemode": false,
                "customer": "cus_1", "status": "active", "items": {"data": []}, "data": {"object": {"id": id}},
            });
            super::event(value.to_string().as_bytes());
        }
    }
}
