//! What is held of one person: told to them, and erased. Where it is, one list says (`tables.rs`).

mod contact;
mod data;
mod erase;
mod redact;
mod sweep;
mod tables;

use crate::db::Transaction;
use tokio_postgres::Row;

pub use contact::{Contact, contact};
pub use data::{PersonalData, Records, data};
pub use erase::{Erasure, erase};
pub use sweep::{Swept, finish, sweep};
pub use tables::{Erased, OTHERS, TABLES, Table};

use crate::{Result, TenantId, UserId};

/// Whom a statement is about; conditions of [`Table::whose`] follow.
const PERSON: &str = "with p as (select $2::uuid as id, $3::text[] as addresses)";

/// Every address of a user that is known and nobody else's: the one they have, those they had, and the one they were invited at.
/// One that they only want may be anybody's, and stands nowhere but with their id. What somebody else of the tenant has by now cannot be told apart from what was theirs.
async fn addresses(tx: &Transaction<'_>, tenant: TenantId, id: UserId) -> Result<Vec<String>> {
    let statement = tx
        .prepare_cached(
            "select distinct a.email from (
               select email from tenantry.users where tenant_id = $1 and id = $2
               union all
               select email from tenantry.email_tokens
               where tenant_id = $1 and user_id = $2 and (purpose <> 'change_email' or used_at is not null)
               union all select email from tenantry.address_notices where tenant_id = $1 and user_id = $2
               union all
               select i.email from tenantry.audit_events e
                 join tenantry.invitations i on i.tenant_id = $1 and i.id::text = e.detail ->> 'invitation_id'
               where e.tenant_id = $1 and e.subject_id = $2 and e.action = 'invitation.accepted'
             ) a
             where a.email is not null and not exists (
               select from tenantry.users o
               where o.tenant_id = $1 and o.email = a.email and o.id <> $2 and o.deleted_at is null
             )",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0, &id.0]).await?;
    rows.iter().map(|row: &Row| Ok(row.try_get(0)?)).collect()
}
