//! `tenantry dev`, as a newcomer runs it: the program itself, in a folder of its own.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::{
    app::{mails, token_in},
    port::free_address,
};

pub(crate) struct Dev {
    child: Child,
    pub(crate) url: String,
    token: String,
    /// What it says that it bills by: the address of the fake.
    stripe: String,
    /// The command line of another process.
    pub(crate) another: String,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    fn start_with(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_logging(folder, arguments, Stdio::null())
    }

    /// What it logs goes to `log`.
    pub(crate) fn start_logging(folder: &Path, arguments: &[&str], log: Stdio) -> Self {
        let port = free_port();
        let mut command = Self::command(folder, port);
        let mut child = command.args(arguments).stderr(log).spawn().unwrap();
        let mut greeting = vec![];
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            greeting.push(line.unwrap());
            if greeting.last().unwrap().contains("DATABASE_URL=") {
                break;
            }
        }
        let said = |mark: &str| match greeting.iter().find_map(|line| line.split_once(mark)) {
            Some((_, said)) => said.trim().to_owned(),
            None => panic!("it did not say {mark}: {greeting:?}"),
        };
        let (token, stripe) = (said("token=").trim_matches('\'').to_owned(), said("Stripe  "));
        let another = format!("DATABASE_URL={}", said("DATABASE_URL="));
        Self { child, url: format!("http://127.0.0.1:{port}"), token, stripe, another }
    }

    fn command(folder: &Path, port: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
        command.arg("dev").env("LISTEN", format!("127.0.0.1:{port}")).current_dir(folder);
        for setting in ["DATABASE_URL", "REDIS_URL", "STRIPE_SECRET_KEY"] {
            command.env_remove(setting);
        }
        command.stdout(Stdio::piped());
        command
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    fn stop(mut self) {
        self.signal("INT");
        assert!(self.child.wait().unwrap().success(), "Ctrl-C ends it in order");
    }

    /// Processes that work in `folder`: the private servers.
    fn servers(folder: &Path) -> usize {
        let folder = folder.canonicalize().unwrap();
        std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path().join("cwd")).ok())
            .filter(|cwd| cwd.starts_with(&folder))
            .count()
    }

    pub(crate) fn fake(&self) -> &str {
        self.stripe.split("/, a fake").next().unwrap()
    }

    /// The administrator of a tenant with this slug, signed up and signed in.
    async fn newcomer(&self, slug: &str) -> Newcomer {
        let me = json!({
            "tenant": {"name": "Acme", "slug": slug}, "email": "ada@acme.example", "password": "Correct-Horse-1", "name": "Ada",
        });
        let response = reqwest::Client::new().post(format!("{}/api/v1/tenants", self.url)).json(&me).send();
        assert_eq!(response.await.unwrap().status(), StatusCode::CREATED);
        self.sign_in(slug).await.unwrap()
    }

    async fn sign_in(&self, slug: &str) -> Option<Newcomer> {
        // Connections end with the process.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let login = json!({"tenant": slug, "email": "ada@acme.example", "password": "Correct-Horse-1"});
        let response =
            http.post(format!("{}/api/v1/auth/login", self.url)).json(&login).send().await.unwrap();
        let session: Value = response.json().await.unwrap();
        let token = session["data"]["token"].as_str()?.to_owned();
        Some(Newcomer { http, url: self.url.clone(), token })
    }

    async fn get(&self, http: &reqwest::Client, path: &str) -> (StatusCode, Value) {
        let response = http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }
}

