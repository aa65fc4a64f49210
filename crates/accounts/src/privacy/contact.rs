//! The address that Stripe has of whoever pays for a tenant: that of its first administrator.

use crate::{App, Result, TenantId, UserId, billing::customers::FIRST_ADMIN, db};

/// What Stripe may have to be told of somebody who is being erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contact {
    /// Nothing.
    None,
    /// The customer is being made, perhaps with the address of before.
    Soon,
    /// If the customer's address is one of these, it becomes another.
    Customer {
        /// As Stripe names it.
        id: String,
        /// What is erased.
        erased: Vec<String>,
        /// The address of who is the first administrator now; empty: there is none.
        instead: String,
    },
}

/// What Stripe may have to be told while this person is being erased.
///
/// # Errors
/// When the database cannot be asked.
pub async fn contact(app: &App, tenant: TenantId, id: UserId) -> Result<Contact> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    // Whoever makes a customer has read the address a moment before, and Stripe answers within half a minute.
    let sql = format!(
        "select c.customer_id, e.texts, e.erased_at > now() - interval '2 minutes' as is_recent, {FIRST_ADMIN} as email
         from tenantry.erasures e join tenantry.tenants t on t.id = e.tenant_id
           join tenantry.billing_customers c on c.tenant_id = e.tenant_id
         where e.tenant_id = $1 and e.user_id = $2 and e.finished_at is null"
    );
    let row = tx.query_opt(&sql, &[&tenant.0, &id.0]).await?;
    tx.commit().await?;
    let Some(row) = row else { return Ok(Contact::None) };
    match row.try_get("customer_id")? {
        Some(id) => {
            let instead: Option<String> = row.try_get("email")?;
            Ok(Contact::Customer { id, erased: row.try_get("texts")?, instead: instead.unwrap_or_default() })
        }
        None if row.try_get("is_recent")? => Ok(Contact::Soon),
        None => Ok(Contact::None),
    }
}
