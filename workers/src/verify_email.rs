//! Sends the mail that asks a user to show that an address is theirs.

use askama::Template;
use tenantry_accounts::{TenantId, UserId, verification};
use tenantry_jobs::VerifyEmail;
use tenantry_queue::{Leased, Outcome};

use crate::{
    Handlers,
    mail::{self, Letter},
};

#[derive(Template)]
#[template(path = "verify_email.txt")]
struct Text<'a> {
    name: &'a str,
    tenant: &'a str,
    link: &'a str,
}

#[derive(Template)]
#[template(path = "verify_email.html")]
struct Html<'a> {
    name: &'a str,
    tenant: &'a str,
    link: &'a str,
}

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let VerifyEmail { user_id } = match job.decode() {
        Ok(arguments) => arguments,
        Err(outcome) => return outcome,
    };
    mail::once(handlers, job, write(handlers, job, UserId(user_id))).await
}

async fn write(handlers: &Handlers, job: &Leased, user: UserId) -> Result<Letter, Outcome> {
    let issued = match verification::issue(&handlers.app, TenantId(job.tenant), user, job.id.0).await {
        Ok(Some(issued)) => issued,
        Ok(None) => return Err(Outcome::Cancel("there is nothing to verify any more".into())),
        Err(error) => return Err(Outcome::Retry(error.to_string())),
    };
    let link = format!("{}/verify-email?token={}", handlers.app_url, issued.token);
    let (name, tenant, link) = (&*issued.name, &*issued.tenant_name, &*link);
    let rendered = (Text { name, tenant, link }.render(), Html { name, tenant, link }.render());
    let (Ok(text), Ok(html)) = rendered else {
        return Err(Outcome::Dead("a template could not be rendered".into()));
    };
    let subject = format!("Verify your email address for {tenant}");
    Ok(Letter { to: issued.to.as_str().to_owned(), subject, text, html })
}
