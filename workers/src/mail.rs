//! The way out for mail: SMTP, or a folder where a developer reads it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Body, Mailbox, MultiPart, SinglePart,
        header::{ContentTransferEncoding, ContentType},
    },
    transport::smtp::PoolConfig,
};
use tenantry_accounts::{App, Error, TenantId, db};
use tenantry_queue::{CompleteError, JobId, Leased, Outcome};
use tenantry_trace::{Kind, Span};
use tokio_postgres::types::{ToSql, Type};

use crate::Handlers;

/// How long one mail may take to hand over.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many connections to the mail server stay open.
const CONNECTIONS: u32 = 8;

/// Hands mail over. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    from: Mailbox,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Smtp(AsyncSmtpTransport<Tokio1Executor>),
    Folder(Arc<PathBuf>),
}

impl Way {
    /// Of its spans, which tell nothing of a mail.
    fn name(&self) -> &'static str {
        match self {
            Way::Smtp(_) => "SMTP send",
            Way::Folder(_) => "write mail",
        }
    }
}

/// A setting for mail that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// SMTP_URL.
    #[error("SMTP_URL cannot be read: it looks like smtp://user:password@host:587?tls=required")]
    Url,
    /// MAIL_FROM.
    #[error("MAIL_FROM cannot be read: it looks like Example <no-reply@example.org>")]
    From,
    /// The folder that catches mail.
    #[error("the folder for caught mail cannot be made: {0}")]
    Folder(#[source] std::io::Error),
}

/// What a kind of job writes.
pub(crate) struct Letter {
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

impl Mailer {
    /// Sends by the server at `url`.
    ///
    /// # Errors
    /// When `url` or `from` cannot be read.
    pub fn smtp(url: &str, from: &str) -> Result<Self, MailError> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(url).map_err(|_| MailError::Url)?;
        let pool = PoolConfig::new().max_size(CONNECTIONS);
        let transport = transport.pool_config(pool).timeout(Some(PATIENCE)).build();
        Ok(Self { from: sender(from)?, way: Way::Smtp(transport) })
    }

    /// Catches mail in `folder`, one `.eml` file each.
    ///
    /// # Errors
    /// When the folder cannot be made or `from` cannot be read.
    pub fn folder(folder: PathBuf, from: &str) -> Result<Self, MailError> {
        std::fs::create_dir_all(&folder).map_err(MailError::Folder)?;
        Ok(Self { from: sender(from)?, way: Way::Folder(Arc::new(folder)) })
    }

    /// Whether the mail server answers; for `tenantry check`.
    ///
    /// # Errors
    /// What is wrong, in words for the operator.
    pub async fn check(&self) -> Result<String, String> {
        match &self.way {
            Way::Folder(folder) => Ok(format!("caught in {}", folder.display())),
            Way::Smtp(transport) => match transport.test_connection().await {
                Ok(true) => Ok("the server answers".into()),
                Ok(false) => Err("SMTP_URL: the server does not accept mail".into()),
                Err(error) => Err(format!("SMTP_URL: {error}")),
            },
        }
    }

    /// The Message-ID of the mail of `job`.
    fn message_id(&self, job: JobId) -> String {
        format!("<{job}@{}>", self.from.email.domain())
    }

    /// Hands one mail of `job` over.
    ///
    /// The Message-ID is the job's: a mail that goes out twice, because a worker died after the server took it and
    /// before that was noted, can be told from two mails.
    async fn send(&self, job: JobId, mail: Letter) -> Outcome {
        let Ok(to) = mail.to.parse().map(|address| Mailbox::new(None, address)) else {
            return Outcome::Dead("mail cannot be sent to this address".into());
        };
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(mail.subject)
            .message_id(Some(self.message_id(job)))
            .multipart(
                MultiPart::alternative()
                    .singlepart(part(ContentType::TEXT_PLAIN, mail.text))
                    .singlepart(part(ContentType::TEXT_HTML, mail.html)),
            );
        let Ok(message) = message else { return Outcome::Dead("the mail could not be built".into()) };
        let mut span = Span::child(Kind::Client, self.way.name());
        let outcome = match &self.way {
            Way::Smtp(transport) => match transport.send(message).await {
                Ok(_) => Outcome::Done,
                // The server's words may repeat the address: its code is enough.
                // The server does not know us: a setting is wrong, and mends without the job being lost.
                Err(error) if refuses_us(&error) => Outcome::Retry(format!(
                    "the mail server refused our credentials ({}): check SMTP_URL",
                    code(&error)
                )),
                Err(error) if error.is_permanent() => {
                    Outcome::Dead(format!("the mail server refused for good: {}", code(&error)))
                }
                Err(error) => Outcome::Retry(format!("the mail server did not take it: {}", code(&error))),
            },
            Way::Folder(folder) => match write(folder, job, message.formatted()).await {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Retry(format!("the mail could not be written: {error}")),
            },
        };
        match outcome {
            Outcome::Done => {}
            Outcome::Dead(_) => span.fail("refused"),
            _ => span.fail("failed"),
        }
        outcome
    }
}

