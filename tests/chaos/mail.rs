//! A mail server that takes everything and keeps nothing: mails that fail would be tried again and again.

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::Result;

/// Returns its URL. It lives as long as the program.
pub(crate) async fn start() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("smtp://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(take(client));
        }
    });
    Ok(url)
}

async fn take(mut client: TcpStream) -> std::io::Result<()> {
    let (from, mut to) = client.split();
    let mut lines = BufReader::new(from).lines();
    to.write_all(b"220 chaos\r\n").await?;
    let mut mail = false;
    while let Some(line) = lines.next_line().await? {
        let answer: &[u8] = match line.as_str() {
            "." => b"250 taken\r\n",
            _ if mail => continue,
            "DATA" => b"354 go on\r\n",
            "QUIT" => b"221 bye\r\n",
            _ => b"250 chaos\r\n",
        };
        mail = line == "DATA";
        to.write_all(answer).await?;
    }
    Ok(())
}
