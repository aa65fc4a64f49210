//! The way out to Stripe: few calls, each with a time-out, a limit of our own below Stripe's, and a pinned version.

mod check;
mod list;

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime},
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{DATE, HeaderMap},
};
use serde_json::Value;
use tenantry_trace::{Kind, Span};

pub use check::Price;
pub use list::{Listed, Listing, Page, Place};

use crate::{API_VERSION, Item, Subscription};

/// How long Stripe may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Stripe's code for what it does not have.
const MISSING: &str = "resource_missing";
/// As many as Stripe sends at once.
const PAGE: &str = "100";

/// How to reach Stripe.
#[derive(Clone)]
pub struct Settings {
    /// Where, without a trailing slash: `https://api.stripe.com`.
    pub base: String,
    /// The secret key.
    pub key: String,
    /// Requests a second of this process, at most. Stripe allows 100 for a live account, 25 for a test one.
    pub rate: NonZeroU32,
}

/// The way out to Stripe. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<str>,
    key: Arc<str>,
    limit: Arc<DefaultDirectRateLimiter>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.base)
    }
}

/// Why Stripe did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Too many requests; again after this time.
    #[error("stripe answered 429")]
    Limited(Duration),
    /// Stripe is away; whether it did what was asked is not known.
    #[error("stripe is not available: {0}")]
    Unavailable(String),
    /// It had a fault while it did what was asked, or before. The same idempotency key gets this answer for a day.
    #[error("stripe answered {0}")]
    Failed(Fault),
    /// The idempotency key was used for something else.
    #[error("stripe knows this idempotency key from something else")]
    KeyUsed,
    /// What was asked for by this idempotency key is being done at this moment.
    #[error("stripe is still busy with what was asked by this idempotency key")]
    KeyBusy,
    /// It will not do this, now or later. The text is Stripe's, for the operator.
    #[error("stripe refused with {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Stripe's code, such as `resource_missing`; may be empty.
        code: String,
        /// For people.
        message: String,
        /// When it said so by its own clock, in Unix seconds; none: it did not say.
        at: Option<i64>,
    },
    /// It answered something that we cannot read.
    #[error("stripe answered something that is no {0}")]
    Unreadable(&'static str),
}

/// A fault of Stripe's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status.
    pub status: u16,
    /// Whether it is that of an earlier request by the same idempotency key: nothing else will be said to this key.
    pub kept: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.status, if self.kept { ", as before" } else { "" })
    }
}

/// Something that Stripe said, and when by its own clock.
#[derive(Debug, Clone)]
pub struct Dated<T> {
    /// What.
    pub value: T,
    /// In Unix seconds; none: it did not say.
    pub at: Option<i64>,
}

/// Whether there is a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is.
    Live,
    /// There was: for good.
    Deleted,
    /// Not by our key, which may be that of another account.
    Unknown,
}

/// A customer to be made.
#[derive(Debug, Clone)]
pub struct NewCustomer<'a> {
    /// The tenant's name.
    pub name: &'a str,
    /// Where invoices go.
    pub email: Option<&'a str>,
    /// The tenant's id: for people who look at the dashboard.
    pub tenant: &'a str,
    /// By what it is found again. Nobody else knows it.
    pub mark: &'a str,
}

/// A checkout to be begun.
#[derive(Debug, Clone)]
pub struct Checkout<'a> {
    /// Who pays.
    pub customer: &'a str,
    /// For what.
    pub price: &'a str,
    /// How many.
    pub quantity: i64,
    /// Where it leads when it is done.
    pub success_url: &'a str,
    /// Where it leads when it is not.
    pub cancel_url: &'a str,
    /// By what it is found again, and of what it is made: notes of the caller's own.
    pub note: (&'a str, &'a str),
}

