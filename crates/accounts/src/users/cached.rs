//! What Redis holds of users beside their rows: for operators, and for the sample that workers take.
//!
//! Redis is read first and the rows afterwards; what looks wrong is looked at once more, see [`tenantry_cache::Mismatch`].

use std::collections::HashMap;

use tenantry_cache::{Held, Key, Loaded, Mismatch, Target, Unreachable, Version};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{COLUMNS, key, loaded, pointer};
use crate::{App, Error, Result, TenantId, UserId, db, fields::Email};

/// A user, deleted or not, by what its entry and its pointer are named after.
#[derive(Clone, Debug)]
pub struct Named {
    /// The tenant.
    pub tenant: TenantId,
    /// The user.
    pub id: UserId,
    /// The address; `None` for those who have been deleted, since it may be somebody else's by now.
    pub email: Option<Email>,
}

/// Whose users are walked through, in the order of their ids.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    /// One tenant's.
    Tenant(TenantId),
    /// Everybody.
    All,
}

/// A user with all there is to compare.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The entry in Redis.
    pub held: Held,
    /// The pointer in Redis and what it leads to; `None` for those without an address.
    pub pointer: Option<(String, Target)>,
    /// The row, as it was read after Redis.
    pub row: Loaded,
    /// The address that it has now; `None` unless it is live.
    pub email: Option<Email>,
}

/// What is wrong in Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The entry.
    Entry(Mismatch),
    /// The pointer leads elsewhere than to the one who has the address. Whoever follows it finds that out.
    Pointer,
}

impl Fault {
    /// As in the labels of metrics and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entry(mismatch) => mismatch.name(),
            Self::Pointer => "pointer",
        }
    }
}

/// A user of whom something in Redis looks wrong, with the version that the row had then.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Who.
    pub user: Named,
    seen: Version,
}

/// Something in Redis that is wrong.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub user: Named,
    /// What.
    pub fault: Fault,
    /// All there is of the user.
    pub compared: Compared,
}

