//! Billing, against a Stripe that keeps what it is told and sends what it should: `tenantry_fake_stripe`.

mod backfill;
mod check;
mod deleted;
mod edges;
mod events;
mod idempotency;
mod linking;
mod metrics;
mod order;
mod others;
mod out;
mod parking;
mod reconcile;
mod signatures;
mod states;
mod trouble;

use std::{process::Stdio, time::Duration};

use hmac::{Hmac, Mac};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tenantry::server;
use tenantry_accounts::{
    App,
    billing::{
        directory,
        events::{By, receive},
        sync::Fetched,
        walk::{self, Name, Walk},
    },
};
use tenantry_fake_stripe::{ApiFaults, Fake, Faults, Options, WebhookFaults};
use tenantry_stripe::{Event, Subscription};
use tenantry_workers::stripe::{Seen, step};
use uuid::Uuid;

use crate::{
    app::{TestApp, answer, from_stack},
    node::{connect, in_database},
};

/// A Stripe of the test's own, and a tenant that may pay there.
struct Stage {
    fake: Fake,
    app: TestApp,
    /// Of the plans basic, pro and enterprise; enterprise is by seat.
    prices: Vec<String>,
    flags: Vec<String>,
    customer: String,
    /// Where the rows are: a superuser's connection.
    database: tokio_postgres::Client,
}

impl Stage {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(flags: &[&str]) -> Self {
        Self::on("tenantry", flags).await
    }

    /// On a database of its own: for what goes through all that Stripe has, and for jobs that are no tenant's.
    async fn alone() -> Self {
        Self::alone_with(&[]).await
    }

    async fn alone_with(flags: &[&str]) -> Self {
        Self::on(&database().await, flags).await
    }

    async fn on(database: &str, flags: &[&str]) -> Self {
        let options =
            Options { secrets: vec!["whsec_new".into(), "whsec_other".into()], ..Options::default() };
        let fake = Fake::start(options).await.unwrap();
        let sold = [("900", "basic"), ("1900", "pro"), ("4900", "enterprise/seat")];
        let prices: Vec<_> = sold.iter().map(|(amount, _)| price(&fake, amount)).collect();
        let given = prices.iter().zip(sold).map(|(id, (_, plan))| format!("{id}={plan}")).collect::<Vec<_>>();
        let mut all = vec![
            format!("--database-url={}", url_of(database)),
            "--stripe-secret-key=sk_test_1".to_owned(),
            format!("--stripe-api-base={}", fake.url()),
            format!("--stripe-prices={}", given.join(",")),
            "--app-url=https://app.example.org".to_owned(),
        ];
        // Tests that wait for a fetch once more say so.
        for (flag, value) in
            [("--stripe-settle-delay", "1h"), ("--stripe-webhook-secrets", "whsec_old,whsec_new")]
        {
            if !flags.iter().any(|different| different.starts_with(flag)) {
                all.push(format!("{flag}={value}"));
            }
        }
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let app = TestApp::spawn_with(&all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        fake.send_webhooks_to(&format!("{}/api/v1/webhooks/stripe", app.url));
        let mut stage = Self {
            fake,
            app,
            prices,
            flags: all,
            customer: String::new(),
            database: connect(database).await,
        };
        stage.faults(ApiFaults::default(), WebhookFaults::default());
        stage.app.run_jobs().await;
        stage.customer = stage.customer_of(&stage.app).await;
        stage.give_card(&stage.customer);
        stage
    }

    /// Another tenant that pays at the same Stripe.
    async fn neighbour(&self) -> TestApp {
        let app = TestApp::spawn_with(&self.flags.iter().map(String::as_str).collect::<Vec<_>>()).await;
        app.run_jobs().await;
        app
    }

    /// From now on this goes wrong. Webhooks wait until `delivered`.
    fn faults(&self, api: ApiFaults, webhooks: WebhookFaults) {
        let webhooks = WebhookFaults { deliver: false, ..webhooks };
        self.fake.set_faults(Faults { seed: None, api, webhooks }).unwrap();
    }

    async fn customer_of(&self, app: &TestApp) -> String {
        let sql = "select customer_id from tenantry.billing_customers where tenant_id = $1";
        self.database.query_one(sql, &[&app.tenant]).await.unwrap().get(0)
    }

    fn give_card(&self, customer: &str) {
        let card = [
            ("payment_method", "pm_card_visa"),
            ("invoice_settings[default_payment_method]", "pm_card_visa"),
        ];
        self.call("POST", &format!("/v1/customers/{customer}"), &card);
    }

    fn call(&self, method: &str, path: &str, parameters: &[(&str, &str)]) -> Value {
        self.fake.call(method, path, parameters).unwrap()
    }

    /// A subscription of `customer` to the plan of that number.
    fn subscribe(&self, customer: &str, plan: usize) -> String {
        let price = self.prices[plan].as_str();
        let parameters = [("customer", customer), ("items[0][price]", price), ("items[0][quantity]", "1")];
        id(&self.call("POST", "/v1/subscriptions", &parameters))
    }

    fn change(&self, subscription: &str, parameters: &[(&str, &str)]) -> Value {
        self.call("POST", &format!("/v1/subscriptions/{subscription}"), parameters)
    }

    /// Gives it the plan of that number.
    fn change_plan(&self, subscription: &str, plan: usize) {
        let now = self.call("GET", &format!("/v1/subscriptions/{subscription}"), &[]);
        let item = id(&now["items"]["data"][0]);
        self.change(subscription, &[("items[0][id]", &item), ("items[0][price]", &self.prices[plan])]);
    }

    /// What the fake's own controls do.
    async fn control(&self, path: &str, body: &Value) {
        let url = format!("{}/_fake/{path}", self.fake.url());
        let answer = self.app.http.post(url).json(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    }

    /// All webhooks that wait have come, and their jobs are done.
    async fn delivered(&self) {
        self.fake.deliver().await;
        self.app.run_jobs().await;
    }

    /// What the tenant sees.
    async fn billing(&self) -> Value {
        let (status, body) = self.app.get("/api/v1/subscriptions").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["data"].clone()
    }

    /// State and price of the one subscription, and the tenant's plan.
    async fn seen(&self) -> (String, String, String) {
        let billing = self.billing().await;
        let held = &billing["subscriptions"][0];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&held["status"]), text(&held["items"][0]["price_id"]), self.plan().await)
    }

