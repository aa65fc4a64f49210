//! `/v1`: which request is answered by what.

use serde_json::Value;

use crate::{
    cards, catalog, checkout, clocks, customers,
    error::{Error, Result},
    events,
    expand::expand,
    form::Params,
    invoices, portal, schedules,
    state::State,
    subscriptions, webhooks,
};

type Handler = fn(&mut State, &str, &mut Params) -> Result<Value>;

/// Method, path below `/v1`, and who answers. An earlier one wins.
const ROUTES: &[(&str, &str, Handler)] = &[
    ("POST", "billing_portal/sessions", portal::create),
    ("GET", "checkout/sessions", checkout::list),
    ("POST", "checkout/sessions", checkout::create),
    ("GET", "checkout/sessions/{id}", checkout::get),
    ("GET", "checkout/sessions/{id}/line_items", checkout::line_items),
    ("POST", "checkout/sessions/{id}/expire", checkout::expire),
    ("GET", "customers", customers::list),
    ("POST", "customers", customers::create),
    ("GET", "customers/{id}", customers::get),
    ("POST", "customers/{id}", customers::update),
    ("DELETE", "customers/{id}", customers::delete),
    ("GET", "events", events::list),
    ("GET", "events/{id}", events::get),
    ("GET", "invoices", invoices::list),
    ("GET", "invoices/{id}", invoices::get),
    ("POST", "invoices/{id}/pay", invoices::pay),
    ("POST", "invoices/{id}/void", invoices::void),
    ("GET", "payment_methods", cards::list),
    ("GET", "payment_methods/{id}", cards::get),
    ("POST", "payment_methods/{id}/attach", cards::attach_to),
    ("GET", "prices", catalog::list_prices),
    ("POST", "prices", catalog::create_price),
    ("GET", "prices/{id}", catalog::get_price),
    ("POST", "prices/{id}", catalog::update_price),
    ("GET", "products", catalog::list_products),
    ("POST", "products", catalog::create_product),
    ("GET", "products/{id}", catalog::get_product),
    ("POST", "products/{id}", catalog::update_product),
    ("DELETE", "products/{id}", catalog::delete_product),
    ("GET", "subscription_items", subscriptions::list_items),
    ("POST", "subscription_items", subscriptions::create_item),
    ("GET", "subscription_items/{id}", subscriptions::get_item),
    ("POST", "subscription_items/{id}", subscriptions::update_item),
    ("DELETE", "subscription_items/{id}", subscriptions::delete_item),
    ("GET", "subscription_schedules", schedules::list),
    ("POST", "subscription_schedules", schedules::create),
    ("GET", "subscription_schedules/{id}", schedules::get),
    ("POST", "subscription_schedules/{id}", schedules::update),
    ("POST", "subscription_schedules/{id}/release", schedules::release),
    ("GET", "subscriptions", subscriptions::list),
    ("POST", "subscriptions", subscriptions::create),
    ("GET", "subscriptions/{id}", subscriptions::get),
    ("POST", "subscriptions/{id}", subscriptions::update),
    ("DELETE", "subscriptions/{id}", subscriptions::cancel),
    ("POST", "subscriptions/{id}/resume", subscriptions::resume),
    ("GET", "test_helpers/test_clocks", clocks::list),
    ("POST", "test_helpers/test_clocks", clocks::create),
    ("GET", "test_helpers/test_clocks/{id}", clocks::get),
    ("POST", "test_helpers/test_clocks/{id}/advance", clocks::advance),
    ("GET", "webhook_endpoints", webhooks::list),
    ("POST", "webhook_endpoints", webhooks::create),
    ("GET", "webhook_endpoints/{id}", webhooks::get),
    ("POST", "webhook_endpoints/{id}", webhooks::update),
    ("DELETE", "webhook_endpoints/{id}", webhooks::delete),
];

/// A request that somebody answers.
pub(crate) struct Route {
    pub(crate) name: String,
    pub(crate) id: String,
    handler: Handler,
}

/// `path` is below `/v1`.
pub(crate) fn route(method: &str, path: &str) -> Option<Route> {
    let parts: Vec<&str> = path.split('/').collect();
    ROUTES.iter().find_map(|(of, pattern, handler)| {
        let wanted: Vec<&str> = pattern.split('/').collect();
        let fits = *of == method
            && wanted.len() == parts.len()
            && wanted
                .iter()
                .zip(&parts)
                .all(|(wanted, part)| wanted == part || *wanted == "{id}" && !part.is_empty());
        let id = wanted
            .iter()
            .position(|part| *part == "{id}")
            .map_or("", |place| parts.get(place).unwrap_or(&""));
        fits.then(|| Route { name: format!("{method} /v1/{pattern}"), id: id.to_owned(), handler: *handler })
    })
}

/// Answers a request. Handlers check all before they change anything; only a path in `expand` is found wrong afterwards.
pub(crate) fn call(state: &mut State, route: &Route, mut params: Params) -> Result<Value> {
    let paths = params.texts("expand")?;
    let mut answer = (route.handler)(state, &route.id, &mut params)?;
    if !params.is_finished() {
        return Err(Error::internal());
    }
    expand(state, &mut answer, &paths)?;
    Ok(answer)
}
