//! Who is written to about a tenant's invoices, when that is somebody who is being erased.

use std::time::Duration;

use tenantry_accounts::{
    TenantId, UserId,
    privacy::{self, Contact},
};
use tenantry_queue::Outcome;
use tenantry_stripe::Error;
use uuid::Uuid;

use super::{failed, unanswered};
use crate::Handlers;

/// How long a customer that is being made is waited for before it is asked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Has Stripe write to another administrator, should it have the address of the one who is being erased.
///
/// # Errors
/// What becomes of the job otherwise: Stripe or the database did not answer, or it is too early.
pub(crate) async fn forget_contact(handlers: &Handlers, tenant: TenantId, id: UserId) -> Result<(), Outcome> {
    let contact = privacy::contact(&handlers.app, tenant, id).await.map_err(|error| failed(&error))?;
    let (customer, erased, instead) = match contact {
        Contact::None => return Ok(()),
        Contact::Soon => return Err(Outcome::Snooze(PAUSE)),
        Contact::Customer { id, erased, instead } => (id, erased, instead),
    };
    let stripe = handlers.stripe()?;
    let known = stripe.customer_email(&customer).await.map_err(|error| again(&error))?;
    // As people write it: Stripe keeps the case of what it was given.
    if known.is_some_and(|known| erased.contains(&known.to_lowercase())) {
        // The same again is no harm, so it needs no key that is remembered.
        let key = Uuid::new_v4().to_string();
        match stripe.set_customer_email(&customer, &instead, &key).await {
            // It has been deleted since.
            Err(error) if error.is_missing() => {}
            changed => changed.map_err(|error| again(&error))?,
        }
    }
    Ok(())
}

/// An erasure is not given up, whatever Stripe says.
fn again(error: &Error) -> Outcome {
    match unanswered(error) {
        Outcome::Dead(why) => Outcome::Retry(why),
        outcome => outcome,
    }
}
