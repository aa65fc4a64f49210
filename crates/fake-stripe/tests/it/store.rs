//! The state file: what is in it, and what becomes of it when something goes wrong.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::json;
use tenantry_fake_stripe::{Fake, Options};
use tokio::net::TcpListener;

use crate::stage::{Endpoint, Stage, faults, id};

fn on(file: &Path) -> Options {
    Options { state: Some(file.to_owned()), ..Options::default() }
}

/// A folder that goes with the test, and the file in it.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made/for it/state.json");
    (folder, file)
}

async fn restart(stage: Stage, file: &Path) -> Stage {
    stage.fake.stop().await.unwrap();
    Stage::new(on(file)).await
}

#[tokio::test]
async fn what_it_knew_it_knows_after_a_restart() {
    let (_folder, file) = file();
    let stage = Stage::new(on(&file)).await;
    let price = stage.price(&[("lookup_key", "pro")]);
    let [paying, declined] =
        [stage.customer(Some("visa"), &[]), stage.customer(Some("chargeCustomerFail"), &[])];
    let subscription = id(&stage.subscribe(&paying, &price, &[("trial_period_days", "40")]));
    let past_due = id(&stage.subscribe(&declined, &price, &[("trial_period_days", "1")]));
    let once = stage.ask("POST", "/v1/customers", "name=a", Some("key")).await;
    let order = [
        ("mode", "subscription"),
        ("customer", paying.as_str()),
        ("line_items[0][price]", &price),
        ("subscription_data[metadata][tenant]", "t"),
        ("success_url", "https://example.org/ok"),
    ];
    let page = stage.post("/v1/checkout/sessions", &order);
    stage.fake.advance(2 * 86_400);
    let (truth, kinds) = (stage.fake.truth(), stage.kinds());

    let stage = restart(stage, &file).await;
    assert_eq!((stage.fake.truth(), stage.kinds()), (truth, kinds));
    assert_eq!(stage.call("GET", "/v1/prices", &[("lookup_keys[]", "pro")])["data"][0]["id"], price.as_str());
    let status =
        |subscription: &str| stage.get(&format!("/v1/subscriptions/{subscription}"))["status"].clone();
    assert_eq!((status(&subscription), status(&past_due)), (json!("trialing"), json!("past_due")));
    // A key from before finds the answer from before, for a day; two have passed.
    assert_ne!(stage.ask("POST", "/v1/customers", "name=a", Some("key")).await, once);
    assert_eq!(stage.get(&format!("/v1/checkout/sessions/{}", id(&page)))["status"], "expired");
    // Time goes on from where it was, for what was planned before.
    stage.fake.advance(39 * 86_400);
    assert_eq!((status(&subscription), status(&past_due)), (json!("active"), json!("canceled")));
    // Nothing gets an id that something else has had.
    assert!(![&paying, &declined].contains(&&stage.customer(None, &[])));
}

#[tokio::test]
async fn a_checkout_that_was_begun_before_can_be_paid_after_a_restart() {
    let (_folder, file) = file();
    let stage = Stage::new(on(&file)).await;
    let price = stage.price(&[]);
    let order = [
        ("mode", "subscription"),
        ("line_items[0][price]", price.as_str()),
        ("subscription_data[metadata][tenant]", "t"),
        ("success_url", "https://example.org/ok"),
    ];
    let session = stage.post("/v1/checkout/sessions", &order);
    let made = stage.ask("POST", "/v1/customers", "name=a", Some("key")).await;

    let stage = restart(stage, &file).await;
    assert_eq!(stage.ask("POST", "/v1/customers", "name=a", Some("key")).await, made);
    let session = stage.get(&format!("/v1/checkout/sessions/{}", id(&session)));
    let pressed = stage.http.post(session["url"].as_str().unwrap()).body("action=pay").send().await.unwrap();
    assert_eq!(pressed.status(), 303);
    assert_eq!(stage.fake.truth()[0]["metadata"], json!({"tenant": "t"}));
}

/// A port that is free and that nobody is given by chance.
async fn quiet() -> (SocketAddr, TcpListener) {
    let from = 20_000 + (std::process::id() % 10_000) as u16;
    for port in from..32_000 {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if let Ok(listener) = TcpListener::bind(address).await {
            return (address, listener);
        }
    }
    panic!("no port is free")
}

