//! A fake Stripe of our own, for whoever has no account there: in this process, on loopback, and with a memory.

use std::path::Path;

use serde_json::Value;
use tenantry_fake_stripe::{Fake, Faults, Options, WebhookFaults};

use super::error::ServerError;

/// Any would do that begins like one.
pub const SECRET_KEY: &str = "sk_test_fake";

/// What is sold: product, cents a month, and what it gives, as in STRIPE_PRICES.
const SOLD: [(&str, &str, &str); 3] =
    [("Basic", "900", "basic"), ("Pro", "2900", "pro"), ("Enterprise, per seat", "1900", "enterprise/seat")];

/// Starts the fake whose memory is in `folder`. Webhooks wait until it knows where to.
pub async fn start(folder: &Path) -> Result<Fake, ServerError> {
    let waiting = WebhookFaults { deliver: false, ..WebhookFaults::default() };
    let options = Options {
        secrets: vec![format!("whsec_{:032x}", rand::random::<u128>())],
        faults: Faults { webhooks: waiting, ..Faults::default() },
        state: Some(folder.join("state.json")),
        ..Options::default()
    };
    Fake::start(options).await.map_err(ServerError::Stripe)
}

/// From now on webhooks go to `url`, those first that had to wait.
pub fn deliver_to(fake: &Fake, url: &str) -> Result<(), ServerError> {
    fake.send_webhooks_to(url);
    fake.set_faults(Faults::default()).map_err(|problem| ServerError::Refused(problem.to_owned()))
}

/// What is sold, as STRIPE_PRICES; made where it is not there yet.
pub async fn prices(fake: &Fake) -> Result<String, ServerError> {
    let mut prices = vec![];
    for (product, cents, gives) in SOLD {
        let key = format!("tenantry_{}", gives.replace('/', "_"));
        let found = call(fake, "GET", "/v1/prices", &[("lookup_keys[]", &key)])?;
        let price = match &found["data"][0] {
            Value::Null => {
                let price = [
                    ("currency", "eur"),
                    ("unit_amount", cents),
                    ("recurring[interval]", "month"),
                    ("product_data[name]", product),
                    ("lookup_key", &key),
                ];
                call(fake, "POST", "/v1/prices", &price)?
            }
            price => price.clone(),
        };
        prices.push(format!("{}={gives}", text(&price["id"])));
    }
    // Who was sold something finds it there after whatever comes.
    fake.save().await.map_err(ServerError::Stripe)?;
    Ok(prices.join(","))
}

/// Whether the fake has such a customer.
pub fn knows(fake: &Fake, customer: &str) -> bool {
    fake.call("GET", &format!("/v1/customers/{customer}"), &[]).is_ok()
}

/// Makes a customer; its id.
pub fn make_customer(fake: &Fake, name: &str, email: Option<&str>) -> Result<String, ServerError> {
    let customer =
        call(fake, "POST", "/v1/customers", &[("name", name), ("email", email.unwrap_or_default())])?;
    Ok(text(&customer["id"]).to_owned())
}

fn call(fake: &Fake, method: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Value, ServerError> {
    fake.call(method, path, parameters)
        .map_err(|answer| ServerError::Refused(text(&answer["error"]["message"]).to_owned()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
