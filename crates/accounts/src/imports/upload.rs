//! What is sent becomes staged rows, a batch at a time, each in a transaction of its own. Nothing of it counts before all is
//! there: `finish` makes it an import that workers know of.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tenantry_jobs::ImportUsers;
use tokio_postgres::types::Type;

use super::{COLUMNS, Import, MOST_AT_ONCE, MOST_KEPT, Options, actor};
use crate::{
    Actor, App, Error, ImportId, Result, TenantId, audit,
    db::{self, Transaction},
    fields::{Email, Name},
    idempotency::Once,
    passwords::StoredHash,
    tenants::seats,
    to_the_end,
    users::Role,
};

/// A row as it was sent.
#[derive(Debug)]
pub struct Sent {
    /// Its place, from 1; none is left out.
    pub number: i32,
    /// The line that it begins in, from 1.
    pub line: i32,
    /// What it asks for, or the list of what is wrong with it.
    pub content: std::result::Result<Content, Value>,
}

/// A user to be made.
#[derive(Debug)]
pub struct Content {
    /// Unique within the tenant.
    pub email: Email,
    /// The user's full name.
    pub name: Name,
    /// What the user may do.
    pub role: Role,
    /// Whether the address counts as theirs without a mail.
    pub email_verified: bool,
    /// Whether the user may sign in.
    pub is_active: bool,
    /// When the user was made elsewhere; none: with the import.
    pub made_at: Option<DateTime<Utc>>,
    /// The hash of a password that was chosen elsewhere.
    pub password_hash: Option<StoredHash>,
}

/// How many rows there are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// In all.
    pub total: i32,
}

/// Begins to receive an import.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoTenant`], [`Error::TooManyImports`].
pub async fn begin(app: &App, by: Actor, options: Options) -> Result<ImportId> {
    by.require(Role::Admin)?;
    let id = ImportId::generate();
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, by, by.tenant).await?;
    // One after the other, so that they are counted.
    seats::lock(&tx, by.tenant).await?;
    refuse_more(&tx, by.tenant).await?;
    let noted = actor::Noted::from(by);
    let format = options.format.as_str();
    let mut values: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> = vec![
        (&by.tenant.0, Type::UUID),
        (&id.0, Type::UUID),
        (&format, Type::TEXT),
        (&options.dry_run, Type::BOOL),
        (&options.invite, Type::BOOL),
    ];
    values.extend(noted.values());
    let sql = format!(
        "insert into tenantry.user_imports (tenant_id, id, format, dry_run, invite, {})
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::cidr
         where exists (select from tenantry.tenants where id = $1 and deleted_at is null)",
        actor::COLUMNS
    );
    if tx.query_typed(&format!("{sql} returning id"), &values).await?.is_empty() {
        return Err(Error::NoTenant);
    }
    tx.commit().await?;
    Ok(id)
}

/// Those that are under way, and all that is kept. An upload that has stopped does not keep others out.
async fn refuse_more(tx: &Transaction<'_>, tenant: TenantId) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "select count(*) filter (where finished_at is null
                 and (state <> 'uploading' or touched_at > now() - interval '2 minutes')),
               coalesce(sum(total), 0)::bigint
             from tenantry.user_imports where tenant_id = $1",
        )
        .await?;
    let row = tx.query_one(&statement, &[&tenant.0]).await?;
    let (open, kept): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if open >= MOST_AT_ONCE || kept >= MOST_KEPT { Err(Error::TooManyImports) } else { Ok(()) }
}

/// Stages rows, unless the actor may no longer act or the import was stopped.
///
/// # Errors
/// [`Error::Revoked`], [`Error::NoImport`].
pub async fn stage(app: &App, by: Actor, id: ImportId, rows: &[Sent]) -> Result<Staged> {
    let mut client = app.db.client().await?;
    let tx = db::as_actor(&mut client, by, by.tenant).await?;
    let (repeated, wrong) = insert(&tx, by.tenant, id, rows).await?;
    let statement = tx
        .prepare_cached(
            "update tenantry.user_imports set total = total + $3, skipped = skipped + $4, failed = failed + $5,
               touched_at = clock_timestamp()
             where tenant_id = $1 and id = $2 and state = 'uploading' returning total",
        )
        .await?;
    let sent = i32::try_from(rows.len()).map_err(|_| Error::Internal("a batch is too large"))?;
    let row = tx.query_opt(&statement, &[&by.tenant.0, &id.0, &sent, &repeated, &wrong]).await?;
    let total = row.ok_or(Error::NoImport)?.try_get(0)?;
    tx.commit().await?;
    Ok(Staged { total })
}

