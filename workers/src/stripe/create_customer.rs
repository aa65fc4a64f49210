//! Makes the customer that pays for a tenant.

use tenantry_accounts::{Error, TenantId, billing::customers};
use tenantry_queue::{Leased, Outcome};

use super::{failed, unanswered};
use crate::Handlers;

pub(crate) async fn run(handlers: &Handlers, job: &Leased) -> Outcome {
    let stripe = match handlers.stripe() {
        Ok(stripe) => stripe,
        Err(outcome) => return outcome,
    };
    let (app, tenant) = (&handlers.app, TenantId(job.tenant));
    let wanted = match customers::find(app, tenant).await {
        Ok(Ok(_)) => return Outcome::Done,
        Ok(Err(wanted)) => wanted,
        Err(Error::NoTenant) => return Outcome::Cancel("the tenant is gone".into()),
        Err(error) => return failed(&error),
    };
    // Stripe keeps the key for a day at least. Should we die here and come back later than that, there is a customer that
    // nobody pays with.
    let name = (wanted.name.as_str(), wanted.email.as_deref());
    let made = stripe.create_customer(name, &tenant.to_string(), &wanted.key.to_string()).await;
    match made {
        Ok(customer) => match customers::link(app, tenant, &customer).await {
            Ok(_) => Outcome::Done,
            Err(error) => failed(&error),
        },
        Err(error) => unanswered(&error),
    }
}
