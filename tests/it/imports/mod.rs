//! Imports of users: what is sent, what becomes of it, and what does not.

mod ends;
mod formats;
mod large;
mod refusals;
mod shell;
mod work;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tenantry_accounts::{ImportId, TenantId, db};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::app::{TestApp, answer};

/// No plan has a limit of seats that comes in the way.
const SEATS: &str = "--plan-seats=pro=100";

const PATH: &str = "/api/v1/users/imports";
const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";

impl TestApp {
    fn upload(&self, query: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let path = if query.is_empty() { PATH.to_owned() } else { format!("{PATH}?{query}") };
        self.request(Method::POST, &path).header("Content-Type", content_type).body(body)
    }

    /// An import that was accepted; its id.
    async fn import(&self, query: &str, content_type: &str, body: impl Into<reqwest::Body>) -> String {
        let (status, accepted) = answer(self.upload(query, content_type, body)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
        accepted["data"]["id"].as_str().unwrap().to_owned()
    }

    async fn progress(&self, id: &str) -> Value {
        let (status, found) = self.get(&format!("{PATH}/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{found}");
        found["data"].clone()
    }

    /// What became of each row.
    async fn report(&self, id: &str, query: &str) -> Vec<Value> {
        let response = self.request(Method::GET, &format!("{PATH}/{id}/report{query}")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The outcome of each row, in order, and the code of what is wrong first.
    async fn outcomes(&self, id: &str) -> Vec<String> {
        let rows = self.report(id, "").await;
        assert!(rows.iter().enumerate().all(|(n, row)| row["row"] == n + 1), "{rows:?}");
        let told = |row: &Value| {
            let code = row["errors"][0]["code"].as_str().map(|code| format!(": {code}")).unwrap_or_default();
            format!("{}{code}", row["outcome"].as_str().unwrap())
        };
        rows.iter().map(told).collect()
    }

    /// Rows of the tenant that a query counts.
    async fn counted(&self, sql: &str) -> i64 {
        let mut client = self.database().await;
        let tx = db::as_tenant(&mut client, TenantId(self.tenant)).await.unwrap();
        tx.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Users, hashes that are staged, mails, and events about users who were made.
    async fn came_of_it(&self) -> [i64; 4] {
        [
            self.counted("select count(*) from tenantry.users").await,
            self.counted("select count(*) from tenantry.user_import_rows where password_hash is not null")
                .await,
            self.counted(
                "select count(*) from tenantry.jobs where kind in ('verify_email', 'reset_password_email')",
            )
            .await,
            self.counted("select count(*) from tenantry.audit_events where action = 'user.created'").await,
        ]
    }

    /// Sends an upload by hand, its body in chunks whose number is not told; what was answered, as far as it came.
    async fn chunked(&self, parts: &[&[u8]]) -> String {
        let mut connection = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: tenantry.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
             Content-Type: text/csv\r\nTransfer-Encoding: chunked\r\n\r\n",
            self.token
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        for part in parts {
            let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
            if connection.write_all(&chunk).await.is_err() {
                break;
            }
        }
        let _ = connection.write_all(b"0\r\n\r\n").await;
        let mut answered = vec![];
        let _ = connection.read_to_end(&mut answered).await;
        String::from_utf8(answered).unwrap()
    }

    fn of(&self, id: &str) -> (TenantId, ImportId) {
        (TenantId(self.tenant), id.parse().unwrap())
    }
}

/// So many rows in CSV, of people whose addresses begin so.
fn people(begin: &str, n: usize) -> String {
    let rows = (0..n).map(|n| format!("{begin}-{n}@example.org,Person {n}\n"));
    "email,name\n".to_owned() + &rows.collect::<String>()
}
