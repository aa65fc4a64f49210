//! The keys of access tokens: how they are rotated, and how programs in other languages verify by them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{
    SigningKey,
    pkcs8::{EncodePrivateKey, spki::der::pem::LineEnding},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::app::{TestApp, eventually, tools};

/// A new key signs after a second; files are read five times in that.
const QUICK: [&str; 1] = ["--jwt-key-rest=1s"];

impl TestApp {
    fn add_key(&self, name: &str) {
        let key = SigningKey::from_bytes(&rand::random()).to_pkcs8_pem(LineEnding::LF).unwrap();
        // As a whole, as an operator would move it there.
        let draft = self.keys().join(".draft");
        std::fs::write(&draft, key.as_bytes()).unwrap();
        std::fs::rename(draft, self.keys().join(name)).unwrap();
    }

    async fn published(&self) -> Value {
        self.get("/.well-known/jwks.json").await.1
    }

    async fn accepts(&self, token: &str) -> bool {
        let request = self.http.get(format!("{}/api/v1/users/me", self.url));
        match request.bearer_auth(token).send().await.unwrap().status() {
            StatusCode::OK => true,
            StatusCode::UNAUTHORIZED => false,
            other => panic!("{other}"),
        }
    }
}

fn part(token: &str, n: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(n).unwrap()).unwrap()).unwrap()
}

fn key_of(token: &str) -> String {
    part(token, 0)["kid"].as_str().unwrap().to_owned()
}

/// Waits until a sign-in at `app` is signed by another key than `old`.
async fn signed_anew(app: &TestApp, old: &str) -> String {
    eventually(Duration::from_secs(2), || async { key_of(&app.sign_in("admin@example.org").await) != old })
        .await;
    app.sign_in("admin@example.org").await
}

