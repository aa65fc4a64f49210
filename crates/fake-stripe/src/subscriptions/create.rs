//! How a subscription begins.

use serde_json::{Value, json};

use super::{end_after, items, set_period, skeleton, update};
use crate::{
    cards::{self, Charge},
    error::{Error, Result},
    events,
    form::Params,
    invoices::{self, Way},
    state::{State, int, text},
    subscriptions::{Item, course},
};

/// What happens when the first invoice is not paid at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Behavior {
    AllowIncomplete,
    DefaultIncomplete,
    ErrorIfIncomplete,
    /// Checkout's: incomplete first, and active with the payment, a moment later.
    Stepwise,
}

/// A subscription that is about to be.
pub(crate) struct Opening {
    pub(crate) subscription: Value,
    pub(crate) items: Vec<Item>,
    pub(crate) trial_end: Option<i64>,
    pub(crate) behavior: Behavior,
}

pub(crate) fn create(state: &mut State, _: &str, params: &mut Params) -> Result<Value> {
    let customer = params.required("customer")?;
    let customer = state.named("cus", &customer, "customer")?;
    let at = state.now_on(customer["test_clock"].as_str());
    let given = params.list("items")?.ok_or_else(|| Error::missing("items"))?;
    let mut opening = Opening::of(&customer, read_items(state, given)?, at)?;
    opening.read(state, params, at)?;
    opening.behavior = behavior(params)?;
    params.ignore(update::IGNORED);
    params.finish()?;
    open(state, opening, at)
}

fn behavior(params: &mut Params) -> Result<Behavior> {
    let choices = ["allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"];
    Ok(match params.choice("payment_behavior", &choices)?.as_deref() {
        Some("default_incomplete") => Behavior::DefaultIncomplete,
        Some("error_if_incomplete") => Behavior::ErrorIfIncomplete,
        _ => Behavior::AllowIncomplete,
    })
}

pub(crate) fn read_items(state: &State, given: Vec<Params>) -> Result<Vec<Item>> {
    given.into_iter().map(|mut params| Item::read(state, &mut params)).collect()
}

impl Opening {
    pub(crate) fn of(customer: &Value, items: Vec<Item>, at: i64) -> Result<Self> {
        items::check_all(&items)?;
        let subscription = skeleton(customer, text(&items[0].price, "currency"), at);
        Ok(Self { subscription, items, trial_end: None, behavior: Behavior::AllowIncomplete })
    }

    /// What may be said of a subscription before it begins, directly or by a checkout session.
    pub(crate) fn read(&mut self, state: &State, params: &mut Params, at: i64) -> Result<()> {
        update::common(state, &mut self.subscription, params, at)?;
        if let Some(anchor) = params.integer("billing_cycle_anchor")? {
            if anchor < at {
                return Err(Error::invalid("billing_cycle_anchor must be in the future")
                    .about("billing_cycle_anchor"));
            }
            self.subscription["billing_cycle_anchor"] = json!(anchor);
        }
        let days = params.integer("trial_period_days")?;
        let end = match params.text("trial_end")?.as_deref() {
            None | Some("now") => None,
            Some(end) => {
                Some(end.parse().map_err(|_| Error::invalid("Invalid timestamp").about("trial_end"))?)
            }
        };
        if days.is_some() && end.is_some() {
            return Err(Error::invalid(
                "You may only specify one of these parameters: trial_period_days, trial_end.",
            ));
        }
        self.trial_end = days.filter(|days| *days > 0).map(|days| at + days * 86_400).or(end);
        if self.trial_end.is_some_and(|end| end <= at) {
            return Err(Error::invalid("The trial end must be in the future.").about("trial_end"));
        }
        Ok(())
    }

    fn amount(&self) -> i64 {
        self.items.iter().map(|item| int(&item.price, "unit_amount") * item.quantity).sum()
    }
}

/// Begins a subscription, with its first invoice.
pub(crate) fn open(state: &mut State, opening: Opening, at: i64) -> Result<Value> {
    let amount = opening.amount();
    let Opening { subscription: mut new, items, trial_end, behavior } = opening;
    let by_hand = new["collection_method"] == "send_invoice";
    let charge = cards::charge(state, &new);
    let free = trial_end.is_some() || amount == 0;
    if !free && !by_hand {
        match (behavior, charge) {
            (Behavior::ErrorIfIncomplete, Charge::Declined) => return Err(Error::declined()),
            (Behavior::AllowIncomplete | Behavior::ErrorIfIncomplete, Charge::NoCard) => {
                return Err(no_card());
            }
            _ => {}
        }
    }
    let id = state.id("sub");
    new["id"] = json!(id);
    if let Some(method) = new["default_payment_method"].as_str().map(str::to_owned) {
        let customer = text(&new, "customer").to_owned();
        new["default_payment_method"] = json!(cards::attach(state, &method, &customer));
    }
    let anchor = trial_end.unwrap_or_else(|| int(&new, "billing_cycle_anchor"));
    let end = trial_end.unwrap_or_else(|| end_after(&items[0].price, anchor, at));
    items::add(state, &mut new, items, at, (at, end));
    set_period(&mut new, at, end);
    new["billing_cycle_anchor"] = json!(anchor);
    (new["trial_start"], new["trial_end"]) = (json!(trial_end.map(|_| at)), json!(trial_end));
    if new["cancel_at_period_end"] == true {
        new["cancel_at"] = json!(end);
    }
    let way = match (free, by_hand, behavior) {
        (true, _, _) => Way::Charge(Charge::Paid),
        (_, true, _) | (_, _, Behavior::DefaultIncomplete) => Way::Wait,
        _ => Way::Charge(charge),
    };
    let invoice = invoices::draft(state, &new, "subscription_create", at, trial_end.is_some());
    new["latest_invoice"] = invoice["id"].clone();
    let status = match way {
        _ if trial_end.is_some() => "trialing",
        Way::Wait if by_hand => "active",
        Way::Charge(Charge::Paid) => "active",
        _ => "incomplete",
    };
    let first = if behavior == Behavior::Stepwise && trial_end.is_none() { "incomplete" } else { status };
    new["status"] = json!(first);
    state.put("sub", new.clone());
    events::record(state, "customer.subscription.created", &new, None);
    invoices::settle(state, invoice, way, at);
    new["status"] = json!(status);
    super::save(state, &new);
    course::announce(state, &new, at);
    Ok(new)
}

pub(crate) fn no_card() -> Error {
    let message = "This customer has no attached payment source or default payment method. Please consider adding a \
                   default payment method.";
    Error::coded("resource_missing", message)
}
