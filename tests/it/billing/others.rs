//! What others wrote: Stripe's own libraries sign webhooks, and `localstripe`, a fake of somebody else's, plays Stripe.
//! `scripts/clients` installs them. That the libraries take what our fake signs is in `crates/fake-stripe/tests/it/sdks.rs`.

use std::{
    net::{Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tenantry_accounts::billing::walk::Name;
use tenantry_workers::stripe::Seen;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    process::{Child, Command},
};

use super::{EVENTS, SOON, Stage, id, walked};
use crate::app::{TestApp, eventually, tools};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stripe").join(name)
}

fn python() -> Command {
    Command::new(tools().join("stripe-python/bin/python"))
}

/// `Stripe-Signature` of `body`, so many seconds ago, by the library for Python or for Node.
async fn signed_by(library: &str, secret: &str, body: &str, ago: i64) -> String {
    let mut command = match library {
        "stripe-python" => {
            let mut command = python();
            command.arg(script("sign.py"));
            command
        }
        _ => {
            // Modules are looked for in the folder.
            let mut command = Command::new("node");
            command.current_dir(tools().join(library)).args(["--input-type=module", "--eval"]);
            command.arg(std::fs::read_to_string(script("sign.mjs")).unwrap());
            command
        }
    };
    command.args([secret, &(chrono::Utc::now().timestamp() - ago).to_string()]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(body.as_bytes()).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{library}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn what_stripes_own_libraries_sign_is_taken() {
    let stage = Stage::new().await;
    for library in ["stripe-python", "stripe-node"] {
        // As people write it: not as any program of ours would.
        let name = format!("evt_{library}_{}", stage.app.tenant.simple());
        let body = format!(
            "{{\n  \"id\": \"{name}\", \"type\" : \"customer.updated\", \"created\":1,\n\n  \"data\": {{\"object\": \
             {{\"object\": \"customer\", \"id\": \"{}\", \"name\": \"Ada & Söhne \\u00e9 €\"}}}} }}\n",
            stage.customer
        );
        let (now, late) = tokio::join!(
            signed_by(library, "whsec_new", &body, 0),
            signed_by(library, "whsec_old", &body, 302)
        );
        for (signature, body) in [(&late, body.clone()), (&now, body.replace("Söhne", "Sohne"))] {
            let (status, answer) = stage.send(&body, signature).await;
            assert_eq!(
                (status, &answer["error"]["code"]),
                (StatusCode::BAD_REQUEST, &json!("invalid_signature")),
                "{library}"
            );
        }
        assert_eq!(stage.count(EVENTS, &name).await, 0);
        let (status, answer) = stage.send(&body, &now).await;
        assert_eq!((status, &answer["data"]["new"]), (StatusCode::OK, &json!(true)), "{library}: {answer}");
        assert_eq!(stage.count(EVENTS, &name).await, 1);
    }
}

/// Its webhooks are sent on byte for byte, within the five minutes that a signature lives.
#[tokio::test]
async fn webhooks_of_somebody_elses_stripe_are_taken_unless_a_byte_was_altered() {
    let stage = Stage::alone_with(&["--stripe-webhook-secrets=whsec_localstripe"]).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let run = python().arg(script("localstripe.py")).arg(file.path()).output().await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));

    let sent = std::fs::read_to_string(file.path()).unwrap();
    let sent: Vec<Value> = sent.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut changed = vec![];
    for webhook in &sent {
        let (body, signature) =
            (webhook["payload"].as_str().unwrap(), webhook["signature"].as_str().unwrap());
        let event: Value = serde_json::from_str(body).unwrap();
        for at in [0, body.len() / 2, body.len() - 1] {
            let mut altered = body.as_bytes().to_vec();
            altered[at] ^= 1;
            let (status, answer) = stage.send(&String::from_utf8(altered).unwrap(), signature).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "byte {at} of {}: {answer}", event["type"]);
        }
        assert_eq!(stage.count(EVENTS, &id(&event)).await, 0);

        for new in [true, false] {
            let (status, answer) = stage.send(body, signature).await;
            assert_eq!((status, &answer["data"]["new"]), (StatusCode::OK, &json!(new)), "{answer}");
        }
        assert_eq!(stage.count(EVENTS, &id(&event)).await, 1);
        if event["data"]["object"]["object"] == "subscription" {
            changed.push(id(&event["data"]["object"]));
        }
    }
    changed.sort();
    changed.dedup();
    assert_eq!(changed.len(), 2, "{sent:?}");
    for subscription in &changed {
        // Nobody here pays for it: that is found out by whoever fetches it.
        let waiting = "select count(*) from tenantry.jobs where kind = 'sync_subscription' and state = 'pending'
                       and payload->>'subscription_id' = $1 and tenant_id = '00000000-0000-0000-0000-000000000000'";
        assert_eq!(stage.count(waiting, subscription).await, 1);
    }
}

