//! The billing portal: what a customer pays for, and how that is changed.

use askama::Template;
use serde_json::Value;

use super::{
    STYLE, go, html,
    overview::{Subscription, subscription},
    words,
};
use crate::{
    error::Result,
    portal,
    server::{Answer, Asked},
    state::{State, int, text},
};

/// How many invoices are shown.
const INVOICES: usize = 12;

#[derive(Template)]
#[template(path = "portal.html")]
struct Page {
    style: &'static str,
    who: String,
    subscriptions: Vec<Changeable>,
    invoices: Vec<Invoice>,
    back: String,
    problem: Option<String>,
}

/// A subscription and what may be made of it.
struct Changeable {
    is: Subscription,
    quantity: i64,
    ending: bool,
    /// Its last invoice is open.
    owing: Option<String>,
    prices: Vec<Price>,
}

struct Price {
    id: String,
    what: String,
    chosen: bool,
}

struct Invoice {
    day: String,
    amount: String,
    status: String,
    mood: &'static str,
}

pub(super) fn page(state: &State, id: &str, problem: Option<String>) -> Result<Answer> {
    let session = state.get("bps", id)?;
    let customer = state.find("cus", text(&session, "customer")).cloned().unwrap_or_default();
    let theirs = |prefix: &str| {
        let rows: Vec<&Value> =
            state.rows(prefix).filter(|row| row["customer"] == session["customer"]).collect();
        rows.into_iter().rev()
    };
    let invoices = theirs("in").take(INVOICES).map(|invoice| Invoice {
        day: words::day(int(invoice, "created")),
        amount: words::money(int(invoice, "total"), text(invoice, "currency")),
        status: text(invoice, "status").to_owned(),
        mood: words::mood(text(invoice, "status")),
    });
    let page = Page {
        style: STYLE,
        who: [text(&customer, "name"), text(&customer, "email")].join(" "),
        subscriptions: theirs("sub").map(|row| changeable(state, row)).collect(),
        invoices: invoices.collect(),
        back: text(&session, "return_url").to_owned(),
        problem,
    };
    Ok(html(200, &page, None))
}

fn changeable(state: &State, row: &Value) -> Changeable {
    let item = &row["items"]["data"][0];
    let fits = |price: &&Value| {
        price["id"] == item["price"]["id"] || price["active"] == true && price["type"] == "recurring"
    };
    let prices = state.rows("price").filter(fits).map(|price| Price {
        id: text(price, "id").to_owned(),
        what: format!("{}: {}", words::product(state, price), words::price(price)),
        chosen: price["id"] == item["price"]["id"],
    });
    let invoice = state.find("in", text(row, "latest_invoice")).filter(|invoice| invoice["status"] == "open");
    let owing =
        invoice.map(|invoice| words::money(int(invoice, "amount_remaining"), text(invoice, "currency")));
    Changeable {
        is: subscription(state, row),
        quantity: int(item, "quantity"),
        ending: row["cancel_at_period_end"] == true,
        owing,
        prices: prices.collect(),
    }
}

pub(super) fn change(state: &mut State, id: &str, asked: &Asked) -> Result<Answer> {
    match portal::act(state, id, &mut asked.params()?) {
        Ok(()) => Ok(go(&format!("/p/session/{id}"))),
        Err(error) => page(state, id, Some(error.message().to_owned())),
    }
}