#[tokio::test]
async fn it_keeps_to_its_port_while_that_is_free() {
    let (_folder, file) = file();
    let (address, taken) = quiet().await;
    drop(taken);
    let stage = Stage::new(Options { listen: address, ..on(&file) }).await;
    let customer = stage.customer(None, &[]);
    let session = id(&stage.post("/v1/billing_portal/sessions", &[("customer", &customer)]));
    let stage = restart(stage, &file).await;
    assert_eq!(stage.fake.url(), format!("http://{address}"));
    stage.fake.stop().await.unwrap();

    let _taken = TcpListener::bind(address).await.unwrap();
    let stage = Stage::new(on(&file)).await;
    assert_ne!(stage.fake.url(), format!("http://{address}"));
    // Its pages have moved with it.
    let page = stage.http.get(format!("{}/p/session/{session}", stage.fake.url())).send().await.unwrap();
    assert_eq!(page.status(), 200);
    let error =
        Fake::start(Options { listen: address, ..Options::default() }).await.err().unwrap().to_string();
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[tokio::test]
async fn what_was_not_delivered_goes_to_where_webhooks_go_now() {
    let (_folder, file) = file();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = Options { webhook_url: Some(format!("http://{nobody}/")), ..on(&file) };
    let stage = Stage::new(options).await;
    stage.customer(None, &[]);
    stage.fake.stop().await.unwrap();

    let held = faults(json!({"webhooks": {"deliver": false}}));
    let fake =
        Fake::start(Options { faults: held, secrets: vec!["whsec_2".into()], ..on(&file) }).await.unwrap();
    assert_eq!(fake.pending(), 1);
    let endpoint = Endpoint::new(|_| 200).await;
    fake.send_webhooks_to(&endpoint.url);
    fake.set_faults(faults(json!({}))).unwrap();
    let (_, event) = endpoint.wait(1).await.remove(0);
    assert_eq!(event["type"], "customer.created");
    let endpoints = fake.call("GET", "/v1/webhook_endpoints", &[]).unwrap();
    assert_eq!(endpoints["data"].as_array().unwrap().len(), 1, "it is the same endpoint");
    fake.deliver().await;
    fake.stop().await.unwrap();
    assert_eq!(Fake::start(on(&file)).await.unwrap().pending(), 0);
}

#[tokio::test]
async fn what_is_not_the_file_of_a_fake_says_what_to_do() {
    let (_folder, file) = file();
    let stage = Stage::new(on(&file)).await;
    stage.customer(None, &[]);
    stage.fake.stop().await.unwrap();
    let whole = fs::read_to_string(&file).unwrap();
    let damaged = [
        String::new(),
        whole[..whole.len() / 2].to_owned(),
        whole.replace("\"counters\"", "\"countres\""),
        whole.replace("\"format\":1", "\"format\":2"),
        "{}".to_owned(),
    ];
    for content in damaged {
        assert_ne!(content, whole);
        fs::write(&file, &content).unwrap();
        let error = Fake::start(on(&file)).await.err().unwrap().to_string();
        assert!(error.contains("state.json") && error.contains("or remove it"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), content, "it is left as it is");
    }
    // One that died while it wrote has left this, and the old content.
    fs::write(file.with_extension("json.new"), &whole[..20]).unwrap();
    fs::write(&file, &whole).unwrap();
    let stage = Stage::new(on(&file)).await;
    assert_eq!(stage.get("/v1/customers")["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn two_cannot_have_one_file() {
    let (_folder, file) = file();
    let first = Fake::start(on(&file)).await.unwrap();
    let error = Fake::start(on(&file)).await.err().unwrap().to_string();
    assert!(error.contains("stop that one first"), "{error}");
    first.stop().await.unwrap();
    Fake::start(on(&file)).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_said_to_be_done() {
    let (_folder, file) = file();
    let stage = Stage::new(on(&file)).await;
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    let (status, body) = stage.ask("POST", "/v1/customers", "name=a", Some("key")).await;
    let message = body["error"]["message"].as_str().unwrap();
    assert!(status == 500 && message.contains("state.json"), "{status} {message}");
    assert!(stage.fake.save().await.is_err());
    assert_eq!(stage.ask("GET", "/v1/customers", "", None).await.0, 200);

    fs::create_dir_all(file.parent().unwrap()).unwrap();
    assert_eq!(stage.ask("POST", "/v1/customers", "name=a", Some("key")).await.0, 200);
    let stage = restart(stage, &file).await;
    assert_eq!(stage.get("/v1/customers")["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_stripe_would_not_tell_any_more_is_not_kept() {
    let (_folder, file) = file();
    let stage = Stage::new(on(&file)).await;
    stage.ask("POST", "/v1/customers", "name=old", Some("old_key")).await;
    stage.fake.save().await.unwrap();
    let is_kept = |what: &str| fs::read_to_string(&file).unwrap().contains(what);
    assert!(is_kept("customer.created") && is_kept("old_key"));

    stage.control("advance", json!({"seconds": 31 * 86_400})).await;
    assert!(!is_kept("customer.created") && !is_kept("old_key"));
    stage.customer(None, &[("name", "new")]);
    let stage = restart(stage, &file).await;
    assert_eq!(stage.kinds(), ["customer.created"]);
    assert_eq!(stage.get("/v1/customers")["data"].as_array().unwrap().len(), 2);
}

/// The program, which can be killed.
struct Program {
    child: Child,
    url: String,
}

impl Program {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fake-stripe"))
            .args(["--listen", "127.0.0.1:0", "--state"])
            .arg(file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split("listens on ").nth(1).unwrap().split(';').next().unwrap().to_owned();
        Self { child, url }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill() {
    let (_folder, file) = file();
    // No connection outlives its program, whose port is the next one's.
    let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let names = async |url: &str| {
        let list =
            http.get(format!("{url}/v1/customers?limit=100")).bearer_auth("sk_test_1").send().await.unwrap();
        let list: serde_json::Value = list.json().await.unwrap();
        let name = |customer: &serde_json::Value| customer["name"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = list["data"].as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    };
    let mut wanted = vec![];
    for round in 0..3 {
        let program = Program::start(&file);
        assert_eq!(names(&program.url).await, wanted);
        let asked = (0..16).map(|n| {
            let name = format!("{round}-{n:02}");
            let request = http.post(format!("{}/v1/customers", program.url)).bearer_auth("sk_test_1");
            let request = request.body(format!("name={name}")).send();
            async move { request.await.unwrap().status().is_success().then_some(name) }
        });
        wanted.extend(futures_util::future::join_all(asked).await.into_iter().map(Option::unwrap));
        // Here it is killed.
    }
    assert_eq!(names(&Program::start(&file).url).await, wanted);
}