    async fn plan(&self) -> String {
        let (_, body) = self.app.get(&format!("/api/v1/tenants/{}", self.app.tenant)).await;
        body["data"]["plan"].as_str().unwrap().to_owned()
    }

    /// The same as the fake has it.
    fn truth(&self, subscription: &str) -> Value {
        self.call("GET", &format!("/v1/subscriptions/{subscription}"), &[])
    }

    async fn count(&self, sql: &str, parameter: &(dyn tokio_postgres::types::ToSql + Sync)) -> i64 {
        self.database.query_one(sql, &[parameter]).await.unwrap().get(0)
    }

    /// Requests for one subscription so far.
    fn fetches(&self) -> u64 {
        self.requests("GET /v1/subscriptions/{id}")
    }

    /// Requests of a route so far.
    fn requests(&self, route: &str) -> u64 {
        self.fake.requests().get(route).copied().unwrap_or_default()
    }

    /// An event as Stripe would send it, the latest of that kind.
    fn event(&self, kind: &str) -> Value {
        let events = self.call("GET", "/v1/events", &[("limit", "100")]);
        events["data"].as_array().unwrap().iter().find(|event| event["type"] == kind).unwrap().clone()
    }

    /// Takes in an event without the way through HTTP.
    async fn take_in(&self, event: &Value) -> bool {
        receive(self.house(), &Event::read(event).unwrap(), By::Webhook).await.unwrap()
    }

    /// Makes the tenant's open jobs of that kind due, however long they should wait; how many those are. They are made ready
    /// here: another test's worker, which makes ready what is due, could have one in its hands at that moment.
    async fn make_due(&self, kind: &str) -> u64 {
        let sql = "update tenantry.jobs set run_at = now(), ready = true
                   where kind = $1 and state in ('pending', 'failed') and tenant_id = $2";
        self.database.execute(sql, &[&kind, &self.app.tenant]).await.unwrap()
    }