/// `localstripe` as a process, and a service that takes it for Stripe.
struct Elsewhere {
    url: String,
    app: TestApp,
    database: tokio_postgres::Client,
    _process: Child,
}

impl Elsewhere {
    async fn new() -> Self {
        let (url, process) = localstripe().await;
        let name = super::database().await;
        let app = TestApp::spawn_with(&[
            &format!("--database-url={}", super::url_of(&name)),
            "--stripe-secret-key=sk_test_localstripe",
            &format!("--stripe-api-base={url}"),
            "--stripe-webhook-secrets=whsec_localstripe",
            // It has plans; there were no prices yet when those were all.
            "--stripe-prices=team=pro",
            "--stripe-settle-delay=1h",
        ])
        .await;
        let stage = Self { url, app, database: super::connect(&name).await, _process: process };
        stage.send_webhooks(&json!(null)).await;
        let plan = [("id", "team"), ("amount", "900"), ("currency", "eur"), ("interval", "month")];
        stage.ask(Method::POST, "plans", &[&plan[..], &[("product[name]", "Seats")]].concat()).await;
        stage
    }

    /// Has all webhooks sent to the service itself, or those of some kinds.
    async fn send_webhooks(&self, kinds: &Value) {
        let url = format!("{}/api/v1/webhooks/stripe", self.app.url);
        let endpoint = json!({"url": url, "secret": "whsec_localstripe", "events": kinds});
        let set = self.app.http.post(format!("{}/_config/webhooks/ours", self.url)).json(&endpoint);
        assert!(set.send().await.unwrap().status().is_success());
    }

