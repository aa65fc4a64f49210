//! The customer that pays for a tenant: made, asked for, unlinked when Stripe has deleted it.

use tenantry_accounts::{
    App, Error, TenantId,
    billing::{customers, directory},
};
use tenantry_jobs::SyncCustomer;
use tenantry_queue::{Leased, Outcome};
use tenantry_stripe::{Client, Error as StripeError, NewCustomer, Standing};

use super::{Unfinished, failed, unfinished};
use crate::Handlers;

pub(crate) async fn create(handlers: &Handlers, job: &Leased) -> Outcome {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    match customer(&handlers.app, stripe, TenantId(job.tenant)).await {
        Ok(_) => Outcome::Done,
        Err(Unfinished::Accounts(Error::NoTenant)) => Outcome::Cancel("the tenant is gone".into()),
        Err(error) => unfinished(&error),
    }
}

/// So many seconds Stripe's clock and the database's may be apart.
const CLOCKS_DIFFER: i64 = 600;

/// The customer that pays for a tenant, made now if there is none.
///
/// # Errors
/// When Stripe or the database does not answer; the next one goes on there.
pub async fn customer(app: &App, stripe: &Client, tenant: TenantId) -> Result<String, Unfinished> {
    let wanted = match customers::find(app, tenant).await? {
        Ok(customer) => return Ok(customer),
        Err(wanted) => wanted,
    };
    let (email, tenant_id, mark) = (wanted.email.as_deref(), tenant.to_string(), wanted.mark.to_string());
    let new = NewCustomer { name: &wanted.name, email, tenant: &tenant_id, mark: &mark };
    let customer = match stripe.create_customer(&new, &wanted.key()).await {
        // To this key Stripe will say nothing else for a day, whether it has made the customer or not.
        Err(error @ (StripeError::Failed(_) | StripeError::KeyUsed)) => {
            let Some(found) = stripe.find_customer(wanted.since - CLOCKS_DIFFER, &mark).await? else {
                // It may be listed a little later.
                match wanted.is_settled {
                    true => customers::use_another_key(app, tenant, &wanted).await?,
                    false => customers::note_fault(app, tenant, &wanted).await?,
                }
                return Err(error.into());
            };
            found
        }
        made => made?,
    };
    match customers::link(app, tenant, &customer).await {
        // By the same key Stripe would name it for a day although it is gone.
        Err(error @ Error::CustomerDeleted) => {
            customers::use_another_key(app, tenant, &wanted).await?;
            Err(error.into())
        }
        linked => Ok(linked?),
    }
}

/// Asks Stripe whether there is a customer, and unlinks it when Stripe has deleted it. One that Stripe does not know by our key
/// stays linked: the key may be that of another account.
///
/// # Errors
/// When Stripe or the database does not answer; then nothing has changed.
pub async fn ask_for(
    app: &App,
    stripe: &Client,
    customer: &str,
    number: i64,
) -> Result<Standing, Unfinished> {
    let standing = stripe.customer(customer).await?;
    match standing {
        Standing::Live => drop(directory::note(app, number, &[customer]).await?),
        Standing::Unknown => directory::note_missing(app, customer).await?,
        Standing::Deleted => {
            if let Some(tenant) = customers::unlink(app, customer).await? {
                tracing::warn!(tenant.id = %tenant, "stripe has deleted the customer of a tenant; it is unlinked");
            }
        }
    }
    Ok(standing)
}

pub(crate) async fn sync(handlers: &Handlers, job: &Leased) -> Outcome {
    let args: SyncCustomer = match job.decode() {
        Ok(args) => args,
        Err(outcome) => return outcome,
    };
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    let (app, customer) = (&handlers.app, args.customer_id.as_str());
    match customers::tenant_of(app, customer).await {
        Ok(Some(tenant)) if tenant.0 == job.tenant => {}
        Ok(_) => return Outcome::Cancel("the tenant has no such customer".into()),
        Err(error) => return failed(&error),
    }
    let told = match directory::is_deleted(app, customer).await {
        Ok(told) => told,
        Err(error) => return failed(&error),
    };
    match ask_for(app, stripe, customer, 0).await {
        // An event says so, and Stripe's own copies may be behind it; or the key is that of another account.
        Ok(Standing::Live | Standing::Unknown) if told => {
            Outcome::Retry("stripe does not say yet that it has deleted the customer".into())
        }
        Ok(_) => Outcome::Done,
        Err(error) => unfinished(&error),
    }
}