    /// Runs the tenant's one open job of that kind.
    async fn tried_again(&self, kind: &str) {
        assert_eq!(self.make_due(kind).await, 1, "{kind}");
        self.app.run_jobs().await;
    }

    /// Runs every due job of the database, of whomever.
    async fn run_all_jobs(&self) {
        let handlers = server::handlers(self.house(), &self.app.config()).unwrap();
        tenantry_queue::run_due(self.house().db.pool(), None, handlers.handler()).await.unwrap();
    }

    /// Somebody who pays for nobody we know.
    fn stranger(&self) -> String {
        let customer = id(&self.call("POST", "/v1/customers", &[("name", "Somebody")]));
        self.give_card(&customer);
        customer
    }

    /// Customers that pay for nobody: how many, and those with the most subscriptions.
    async fn nobodys(&self) -> (i64, Vec<(String, i64)>) {
        let nobodys = directory::nobodys(self.house(), 100).await.unwrap();
        (nobodys.total, nobodys.first)
    }

    async fn walk(&self, name: Name) -> Walk {
        walk::find(self.house(), name).await.unwrap().unwrap()
    }

    /// Runs `tenantry stripe` beside the API; what it prints.
    async fn command(&self, arguments: &[&str]) -> String {
        let output = self.process(arguments).output().await.unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        assert!(output.status.success(), "{said}");
        said
    }

    /// The same, to be started.
    fn process(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tenantry"));
        command
            .arg("stripe")
            .args(arguments)
            .env_clear()
            .env("DATABASE_URL", self.app.config().database_url().unwrap())
            .env("STRIPE_SECRET_KEY", "sk_test_1")
            .env("STRIPE_API_BASE", self.fake.url())
            .env("STRIPE_PRICES", format!("{}=pro,{}=enterprise", self.prices[1], self.prices[2]))
            .current_dir("/")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn house(&self) -> &App {
        &self.app.state.app
    }

    fn client(&self) -> tenantry_stripe::Client {
        self.app.config().stripe().unwrap().unwrap()
    }

    async fn send(&self, body: &str, signature: &str) -> (StatusCode, Value) {
        let request = self.app.request(Method::POST, "/api/v1/webhooks/stripe");
        answer(
            request
                .header("content-type", "application/json")
                .header("stripe-signature", signature)
                .body(body.to_owned()),
        )
        .await
    }
}

/// A database of a test's own.
async fn database() -> String {
    let name = format!("billing_{}", Uuid::now_v7().simple());
    let copy = format!("create database {name} template tenantry_template");
    connect("postgres").await.batch_execute(&copy).await.unwrap();
    name
}

fn url_of(database: &str) -> String {
    in_database(&from_stack("TEST_DATABASE_URL"), database)
}

pub(crate) fn price(fake: &Fake, amount: &str) -> String {
    let parameters = [
        ("currency", "eur"),
        ("unit_amount", amount),
        ("recurring[interval]", "month"),
        ("product_data[name]", "Seats"),
    ];
    id(&fake.call("POST", "/v1/prices", &parameters).unwrap())
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

/// A walk to its end, and what was seen on the way.
async fn walked(house: &App, stripe: &tenantry_stripe::Client, name: Name) -> Seen {
    let mut all = Seen::default();
    loop {
        let (walk, seen) = step(house, stripe, name).await.unwrap();
        all = all + seen;
        if walk.ended_at.is_some() {
            return all;
        }
    }
}

/// What we keep of what Stripe says.
fn as_stored(answer: &Value) -> Value {
    Subscription::read(answer.clone()).unwrap().raw
}

fn found(subscription: &Value) -> Fetched {
    Fetched::Found(Box::new(Subscription::read(subscription.clone()).unwrap()))
}

/// `Stripe-Signature` of `body`, so many seconds ago.
pub(crate) fn signature(secret: &str, body: &str, ago: i64) -> String {
    let at = chrono::Utc::now().timestamp() - ago;
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{body}").as_bytes());
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={at},v1={hex}")
}

/// Whether an event is in the ledger.
const EVENTS: &str = "select count(*) from tenantry.stripe_events where id = $1";

const SOON: Duration = Duration::from_secs(3);
