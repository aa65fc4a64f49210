//! Billing periods, counted from their anchor: the 31st is followed by the 28th and then by the 31st again.

use chrono::{DateTime, Days, Months};
use serde_json::Value;

use crate::state::{int, text};

/// The first end of a period after `at`, for periods that begin at `anchor`.
pub(crate) fn end_after(price: &Value, anchor: i64, at: i64) -> i64 {
    let (interval, count) =
        (text(&price["recurring"], "interval"), int(&price["recurring"], "interval_count").max(1));
    let longest = count * if interval == "day" { 1 } else { 7 } * 86_400;
    let longest = match interval {
        "month" => count * 31 * 86_400,
        "year" => count * 366 * 86_400,
        _ => longest,
    };
    let mut periods = ((at - anchor) / longest).max(0);
    loop {
        let end = plus(anchor, interval, count * periods);
        if end > at {
            return end;
        }
        periods += 1;
    }
}

fn plus(at: i64, interval: &str, count: i64) -> i64 {
    let Some(from) = DateTime::from_timestamp(at, 0) else { return i64::MAX };
    let count = count.max(0) as u64;
    let months = |months: u64| from.checked_add_months(Months::new(months.min(120_000) as u32));
    let end = match interval {
        "day" => from.checked_add_days(Days::new(count)),
        "week" => from.checked_add_days(Days::new(count * 7)),
        "year" => months(count * 12),
        _ => months(count),
    };
    end.map_or(i64::MAX, |end| end.timestamp())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(day: &str) -> i64 {
        format!("{day}T12:00:00Z").parse::<DateTime<chrono::Utc>>().unwrap().timestamp()
    }

    #[test]
    fn months_keep_their_day() {
        let monthly = json!({"recurring": {"interval": "month", "interval_count": 1}});
        let anchor = at("2027-01-31");
        let mut ends = vec![anchor];
        for _ in 0..3 {
            ends.push(end_after(&monthly, anchor, ends[ends.len() - 1]));
        }
        assert_eq!(ends[1..], [at("2027-02-28"), at("2027-03-31"), at("2027-04-30")]);
    }

    #[test]
    fn an_anchor_in_the_future_ends_the_first_period() {
        let yearly = json!({"recurring": {"interval": "year", "interval_count": 1}});
        assert_eq!(end_after(&yearly, at("2027-06-01"), at("2027-01-10")), at("2027-06-01"));
        assert_eq!(end_after(&yearly, at("2024-02-29"), at("2027-01-10")), at("2027-02-28"));
    }
}
