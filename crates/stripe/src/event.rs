//! Events: that something happened, and to what. What became of it is fetched.

use serde_json::Value;

use crate::id_of;

/// What we need of an event: its object may be older than what is true by now, so only its id counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Names the event.
    pub id: String,
    /// What happened, e.g. `customer.subscription.updated`.
    pub kind: String,
    /// When, in Unix seconds by Stripe's clock.
    pub created: i64,
    /// The subscription it is about, if it is about one.
    pub subscription: Option<String>,
    /// The customer it is about.
    pub customer: Option<String>,
}

impl Event {
    /// None when `value` is no event.
    pub fn read(value: &Value) -> Option<Self> {
        let (id, kind) = (value["id"].as_str()?, value["type"].as_str()?);
        // What is not an id of theirs is not stored.
        let text =
            |text: &str| (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        (text(id) && text(kind)).then_some(())?;
        let object = &value["data"]["object"];
        let subscription = match object["object"].as_str()? {
            "subscription" => id_of(&object["id"]),
            "subscription_schedule" | "checkout.session" => id_of(&object["subscription"]),
            // From version 2025-03-31 on an invoice says so further inside.
            "invoice" => id_of(&object["parent"]["subscription_details"]["subscription"])
                .or_else(|| id_of(&object["subscription"])),
            _ => None,
        };
        let customer = match object["object"].as_str()? {
            "customer" => id_of(&object["id"]),
            _ => id_of(&object["customer"]),
        };
        Some(Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            created: value["created"].as_i64()?,
            subscription: subscription.filter(|id| text(id)),
            customer: customer.filter(|id| text(id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_leads_to_its_subscription_wherever_it_is_named() {
        let read = |object: Value| {
            Event::read(&json!({"id": "evt_1", "type": "x", "created": 1, "data": {"object": object}}))
                .unwrap()
        };
        for object in [
            json!({"object": "subscription", "id": "sub_1", "customer": "cus_1"}),
            json!({"object": "invoice", "id": "in_1", "subscription": "sub_1", "customer": {"id": "cus_1"}}),
            json!({"object": "invoice", "id": "in_1", "parent": {"subscription_details": {"subscription": "sub_1"}}, "customer": "cus_1"}),
            json!({"object": "checkout.session", "id": "cs_1", "subscription": {"id": "sub_1"}, "customer": "cus_1"}),
        ] {
            let event = read(object);
            assert_eq!(
                (event.subscription.as_deref(), event.customer.as_deref()),
                (Some("sub_1"), Some("cus_1"))
            );
        }
        let event = read(json!({"object": "customer", "id": "cus_1"}));
        assert_eq!((event.subscription, event.customer.as_deref()), (None, Some("cus_1")));
        assert_eq!(read(json!({"object": "charge", "id": "ch_1"})).subscription, None);
    }

    #[test]
    fn what_is_no_event_is_none() {
        for value in [
            json!(null),
            json!([]),
            json!({"id": "evt_1"}),
            json!({"id": "", "type": "x", "created": 1, "data": {"object": {"object": "charge"}}}),
            json!({"id": "evt_1", "type": "x", "created": "1", "data": {"object": {"object": "charge"}}}),
            json!({"id": "evt \u{0}", "type": "x", "created": 1, "data": {"object": {"object": "charge"}}}),
        ] {
            assert_eq!(Event::read(&value), None, "{value}");
        }
    }
}