/// An administrator with a browser.
struct Newcomer {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Newcomer {
    async fn get(&self, path: &str) -> Value {
        let response = self.http.get(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token).send();
        response.await.unwrap().json().await.unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request =
            self.http.post(format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token).json(body);
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn plan(&self) -> String {
        let me = self.get("/users/me").await;
        let tenant = self.get(&format!("/tenants/{}", me["data"]["tenant_id"].as_str().unwrap())).await;
        tenant["data"]["plan"].as_str().unwrap().to_owned()
    }

    /// The plan becomes this one; what billing is then.
    async fn becomes(&self, plan: &str) -> Value {
        let start = Instant::now();
        while self.plan().await != plan {
            assert!(start.elapsed() < Duration::from_secs(30), "the plan is {}", self.plan().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.get("/subscriptions").await["data"].clone()
    }

    async fn begin_checkout(&self) -> (StatusCode, Value) {
        let back = format!("{}/docs", self.url);
        let order = json!({"plan": "pro", "success_url": back, "cancel_url": back});
        self.post("/billing/checkout-sessions", &order).await
    }

    /// Subscribes to the plan pro, as a browser does; what billing is then.
    async fn subscribe(&self) -> Value {
        let (status, session) = self.begin_checkout().await;
        assert_eq!(status, StatusCode::CREATED, "{session}");
        let url = session["data"]["url"].as_str().unwrap();
        let page = self.http.get(url).send().await.unwrap().text().await.unwrap();
        assert!(page.contains("Subscribe to Pro") && page.contains("ada@acme.example"), "{page}");
        let paid = self.http.post(url).form(&[("action", "pay")]).send().await.unwrap();
        assert_eq!(paid.headers()["location"], format!("{}/docs", self.url).as_str());
        self.becomes("pro").await
    }

    /// The address of the portal, as the API at `url` tells it.
    async fn portal(&self, url: &str) -> String {
        let at = Self { http: self.http.clone(), url: url.into(), token: self.token.clone() };
        let (status, portal) =
            at.post("/billing/portal-sessions", &json!({"return_url": format!("{}/docs", self.url)})).await;
        assert_eq!(status, StatusCode::CREATED, "{portal}");
        portal["data"]["url"].as_str().unwrap().to_owned()
    }
}

/// A test that fails leaves nothing running.
impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal("INT");
            let _ = self.child.wait();
        }
    }
}

fn free_port() -> u16 {
    free_address().unwrap().port()
}

#[tokio::test]
async fn a_newcomer_gets_from_nothing_to_a_verified_user() {
    let folder = tempfile::Builder::new().prefix("a newcomer's ").tempdir().unwrap();
    let http = reqwest::Client::new();
    let dev = Dev::start(folder.path());
    let (status, me) = dev.get(&http, "/api/v1/users/me").await;
    assert_eq!((status, &me["data"]["email"]), (StatusCode::OK, &json!("admin@example.org")));

    let register = json!({
        "tenant": {"name": "New", "slug": "new"}, "email": "me@example.org", "password": "Passw0rdx", "name": "Me",
    });
    let response =
        http.post(format!("{}/api/v1/auth/register", dev.url)).json(&register).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    let (start, mail_folder) = (Instant::now(), folder.path().join(".tenantry/mail"));
    while mails(&mail_folder).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "the worker sends the mail");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mail = mails(&mail_folder).remove(0);
    assert!(
        mail.contains(&format!("{}/verify-email?token=", dev.url)),
        "the link can be copied as it is: {mail}"
    );
    let form = [("token", token_in(&mail))];
    let pressed = http.post(format!("{}/verify-email", dev.url)).form(&form).send().await.unwrap();
    assert_eq!(pressed.status(), StatusCode::OK);
    let login = json!({"tenant": "new", "email": "me@example.org", "password": "Passw0rdx"});
    let response = http.post(format!("{}/api/v1/auth/login", dev.url)).json(&login).send().await.unwrap();
    let session: Value = response.json().await.unwrap();
    assert_eq!(session["data"]["user"]["email_verified"], true);
    assert!(Dev::servers(folder.path()) > 0 || !folder.path().join(".tenantry/data/postgres").exists());
    dev.stop();
    assert_eq!(Dev::servers(folder.path()), 0, "nothing it started is left");

    // The second start keeps the data, the key and so the token.
    let again = Dev::start(folder.path());
    let response = http.post(format!("{}/api/v1/auth/login", again.url)).json(&login).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    again.signal("KILL");

    // After kill -9 its servers still run; the next start takes over.
    let mut again = again;
    again.child.wait().unwrap();
    let third = Dev::start(folder.path());
    let response = http.post(format!("{}/api/v1/auth/login", third.url)).json(&login).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    third.stop();
    assert_eq!(Dev::servers(folder.path()), 0);
}

