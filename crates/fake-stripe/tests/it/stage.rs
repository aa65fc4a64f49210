//! A fake, and what the tests say to it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tenantry_fake_stripe::{Fake, Options};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::Notify,
};

pub(crate) struct Stage {
    pub(crate) fake: Fake,
    pub(crate) http: reqwest::Client,
}

impl Stage {
    pub(crate) async fn new(options: Options) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { fake: Fake::start(options).await.unwrap(), http }
    }

    pub(crate) fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Value {
        self.fake.call(method, path, parameters).unwrap()
    }

    pub(crate) fn post(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        self.call("POST", path, parameters)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", path, &[])
    }

    /// A monthly price of nine euros, or another.
    pub(crate) fn price(&self, more: &[(&str, &str)]) -> String {
        let parameters = [
            ("currency", "eur"),
            ("unit_amount", "900"),
            ("recurring[interval]", "month"),
            ("product_data[name]", "Seats"),
        ];
        id(&self.post("/v1/prices", &[&parameters, more].concat()))
    }

    /// A customer with this card: `visa`, or one that is declined; or without one.
    pub(crate) fn customer(&self, card: Option<&str>, more: &[(&str, &str)]) -> String {
        let card = card.map(|card| format!("pm_card_{card}")).unwrap_or_default();
        let parameters = [("invoice_settings[default_payment_method]", card.as_str())];
        id(&self.post("/v1/customers", &[&parameters, more].concat()))
    }

    pub(crate) fn subscribe(&self, customer: &str, price: &str, more: &[(&str, &str)]) -> Value {
        let parameters = [("customer", customer), ("items[0][price]", price)];
        self.post("/v1/subscriptions", &[&parameters, more].concat())
    }

    /// A request over HTTP, with a key; its status and body.
    pub(crate) async fn ask(&self, method: &str, path: &str, form: &str, key: Option<&str>) -> (u16, Value) {
        let url = format!("{}{path}", self.fake.url());
        let mut request = self.http.request(method.parse().unwrap(), url).bearer_auth("sk_test_1");
        if !form.is_empty() {
            request =
                request.header("content-type", "application/x-www-form-urlencoded").body(form.to_owned());
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// `/_fake`, in JSON.
    pub(crate) async fn control(&self, path: &str, body: Value) -> Value {
        let answer =
            self.http.post(format!("{}/_fake/{path}", self.fake.url())).json(&body).send().await.unwrap();
        let (status, body) = (answer.status(), answer.json().await.unwrap());
        assert_eq!(status, 200, "{body}");
        body
    }

    /// A customer on a clock, and the clock.
    pub(crate) fn traveller(&self, card: Option<&str>, now: i64) -> (String, String) {
        let clock = id(&self.post("/v1/test_helpers/test_clocks", &[("frozen_time", &now.to_string())]));
        (self.customer(card, &[("test_clock", &clock)]), clock)
    }

    pub(crate) fn travel(&self, clock: &str, to: i64) {
        self.post(
            &format!("/v1/test_helpers/test_clocks/{clock}/advance"),
            &[("frozen_time", &to.to_string())],
        );
    }

    /// Kinds of the events there are, oldest first.
    pub(crate) fn kinds(&self) -> Vec<String> {
        let events = self.call("GET", "/v1/events", &[("limit", "100")]);
        assert_eq!(events["has_more"], false);
        events["data"]
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .map(|e| e["type"].as_str().unwrap().to_owned())
            .collect()
    }
}

pub(crate) fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

/// An endpoint that notes what comes, and answers as it is told.
pub(crate) struct Endpoint {
    pub(crate) url: String,
    received: Arc<Mutex<Vec<(String, Value)>>>,
    news: Arc<Notify>,
}

impl Endpoint {
    /// Answers with what `status` says for the number of the request.
    pub(crate) async fn new(status: impl Fn(usize) -> u16 + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (received, news) = (Arc::new(Mutex::new(vec![])), Arc::new(Notify::new()));
        let endpoint = Self { url, received: received.clone(), news: news.clone() };
        let status = Arc::new(status);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (received, news, status) = (received.clone(), news.clone(), status.clone());
                tokio::spawn(async move {
                    let mut buffer = vec![];
                    loop {
                        while let Some((head, body, rest)) = split(&buffer) {
                            let number = {
                                let mut received = received.lock().unwrap();
                                received.push((head, serde_json::from_str(&body).unwrap()));
                                received.len()
                            };
                            news.notify_waiters();
                            let code = status(number - 1);
                            let answer = format!("HTTP/1.1 {code} x\r\ncontent-length: 0\r\n\r\n");
                            stream.write_all(answer.as_bytes()).await.unwrap();
                            buffer = rest;
                        }
                        let mut more = [0; 16384];
                        match stream.read(&mut more).await {
                            Ok(0) | Err(_) => return,
                            Ok(count) => buffer.extend_from_slice(&more[..count]),
                        }
                    }
                });
            }
        });
        endpoint
    }

    pub(crate) fn received(&self) -> Vec<(String, Value)> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn wait(&self, count: usize) -> Vec<(String, Value)> {
        let all = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if self.received().len() >= count {
                    return self.received();
                }
                news.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.unwrap()
    }
}

/// The first request of a buffer: its head, its body, and what follows.
fn split(buffer: &[u8]) -> Option<(String, String, Vec<u8>)> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(buffer[..end].to_vec()).unwrap().to_lowercase();
    let length: usize = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().unwrap();
    let body = buffer.get(end..end + length)?;
    Some((head, String::from_utf8(body.to_vec()).unwrap(), buffer[end + length..].to_vec()))
}

/// Faults as JSON.
pub(crate) fn faults(json: Value) -> tenantry_fake_stripe::Faults {
    serde_json::from_value(json!(json)).unwrap()
}
