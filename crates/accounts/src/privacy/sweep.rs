//! The rest of an erasure: what no key leads to. Each step is a transaction, may be done again, and finds what the one before
//! left; what is looked for is forgotten when all is done.

use serde_json::Value;
use uuid::Uuid;

use super::redact::Person;
use crate::{
    App, Error, Result, TenantId, UserId,
    db::{self, Transaction},
};

/// So much is changed at once.
const BATCH: i64 = 500;

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// There is nothing left of the person.
    All,
    /// A job of theirs is running: its row goes when it has ended.
    ButWhatRuns,
}

/// Erases what is left of a person whose erasure has been noted, but for their own jobs. Nothing to do where there is no such
/// erasure, or it is finished.
///
/// # Errors
/// When the database fails.
pub async fn sweep(app: &App, tenant: TenantId, id: UserId) -> Result<()> {
    let Some(addresses) = under_way(app, tenant, id).await? else { return Ok(()) };
    answers(app, tenant, &Person { id, addresses: &addresses }).await?;
    trail(app, tenant, id).await?;
    imported(app, tenant, id, &addresses).await?;
    jobs_that_tell(app, tenant, &addresses).await
}

/// A transaction of the system that may look through all that a tenant has.
async fn begin(client: &mut deadpool_postgres::Client) -> Result<Transaction<'_>> {
    let tx = db::as_system(client).await?;
    tx.batch_execute("set local statement_timeout = '50s'").await?;
    Ok(tx)
}

/// What is looked for; none where nothing is. What somebody else has by now is looked for no more.
async fn under_way(app: &App, tenant: TenantId, id: UserId) -> Result<Option<Vec<String>>> {
    let mut client = app.db.client().await?;
    let tx = begin(&mut client).await?;
    let sql = "select array(select t from unnest(e.texts) t where not exists (
             select from tenantry.users o where o.tenant_id = $1 and o.email = t and o.deleted_at is null))
           from tenantry.erasures e where e.tenant_id = $1 and e.user_id = $2 and e.finished_at is null";
    let row = tx.query_opt(sql, &[&tenant.0, &id.0]).await?;
    tx.commit().await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Answers that may be given once more. Those of sign-ups belong to nobody's tenant: only one that names the user is theirs, and
