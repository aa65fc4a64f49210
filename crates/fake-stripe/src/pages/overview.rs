//! All that there is, for whoever works with the fake: customers, what they pay for, what has happened; and buttons that let
//! time pass and cards be declined.

use askama::Template;
use serde_json::Value;

use super::{STYLE, go, html, words};
use crate::{
    cards::{self, Charge},
    error::{Error, Result},
    form::Params,
    portal,
    server::{Answer, Asked, pass_in},
    state::{State, int, text},
    subscriptions,
};

/// How many customers and events are shown: the newest.
const CUSTOMERS: usize = 50;
const EVENTS: usize = 20;

const DAY: i64 = 86_400;

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    style: &'static str,
    base: String,
    now: String,
    /// Whole days that it is ahead of the machine's clock.
    ahead: i64,
    customers: Vec<Customer>,
    more: usize,
    prices: Vec<Price>,
    events: Vec<Event>,
    waiting: usize,
}

struct Customer {
    id: String,
    name: String,
    email: String,
    has_cards: bool,
    declines: bool,
    subscriptions: Vec<Subscription>,
}

/// A subscription in words.
pub(super) struct Subscription {
    pub(super) id: String,
    pub(super) what: String,
    pub(super) status: String,
    pub(super) mood: &'static str,
    pub(super) outlook: String,
    pub(super) over: bool,
}

struct Price {
    id: String,
    product: String,
    what: String,
}

struct Event {
    at: String,
    kind: String,
    about: String,
}

pub(super) fn page(state: &State) -> Answer {
    let customers: Vec<&Value> = state.rows("cus").filter(|row| row["deleted"] != true).collect();
    let prices = state.rows("price").filter(|price| price["active"] == true);
    let events: Vec<&Value> = state.rows("evt").collect();
    let page = Page {
        style: STYLE,
        base: state.base.clone(),
        now: words::minute(state.now()),
        ahead: state.ahead / DAY,
        more: customers.len().saturating_sub(CUSTOMERS),
        customers: customers.iter().rev().take(CUSTOMERS).map(|row| customer(state, row)).collect(),
        prices: prices.map(|price| a_price(state, price)).collect(),
        events: events.iter().rev().take(EVENTS).map(|event| an_event(event)).collect(),
        waiting: state.queue.all().count(),
    };
    html(200, &page, None)
}

fn customer(state: &State, row: &Value) -> Customer {
    let id = text(row, "id");
    let subscriptions = state.of_customer("sub", id);
    let declined = |row: &Value| cards::charge(state, row) == Charge::Declined;
    Customer {
        id: id.to_owned(),
        name: text(row, "name").to_owned(),
        email: text(row, "email").to_owned(),
        has_cards: !state.of_customer("pm", id).is_empty(),
        declines: subscriptions.iter().any(|row| !subscriptions::is_over(row) && declined(row)),
        subscriptions: subscriptions.iter().rev().map(|row| subscription(state, row)).collect(),
    }
}

pub(super) fn subscription(state: &State, row: &Value) -> Subscription {
    Subscription {
        id: text(row, "id").to_owned(),
        what: words::items(state, row),
        status: text(row, "status").replace('_', " "),
        mood: words::mood(text(row, "status")),
        outlook: words::outlook(state, row),
        over: subscriptions::is_over(row),
    }
}

fn a_price(state: &State, price: &Value) -> Price {
    Price {
        id: text(price, "id").to_owned(),
        product: words::product(state, price),
        what: words::price(price),
    }
}

fn an_event(event: &Value) -> Event {
    Event {
        at: words::minute(int(event, "created")),
        kind: text(event, "type").to_owned(),
        about: text(&event["data"]["object"], "id").to_owned(),
    }
}

/// What the buttons do.
pub(super) fn act(state: &mut State, asked: &Asked) -> Result<Answer> {
    let mut form = asked.params()?;
    match form.required("action")?.as_str() {
        "advance" => {
            let days = form.integer("days")?.filter(|days| (1..=366).contains(days));
            state.ahead += days.ok_or_else(|| Error::invalid("Days are a number from 1 to 366."))? * DAY;
            pass_in(state);
        }
        "next" => {
            subscriptions::next(state, &form.required("subscription")?)?;
        }
        action @ ("decline" | "accept") => {
            cards::set_declining(state, &form.required("customer")?, action == "decline");
        }
        "portal" => {
            let mut params = Params::default();
            params.set("customer", &form.required("customer")?)?;
            params.set("return_url", &format!("{}/", state.base))?;
            let session = portal::create(state, "", &mut params)?;
            return Ok(go(&format!("/p/session/{}", text(&session, "id"))));
        }
        _ => return Err(Error::invalid("There is no such button.")),
    }
    Ok(go("/"))
}
