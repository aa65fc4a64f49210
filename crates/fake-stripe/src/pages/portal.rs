//! The billing portal: what a customer pays for, and how that is changed.

use askama::Template;
use serde_json::Value;

use super::{STYLE, go, html, words};
use crate::{
    error::Result,
    portal,
    server::{Answer, Asked},
    state::{State, int, text},
    subscriptions,
};

/// How many invoices are shown.
const INVOICES: usize = 12;

#[derive(Template)]
#[template(path = "portal.html")]
struct Page {
    style: &'static str,
    who: String,
    subscriptions: Vec<Subscription>,
    invoices: Vec<Invoice>,
    back: String,
    problem: Option<String>,
}

struct Subscription {
    id: String,
    what: String,
    status: String,
    mood: &'static str,
    outlook: String,
    quantity: i64,
    over: bool,
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
        subscriptions: theirs("sub").map(|row| subscription(state, row)).collect(),
        invoices: invoices.collect(),
        back: text(&session, "return_url").to_owned(),
        problem,
    };
    Ok(html(200, &page, None))
}

fn subscription(state: &State, row: &Value) -> Subscription {
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
    Subscription {
        id: text(row, "id").to_owned(),
        what: words::items(state, row),
        status: text(row, "status").replace('_', " "),
        mood: words::mood(text(row, "status")),
        outlook: words::outlook(state, row),
        quantity: int(item, "quantity"),
        over: subscriptions::is_over(row),
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