#[tokio::test]
async fn keys_are_rotated_while_two_nodes_serve() {
    let app = TestApp::spawn_with(&QUICK).await;
    let node = app.another_node().await;
    let old = app.token.clone();

    app.add_key("2026-12.pem");
    for node in [&app, &node] {
        eventually(Duration::from_secs(1), || async {
            node.published().await["keys"].as_array().unwrap().len() == 2
        })
        .await;
    }
    let new = signed_anew(&app, &key_of(&old)).await;

    // Whoever signs with it first, the other has known it for long.
    for token in [&old, &new] {
        assert!(app.accepts(token).await && node.accepts(token).await);
    }
    let signed = signed_anew(&node, &key_of(&old)).await;
    assert_eq!(key_of(&signed), key_of(&new));

    std::fs::remove_file(app.keys().join("first.pem")).unwrap();
    for node in [&app, &node] {
        eventually(Duration::from_secs(1), || async { !node.accepts(&old).await }).await;
        assert!(node.accepts(&new).await);
        assert_eq!(node.published().await["keys"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_folder_that_is_emptied_or_holds_nonsense_changes_no_key() {
    let app = TestApp::spawn_with(&QUICK).await;
    let before = app.published().await;
    std::fs::write(app.keys().join("broken.pem"), "nonsense").unwrap();
    app.add_key("new.pem");
    // Read five times a second.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(app.published().await, before);

    std::fs::remove_file(app.keys().join("broken.pem")).unwrap();
    eventually(Duration::from_secs(1), || async { app.published().await != before }).await;
    let both = app.published().await;
    for file in ["first.pem", "new.pem"] {
        std::fs::remove_file(app.keys().join(file)).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(app.published().await, both);
    assert!(app.accepts(&app.token).await);
}

/// A program of `examples/verify-token/`, which is given tokens and says what it thinks of them.
struct Verifier {
    language: &'static str,
    tokens: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Where the script was copied to.
    copy: Option<PathBuf>,
    _child: Child,
}

impl Drop for Verifier {
    fn drop(&mut self) {
        if let Some(copy) = &self.copy {
            // Another run may have removed the whole folder.
            let _ = std::fs::remove_file(copy);
        }
    }
}

impl Verifier {
    fn start(language: &'static str, issuer: &str, jwks: &str, cooldown: &str) -> Self {
        let (examples, tools) =
            (Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/verify-token"), tools());
        let mut copy = None;
        let mut command = match language {
            "Python" => {
                let mut command = Command::new(tools.join("python/bin/python"));
                command.arg(examples.join("verify_token.py"));
                command
            }
            _ => {
                // A module is looked for beside the script.
                let script = tools.join(format!("verify-token/{}.mjs", uuid::Uuid::now_v7().simple()));
                std::fs::copy(examples.join("verify-token.mjs"), &script).unwrap();
                let mut command = Command::new("node");
                command.arg(&script);
                copy = Some(script);
                command
            }
        };
        command.args([issuer, jwks]).env("JWKS_COOLDOWN", cooldown).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (tokens, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { language, tokens, answers: BufReader::new(answers).lines(), copy, _child: child }
    }

    async fn ask(&mut self, token: &str) -> String {
        self.tokens.write_all(format!("{token}\n").as_bytes()).await.unwrap();
        self.answers.next_line().await.unwrap().expect("an answer")
    }

    async fn accepts(&mut self, token: &str) -> bool {
        let answer = self.ask(token).await;
        let accepted = answer.starts_with("user ");
        assert!(accepted || answer.starts_with("refused: "), "{}: {answer}", self.language);
        accepted
    }
}

/// Publishes `keys` and counts how often they were fetched; the address, and the count.
async fn publish(keys: Value) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
    let (count, body) = (Arc::new(AtomicUsize::new(0)), keys.to_string());
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = client.read(&mut [0; 4096]).await;
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = client.write_all((head + &body).as_bytes()).await;
        }
    });
    (url, count)
}

#[tokio::test]
async fn programs_in_other_languages_verify_tokens_by_the_published_keys() {
    let app = TestApp::spawn_with(&QUICK).await;
    let issuer = "http://tenantry.test";
    let real = app.token.clone();
    let claims = part(&real, 1);
    let pem = std::fs::read(app.keys().join("first.pem")).unwrap();
    let key = EncodingKey::from_ed_pem(&pem).unwrap();
    let header =
        Header { kid: Some(key_of(&real)), typ: Some("at+jwt".into()), ..Header::new(Algorithm::EdDSA) };
    let signed = |header: &Header, claims: &Value| jsonwebtoken::encode(header, claims, &key).unwrap();
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let parts: Vec<_> = real.split('.').collect();
    let promoted = URL_SAFE_NO_PAD.encode(with("role", json!("super_admin")).to_string());
    let unsigned = URL_SAFE_NO_PAD.encode(json!({"alg": "none", "typ": "at+jwt"}).to_string());
    let public = URL_SAFE_NO_PAD.decode(app.published().await["keys"][0]["x"].as_str().unwrap()).unwrap();
    let shared = Header { alg: Algorithm::HS256, ..header.clone() };
    let now = claims["iat"].as_i64().unwrap();
    let refused = [
        ("another issuer", signed(&header, &with("iss", json!("http://elsewhere.test")))),
        ("another service's key", TestApp::spawn().await.token),
        ("expired", signed(&header, &with("exp", json!(now - 1)))),
        ("without an end", signed(&header, &without("exp"))),
        ("of no session", signed(&header, &without("sid"))),
        ("tampered with", format!("{}.{promoted}.{}", parts[0], parts[2])),
        ("not signed", format!("{unsigned}.{}.", parts[1])),
        (
            "signed with the public key",
            jsonwebtoken::encode(&shared, &claims, &EncodingKey::from_secret(&public)).unwrap(),
        ),
        ("no access token", signed(&Header { typ: Some("JWT".into()), ..header.clone() }, &claims)),
        ("of an unknown key", signed(&Header { kid: Some("x".into()), ..header.clone() }, &claims)),
        ("nonsense", "nonsense".into()),
        ("nothing", String::new()),
    ];
    let own = format!("{}/.well-known/jwks.json", app.url);
    let mut verifiers = ["Python", "Node"].map(|language| Verifier::start(language, issuer, &own, "0"));
    for verifier in &mut verifiers {
        let language = verifier.language;
        let answer = verifier.ask(&real).await;
        let (user, tenant) = (app.admin["id"].as_str().unwrap(), app.tenant);
        assert_eq!(answer, format!("user {user} of tenant {tenant}"), "{language}");
        assert!(verifier.accepts(&signed(&header, &claims)).await, "what the others are made of does");
        for (what, token) in &refused {
            assert!(!verifier.accepts(token).await, "{language}: {what}");
        }
        assert!(verifier.accepts(&real).await, "{language}");
    }

    app.add_key("2026-12.pem");
    let new = signed_anew(&app, &key_of(&real)).await;
    for verifier in &mut verifiers {
        for token in [&real, &new] {
            assert!(verifier.accepts(token).await, "{}: two keys at once", verifier.language);
        }
    }
}

#[tokio::test]
async fn unknown_keys_make_a_verifier_fetch_once_a_minute() {
    let app = TestApp::spawn().await;
    let foreign = TestApp::spawn().await.token;
    for language in ["Python", "Node"] {
        let (url, fetched) = publish(app.published().await).await;
        let mut verifier = Verifier::start(language, "http://tenantry.test", &url, "60");
        assert!(verifier.accepts(&app.token).await, "{language}");
        for _ in 0..20 {
            assert!(!verifier.accepts(&foreign).await, "{language}");
        }
        assert!(verifier.accepts(&app.token).await, "{language}");
        assert_eq!(fetched.load(Ordering::SeqCst), 1, "{language}");
    }
}
