//! A running API of a test's own: its own process state, its own tenant, on servers that all tests share.

use std::{
    env,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder, ZstdDecoder};
use clap::Parser;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tenantry::{config::Config, server, state::State};
use tokio::io::AsyncReadExt;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(crate) const PASSWORD: &str = "Correct-Horse-1";

/// One node of the API, and a tenant with an administrator who is signed in.
pub(crate) struct TestApp {
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) state: State,
    pub(crate) tenant: Uuid,
    pub(crate) slug: String,
    pub(crate) admin: Value,
    pub(crate) token: String,
    folder: PathBuf,
    arguments: Vec<String>,
    _served: DropGuard,
    _temporary: Option<TempDir>,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

/// A variable that `make test` sets.
pub(crate) fn from_stack(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run `make test`, or cargo run --example stack -- cargo nextest run")
    })
}

fn config(arguments: &[String], folder: &Path) -> Config {
    let arguments = std::iter::once("test").chain(arguments.iter().map(String::as_str));
    let config = Settings::try_parse_from(arguments).expect("settings").config;
    Config { mail_dir: Some(folder.join("mail")), ..config }
}

impl TestApp {
    pub(crate) async fn spawn() -> Self {
        Self::spawn_with(&[]).await
    }

    /// With settings that differ, as flags.
    pub(crate) async fn spawn_with(arguments: &[&str]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_owned();
        let mut all: Vec<String> = vec![
            "--listen=127.0.0.1:0".into(),
            "--public-url=http://tenantry.test".into(),
            "--database-pool=8".into(),
            "--docs=true".into(),
            format!("--jwt-keys-dir={}", folder.join("keys").display()),
        ];
        for (flag, variable) in [("--database-url", "TEST_DATABASE_URL"), ("--redis-url", "TEST_REDIS_URL")] {
            if !arguments.iter().any(|argument| argument.starts_with(flag)) {
                all.push(format!("{flag}={}", from_stack(variable)));
            }
        }
        if !arguments.iter().any(|argument| argument.starts_with("--rate-limit-register")) {
            // All tests sign up from one address, and share a Redis.
            all.push("--rate-limit-register=1000000/1m".into());
        }
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let mut app = Self::serve(all, folder).await;
        app._temporary = Some(temporary);
        app.sign_up().await;
        app
    }

    /// A second node of the same tenant: another process as far as caches go.
    pub(crate) async fn another_node(&self) -> Self {
        self.node_with(&[]).await
    }

    /// A second node with settings that differ.
    pub(crate) async fn node_with(&self, different: &[&str]) -> Self {
        let flag = |argument: &str| argument.split('=').next().map(str::to_owned);
        let kept = self.arguments.iter().filter(|kept| different.iter().all(|new| flag(new) != flag(kept)));
        let arguments = kept.cloned().chain(different.iter().map(|&new| new.to_owned())).collect();
        let mut node = Self::serve(arguments, self.folder.clone()).await;
        node.tenant = self.tenant;
        node.slug.clone_from(&self.slug);
        node.admin = self.admin.clone();
        node.token.clone_from(&self.token);
        node
    }

    async fn serve(arguments: Vec<String>, folder: PathBuf) -> Self {
        server::metrics();
        let state = State::new(config(&arguments, &folder)).unwrap();
        let bound = server::bind(state.clone()).await.unwrap();
        let (url, stop) = (format!("http://{}", bound.address), CancellationToken::new());
        tokio::spawn(bound.serve(stop.clone()));
        Self {
            http: reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap(),
            url,
            state,
            tenant: Uuid::nil(),
            slug: format!("t-{}", Uuid::now_v7().simple()),
            admin: Value::Null,
            token: String::new(),
            folder,
            arguments,
            _served: stop.drop_guard(),
            _temporary: None,
        }
    }

