//! What an operator wants to know before tenants pay.

use reqwest::Method;

use super::{Client, Error, segment};

/// A price, as far as it matters to who subscribes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Price {
    /// Whether anybody may still choose it.
    pub active: bool,
    /// Whether it is paid again and again.
    pub recurring: bool,
    /// Whether it costs real money.
    pub live: bool,
}

impl Client {
    /// Asks for what is always asked for, to see whether the key may. The version in which Stripe answers; none: not told.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn version(&self) -> Result<Option<String>, Error> {
        let request = self.request(Method::GET, "subscriptions").query(&[("limit", "1")]);
        let (answer, headers) = self.ask(request).await?;
        if !answer.value["data"].is_array() {
            return Err(Error::Unreadable("list"));
        }
        Ok(headers.get("stripe-version").and_then(|version| version.to_str().ok()).map(str::to_owned))
    }

    /// A price; none: there is none of this id where the key is from.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn price(&self, id: &str) -> Result<Option<Price>, Error> {
        let answer = match self.get(&format!("prices/{}", segment(id)), &[]).await {
            Err(error) if error.is_missing() => return Ok(None),
            answer => answer?.value,
        };
        if answer["id"] != id {
            return Err(Error::Unreadable("price"));
        }
        let yes = |name: &str| answer[name].as_bool().unwrap_or(false);
        let recurring = answer["recurring"].is_object();
        Ok(Some(Price { active: yes("active"), recurring, live: yes("livemode") }))
    }
}
