//! Money, times and states, as people read them.

use chrono::DateTime;
use serde_json::Value;

use crate::{
    state::{State, int, text},
    subscriptions,
};

/// Currencies whose smallest part is the whole, as Stripe has them.
const WHOLE: &[&str] = &[
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof",
    "xpf",
];

pub(super) fn money(amount: i64, currency: &str) -> String {
    let name = currency.to_uppercase();
    if WHOLE.contains(&currency) {
        return format!("{amount} {name}");
    }
    format!("{}.{:02} {name}", amount / 100, amount % 100)
}

pub(super) fn price(price: &Value) -> String {
    let recurring = &price["recurring"];
    let amount = money(int(price, "unit_amount"), text(price, "currency"));
    let interval = text(recurring, "interval");
    match int(recurring, "interval_count") {
        0 | 1 => format!("{amount} per {interval}"),
        count => format!("{amount} every {count} {interval}s"),
    }
}

pub(super) fn day(at: i64) -> String {
    DateTime::from_timestamp(at, 0).map_or_else(String::new, |at| at.format("%-d %B %Y").to_string())
}

pub(super) fn minute(at: i64) -> String {
    DateTime::from_timestamp(at, 0).map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M UTC").to_string())
}

/// What a price is for: the name of its product.
pub(super) fn product(state: &State, price: &Value) -> String {
    let product = state.find("prod", text(price, "product"));
    product.map_or("", |product| text(product, "name")).to_owned()
}

/// What a subscription is to, such as `2 × Pro`.
pub(super) fn items(state: &State, subscription: &Value) -> String {
    let items = subscription["items"]["data"].as_array().into_iter().flatten();
    let what = |item: &Value| format!("{} × {}", int(item, "quantity"), product(state, &item["price"]));
    items.map(what).collect::<Vec<_>>().join(", ")
}

/// What happens to a subscription next, or when it ended.
pub(super) fn outlook(state: &State, subscription: &Value) -> String {
    if subscriptions::is_over(subscription) {
        return format!("It ended on {}.", day(int(subscription, "ended_at")));
    }
    match subscriptions::coming_next(state, subscription) {
        Some((at, what)) => format!("It {what} on {}.", day(at)),
        None => "Nothing happens to it by itself.".to_owned(),
    }
}

/// How a state is to be shown: well, in trouble, or over.
pub(super) fn mood(status: &str) -> &'static str {
    match status {
        "active" | "trialing" | "paid" => "well",
        "canceled" | "incomplete_expired" | "void" | "draft" => "over",
        _ => "trouble",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn prices_are_in_whole_currencies() {
        let of = |currency: &str, interval_count: i64| {
            price(&json!({
                "unit_amount": 1905, "currency": currency,
                "recurring": {"interval": "month", "interval_count": interval_count},
            }))
        };
        assert_eq!(of("eur", 1), "19.05 EUR per month");
        assert_eq!(of("jpy", 3), "1905 JPY every 3 months");
        assert_eq!(day(1_798_000_000), "23 December 2026");
    }
}