#[tokio::test]
async fn a_newcomer_subscribes_without_an_account_and_cancels_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(folder.path());
    let ada = dev.newcomer("acme").await;
    assert_eq!(ada.plan().await, "basic");
    let billing = ada.subscribe().await;
    let held = &billing["subscriptions"][0];
    assert_eq!((&held["status"], &billing["entitlement"]["plan"]), (&json!("active"), &json!("pro")));
    let overview = ada.http.get(format!("{}/", dev.fake())).send().await.unwrap().text().await.unwrap();
    assert!(overview.contains(held["stripe_subscription_id"].as_str().unwrap()), "{overview}");
    assert_eq!(ada.begin_checkout().await.0, StatusCode::CONFLICT, "it has one");

    // The line for another process works as it is, and that one bills by the same fake.
    let (old, port) = (dev.url.trim_start_matches("http://127.0.0.1:").parse::<u16>().unwrap(), free_port());
    let line = dev
        .another
        .replace(&format!("LISTEN='127.0.0.1:{}'", old + 1), &format!("LISTEN='127.0.0.1:{port}'"));
    let mut other = Command::new("/bin/sh")
        .args(["-c", &format!("exec env {line}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while ada.http.get(format!("http://127.0.0.1:{port}/health/ready")).send().await.is_err() {
        assert!(start.elapsed() < Duration::from_secs(20), "the other process serves");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ada.portal(&format!("http://127.0.0.1:{port}")).await.starts_with("http://127.0.0.1:"));
    other.kill().unwrap();
    other.wait().unwrap();

    dev.signal("KILL");
    dev.child.wait().unwrap();
    let again = Dev::start(folder.path());
    let ada = again.sign_in("acme").await.unwrap();
    assert_eq!(ada.becomes("pro").await["subscriptions"][0], *held);
    let portal = ada.portal(&ada.url).await;
    let id = held["stripe_subscription_id"].as_str().unwrap();
    let form = [("action", "cancel"), ("subscription", id)];
    assert_eq!(ada.http.post(&portal).form(&form).send().await.unwrap().status(), StatusCode::SEE_OTHER);
    assert_eq!(ada.becomes("basic").await["subscriptions"][0]["status"], "canceled");
    again.stop();
}

#[tokio::test]
async fn whoever_starts_over_has_an_empty_fake_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let ada = dev.newcomer("acme").await;
    ada.subscribe().await;
    dev.stop();

    let fresh = Dev::start_with(folder.path(), &["--fresh"]);
    assert!(fresh.sign_in("acme").await.is_none());
    let url = format!("{}/_fake/state", fresh.fake());
    let known: Value = ada.http.get(url).send().await.unwrap().json().await.unwrap();
    assert_eq!((&known["customers"], &known["subscriptions"]), (&json!([]), &json!([])));
    assert_eq!(known["prices"].as_array().unwrap().len(), 3);
    fresh.stop();
}

#[tokio::test]
async fn a_fake_that_has_forgotten_starts_anew_and_one_that_never_knew_keeps_its_hands_off() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path());
    let ada = dev.newcomer("acme").await;
    let held = ada.subscribe().await["subscriptions"][0].clone();
    dev.stop();

    let state = folder.path().join(".tenantry/stripe/state.json");
    let whole = std::fs::read(&state).unwrap();
    std::fs::write(&state, &whole[..whole.len() / 2]).unwrap();
    let damaged = Dev::command(folder.path(), free_port()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(damaged.stderr).unwrap();
    assert!(
        !damaged.status.success() && said.contains("state.json") && said.contains("or remove it"),
        "{said}"
    );

    std::fs::remove_file(&state).unwrap();
    let dev = Dev::start(folder.path());
    let ada = dev.sign_in("acme").await.unwrap();
    assert_eq!(
        (ada.plan().await.as_str(), &ada.get("/subscriptions").await["data"]["subscriptions"]),
        ("basic", &json!([]))
    );
    let new = ada.subscribe().await["subscriptions"][0].clone();
    assert_ne!(new["stripe_customer_id"], held["stripe_customer_id"]);

    // An operator says who pays at the account to which there is no key here.
    let link = format!("{} stripe link acme cus_NffrFeUfNV2Hib", dev.another.strip_suffix(" api").unwrap());
    assert!(Command::new("/bin/sh").args(["-c", &link]).status().unwrap().success());
    ada.becomes("basic").await;
    dev.stop();
    let dev = Dev::start(folder.path());
    assert!(dev.stripe.starts_with("none: cus_NffrFeUfNV2Hib"), "{}", dev.stripe);
    assert!(!dev.another.contains("STRIPE_"), "{}", dev.another);
    let ada = dev.sign_in("acme").await.unwrap();
    let (status, refused) = ada.begin_checkout().await;
    assert_eq!(
        (status, &refused["error"]["code"]),
        (StatusCode::NOT_FOUND, &json!("no_billing")),
        "{refused}"
    );
    dev.stop();
}
