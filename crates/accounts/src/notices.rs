//! Telling those who read mail at an address that the account is about to have another one.

use crate::db::Transaction;
use tenantry_jobs::AddressNoticeEmail;
use uuid::Uuid;

use crate::{App, Letter, Result, TenantId, db, fields::Email, users::User};

/// Enqueues the mail to the address that `user` has. The address is kept for it: the job carries none.
pub(crate) async fn enqueue(tx: &Transaction<'_>, user: &User) -> Result<()> {
    let id = Uuid::now_v7();
    let statement = tx
        .prepare_cached(
            "insert into tenantry.address_notices (tenant_id, id, user_id, email) values ($1, $2, $3, $4)",
        )
        .await?;
    tx.execute(&statement, &[&user.tenant_id.0, &id, &user.id.0, &user.email.as_str()]).await?;
    tenantry_queue::enqueue(tx, user.tenant_id.0, &AddressNoticeEmail { notice_id: id }).await?;
    Ok(())
}

/// What the mail is made of.
///
/// # Errors
/// When the database cannot be asked.
pub async fn issue(app: &App, tenant: TenantId, notice: Uuid) -> Result<Option<Letter>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select n.email, u.name, t.name as tenant_name from tenantry.address_notices n
               join tenantry.users u on u.tenant_id = n.tenant_id and u.id = n.user_id
               join tenantry.tenants t on t.id = n.tenant_id
             where n.tenant_id = $1 and n.id = $2 and t.deleted_at is null",
        )
        .await?;
    let Some(row) = tx.query_opt(&statement, &[&tenant.0, &notice]).await? else { return Ok(None) };
    tx.commit().await?;
    let to: Email = row.try_get::<_, String>("email")?.into();
    let (name, tenant_name) = (row.try_get("name")?, row.try_get("tenant_name")?);
    Ok(Some(Letter { to, name, tenant_name, token: String::new() }))
}