    async fn ask(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Value {
        let request = self.app.http.request(method, format!("{}/v1/{path}", self.url));
        let request = request.bearer_auth("sk_test_localstripe");
        let request = if form.is_empty() { request } else { request.form(form) };
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        assert!(answer["error"].is_null(), "{path}: {answer}");
        answer
    }

    /// A subscription of `customer` that is paid by a card.
    async fn subscribe(&self, customer: &str) -> Value {
        let post = async |path: &str, form: &[(&str, &str)]| self.ask(Method::POST, path, form).await;
        let card = [
            ("type", "card"),
            ("card[number]", "4242424242424242"),
            ("card[exp_month]", "12"),
            ("card[exp_year]", "2040"),
            ("card[cvc]", "123"),
        ];
        let card = id(&post("payment_methods", &card).await);
        post(&format!("payment_methods/{card}/attach"), &[("customer", customer)]).await;
        let default = [("invoice_settings[default_payment_method]", card.as_str())];
        post(&format!("customers/{customer}"), &default).await;
        let items = [("customer", customer), ("items[0][plan]", "team"), ("items[0][quantity]", "3")];
        post("subscriptions", &items).await
    }

    /// Waits until every event of `kind` there has come here by itself.
    async fn has_come(&self, kind: &str) {
        let there = self.ask(Method::GET, "events?limit=100", &[]).await;
        let there: Vec<_> =
            there["data"].as_array().unwrap().iter().filter(|event| event["type"] == kind).map(id).collect();
        assert!(!there.is_empty(), "{kind}");
        let here = "select count(*) from tenantry.stripe_events where id = any ($1) and source = 'webhook'";
        eventually(SOON, async || {
            let here: i64 = self.database.query_one(here, &[&there]).await.unwrap().get(0);
            here == there.len() as i64
        })
        .await;
    }

    async fn billing(&self) -> Value {
        let (status, body) = self.app.get("/api/v1/subscriptions").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body["data"].clone()
    }

    async fn plan(&self) -> Value {
        self.app.get(&format!("/api/v1/tenants/{}", self.app.tenant)).await.1["data"]["plan"].clone()
    }
}

/// Starts one on a free port: its address, and what ends it.
async fn localstripe() -> (String, Child) {
    for _ in 0..10 {
        // Somebody else may get the port between the look and the use; then it ends, and another is tried.
        let port = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
        let mut command = python();
        command.args(["-m", "localstripe", "--from-scratch", "--port", &port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let start = std::time::Instant::now();
        while process.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return (format!("http://127.0.0.1:{port}"), process);
            }
            assert!(start.elapsed() < Duration::from_secs(30), "localstripe does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    panic!("localstripe does not start");
}

/// Customer, webhooks and fetches: all of it is asked of and told by what others wrote.
#[tokio::test]
async fn the_plan_follows_somebody_elses_stripe() {
    let stage = Elsewhere::new().await;
    stage.app.run_jobs().await;
    let sql = "select customer_id from tenantry.billing_customers where tenant_id = $1";
    let customer: String = stage.database.query_one(sql, &[&stage.app.tenant]).await.unwrap().get(0);
    let there = stage.ask(Method::GET, &format!("customers/{customer}"), &[]).await;
    assert_eq!(
        (&there["metadata"]["tenant_id"], &there["email"]),
        (&json!(stage.app.tenant.to_string()), &json!("admin@example.org"))
    );

    let subscription = stage.subscribe(&customer).await;
    stage.has_come("customer.subscription.created").await;
    stage.app.run_jobs().await;

    let billing = stage.billing().await;
    let (held, item) = (&billing["subscriptions"][0], &billing["subscriptions"][0]["items"][0]);
    assert_eq!(held["stripe_subscription_id"], subscription["id"]);
    assert_eq!((&held["status"], &billing["entitlement"]["plan"]), (&json!("active"), &json!("pro")));
    assert_eq!((&item["price_id"], &item["quantity"]), (&json!("team"), &json!(3)));
    // Of the subscription: its items have none.
    let end = chrono::DateTime::from_timestamp(subscription["current_period_end"].as_i64().unwrap(), 0);
    assert_eq!(item["current_period_end"], json!(end));
    assert_eq!(stage.plan().await, "pro");

    stage.ask(Method::DELETE, &format!("subscriptions/{}", id(&subscription)), &[]).await;
    stage.has_come("customer.subscription.deleted").await;
    stage.app.run_jobs().await;

    let billing = stage.billing().await;
    assert_eq!(billing["subscriptions"][0]["status"], "canceled");
    assert_eq!((&billing["entitlement"]["plan"], stage.plan().await), (&json!(null), json!("basic")));
}

#[tokio::test]
async fn what_was_missed_of_somebody_elses_stripe_is_found_by_its_lists() {
    let stage = Elsewhere::new().await;
    stage.app.run_jobs().await;
    stage.send_webhooks(&json!([])).await;
    let sql = "select customer_id from tenantry.billing_customers where tenant_id = $1";
    let customer: String = stage.database.query_one(sql, &[&stage.app.tenant]).await.unwrap().get(0);
    let subscription = stage.subscribe(&customer).await;
    let (house, client) = (&stage.app.state.app, stage.app.config().stripe().unwrap().unwrap());

    let seen = walked(house, &client, Name::Subscriptions).await;
    assert_eq!(seen, Seen { seen: 1, changed: 1, linked: 0 });
    assert_eq!(stage.plan().await, "pro");

    stage.ask(Method::DELETE, &format!("subscriptions/{}", id(&subscription)), &[]).await;
    assert_eq!(walked(house, &client, Name::Comparison).await, Seen { seen: 1, changed: 1, linked: 0 });
    assert_eq!(stage.plan().await, "basic");
}