    async fn sign_up(&mut self) {
        let body = json!({
            "tenant": {"name": "Acme", "slug": self.slug},
            "email": "admin@example.org", "password": PASSWORD, "name": "Ada Admin",
        });
        let (status, answer) = self.post("/api/v1/auth/register", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        self.tenant = answer["data"]["tenant"]["id"].as_str().unwrap().parse().unwrap();
        self.admin = answer["data"]["user"].clone();
        self.token = self.sign_in("admin@example.org").await;
    }

    /// An access token of a user with the tests' password.
    pub(crate) async fn sign_in(&self, email: &str) -> String {
        let body = json!({"tenant": self.slug, "email": email, "password": PASSWORD});
        let (status, answer) = self.post("/api/v1/auth/login", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["data"]["token"].as_str().unwrap().to_owned()
    }

    /// A user with the tests' password.
    pub(crate) async fn create_user(&self, email: &str) -> Value {
        let body = json!({"email": email, "name": "Some One", "password": PASSWORD});
        let (status, answer) = self.post("/api/v1/users", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["data"].clone()
    }

    /// Acts as another user of the tenant from now on.
    pub(crate) async fn act_as(&mut self, email: &str) {
        self.token = self.sign_in(email).await;
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        if self.token.is_empty() { request } else { request.bearer_auth(&self.token) }
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::PATCH, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (StatusCode, Value) {
        answer(self.request(Method::DELETE, path)).await
    }

    /// A user as looked up, with the level that answered.
    pub(crate) async fn look_up(&self, id: &str) -> (String, Value) {
        let response = self.request(Method::GET, &format!("/api/v1/users/{id}")).send().await.unwrap();
        let status = response.status();
        let level = response.headers().get("x-cache").map_or("", |level| level.to_str().unwrap()).to_owned();
        let body: Value = response.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        (level, body["data"].clone())
    }

    /// The settings that this node was started with.
    pub(crate) fn config(&self) -> Config {
        config(&self.arguments, &self.folder)
    }

    /// Runs the tenant's due jobs, here and now.
    pub(crate) async fn run_jobs(&self) -> usize {
        self.run_jobs_of(self.tenant).await
    }

    async fn run_jobs_of(&self, tenant: Uuid) -> usize {
        let handlers = server::handlers(&self.state.app, &self.config()).unwrap();
        tenantry_queue::run_due(self.state.app.db.pool(), Some(tenant), handlers.handler()).await.unwrap()
    }

    /// Runs the tenant's due jobs; what they mailed to `to`, oldest first.
    pub(crate) async fn mails_to(&self, to: &str) -> Vec<String> {
        self.mails_in(self.tenant, to).await
    }

    /// The same of another tenant.
    pub(crate) async fn mails_in(&self, tenant: Uuid, to: &str) -> Vec<String> {
        self.run_jobs_of(tenant).await;
        let header = format!("To: {to}\r\n");
        self.mails().into_iter().filter(|mail| mail.contains(&header)).collect()
    }

    /// What was mailed so far, oldest first.
    pub(crate) fn mails(&self) -> Vec<String> {
        mails(&self.folder.join("mail"))
    }

    /// The folder of the keys that sign access tokens.
    pub(crate) fn keys(&self) -> PathBuf {
        self.folder.join("keys")
    }

    /// Empties the folder of caught mails.
    pub(crate) fn lose_mails(&self) {
        for entry in std::fs::read_dir(self.folder.join("mail")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// What this node and those beside it have on disk.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of a user's entry in Redis, as this node would write it now.
    pub(crate) fn redis_name(&self, user: &str) -> String {
        let key = tenantry_cache::Key::new("u", self.tenant, user.parse().unwrap());
        self.state.app.cache.name_of(&key)
    }

    /// The kind and the id of whoever did this in the tenant, the latest last.
    pub(crate) async fn audited_by(&self, action: &str) -> Vec<(String, Option<String>)> {
        let mut client = self.database().await;
        let tenant = tenantry_accounts::TenantId(self.tenant);
        let tx = tenantry_accounts::db::as_tenant(&mut client, tenant).await.unwrap();
        let sql =
            "select actor_kind, actor_id::text from tenantry.audit_events where action = $1 order by id";
        let rows = tx.query(sql, &[&action]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// The key that signs access tokens, in PEM.
    pub(crate) fn signing_key(&self) -> Vec<u8> {
        std::fs::read(self.folder.join("keys/first.pem")).unwrap()
    }

    /// A connection as the application logs in, without any role yet.
    pub(crate) async fn database(&self) -> deadpool_postgres::Client {
        self.state.app.db.client().await.unwrap()
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

/// What a body is without its coding.
pub(crate) async fn decoded(coding: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    async fn all(mut decoder: impl tokio::io::AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
        let mut decoded = vec![];
        decoder.read_to_end(&mut decoded).await?;
        Ok(decoded)
    }
    match coding {
        "gzip" => all(GzipDecoder::new(bytes)).await,
        "br" => all(BrotliDecoder::new(bytes)).await,
        "zstd" => all(ZstdDecoder::new(bytes)).await,
        _ => Ok(bytes.to_vec()),
    }
}

/// Where `scripts/clients` has put what tests of other languages need.
pub(crate) fn tools() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_tenantry")).ancestors().nth(2).unwrap();
    let tools = target.join("tools");
    let parts = ["python", "node", "verify-token", "api-examples", "stripe-python", "stripe-node"];
    assert!(parts.iter().all(|part| tools.join(part).exists()), "run scripts/clients first");
    tools
}

pub(crate) fn mails(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // Named after their jobs, whose ids sort by age.
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// The token that a mail's link carries.
pub(crate) fn token_in(mail: &str) -> String {
    let (_, link) = mail.split_once("?token=").expect("a link");
    link.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
}

/// The codes of a validation error, by field.
pub(crate) fn wrong_fields(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = body["error"]["errors"].as_array().unwrap();
    errors.iter().map(|error| (text(&error["field"]), text(&error["code"]))).collect()
}

/// Waits for a fact that is bound to become true, for ten times as long as it should take.
pub(crate) async fn eventually<F: Future<Output = bool>>(usually: Duration, fact: impl Fn() -> F) {
    let start = Instant::now();
    while !fact().await {
        assert!(start.elapsed() < usually * 10, "not within {:?}", usually * 10);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
