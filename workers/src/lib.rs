//! The back room: one file a kind of job, one `run` each. This is the list of them.
#![warn(missing_docs)]

mod address_notice_email;
mod invalidate_user;
mod invitation_email;
mod letters;
mod mail;
mod reset_password_email;
mod verify_email;

use std::time::Duration;

use deadpool_postgres::Pool;
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_accounts::{App, Letter};
use tenantry_jobs::Kind;
use tenantry_queue::{Leased, Outcome};
use tokio_util::sync::CancellationToken;

use crate::{
    letters::{Content, Written},
    mail::Mail,
};
pub use letters::{Letters, TemplateError};
pub use mail::{MailError, Mailer};
pub use tenantry_queue::RunError;

/// What the kinds of job work with. Cheap to clone.
#[derive(Clone)]
pub struct Handlers {
    /// The house.
    pub app: App,
    /// The way out for mail.
    pub mailer: Mailer,
    /// What mails say.
    pub letters: Letters,
    /// Where links in mails lead, without a trailing slash.
    pub app_url: String,
}

/// How a worker process works.
pub struct Settings {
    /// Of the queue's own: heartbeats must not wait for handlers.
    pub pool: Pool,
    /// How many jobs run at once.
    pub concurrency: usize,
    /// How long running jobs may take to finish when the process stops.
    pub drain: Duration,
    /// What the kinds of job work with.
    pub handlers: Handlers,
}

/// Runs jobs of every kind until `stop`.
///
/// # Errors
/// When the runtime of the worker ends by itself.
pub async fn run(settings: Settings, stop: CancellationToken) -> Result<(), RunError> {
    let queue = tenantry_queue::Settings {
        concurrency: settings.concurrency,
        drain: settings.drain,
        ..tenantry_queue::Settings::default()
    };
    tenantry_queue::run(settings.pool, queue, Kind::ALL, settings.handlers.handler(), stop).await
}

impl Handlers {
    /// What the queue calls for each job.
    pub fn handler(self) -> impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static {
        move |job| {
            let handlers = self.clone();
            async move {
                match job.kind {
                    Kind::VerifyEmail => verify_email::run(&handlers, &job).await,
                    Kind::ResetPasswordEmail => reset_password_email::run(&handlers, &job).await,
                    Kind::InvitationEmail => invitation_email::run(&handlers, &job).await,
                    Kind::AddressNoticeEmail => address_notice_email::run(&handlers, &job).await,
                    Kind::InvalidateUser => invalidate_user::run(&handlers, &job).await,
                }
            }
            .boxed()
        }
    }

    /// Writes the mail of `job` and hands it over; `path` is where its link leads.
    pub(crate) async fn mail(
        &self,
        job: &Leased,
        letter: tenantry_accounts::Result<Option<Letter>>,
        path: &str,
        lifetime: Duration,
    ) -> Outcome {
        let letter = match letter {
            Ok(Some(letter)) => letter,
            Ok(None) => {
                return Outcome::Cancel("nobody is to have this mail any more, or has it already".into());
            }
            Err(error) => return Outcome::Retry(error.to_string()),
        };
        let link = format!("{}{path}?token={}", self.app_url, letter.token);
        let content = Content { name: &letter.name, tenant: &letter.tenant_name, link: &link, lifetime };
        match self.letters.write(job.kind, &content) {
            Ok(Written { subject, text, html }) => {
                self.mailer.send(job.id, Mail { to: letter.to.as_str(), subject: &subject, text, html }).await
            }
            Err(error) => Outcome::Dead(format!("the mail could not be written: {error}")),
        }
    }
}
