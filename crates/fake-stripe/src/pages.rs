//! The pages that people see: checkout and the billing portal.

use askama::Template;
use hyper::{
    Method,
    header::{HeaderValue, LOCATION},
};
use serde_json::Value;

use crate::{
    Shared, checkout,
    error::Result,
    portal,
    server::{Answer, Asked, with},
    state::{State, int, text},
};

const HTML: &str = "text/html; charset=utf-8";

#[derive(Template)]
#[template(path = "checkout.html")]
struct Checkout {
    session: Session,
    lines: Vec<Line>,
    problem: Option<&'static str>,
}

struct Session {
    status: String,
    email: String,
    has_customer: bool,
    next: String,
    cancel: String,
}

struct Line {
    what: String,
    amount: String,
}

#[derive(Template)]
#[template(path = "portal.html")]
struct Portal {
    subscriptions: Vec<Subscription>,
    back: String,
    problem: Option<String>,
}

struct Subscription {
    id: String,
    status: String,
    quantity: i64,
    over: bool,
    ending: bool,
    prices: Vec<Price>,
}

struct Price {
    id: String,
    what: String,
    chosen: bool,
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    text: &'a str,
}

pub(crate) fn answer(shared: &Shared, asked: &Asked) -> Answer {
    let parts: Vec<&str> = asked.path.trim_matches('/').split('/').collect();
    let post = asked.method == Method::POST;
    let answer = match parts.as_slice() {
        ["c", "pay", id] if post => pay(&mut shared.lock(), id, asked),
        ["c", "pay", id] => checkout_page(&shared.lock(), id, None),
        ["p", "session", id] if post => change(&mut shared.lock(), id, asked),
        ["p", "session", id] => portal_page(&shared.lock(), id, None),
        _ => {
            return page(
                404,
                &Message { text: "A fake of Stripe: its API is below /v1, its controls below /_fake." },
            );
        }
    };
    answer.unwrap_or_else(|error| page(error.status, &Message { text: error.message() }))
}

fn page(status: u16, template: &impl Template) -> Answer {
    with(status, HTML, template.render().unwrap_or_default())
}

fn go(to: &str) -> Answer {
    let mut answer = with(303, HTML, String::new());
    if let Ok(to) = HeaderValue::from_str(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

fn checkout_page(state: &State, id: &str, problem: Option<&'static str>) -> Result<Answer> {
    let session = state.get("cs_test", id)?;
    let items = state.orders.get(id).map(|order| order.line_items["data"].clone()).unwrap_or_default();
    let lines = items.as_array().into_iter().flatten().map(|item| Line {
        what: format!("{} × {}", int(item, "quantity"), text(item, "description")),
        amount: price_text(&item["price"]),
    });
    let customer = session["customer"].as_str().and_then(|customer| state.find("cus", customer));
    let email = customer.map_or(text(&session, "customer_email"), |customer| text(customer, "email"));
    let page_of = Checkout {
        session: Session {
            status: text(&session, "status").to_owned(),
            email: email.to_owned(),
            has_customer: customer.is_some(),
            next: checkout::success_url(&session),
            cancel: text(&session, "cancel_url").to_owned(),
        },
        lines: lines.collect(),
        problem,
    };
    Ok(page(200, &page_of))
}

fn price_text(price: &Value) -> String {
    let (amount, currency) = (int(price, "unit_amount"), text(price, "currency").to_uppercase());
    let interval = text(&price["recurring"], "interval");
    format!("{}.{:02} {currency} per {interval}", amount / 100, amount % 100)
}

fn pay(state: &mut State, id: &str, asked: &Asked) -> Result<Answer> {
    let mut form = asked.params()?;
    let (action, email) = (form.required("action")?, form.text("email")?);
    let session = state.get("cs_test", id)?;
    match (text(&session, "status"), action.as_str()) {
        // Pressed twice, or opened again.
        ("complete", _) => Ok(go(&checkout::success_url(&session))),
        ("open", "pay") => {
            checkout::pay(state, id, email.as_deref().filter(|email| !email.is_empty())).map(|to| go(&to))
        }
        ("open", _) => checkout_page(state, id, Some("Your card was declined.")),
        _ => checkout_page(state, id, None),
    }
}

fn portal_page(state: &State, id: &str, problem: Option<String>) -> Result<Answer> {
    let session = state.get("bps", id)?;
    let subscriptions = state.rows("sub").filter(|row| row["customer"] == session["customer"]).map(|row| {
        let item = &row["items"]["data"][0];
        let fits = |price: &&Value| {
            price["id"] == item["price"]["id"] || price["active"] == true && price["type"] == "recurring"
        };
        let prices = state.rows("price").filter(fits).map(|price| {
            let product = state.find("prod", text(price, "product"));
            let name = product.map_or("", |product| text(product, "name"));
            Price {
                id: text(price, "id").to_owned(),
                what: format!("{name}: {}", price_text(price)),
                chosen: price["id"] == item["price"]["id"],
            }
        });
        Subscription {
            id: text(row, "id").to_owned(),
            status: text(row, "status").to_owned(),
            quantity: int(item, "quantity"),
            over: crate::subscriptions::is_over(row),
            ending: row["cancel_at_period_end"] == true,
            prices: prices.collect(),
        }
    });
    let subscriptions = subscriptions.collect();
    Ok(page(200, &Portal { subscriptions, back: text(&session, "return_url").to_owned(), problem }))
}

fn change(state: &mut State, id: &str, asked: &Asked) -> Result<Answer> {
    match portal::act(state, id, &mut asked.params()?) {
        Ok(()) => Ok(go(&format!("/p/session/{id}"))),
        Err(error) => portal_page(state, id, Some(error.message().to_owned())),
    }
}
