//! Clients that generators make out of the OpenAPI document, as `make sdk` does, against a live service.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};
use uuid::Uuid;

use crate::app::{PASSWORD, TestApp, token_in, tools};

/// A client, and what runs a program that uses it.
#[derive(Clone, Copy, Debug)]
enum Client {
    TypeScript,
    Python,
    Rust,
}

impl Client {
    /// One of the programs that `scripts/sdk` compiles: `scenario`, or `readme`, the example of docs/sdks.md.
    fn program(self, name: &str) -> Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/build");
        let tools = tools();
        let (interpreter, file) = match self {
            Self::TypeScript => {
                (Some("node".into()), root.join(format!("typescript/dist/examples/{name}.js")))
            }
            Self::Python => {
                let python = tools.join("document-python/bin/python3");
                (Some(python), root.join(format!("python/examples/{name}.py")))
            }
            Self::Rust => (None, tools.join(format!("rust/debug/examples/{name}"))),
        };
        assert!(file.exists(), "{} is missing: run scripts/sdk first", file.display());
        let mut command = Command::new(interpreter.as_ref().unwrap_or(&file));
        if interpreter.is_some() {
            command.arg(&file).env("PYTHONPATH", root.join("python"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Signs a tenant of its own up and goes through what accounts can do.
    async fn goes_through_the_scenario(self) {
        let app = TestApp::spawn().await;
        let mut program = self.program("scenario");
        program
            .env("TENANTRY_URL", &app.url)
            .env("TENANTRY_TENANT", format!("s-{}", Uuid::now_v7().simple()));
        let mut child = program.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(("verify", whom)) = line.split_once(' ') {
                let (tenant, email) = whom.split_once(' ').unwrap();
                let mails = app.mails_in(tenant.parse().unwrap(), email).await;
                let token = token_in(mails.last().expect("a mail"));
                input.write_all(format!("{token}\n").as_bytes()).await.unwrap();
            }
            last = line;
        }
        let ended = child.wait_with_output().await.unwrap();
        assert!(ended.status.success(), "{self:?}: {}", String::from_utf8_lossy(&ended.stderr));
        assert_eq!(last, "done", "{self:?}");
    }

    /// Lists all users of a tenant, as docs/sdks.md says.
    async fn lists_users_as_documented(self) {
        let app = TestApp::spawn().await;
        let mut expected = vec!["admin@example.org Ada Admin".to_owned()];
        for n in 0..3 {
            let email = format!("user{n}@example.org");
            app.create_user(&email).await;
            expected.insert(0, format!("{email} Some One"));
        }
        let mut program = self.program("readme");
        program.env("TENANTRY_URL", &app.url).env("TENANTRY_TENANT", &app.slug);
        program.env("TENANTRY_EMAIL", "admin@example.org").env("TENANTRY_PASSWORD", PASSWORD);
        let output = program.output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{self:?}");
    }
}

#[tokio::test]
async fn the_typescript_client_goes_through_the_scenario() {
    Client::TypeScript.goes_through_the_scenario().await;
}

#[tokio::test]
async fn the_python_client_goes_through_the_scenario() {
    Client::Python.goes_through_the_scenario().await;
}

#[tokio::test]
async fn the_rust_client_goes_through_the_scenario() {
    Client::Rust.goes_through_the_scenario().await;
}

#[tokio::test]
async fn the_examples_of_the_clients_run_as_they_are_documented() {
    for client in [Client::TypeScript, Client::Python, Client::Rust] {
        client.lists_users_as_documented().await;
    }
}