/// not whoever else signed up elsewhere with the address.
async fn answers(app: &App, tenant: TenantId, person: &Person<'_>) -> Result<()> {
    let mut after: (Uuid, Vec<u8>) = (Uuid::nil(), vec![]);
    let tenants = [tenant.0, TenantId::SYSTEM.0];
    let known: Vec<String> = person.addresses.iter().cloned().chain([person.id.to_string()]).collect();
    loop {
        let mut client = app.db.client().await?;
        let tx = begin(&mut client).await?;
        let rows = tx
            .query(
                "select k.tenant_id, k.name, k.answer from tenantry.idempotency_keys k
                 where k.tenant_id = any ($1) and (k.tenant_id, k.name) > ($2, $3)
                   and exists (select from unnest($4::text[]) t where position(convert_to(t, 'UTF8') in k.answer) > 0)
                   and (k.tenant_id = $6 or position(convert_to($7, 'UTF8') in k.answer) > 0)
                 order by k.tenant_id, k.name limit $5 for update",
                &[&tenants.as_slice(), &after.0, &after.1, &known, &BATCH, &tenant.0, &person.id.to_string()],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = (last.try_get(0)?, last.try_get(1)?);
        for row in &rows {
            let (owner, name): (Uuid, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let mut answer: Value = serde_json::from_slice(row.try_get(2)?)
                .map_err(|_| Error::Internal("an answer that was kept cannot be read"))?;
            person.erase_from(&mut answer);
            let sql = "update tenantry.idempotency_keys set answer = $3 where tenant_id = $1 and name = $2";
            tx.execute(sql, &[&owner, &name, &answer.to_string().into_bytes()]).await?;
        }
        tx.commit().await?;
    }
}

/// The audit trail.
async fn trail(app: &App, tenant: TenantId, id: UserId) -> Result<()> {
    let (mut after, batch) = (Some(Uuid::nil()), i32::try_from(BATCH).unwrap_or(i32::MAX));
    while let Some(seen) = after {
        let mut client = app.db.client().await?;
        let tx = begin(&mut client).await?;
        let sql = "select tenantry.erase_from_audit($1, $2, $3, $4)";
        after = tx.query_one(sql, &[&tenant.0, &id.0, &seen, &batch]).await?.try_get(0)?;
        tx.commit().await?;
    }
    Ok(())
}

/// Rows of imports that are still kept. One that has not been worked on yet makes nobody any more.
async fn imported(app: &App, tenant: TenantId, id: UserId, addresses: &[String]) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = begin(&mut client).await?;
    let sql = "update tenantry.user_import_rows set refused = true, email = null, name = null, password_hash = null,
                 outcome = coalesce(outcome, 'cancelled')
               where tenant_id = $1 and (user_id = $2 or email = any ($3))";
    tx.execute(sql, &[&tenant.0, &id.0, &addresses]).await?;
    // Not with the erasure, which holds the seats' lock: a batch takes it while it holds this row.
    let sql = "update tenantry.user_imports set actor_address = null where tenant_id = $1 and actor_id = $2";
    tx.execute(sql, &[&tenant.0, &id.0]).await?;
    Ok(tx.commit().await?)
}

/// Jobs of the tenant that hold an address. Ours hold ids; other programs may enqueue more than that.
async fn jobs_that_tell(app: &App, tenant: TenantId, addresses: &[String]) -> Result<()> {
    let mut after = Uuid::nil();
    loop {
        let mut client = app.db.client().await?;
        let tx = begin(&mut client).await?;
        let rows = tx
            .query(
                "select j.id from tenantry.jobs j
                 where j.tenant_id = $1 and j.id > $2
                   and exists (select from unnest($3::text[]) t
                     where strpos(lower(concat_ws(' ', j.payload::text, j.history::text, j.last_error, j.unique_key)), lower(t)) > 0)
                 order by j.id limit $4",
                &[&tenant.0, &after, &addresses, &BATCH],
            )
            .await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = last.try_get(0)?;
        let ids = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<Vec<Uuid>>>()?;
        let sql = "update tenantry.jobs set payload = tenantry.without_texts(payload::text, $3)::jsonb,
                     history = tenantry.without_texts(history::text, $3)::jsonb,
                     last_error = tenantry.without_texts(last_error, $3),
                     unique_key = case when tenantry.without_texts(unique_key, $3) <> unique_key then id::text else unique_key end
                   where tenant_id = $1 and id = any ($2)";
        tx.execute(sql, &[&tenant.0, &ids, &addresses]).await?;
        tx.commit().await?;
    }
}

/// Removes the person's own jobs, which are mails to them and moot. With the last of them the erasure is finished, and what was
/// looked for is forgotten.
///
/// # Errors
/// When the database fails.
pub async fn finish(app: &App, tenant: TenantId, id: UserId) -> Result<Swept> {
    let Some(addresses) = under_way(app, tenant, id).await? else { return Ok(Swept::All) };
    let mut client = app.db.client().await?;
    let tx = begin(&mut client).await?;
    // Where an address was unknown when a mail was asked for, the job names nobody by a hash of it.
    let sql = "with gone as (
                 delete from tenantry.jobs j where j.tenant_id = $1 and j.payload ? 'user_id' and j.kind <> 'erase_user'
                   and j.payload ->> 'user_id' = any (array_append(
                     (select coalesce(array_agg(md5(t)::uuid::text), '{}') from unnest($3::text[]) t), $2::uuid::text))
                   and j.state <> 'running'
               )
               select exists (
                 select from tenantry.jobs j where j.tenant_id = $1 and j.payload ? 'user_id' and j.kind <> 'erase_user'
                   and j.payload ->> 'user_id' = $2::uuid::text and j.state = 'running'
               )";
    let is_running: bool = tx.query_one(sql, &[&tenant.0, &id.0, &addresses]).await?.try_get(0)?;
    if !is_running {
        let sql = "update tenantry.erasures set texts = null, finished_at = now()
                   where tenant_id = $1 and user_id = $2 and finished_at is null";
        tx.execute(sql, &[&tenant.0, &id.0]).await?;
    }
    tx.commit().await?;
    Ok(if is_running { Swept::ButWhatRuns } else { Swept::All })
}
