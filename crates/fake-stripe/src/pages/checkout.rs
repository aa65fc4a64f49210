//! The page on which somebody pays for the first time.

use askama::Template;

use super::{STYLE, go, html, words};
use crate::{
    checkout,
    error::Result,
    server::{Answer, Asked},
    state::{State, int, text},
};

#[derive(Template)]
#[template(path = "checkout.html")]
struct Page {
    style: &'static str,
    title: String,
    status: String,
    email: String,
    has_customer: bool,
    lines: Vec<Line>,
    due: String,
    trial: bool,
    /// Where it goes on, and back.
    next: String,
    cancel: String,
    problem: Option<&'static str>,
}

struct Line {
    what: String,
    price: String,
}

pub(super) fn page(state: &State, id: &str, problem: Option<&'static str>) -> Result<Answer> {
    let session = state.get("cs_test", id)?;
    let order = state.orders.get(id);
    let items = order.map(|order| order.line_items["data"].clone()).unwrap_or_default();
    let items = items.as_array().map_or(&[][..], Vec::as_slice);
    let line = |item: &serde_json::Value| Line {
        what: format!("{} × {}", int(item, "quantity"), text(item, "description")),
        price: words::price(&item["price"]),
    };
    let customer = session["customer"].as_str().and_then(|customer| state.find("cus", customer));
    let email = customer.map_or(text(&session, "customer_email"), |customer| text(customer, "email"));
    let next = checkout::success_url(&session);
    let page = Page {
        style: STYLE,
        title: match items {
            [item] => format!("Subscribe to {}", text(item, "description")),
            _ => "Subscribe".to_owned(),
        },
        status: text(&session, "status").to_owned(),
        email: email.to_owned(),
        has_customer: customer.is_some(),
        lines: items.iter().map(line).collect(),
        due: words::money(int(&session, "amount_total"), text(&session, "currency")),
        trial: order.is_some_and(|order| order.has_trial()),
        next: next.clone(),
        cancel: text(&session, "cancel_url").to_owned(),
        problem,
    };
    Ok(html(200, &page, Some(&next)))
}

pub(super) fn pay(state: &mut State, id: &str, asked: &Asked) -> Result<Answer> {
    let mut form = asked.params()?;
    let (action, email) = (form.required("action")?, form.text("email")?);
    let session = state.get("cs_test", id)?;
    match (text(&session, "status"), action.as_str()) {
        // Pressed twice, or opened again.
        ("complete", _) => Ok(go(&checkout::success_url(&session))),
        ("open", "pay") => {
            checkout::pay(state, id, email.as_deref().filter(|email| !email.is_empty())).map(|to| go(&to))
        }
        ("open", _) => page(state, id, Some("Your card was declined.")),
        _ => page(state, id, None),
    }
}
