//! Makes the customer that pays for a tenant.

use tenantry_accounts::{App, Error, TenantId, billing::customers};
use tenantry_queue::{Leased, Outcome};
use tenantry_stripe::{Client, Error as StripeError, NewCustomer};

use super::{Unfinished, unfinished};
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
            let found = match email {
                Some(email) => stripe.find_customer(email, &mark).await?,
                None => None,
            };
            let Some(found) = found else {
                customers::use_another_key(app, tenant, &wanted).await?;
                return Err(error.into());
            };
            found
        }
        made => made?,
    };
    Ok(customers::link(app, tenant, &customer).await?)
}
