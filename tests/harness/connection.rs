//! A client that keeps its connection and does little else: what it measures is the server's time.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::Result;

/// One after the other; connects when it has to, and anew after a failure.
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// What it was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

impl Connection {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    /// Sends a request with a bearer token, unless that is empty, and a JSON body, unless that is; waits for the answer. To
    /// drop this half-way loses the connection and nothing else.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, token: &str, body: &str) -> Result<Answer> {
        self.ask_if(method, path, token, body, "").await
    }

    /// The same, of a certain version; empty: of any.
    pub(crate) async fn ask_if(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
        if_match: &str,
    ) -> Result<Answer> {
        let header = if if_match.is_empty() { String::new() } else { format!("If-Match: {if_match}\r\n") };
        self.ask_with(method, path, token, body, &header).await
    }

    /// The same, with whole lines of the header.
    pub(crate) async fn ask_with(
        &mut self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
        header: &str,
    ) -> Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                BufReader::with_capacity(4096, stream)
            }
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: tenantry.test\r\n");
        if !token.is_empty() {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        request += header;
        if !body.is_empty() {
            request += "Content-Type: application/json\r\n";
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let answer = read(&mut stream).await?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let status = line.split(' ').nth(1).ok_or("the connection ended")?.parse()?;
    let (mut length, mut retry_after) = (0, None);
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        match line.trim_end().split_once(": ") {
            Some(("content-length", value)) => length = value.parse()?,
            Some(("retry-after", value)) => retry_after = Some(value.parse()?),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => return Err("no header line".into()),
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Answer { status, retry_after, body })
}
