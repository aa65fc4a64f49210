//! Something between a node and its Redis that can keep answers back.

use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
};

use crate::stage::RedisServer;

pub(crate) struct Proxy {
    folder: TempDir,
    gates: Arc<Mutex<Vec<watch::Sender<bool>>>>,
    kept_back: Arc<Semaphore>,
}

impl Proxy {
    pub(crate) fn before(redis: &RedisServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("proxy.sock")).unwrap();
        let proxy = Self { folder, gates: Arc::default(), kept_back: Arc::new(Semaphore::new(0)) };
        let (server, gates, kept_back) = (redis.socket(), proxy.gates.clone(), proxy.kept_back.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (gate, open) = watch::channel(true);
                gates.lock().unwrap().push(gate);
                let server = UnixStream::connect(&server).await.unwrap();
                tokio::spawn(forward(client, server, open, kept_back.clone()));
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.path().join("proxy.sock").display())
    }

    /// Keeps back the answers on the connections there are now.
    pub(crate) fn close(&self) {
        self.set(false);
    }

    pub(crate) fn open(&self) {
        self.set(true);
    }

    /// Breaks the connections that keep something back, or will have something to send.
    pub(crate) fn cut(&self) {
        self.gates.lock().unwrap().clear();
    }

    fn set(&self, open: bool) {
        for gate in self.gates.lock().unwrap().iter() {
            gate.send_replace(open);
        }
    }

    /// Waits until Redis has answered something that is kept back.
    pub(crate) async fn kept_back(&self) {
        self.kept_back.acquire().await.unwrap().forget();
    }
}

async fn forward(
    client: UnixStream,
    server: UnixStream,
    mut open: watch::Receiver<bool>,
    kept_back: Arc<Semaphore>,
) {
    let ((mut questions, mut client), (mut answers, mut server)) = (client.into_split(), server.into_split());
    tokio::spawn(async move { copy(&mut questions, &mut server).await });
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = answers.read(&mut bytes).await {
        if !*open.borrow() {
            kept_back.add_permits(1);
        }
        if open.wait_for(|open| *open).await.is_err() || client.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