/// Inserts rows; says how many of them repeat an address, and how many are wrong.
async fn insert(tx: &Transaction<'_>, tenant: TenantId, id: ImportId, rows: &[Sent]) -> Result<(i32, i32)> {
    let statement = tx.prepare_cached(include_str!("sql/stage.sql")).await?;
    let content: Vec<_> = rows.iter().map(|row| row.content.as_ref().ok()).collect();
    let numbers: Vec<_> = rows.iter().map(|row| row.number).collect();
    let lines: Vec<_> = rows.iter().map(|row| row.line).collect();
    let errors: Vec<_> = rows.iter().map(|row| row.content.as_ref().err()).collect();
    let emails: Vec<_> = content.iter().map(|content| content.map(|c| c.email.as_str())).collect();
    let names: Vec<_> = content.iter().map(|content| content.map(|c| c.name.as_str())).collect();
    let roles: Vec<_> = content.iter().map(|content| content.map(|c| c.role.as_str())).collect();
    let verified: Vec<_> = content.iter().map(|content| content.is_some_and(|c| c.email_verified)).collect();
    let active: Vec<_> = content.iter().map(|content| content.is_none_or(|c| c.is_active)).collect();
    let made_at: Vec<_> = content.iter().map(|content| content.and_then(|c| c.made_at)).collect();
    let hashes: Vec<_> = content
        .iter()
        .map(|content| content.and_then(|c| c.password_hash.as_ref()).map(StoredHash::as_str))
        .collect();
    let row = tx
        .query_one(
            &statement,
            &[
                &tenant.0, &id.0, &numbers, &errors, &emails, &names, &roles, &verified, &active, &made_at,
                &hashes, &lines,
            ],
        )
        .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Hands all that was staged to the workers.
///
/// # Errors
/// [`Error::Revoked`], [`Error::InFlight`]; [`Error::NoImport`] where it was stopped, or has no rows.
pub async fn finish(app: &App, by: Actor, id: ImportId, once: Once<Import>) -> Result<Import> {
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, by, by.tenant).await?;
        let once = once.begin(&tx).await?;
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.user_imports i set state = 'queued', touched_at = clock_timestamp()
                 where i.tenant_id = $1 and i.id = $2 and i.state = 'uploading' and i.total > 0 returning {COLUMNS}"
            ))
            .await?;
        let row = tx.query_opt(&statement, &[&by.tenant.0, &id.0]).await?.ok_or(Error::NoImport)?;
        let import = Import::try_from(&row)?;
        tenantry_queue::enqueue(&tx, by.tenant.0, &ImportUsers { import_id: id.0 }).await?;
        let detail = json!({"rows": import.total, "dry_run": import.dry_run, "invite": import.invite});
        audit::record(&tx, by.tenant, by, "import.created", id.0, detail).await?;
        once.end(&app, &tx, &import).await?;
        tx.commit().await?;
        app.db.nudge();
        Ok(import)
    })
    .await
}

/// Removes an import of which not all was received. What is left over when this fails is removed later ([`purge`](super::purge)).
///
/// # Errors
/// When the database fails.
pub async fn discard(app: &App, tenant: TenantId, id: ImportId) -> Result<()> {
    const BATCH: i64 = 10_000;
    loop {
        let mut client = app.db.client().await?;
        let tx = db::as_tenant(&mut client, tenant).await?;
        // Nothing comes after those that are removed, whatever else goes on.
        let statement = tx
            .prepare_cached(
                "select from tenantry.user_imports where tenant_id = $1 and id = $2 and state = 'uploading' for update",
            )
            .await?;
        if tx.query_opt(&statement, &[&tenant.0, &id.0]).await?.is_none() {
            return Ok(());
        }
        let statement = tx
            .prepare_cached(
                "delete from tenantry.user_import_rows where tenant_id = $1 and import_id = $2 and number in (
                   select number from tenantry.user_import_rows where tenant_id = $1 and import_id = $2
                   order by number limit $3)",
            )
            .await?;
        let removed = tx.execute(&statement, &[&tenant.0, &id.0, &BATCH]).await?;
        let done = removed < BATCH.unsigned_abs();
        if done {
            let statement = tx
                .prepare_cached("delete from tenantry.user_imports where tenant_id = $1 and id = $2")
                .await?;
            tx.execute(&statement, &[&tenant.0, &id.0]).await?;
        }
        tx.commit().await?;
        if done {
            return Ok(());
        }
    }
}