impl Client {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// When there is no TLS to be had.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .connect_timeout(Duration::from_secs(5))
            .redirect(reqwest::redirect::Policy::none())
            .user_agent("tenantry")
            .build()
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        let limit = Arc::new(RateLimiter::direct(Quota::per_second(settings.rate)));
        Ok(Self { http, base: settings.base.into(), key: settings.key.into(), limit })
    }

    /// A subscription with all its items; none: Stripe knows no such one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn subscription(&self, id: &str) -> Result<Dated<Option<Subscription>>, Error> {
        let answer = match self.get(&format!("subscriptions/{}", segment(id)), &[]).await {
            // A 404 of anything else, such as a proxy, says nothing about the subscription.
            Err(Error::Refused { code, at, .. }) if code == MISSING => return Ok(Dated { value: None, at }),
            answer => answer?,
        };
        let subscription = Subscription::read(answer.value).ok_or(Error::Unreadable("subscription"))?;
        Ok(Dated { value: Some(self.completed(subscription).await?), at: answer.at })
    }

    /// Asks for the items that did not come along.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn completed(&self, mut subscription: Subscription) -> Result<Subscription, Error> {
        while subscription.more_items {
            let last = subscription.items.last().map(|item| item.id.clone()).unwrap_or_default();
            let query =
                [("subscription", subscription.id.as_str()), ("limit", PAGE), ("starting_after", &last)];
            let answer = self.get("subscription_items", &query).await?.value;
            let items = answer["data"].as_array().ok_or(Error::Unreadable("list"))?;
            let read = |item: &Value| Item::read(item, &subscription.raw);
            let items: Option<Vec<_>> = items.iter().map(read).collect();
            let items = items.ok_or(Error::Unreadable("subscription item"))?;
            subscription.more_items = answer["has_more"].as_bool().unwrap_or(false) && !items.is_empty();
            subscription.items.extend(items);
        }
        Ok(subscription)
    }

    /// Whether there is a customer of this id.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn customer(&self, id: &str) -> Result<Standing, Error> {
        if segment(id) != id {
            return Ok(Standing::Unknown);
        }
        match self.get(&format!("customers/{id}"), &[]).await {
            Err(error) if error.is_missing() => Ok(Standing::Unknown),
            Err(error) => Err(error),
            Ok(Dated { value, .. }) if value["id"] != id => Err(Error::Unreadable("customer")),
            Ok(Dated { value, .. }) if value["deleted"] == true => Ok(Standing::Deleted),
            Ok(_) => Ok(Standing::Live),
        }
    }

    /// Makes a customer. The same `key` again makes none, and gives the same answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_customer(&self, new: &NewCustomer<'_>, key: &str) -> Result<String, Error> {
        let mut form =
            vec![("name", new.name), ("metadata[tenant_id]", new.tenant), ("metadata[tenant_key]", new.mark)];
        form.extend(new.email.map(|email| ("email", email)));
        let answer = self.post("customers", &form, key).await?;
        answer["id"].as_str().map(str::to_owned).ok_or(Error::Unreadable("customer"))
    }

    /// The address that Stripe has of a customer; none: it has none, or no such customer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn customer_email(&self, id: &str) -> Result<Option<String>, Error> {
        match self.get(&format!("customers/{}", segment(id)), &[]).await {
            Err(error) if error.is_missing() => Ok(None),
            answer => Ok(answer?.value["email"].as_str().map(str::to_owned)),
        }
    }

    /// Gives a customer another address; an empty one: none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_customer_email(&self, id: &str, email: &str, key: &str) -> Result<(), Error> {
        self.post(&format!("customers/{}", segment(id)), &[("email", email)], key).await.map(drop)
    }

    /// The customer that was made with this mark since then (Unix seconds); none: there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find_customer(&self, since: i64, mark: &str) -> Result<Option<String>, Error> {
        let since = since.to_string();
        let mut place = Place::Newest;
        loop {
            let page = self.page("customers", &[("created[gte]", &since), ("limit", PAGE)], &place).await?;
            let found = page.data.iter().find(|customer| customer["metadata"]["tenant_key"] == mark);
            if let Some(found) = found {
                return Ok(found["id"].as_str().map(str::to_owned));
            }
            match page.next {
                Some(id) => place = Place::After { id, made: page.oldest },
                None => return Ok(None),
            }
        }
    }

    /// Begins a checkout; where the customer goes to pay.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_checkout(
        &self,
        checkout: &Checkout<'_>,
        key: &str,
    ) -> Result<(String, String), Error> {
        let quantity = checkout.quantity.to_string();
        let form = [
            ("mode", "subscription"),
            ("customer", checkout.customer),
            ("line_items[0][price]", checkout.price),
            ("line_items[0][quantity]", &quantity),
            ("success_url", checkout.success_url),
            ("cancel_url", checkout.cancel_url),
            ("metadata[idempotency_key]", checkout.note.0),
            ("metadata[request]", checkout.note.1),
        ];
        session(&self.post("checkout/sessions", &form, key).await?)
    }

    /// The checkout of this customer, of the newest hundred, that has this note and whose page is still open.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find_checkout(
        &self,
        customer: &str,
        note: (&str, &str),
    ) -> Result<Option<(String, String)>, Error> {
        let query = [("customer", customer), ("limit", PAGE)];
        let answer = self.get("checkout/sessions", &query).await?.value;
        let noted = |found: &&Value| {
            let metadata = &found["metadata"];
            metadata["idempotency_key"] == note.0 && metadata["request"] == note.1
        };
        let sessions = answer["data"].as_array().ok_or(Error::Unreadable("list"))?;
        Ok(sessions.iter().find(noted).and_then(|found| session(found).ok()))
    }

    /// Opens the portal; where the customer changes what they pay for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create_portal(
        &self,
        customer: &str,
        return_url: &str,
        key: &str,
    ) -> Result<(String, String), Error> {
        let form = [("customer", customer), ("return_url", return_url)];
        session(&self.post("billing_portal/sessions", &form, key).await?)
    }

    /// Changes how many of an item are paid for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_quantity(&self, item: &str, quantity: i64, key: &str) -> Result<(), Error> {
        let quantity = quantity.to_string();
        let path = format!("subscription_items/{}", segment(item));
        self.post(&path, &[("quantity", quantity.as_str())], key).await.map(drop)
    }

    /// Lets a subscription end with the period that is paid.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn end_with_period(&self, subscription: &str, key: &str) -> Result<(), Error> {
        let path = format!("subscriptions/{}", segment(subscription));
        self.post(&path, &[("cancel_at_period_end", "true")], key).await.map(drop)
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Dated<Value>, Error> {
        self.send(self.request(Method::GET, path).query(query)).await
    }

    async fn post(&self, path: &str, form: &[(&str, &str)], key: &str) -> Result<Value, Error> {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key).form(form);
        Ok(self.send(request).await?.value)
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/v1/{path}", self.base));
        request.bearer_auth(&self.key).header("Stripe-Version", API_VERSION)
    }

    async fn send(&self, request: RequestBuilder) -> Result<Dated<Value>, Error> {
        Ok(self.ask(request).await?.0)
    }

    /// The answer, and its headers.
    async fn ask(&self, request: RequestBuilder) -> Result<(Dated<Value>, HeaderMap), Error> {
        self.limit.until_ready().await;
        // Without the URL, which may name a customer.
        let away = |error: reqwest::Error| Error::Unavailable(error.without_url().to_string());
        let request = request.build().map_err(away)?;
        let mut span = asks(&request);
        let response = self.http.execute(request).await;
        let response = response.inspect_err(|_| span.fail("unavailable")).map_err(away)?;
        let (status, headers) = (response.status(), response.headers().clone());
        span.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_client_error() || status.is_server_error() {
            span.fail(status.as_str().to_owned());
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let at = header(DATE.as_str()).and_then(seconds);
        let wait = header("retry-after").and_then(|wait| wait.parse().ok());
        let kept = header("idempotent-replayed") == Some("true");
        let body = response.bytes().await.map_err(away)?;
        let value = serde_json::from_slice::<Value>(&body);
        if status.is_success() {
            let value = value.map_err(|_| Error::Unreadable("JSON"))?;
            return Ok((Dated { value, at }, headers));
        }
        let error = value.unwrap_or_default()["error"].take();
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                Err(Error::Limited(wait.map_or(Duration::from_secs(2), Duration::from_secs)))
            }
            StatusCode::CONFLICT if error["code"] == "idempotency_key_in_use" => Err(Error::KeyBusy),
            // Others are at the same object.
            StatusCode::CONFLICT => Err(Error::Limited(Duration::from_secs(1))),
            _ if status.is_server_error() => Err(Error::Failed(Fault { status: status.as_u16(), kept })),
            _ if error["type"] == "idempotency_error" => Err(Error::KeyUsed),
            // Something in between has answered.
            _ if !error["type"].is_string() => Err(Error::Unreadable("error of Stripe's")),
            _ => Err(Error::Refused {
                status: status.as_u16(),
                code: text("code"),
                message: without_addresses(&text("message")),
                at,
            }),
        }
    }
}

