//! Billing: what tenants pay for, as Stripe says, and what they may have by it.
//!
//! Events only say that something changed. A job fetches the subscription and what is applied is what was fetched, in the
//! order in which the fetches began (`sync`). What follows from it (`entitlement`) becomes true in the same transaction.

pub mod closed;
pub mod customers;
pub mod directory;
mod entitlement;
pub mod events;
mod follow;
mod list;
pub mod seats;
pub mod sync;
pub mod unchanged;
pub mod walk;

use std::{collections::HashMap, time::Duration};

pub use entitlement::Entitlement;
pub use list::{Billing, Subscription, SubscriptionItem, get, list, subscribed};

use crate::tenants::Plan;

/// What an operator says about billing.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What a price gives.
    pub prices: HashMap<String, Price>,
    /// How long a tenant keeps its plan while a renewal is not paid.
    pub grace: Duration,
    /// Fetched again after this time when an event had only just happened: Stripe's own copies may lag behind it.
    pub settle: Duration,
}

/// What a price gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// The plan.
    pub plan: Plan,
    /// Whether each seat that is used is paid for: then the quantity in Stripe follows the seats.
    pub by_seat: bool,
}

impl Settings {
    /// The first price of a plan, by name; none: it is not sold.
    pub fn price_of(&self, plan: Plan) -> Option<(&str, Price)> {
        let mut prices: Vec<_> = self.prices.iter().filter(|(_, price)| price.plan == plan).collect();
        prices.sort_by_key(|(id, _)| id.as_str());
        prices.first().map(|(id, price)| (id.as_str(), **price))
    }
}
