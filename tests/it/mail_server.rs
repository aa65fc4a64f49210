//! The mail server is away: nobody notices, and what was to be mailed is mailed once it is back.

use std::{process::Stdio, time::Duration};

use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{app::eventually, node::Cluster, port::free_address};

#[tokio::test]
async fn a_mail_server_that_is_away_costs_no_request_and_gets_each_mail_once_it_is_back() {
    let address = free_address().unwrap();
    let cluster = Cluster::start(1, 1, &[("SMTP_URL", &format!("smtp://{address}"))]).await;
    let mut worker = cluster.command().arg("worker").stderr(Stdio::null()).spawn().unwrap();
    let url = format!("http://{}/api/v1/auth/forgot-password", cluster.nodes[0].address);
    let body = json!({"tenant": cluster.tenant, "email": "admin@example.org"});

    let asked = Client::new().post(url).json(&body).send().await.unwrap();

    assert_eq!(asked.status(), StatusCode::ACCEPTED);
    let job = async || -> (String, Option<String>) {
        let sql = "select state, last_error from tenantry.jobs where kind = 'reset_password_email'";
        let row = cluster.database.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    eventually(Duration::from_secs(20), async || job().await.1.is_some()).await;
    assert_ne!(job().await.0, "done");

    let (taken, mut mails) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(take(client, taken.clone()));
        }
    });
    let due = "update tenantry.jobs set run_at = now(), ready = true where state = 'failed'";
    eventually(Duration::from_secs(20), async || {
        cluster.database.execute(due, &[]).await.unwrap();
        job().await.0 == "done"
    })
    .await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    let mail = mails.recv().await.unwrap();
    assert!(mail.contains("To: admin@example.org"), "{mail}");
    assert!(mails.try_recv().is_err(), "once");
}

/// Takes mails, as a mail server does.
async fn take(mut client: TcpStream, mails: mpsc::UnboundedSender<String>) -> std::io::Result<()> {
    let (from, mut to) = client.split();
    let mut lines = BufReader::new(from).lines();
    to.write_all(b"220 test\r\n").await?;
    let mut mail: Option<String> = None;
    while let Some(line) = lines.next_line().await? {
        if let Some(text) = &mut mail
            && line != "."
        {
            *text += &line;
            *text += "\n";
            continue;
        }
        let answer: &[u8] = match line.as_str() {
            "." => {
                let _ = mails.send(mail.take().unwrap_or_default());
                b"250 taken\r\n"
            }
            "DATA" => {
                mail = Some(String::new());
                b"354 go on\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 test\r\n",
        };
        to.write_all(answer).await?;
    }
    Ok(())
}