impl Error {
    /// Whether what was named is not there: not any more, or not by our key.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == MISSING)
    }

    /// Whether the same may be answered if it is asked again later.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Limited(_) | Self::Unavailable(_) | Self::Failed(_))
    }
}

fn session(answer: &Value) -> Result<(String, String), Error> {
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    text("id").zip(text("url")).ok_or(Error::Unreadable("session"))
}

/// A part of a path that leads nowhere else, whatever is in it.
fn segment(id: &str) -> String {
    id.chars().filter(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect()
}

/// Stripe repeats what it refuses, and what it says is logged.
fn without_addresses(message: &str) -> String {
    let word = |word: &str| if word.contains('@') { "(an address)".to_owned() } else { word.to_owned() };
    message.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Unix seconds of a date as HTTP writes it (RFC 9110, 5.6.7).
fn seconds(date: &str) -> Option<i64> {
    let at = httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(at.as_secs()).ok()
}

/// The span of a call. It tells of what kind the object is, and not which.
fn asks(request: &reqwest::Request) -> Span {
    let mut span = Span::child(Kind::Client, "HTTP");
    if let Some(span) = span.recorded() {
        let (method, url) = (request.method().as_str(), request.url());
        let mut parts = url.path_segments().into_iter().flatten().skip(1);
        let (noun, id) =
            (parts.next().unwrap_or_default(), if parts.next().is_some() { "/{id}" } else { "" });
        let template = format!("/v1/{noun}{id}");
        span.name = format!("{method} {template}").into();
        span.set("http.request.method", method.to_owned());
        span.set("url.template", template);
        span.set("server.address", url.host_str().unwrap_or_default().to_owned());
    }
    span
}