/// Why no comparison was made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Redis did not answer.
    #[error(transparent)]
    Redis(#[from] Unreachable),
    /// The rows could not be read.
    #[error(transparent)]
    Rows(#[from] Error),
}

impl Scope {
    fn bounds(self) -> (Uuid, Uuid) {
        match self {
            Self::Tenant(tenant) => (tenant.0, tenant.0),
            Self::All => (Uuid::nil(), Uuid::max()),
        }
    }
}

/// How many users there are, deleted ones included. Takes its time: a statement of up to a minute.
///
/// # Errors
/// When the database cannot be asked.
pub async fn count(app: &App, scope: Scope) -> Result<u64> {
    let (first, last) = scope.bounds();
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    tx.batch_execute("set local statement_timeout = '60s'").await?;
    let sql = "select count(*) from tenantry.users where tenant_id between $1 and $2";
    let count: i64 = tx.query_one(sql, &[&first, &last]).await?.try_get(0)?;
    tx.commit().await?;
    Ok(count.unsigned_abs())
}

/// The next users after `last`, at most so many; none at the end.
///
/// # Errors
/// When the database cannot be asked.
pub async fn page(app: &App, scope: Scope, last: Option<&Named>, at_most: i64) -> Result<Vec<Named>> {
    let (first_tenant, last_tenant) = scope.bounds();
    let (tenant, id) = last.map_or((first_tenant, Uuid::nil()), |last| (last.tenant.0, last.id.0));
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(
            "select tenant_id, id, email, deleted_at is not null as deleted from tenantry.users
             where (tenant_id, id) > ($1, $2) and tenant_id <= $3 order by tenant_id, id limit $4",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant, &id, &last_tenant, &at_most]).await?;
    tx.commit().await?;
    rows.iter()
        .map(|row| {
            Ok(Named {
                tenant: TenantId(row.try_get("tenant_id")?),
                id: UserId(row.try_get("id")?),
                email: email_of(row)?,
            })
        })
        .collect()
}

/// The user of `tenant` with this address.
///
/// # Errors
/// [`Error::NoUser`].
pub async fn named(app: &App, tenant: TenantId, email: &Email) -> Result<Named> {
    let user = super::select_by_email(app, tenant, email).await?.ok_or(Error::NoUser)?;
    Ok(Named { tenant, id: user.id, email: Some(user.email) })
}

/// Reads Redis, then the rows. In the order of `users`.
///
/// # Errors
/// When one of them cannot be asked.
pub async fn compare(app: &App, users: &[Named]) -> std::result::Result<Vec<Compared>, CheckError> {
    let held = app.cache.inspect(&keys(users)).await?;
    let addressed: Vec<_> =
        users.iter().filter_map(|user| Some(pointer(user.tenant, user.email.as_ref()?))).collect();
    let mut pointers = app.cache.inspect_pointers(&addressed).await?.into_iter();
    let mut rows = rows(app, users).await?;
    let compared = users.iter().zip(held).map(|(user, held)| {
        let pointer = user.email.as_ref().and_then(|_| pointers.next());
        let (row, email) = rows.remove(&key(user.tenant, user.id)).unwrap_or((Loaded::Absent, None));
        Compared { held, pointer, row, email }
    });
    Ok(compared.collect())
}

/// Looks for users of whom something in Redis may be wrong.
///
/// # Errors
/// When Redis or the database cannot be asked.
pub async fn suspects(app: &App, users: &[Named]) -> std::result::Result<Vec<Suspect>, CheckError> {
    let compared = compare(app, users).await?;
    let suspected =
        users.iter().zip(&compared).filter(|(user, compared)| !compared.faults(user, None).is_empty());
    Ok(suspected
        .map(|(user, compared)| Suspect { user: user.clone(), seen: compared.row.version() })
        .collect())
}

/// Looks once more at those who were suspected, and says what is wrong for certain.
///
/// # Errors
/// When Redis or the database cannot be asked.
pub async fn confirm(app: &App, suspects: &[Suspect]) -> std::result::Result<Vec<Found>, CheckError> {
    let users: Vec<_> = suspects.iter().map(|suspect| suspect.user.clone()).collect();
    let mut found = vec![];
    for (suspect, compared) in suspects.iter().zip(compare(app, &users).await?) {
        for fault in compared.faults(&suspect.user, Some(suspect.seen)) {
            found.push(Found { user: suspect.user.clone(), fault, compared: compared.clone() });
        }
    }
    Ok(found)
}

/// Removes what is wrong, unless somebody has done so since; a floor bars what is older than the row.
///
/// # Errors
/// If Redis does not answer.
pub async fn repair(app: &App, found: &Found) -> std::result::Result<(), Unreachable> {
    let user = &found.user;
    match (found.fault, &user.email) {
        (Fault::Entry(_), _) => {
            let row = found.compared.row.version();
            app.cache.repair(&key(user.tenant, user.id), &found.compared.held, row).await.map(drop)
        }
        (Fault::Pointer, Some(email)) => app.cache.unlink(&[pointer(user.tenant, email)]).await,
        (Fault::Pointer, None) => Ok(()),
    }
}

/// Compares the entries of these users with their rows, counts what is wrong, and removes it.
///
/// # Errors
/// When Redis or the database cannot be asked; what was counted until then is counted.
pub async fn sample(app: &App, tenant: TenantId, ids: &[UserId]) -> std::result::Result<(), CheckError> {
    let users: Vec<_> = ids.iter().map(|id| Named { tenant, id: *id, email: None }).collect();
    let suspects = suspects(app, &users).await?;
    let found = if suspects.is_empty() { vec![] } else { confirm(app, &suspects).await? };
    metrics::counter!("tenantry_cache_checked_total").increment(users.len() as u64);
    for found in found {
        metrics::counter!("tenantry_cache_mismatch_total", "reason" => found.fault.name()).increment(1);
        tracing::error!(
            cache.key = found.compared.held.name,
            "redis held a value that is {}: the row is at version {}",
            found.fault.name(),
            found.compared.row.version()
        );
        repair(app, &found).await?;
    }
    Ok(())
}

/// Drops what Redis holds of these users, their pointers too. Floors stay, or are placed at the versions of the rows.
///
/// # Errors
/// When Redis or the database cannot be asked; what was dropped until then is dropped.
pub async fn forget(app: &App, users: &[Named]) -> std::result::Result<(), CheckError> {
    let rows = rows(app, users).await?;
    let version = |key: &Key| rows.get(key).map_or(0, |(row, _)| row.version());
    let entries: Vec<_> = keys(users).into_iter().map(|key| (key, version(&key))).collect();
    app.cache.drop_entries(&entries).await?;
    let addressed =
        users.iter().filter_map(|user| Some(pointer(user.tenant, user.email.as_ref()?))).collect::<Vec<_>>();
    Ok(app.cache.unlink(&addressed).await?)
}

impl Compared {
    /// What is wrong, given the version that the row had for certain when Redis was read.
    pub fn faults(&self, user: &Named, seen: Option<Version>) -> Vec<Fault> {
        let entry = self.held.mismatch(seen, &self.row).map(Fault::Entry);
        // Of an address that has moved on meanwhile nothing can be said.
        let stays = user.email.is_some() && user.email == self.email;
        let wrong = |target: &Target| *target != Target::Nothing && *target != Target::Id(user.id.0);
        let astray = stays && self.pointer.as_ref().is_some_and(|(_, target)| wrong(target));
        entry.into_iter().chain(astray.then_some(Fault::Pointer)).collect()
    }
}

fn keys(users: &[Named]) -> Vec<Key> {
    users.iter().map(|user| key(user.tenant, user.id)).collect()
}

/// Users by the names of their entries, with the address of those who are live.
async fn rows(app: &App, users: &[Named]) -> Result<HashMap<Key, (Loaded, Option<Email>)>> {
    let (tenants, ids): (Vec<_>, Vec<_>) = users.iter().map(|user| (user.tenant.0, user.id.0)).unzip();
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS}, deleted_at is not null as deleted from tenantry.users
             where (tenant_id, id) in (select * from unnest($1::uuid[], $2::uuid[]))"
        ))
        .await?;
    let rows = tx.query(&statement, &[&tenants, &ids]).await?;
    tx.commit().await?;
    rows.iter()
        .map(|row| {
            let key = key(TenantId(row.try_get("tenant_id")?), UserId(row.try_get("id")?));
            Ok((key, (loaded(row)?, email_of(row)?)))
        })
        .collect()
}

fn email_of(row: &Row) -> Result<Option<Email>> {
    let email: String = row.try_get("email")?;
    Ok(if row.try_get("deleted")? { None } else { Some(email.into()) })
}
