//! Processes that die, and connections that are cut, between COMMIT and the answer.

use std::{path::Path, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
};

use super::{Said, new_key, said};
use crate::{app::TestApp, node::Cluster};

/// Between a process and PostgreSQL. Once it is armed, the next COMMIT arrives, and its answer does not.
struct Cut {
    armed: watch::Sender<bool>,
    committed: std::sync::Arc<Notify>,
    /// Whoever waits for the answer learns at last that there is none.
    release: watch::Sender<bool>,
}

impl Cut {
    fn start(folder: &Path, server: &Path) -> Self {
        let name = ".s.PGSQL.5432";
        let (listener, server) = (UnixListener::bind(folder.join(name)).unwrap(), server.join(name));
        let (armed, release) = (watch::Sender::new(false), watch::Sender::new(false));
        let cut = Self { armed, release, committed: Default::default() };
        let (armed, release, committed) = (cut.armed.clone(), cut.release.clone(), cut.committed.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, armed) = (UnixStream::connect(&server).await.unwrap(), armed.clone());
                let (release, committed) = (release.subscribe(), committed.clone());
                tokio::spawn(forward(client, server, armed, release, committed));
            }
        });
        cut
    }
}

async fn forward(
    mut client: UnixStream,
    mut server: UnixStream,
    armed: watch::Sender<bool>,
    mut release: watch::Receiver<bool>,
    committed: std::sync::Arc<Notify>,
) {
    let (mut asked, mut answered) = (vec![0; 65536], vec![0; 65536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let last = asked[..length].windows(7).any(|part| part == b"COMMIT\0") && armed.send_replace(false);
                server.write_all(&asked[..length]).await.unwrap();
                if last {
                    // PostgreSQL has done it when it says so.
                    let length = server.read(&mut answered).await.unwrap();
                    assert!(answered[..length].windows(7).any(|part| part == b"COMMIT\0"));
                    committed.notify_one();
                    let _ = release.wait_for(|release| *release).await;
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Two processes, of which the second is behind the cut.
struct World {
    cluster: Cluster,
    cut: Cut,
    key: String,
    _folder: tempfile::TempDir,
}

impl World {
    async fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(1, 3, &[]).await;
        let url = cluster.setting("DATABASE_URL").to_owned();
        let (_, server) = url.split_once("?host=").unwrap();
        let server = Path::new(server.split('&').next().unwrap());
        let cut = Cut::start(folder.path(), server);
        let through = url.replacen(server.to_str().unwrap(), folder.path().to_str().unwrap(), 1);
        assert_ne!(through, url);
        cluster.set("DATABASE_URL", through);
        cluster.add_node().await;
        Self { cluster, cut, key: new_key(), _folder: folder }
    }

    fn request(&self, node: usize) -> reqwest::RequestBuilder {
        let url = format!("http://{}/api/v1/users", self.cluster.nodes[node].address);
        let request = reqwest::Client::new().post(url).bearer_auth(&self.cluster.token);
        request.header("Idempotency-Key", &self.key).json(&json!({"email": "bob@example.org", "name": "Bob"}))
    }

    /// How many users of this address, and mails and events about them, there are.
    async fn effects(&self) -> (i64, i64, i64) {
        let sql = "select count(distinct u.id), count(distinct j.id), count(distinct e.id) from tenantry.users u
                     left join tenantry.jobs j on j.kind = 'reset_password_email' and j.payload ->> 'user_id' = u.id::text
                     left join tenantry.audit_events e on e.action = 'user.created' and e.subject_id = u.id
                   where u.email = 'bob@example.org'";
        let row = self.cluster.database.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    async fn committed(&self) {
        tokio::time::timeout(Duration::from_secs(10), self.cut.committed.notified()).await.expect("a COMMIT");
        assert_eq!(self.effects().await, (1, 1, 1));
    }
}

#[tokio::test]
async fn a_process_that_dies_after_commit_has_answered_for_those_that_live() {
    let mut world = World::begin().await;
    world.cut.armed.send_replace(true);
    let first = tokio::spawn(world.request(1).send());
    world.committed().await;
    // SIGKILL.
    drop(world.cluster.nodes.remove(1));
    assert!(first.await.unwrap().is_err(), "nobody was answered");

    let again = said(world.request(0)).await;
    assert_eq!((again.status, again.replayed), (StatusCode::CREATED, true), "{}", again.text);
    assert_eq!(again.json()["data"]["email"], "bob@example.org");
    assert_eq!(said(world.request(0)).await, again);
    assert_eq!(world.effects().await, (1, 1, 1));
}

#[tokio::test]
async fn a_process_that_lost_the_answer_to_its_commit_finds_it_done() {
    let world = World::begin().await;
    world.cut.armed.send_replace(true);
    let first = tokio::spawn(said(world.request(1)));
    world.committed().await;
    world.cut.release.send_replace(true);
    let first = first.await.unwrap();
    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE, "it does not know: {}", first.text);

    let again = said(world.request(1)).await;
    assert_eq!((again.status, again.replayed), (StatusCode::CREATED, true), "{}", again.text);
    assert_eq!(said(world.request(0)).await, again);
    assert_eq!(world.effects().await, (1, 1, 1));
}

#[tokio::test]
async fn a_client_whose_connection_is_cut_before_the_answer_asks_again() {
    let app = TestApp::spawn().await;
    let (key, body) = (new_key(), json!({"email": "bob@example.org", "name": "Bob"}));
    let first = lose_the_answer(&app, &key, &body.to_string()).await;
    let again = said(app.keyed("/api/v1/users", &key, &body)).await;
    assert_eq!((again.status, again.replayed), (StatusCode::CREATED, true), "{}", again.text);
    assert!(first.ends_with(&again.text), "the answer that was lost: {first}");
    let (_, users) = app.get("/api/v1/users?search=bob@").await;
    assert_eq!(users["pagination"]["total"], 1);
    let Said { status, .. } = said(app.request(Method::POST, "/api/v1/users").json(&body)).await;
    assert_eq!(status, StatusCode::CONFLICT, "without the key it is another request");
}

/// Asks through a proxy that keeps the answer for itself; what it was.
async fn lose_the_answer(app: &TestApp, key: &str, body: &str) -> String {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let server = app.url.trim_start_matches("http://").to_owned();
    let lost = tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = TcpStream::connect(server).await.unwrap();
        let mut request = vec![0; 65536];
        let length = client.read(&mut request).await.unwrap();
        server.write_all(&request[..length]).await.unwrap();
        let mut answer = vec![];
        server.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    });
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /api/v1/users HTTP/1.1\r\nHost: tenantry.test\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        app.token,
        body.len()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = lost.await.unwrap();
    let mut nothing = vec![];
    client.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty(), "the client got nothing");
    answer
}
