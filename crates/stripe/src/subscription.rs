//! Subscriptions as Stripe tells them: <https://docs.stripe.com/api/subscriptions/object>.

use serde_json::Value;

use crate::id_of;

/// The state of a subscription, in Stripe's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The first payment has not been made yet.
    Incomplete,
    /// It never was: for good.
    IncompleteExpired,
    /// Within a trial.
    Trialing,
    /// Paid.
    Active,
    /// A renewal has not been paid yet.
    PastDue,
    /// Ended: for good.
    Canceled,
    /// Not paid, and Stripe has given up trying.
    Unpaid,
    /// A trial that ended without a way to pay.
    Paused,
    /// One that Stripe has thought of since.
    Unknown,
}

impl Status {
    /// All that are known by name.
    pub const KNOWN: [Self; 8] = [
        Self::Incomplete,
        Self::IncompleteExpired,
        Self::Trialing,
        Self::Active,
        Self::PastDue,
        Self::Canceled,
        Self::Unpaid,
        Self::Paused,
    ];

    /// As Stripe writes it, and as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "incomplete",
            Self::IncompleteExpired => "incomplete_expired",
            Self::Trialing => "trialing",
            Self::Active => "active",
            Self::PastDue => "past_due",
            Self::Canceled => "canceled",
            Self::Unpaid => "unpaid",
            Self::Paused => "paused",
            Self::Unknown => "unknown",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Self {
        Self::KNOWN.into_iter().find(|status| status.as_str() == name).unwrap_or(Self::Unknown)
    }

    /// Whether nothing follows it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Canceled | Self::IncompleteExpired)
    }
}

/// A subscription at one moment. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Names it.
    pub id: String,
    /// Whose it is.
    pub customer: String,
    /// Its state.
    pub status: Status,
    /// What is paid for. With `more_items` not all of it.
    pub items: Vec<Item>,
    /// Whether there are more items than Stripe sends along.
    pub more_items: bool,
    /// When it was made.
    pub created: i64,
    /// When the trial ends or ended.
    pub trial_end: Option<i64>,
    /// When it will end.
    pub cancel_at: Option<i64>,
    /// Whether it ends with the present period.
    pub cancel_at_period_end: bool,
    /// When it was decided that it ends.
    pub canceled_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// Whether its payments are paused at present.
    pub payment_paused: bool,
    /// When they go on.
    pub resumes_at: Option<i64>,
    /// What changes it by schedule.
    pub schedule: Option<String>,
    /// All that Stripe said, without what its customers wrote.
    pub raw: Value,
}

/// One thing that is paid for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Names it.
    pub id: String,
    /// The price.
    pub price: String,
    /// What is sold.
    pub product: Option<String>,
    /// How many; none: it is metered.
    pub quantity: Option<i64>,
    /// When the present period began.
    pub period_start: Option<i64>,
    /// When it ends.
    pub period_end: Option<i64>,
}

impl Subscription {
    /// None when `value` is no subscription.
    pub fn read(mut value: Value) -> Option<Self> {
        if value["object"] != "subscription" {
            return None;
        }
        without_nul(&mut value);
        if let Some(details) = value["cancellation_details"].as_object_mut() {
            // Why they leave, in their own words: not ours to keep.
            details.remove("comment");
        }
        let items = &value["items"];
        let read = |item: &Value| Item::read(item, &value);
        Some(Self {
            id: value["id"].as_str().filter(|id| !id.is_empty())?.to_owned(),
            customer: id_of(&value["customer"])?,
            status: Status::named(value["status"].as_str()?),
            items: items["data"].as_array()?.iter().map(read).collect::<Option<_>>()?,
            more_items: items["has_more"].as_bool().unwrap_or(false),
            created: value["created"].as_i64()?,
            trial_end: value["trial_end"].as_i64(),
            cancel_at: value["cancel_at"].as_i64(),
            cancel_at_period_end: value["cancel_at_period_end"].as_bool().unwrap_or(false),
            canceled_at: value["canceled_at"].as_i64(),
            ended_at: value["ended_at"].as_i64(),
            payment_paused: value["pause_collection"].is_object(),
            resumes_at: value["pause_collection"]["resumes_at"].as_i64(),
            schedule: id_of(&value["schedule"]),
            raw: value,
        })
    }
}

impl Item {
    /// `subscription` tells the period where the item does not: before version 2025-03-31.
    pub fn read(item: &Value, subscription: &Value) -> Option<Self> {
        let period = |name: &str| item[name].as_i64().or_else(|| subscription[name].as_i64());
        // Before there were prices there were plans, under the same ids.
        let price = if item["price"].is_null() { &item["plan"] } else { &item["price"] };
        Some(Self {
            id: item["id"].as_str()?.to_owned(),
            price: id_of(price)?,
            product: id_of(&price["product"]),
            quantity: item["quantity"].as_i64(),
            period_start: period("current_period_start"),
            period_end: period("current_period_end"),
        })
    }
}

/// JSON may say NUL, and no text in PostgreSQL can hold it.
fn without_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', ""),
        Value::Array(values) => values.iter_mut().for_each(without_nul),
        Value::Object(values) => {
            // A key that has one is nobody's; none of those that are read.
            values.retain(|key, _| !key.contains('\0'));
            values.values_mut().for_each(without_nul);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subscription_is_read_with_what_is_new_and_what_is_old() {
        let value = json!({
            "id": "sub_1", "object": "subscription", "customer": {"id": "cus_1"}, "status": "resting", "created": 5,
            "current_period_start": 10, "current_period_end": 20, "something": "new",
            "items": {"data": [
                {"id": "si_1", "price": {"id": "price_1", "product": "prod_1"}, "quantity": 3, "current_period_end": 30},
                {"id": "si_2", "plan": {"id": "plan_1", "product": {"id": "prod_2"}}},
            ], "has_more": true},
            "pause_collection": {"behavior": "void", "resumes_at": 40},
        });
        let subscription = Subscription::read(value).unwrap();
        assert_eq!((subscription.status, subscription.more_items), (Status::Unknown, true));
        assert_eq!((subscription.payment_paused, subscription.resumes_at), (true, Some(40)));
        let [one, two] = &subscription.items[..] else { panic!("two items") };
        assert_eq!((one.period_start, one.period_end, one.quantity), (Some(10), Some(30), Some(3)));
        assert_eq!(
            (two.price.as_str(), two.product.as_deref(), two.period_end),
            ("plan_1", Some("prod_2"), Some(20))
        );
        assert_eq!(subscription.raw["something"], "new");
    }

    #[test]
    fn what_customers_wrote_is_left_out_and_nul_with_it() {
        let value = json!({
            "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "canceled", "created": 5,
            "cancellation_details": {"comment": "It is too dear", "feedback": "too_expensive"},
            "description": "a\0b", "metadata": {"k\0": "v", "l": ["\0"]}, "items": {"data": []},
        });
        let raw = Subscription::read(value).unwrap().raw;
        assert_eq!(raw["cancellation_details"], json!({"feedback": "too_expensive"}));
        assert_eq!((&raw["description"], &raw["metadata"]), (&json!("ab"), &json!({"l": [""]})));
    }

    #[test]
    fn what_is_no_subscription_is_none() {
        for value in [
            json!({}),
            json!({"object": "customer", "id": "cus_1"}),
            json!({"object": "subscription", "id": "sub_1"}),
        ] {
            assert_eq!(Subscription::read(value), None);
        }
    }
}