/// Sends the mail of `job` that `write` makes, unless the server has taken it already. That it has is noted in the
/// transaction that completes the job, so a job that runs again after a crash sends nothing; only a death between the
/// server's answer and that COMMIT sends the same mail, with the same Message-ID, twice.
pub(crate) async fn once(
    handlers: &Handlers,
    job: &Leased,
    write: impl Future<Output = Result<Letter, Outcome>>,
) -> Outcome {
    match was_sent(&handlers.app, job).await {
        Ok(true) => return Outcome::Done,
        Ok(false) => {}
        Err(error) => return Outcome::Retry(error.to_string()),
    }
    let letter = match write.await {
        Ok(letter) => letter,
        Err(outcome) => return outcome,
    };
    let outcome = handlers.mailer.send(job.id, letter).await;
    if outcome == Outcome::Done {
        note(handlers, job).await;
    }
    outcome
}

async fn was_sent(app: &App, job: &Leased) -> Result<bool, Error> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, TenantId(job.tenant)).await?;
    let sql = "select 1 from tenantry.sent_mails where tenant_id = $1 and job_id = $2";
    let sent = tx.query_typed(sql, &[(&job.tenant, Type::UUID), (&job.id.0, Type::UUID)]).await?;
    tx.commit().await?;
    Ok(!sent.is_empty())
}

/// Notes that the mail is out and completes the job. While the database is away the queue itself keeps trying to store
/// that the job is done.
async fn note(handlers: &Handlers, job: &Leased) {
    let message_id = handlers.mailer.message_id(job.id);
    let noted = match sent(&handlers.app, job, &message_id, true).await {
        // Another worker has the job: it shall find the note and send nothing.
        Err(NoteError::Complete(CompleteError::LeaseLost)) => {
            sent(&handlers.app, job, &message_id, false).await
        }
        noted => noted,
    };
    if let Err(error) = noted {
        tracing::warn!(job.id = %job.id, error = %error, "that the mail is out could not be noted");
    }
}

#[derive(Debug, thiserror::Error)]
enum NoteError {
    #[error(transparent)]
    Database(#[from] Error),
    #[error(transparent)]
    Complete(#[from] CompleteError),
}

async fn sent(app: &App, job: &Leased, message_id: &str, completes: bool) -> Result<(), NoteError> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, TenantId(job.tenant)).await?;
    let sql = "insert into tenantry.sent_mails (tenant_id, job_id, message_id) values ($1, $2, $3)
               on conflict do nothing";
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&job.tenant, Type::UUID), (&job.id.0, Type::UUID), (&message_id, Type::TEXT)];
    tx.query_typed(sql, params).await.map_err(Error::from)?;
    if completes {
        tenantry_queue::complete(&tx, job).await?;
    }
    tx.commit().await.map_err(Error::from)?;
    Ok(())
}

/// Plain ASCII goes as it is (RFC 5322: lines of at most 998 bytes), so that a link in a caught mail can be copied;
/// lettre would break it at 76. Everything else goes in the encoding it needs.
fn part(content_type: ContentType, text: String) -> SinglePart {
    let text = text.replace('\n', "\r\n");
    let plain = text.is_ascii() && !text.contains('\0') && text.lines().all(|line| line.len() <= 998);
    let body = if plain {
        Body::dangerous_pre_encoded(text.into_bytes(), ContentTransferEncoding::SevenBit)
    } else {
        Body::new(text)
    };
    SinglePart::builder().header(content_type).body(body)
}

fn sender(from: &str) -> Result<Mailbox, MailError> {
    from.parse().map_err(|_| MailError::From)
}

/// RFC 4954: authentication required, too weak, failed, or not without encryption.
fn refuses_us(error: &lettre::transport::smtp::Error) -> bool {
    error.status().is_some_and(|code| ["530", "534", "535", "538"].contains(&code.to_string().as_str()))
}

fn code(error: &lettre::transport::smtp::Error) -> String {
    match error.status() {
        Some(code) => code.to_string(),
        None if error.is_timeout() => "time-out".into(),
        None => "no connection".into(),
    }
}

/// Whole or not at all: whoever watches the folder never reads half a mail.
async fn write(folder: &std::path::Path, job: JobId, bytes: Vec<u8>) -> std::io::Result<()> {
    let draft = folder.join(format!(".{job}"));
    tokio::fs::write(&draft, bytes).await?;
    tokio::fs::rename(draft, folder.join(format!("{job}.eml"))).await
}
