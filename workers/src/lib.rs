//! The back room: one file a kind of job, one `run` each. This is the list of them.
#![warn(missing_docs)]

mod address_notice_email;
mod erase_user;
mod import_users;
mod invalidate_user;
mod invitation_email;
mod letters;
mod mail;
mod prune_jobs;
mod purge_deleted;
mod purge_tenants;
mod reset_password_email;
mod roll_up_users;
mod rotate_audit;
mod second_factor_notice_email;
pub mod stripe;
mod verify_email;

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_accounts::{App, Letter};
use tenantry_jobs::Kind;
use tenantry_queue::{Leased, Outcome};
use tokio_util::sync::CancellationToken;

use crate::letters::{Content, Written};
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
    /// The way out to Stripe; none: there is none.
    pub stripe: Option<tenantry_stripe::Client>,
    /// How long a job goes on with one walk through Stripe or one import, at least one step: [`STRETCH`].
    pub stretch: Duration,
}

/// How long a job goes on with one walk through Stripe, or one import. Then comes the other that it has, and other jobs; all
/// within its time-out, even when the last page of each takes long.
pub const STRETCH: Duration = Duration::from_secs(30);

/// How a worker process works.
pub struct Settings {
    /// Of the queue's own: heartbeats must not wait for handlers.
    pub pool: Pool,
    /// Where to listen for new jobs, not through a pooler; without it workers only poll.
    pub listen: Option<tokio_postgres::Config>,
    /// How many jobs run at once, beside those in the places that mail and invalidation have of their own.
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
        listen: settings.listen,
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
                    Kind::SecondFactorNoticeEmail => second_factor_notice_email::run(&handlers, &job).await,
                    Kind::InvalidateUser => invalidate_user::run(&handlers, &job).await,
                    Kind::EraseUser => erase_user::run(&handlers, &job).await,
                    Kind::SyncSubscription => stripe::sync_subscription(&handlers, &job).await,
                    Kind::CreateCustomer => stripe::create_customer(&handlers, &job).await,
                    Kind::SyncCustomer => stripe::sync_customer(&handlers, &job).await,
                    Kind::SyncSeats => stripe::sync_seats(&handlers, &job).await,
                    Kind::EndSubscriptions => stripe::end_subscriptions(&handlers, &job).await,
                    Kind::StripeReconcile => stripe::reconcile(&handlers, &job).await,
                    Kind::StripeBackfill => stripe::backfill(&handlers, &job).await,
                    Kind::ImportUsers => import_users::run(&handlers, &job).await,
                    Kind::PruneJobs => prune_jobs::run(&handlers).await,
                    Kind::PurgeDeleted => purge_deleted::run(&handlers).await,
                    Kind::PurgeTenants => purge_tenants::run(&handlers).await,
                    Kind::RotateAudit => rotate_audit::run(&handlers).await,
                    Kind::RollUpUsers => roll_up_users::run(&handlers, &job).await,
                }
            }
            .boxed()
        }
    }

    /// Writes the mail of `job`, unless it was sent already, and hands it over; `path` is where its link leads.
    pub(crate) async fn mail(
        &self,
        job: &Leased,
        issued: impl Future<Output = tenantry_accounts::Result<Option<Letter>>>,
        path: &str,
        lifetime: Duration,
    ) -> Outcome {
        self.mail_about(job, issued, "", path, lifetime).await
    }

    /// The same, of an event.
    pub(crate) async fn mail_about(
        &self,
        job: &Leased,
        issued: impl Future<Output = tenantry_accounts::Result<Option<Letter>>>,
        event: &'static str,
        path: &str,
        lifetime: Duration,
    ) -> Outcome {
        let written = async {
            let letter = match issued.await {
                Ok(Some(letter)) => letter,
                Ok(None) => {
                    let reason = "nobody is to have this mail any more, or has it already";
                    return Err(Outcome::Cancel(reason.into()));
                }
                Err(error) => return Err(Outcome::Retry(error.to_string())),
            };
            let link = format!("{}{path}?token={}", self.app_url, letter.token);
            let (name, tenant) = (&letter.name, &letter.tenant_name);
            let content = Content { name, tenant, link: &link, lifetime, event };
            let Written { subject, text, html } = self
                .letters
                .write(job.kind, &content)
                .map_err(|error| Outcome::Dead(format!("the mail could not be written: {error}")))?;
            Ok(mail::Letter { to: letter.to.as_str().to_owned(), subject, text, html })
        };
        mail::once(self, job, written).await
    }
}

/// Repeats `remove` until it removes less than asked for. Each batch is a transaction of its own, so what is left after
/// a while is left to the next run.
async fn in_batches<F, E>(remove: impl Fn(u32) -> F) -> Outcome
where
    F: Future<Output = Result<u64, E>>,
    E: std::fmt::Display,
{
    const BATCH: u32 = 1000;
    let begun = Instant::now();
    loop {
        match remove(BATCH).await {
            Ok(removed) if removed < u64::from(BATCH) => return Outcome::Done,
            Ok(_) if begun.elapsed() > Duration::from_secs(30) => return Outcome::Snooze(Duration::ZERO),
            Ok(_) => {}
            Err(error) => return Outcome::Retry(error.to_string()),
        }
    }
}
