//! What a tenant may have by its subscriptions: a rule, without a database and without a clock.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use serde::Serialize;
use tenantry_stripe::Status;

use super::{Price, Settings};
use crate::tenants::Plan;

/// What a tenant may have by its subscriptions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Object, Default)]
pub struct Entitlement {
    /// The plan; null: no subscription gives one.
    #[oai(nullable)]
    pub plan: Option<Plan>,
    /// Until when it is paid for, or its trial lasts; null where nothing ends it.
    #[oai(nullable)]
    pub active_until: Option<DateTime<Utc>>,
    /// Until when the plan stays although a renewal has not been paid; null: all is paid.
    #[oai(nullable)]
    pub grace_until: Option<DateTime<Utc>>,
}

/// A subscription as far as it matters here.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) status: Status,
    pub(super) past_due_since: Option<DateTime<Utc>>,
    /// The price, and when its period ends.
    pub(super) items: Vec<(String, Option<DateTime<Utc>>)>,
}

/// The best that any of `subscriptions` gives.
///
/// `trialing` and `active` give their plan. `past_due` gives it for the grace period. `incomplete`, `incomplete_expired`,
/// `canceled`, `unpaid` and `paused` (a trial that ended without a way to pay) give nothing. What Stripe calls by a name
/// that we do not know gives its plan: better a free month than a locked door.
pub(super) fn of(subscriptions: &[Held], settings: &Settings, now: DateTime<Utc>) -> Entitlement {
    let offers = subscriptions.iter().filter_map(|held| offer(held, settings, now));
    offers
        .max_by_key(|offer| (offer.plan.map(rank), offer.grace_until.is_none(), offer.active_until))
        .unwrap_or_default()
}

fn offer(held: &Held, settings: &Settings, now: DateTime<Utc>) -> Option<Entitlement> {
    let grace_until = match held.status {
        Status::Trialing | Status::Active | Status::Unknown => None,
        Status::PastDue => {
            let until = held.past_due_since.unwrap_or(now) + settings.grace;
            (until > now).then_some(Some(until))?
        }
        Status::Incomplete
        | Status::IncompleteExpired
        | Status::Canceled
        | Status::Unpaid
        | Status::Paused => {
            return None;
        }
    };
    let (plan, active_until) = best(&held.items, &settings.prices)?;
    Some(Entitlement { plan: Some(plan), active_until, grace_until })
}

fn best(
    items: &[(String, Option<DateTime<Utc>>)],
    prices: &HashMap<String, Price>,
) -> Option<(Plan, Option<DateTime<Utc>>)> {
    let plans = items.iter().filter_map(|(price, until)| Some((prices.get(price)?.plan, *until)));
    plans.max_by_key(|(plan, until)| (rank(*plan), *until))
}

fn rank(plan: Plan) -> u8 {
    match plan {
        Plan::Basic => 0,
        Plan::Pro => 1,
        Plan::Enterprise => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn settings() -> Settings {
        let price = |plan| Price { plan, by_seat: false };
        let prices =
            [("price_pro".to_owned(), price(Plan::Pro)), ("price_big".to_owned(), price(Plan::Enterprise))];
        Settings { prices: prices.into(), grace: Duration::from_secs(100), settle: Duration::from_secs(5) }
    }

    fn held(status: Status, price: &str) -> Held {
        Held { status, past_due_since: Some(at(1_000)), items: vec![(price.into(), Some(at(5_000)))] }
    }

    #[test]
    fn each_status_gives_what_it_should() {
        let plan = |status, now| of(&[held(status, "price_pro")], &settings(), at(now)).plan;
        for status in [Status::Trialing, Status::Active, Status::Unknown] {
            assert_eq!(plan(status, 9_000), Some(Plan::Pro), "{status:?}");
        }
        for status in
            [Status::Incomplete, Status::IncompleteExpired, Status::Canceled, Status::Unpaid, Status::Paused]
        {
            assert_eq!(plan(status, 1_000), None, "{status:?}");
        }
        assert_eq!((plan(Status::PastDue, 1_099), plan(Status::PastDue, 1_100)), (Some(Plan::Pro), None));
    }

    #[test]
    fn the_best_of_several_counts_and_unknown_prices_give_nothing() {
        let all = [
            held(Status::Active, "price_pro"),
            held(Status::Trialing, "price_big"),
            held(Status::Active, "price_other"),
        ];
        assert_eq!(of(&all, &settings(), at(0)).plan, Some(Plan::Enterprise));
        assert_eq!(of(&all[2..], &settings(), at(0)), Entitlement::default());
        assert_eq!(of(&[], &settings(), at(0)), Entitlement::default());
        let late = [held(Status::PastDue, "price_pro"), held(Status::Active, "price_pro")];
        assert_eq!(of(&late, &settings(), at(1_000)).grace_until, None, "one of the two is paid");
    }
}
