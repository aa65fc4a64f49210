//! `tenantry dev`, as a newcomer runs it: the program itself, in a folder of its own.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::app::{mails, token_in};

struct Dev {
    child: Child,
    url: String,
    token: String,
}

impl Dev {
    fn start(folder: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tenantry"))
            .arg("dev")
            .env("LISTEN", format!("127.0.0.1:{port}"))
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut token = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("Bearer ") {
                token = Some(rest.trim_end_matches('\'').to_owned());
                break;
            }
        }
        let token = token.unwrap_or_else(|| panic!("it ended without a greeting: {:?}", child.wait()));
        Self { child, url: format!("http://127.0.0.1:{port}"), token }
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

    async fn get(&self, http: &reqwest::Client, path: &str) -> (StatusCode, Value) {
        let response = http.get(format!("{}{path}", self.url)).bearer_auth(&self.token).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
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
