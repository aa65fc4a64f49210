//! Sends the mail that asks a user to show that an address is theirs.

use askama::Template;
use tenantry_accounts::{TenantId, UserId, verification};
use tenantry_jobs::VerifyEmail;
use tenantry_queue::{Leased, Outcome};

use crate::{Handlers, mail::Mail};

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
    let letter =
        match verification::issue(&handlers.app, TenantId(job.tenant), UserId(user_id), job.id.0).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Outcome::Cancel("there is nothing to verify any more".into()),
            Err(error) => return Outcome::Retry(error.to_string()),
        };
    let link = format!("{}/verify-email?token={}", handlers.app_url, letter.token);
    let (name, tenant, link) = (&*letter.name, &*letter.tenant_name, &*link);
    let rendered = (Text { name, tenant, link }.render(), Html { name, tenant, link }.render());
    let (Ok(text), Ok(html)) = rendered else {
        return Outcome::Dead("a template could not be rendered".into());
    };
    let subject = format!("Verify your email address for {tenant}");
    let mail = Mail { to: letter.to.as_str(), subject: &subject, text, html };
    handlers.mailer.send(job.id, mail).await
}
