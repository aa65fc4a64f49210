//! Many users at once, in one transaction and few statements.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::Utc;
use serde_json::json;
use tenantry_cache::Version;
use tenantry_jobs::{InvalidateUser, ResetPasswordEmail, Stale, VerifyEmail};
use uuid::Uuid;

use super::{
    COLUMNS, Role, User,
    change::{SECOND_LOOK, tell_other_nodes},
    key, pointer,
};
use crate::{
    Actor, App, Error, Result, TenantId, UserId, Who, audit,
    db::{self, Transaction},
    fields::{Email, Name},
    idempotency::Once,
    passwords::StoredHash,
    primary::NotPrimary,
    tenants::seats,
    to_the_end,
};

/// A user to be made with others.
#[derive(Debug, Clone)]
pub struct BulkRow {
    /// Its place among all that were sent.
    pub index: usize,
    /// Unique within the tenant.
    pub email: Email,
    /// The user's full name.
    pub name: Name,
    /// At most the role of the one who makes the user.
    pub role: Role,
    /// The hash of a password that was chosen elsewhere. Without one, the user gets a mail to choose one: nothing is hashed here.
    pub password_hash: Option<StoredHash>,
}

/// What is to be made if not all can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that can be.
    Each,
    /// None.
    All,
    /// None in any case, since others that were sent with these cannot be made: says which of these are wrong, too.
    None,
}

/// What became of a user that was to be made.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Made.
    Created(User),
    /// Somebody has the address.
    Exists,
    /// The address stands further up, too.
    Repeated,
    /// The actor may not give this role.
    RoleForbidden,
    /// The actor may not bring hashes of passwords.
    HashForbidden,
    /// No seat was left for it.
    NoSeat,
}

/// Outcomes with the places of their rows, in the order of these.
pub type Outcomes = Vec<(usize, Outcome)>;

/// Why nothing was made: the rows that cannot be.
pub type Refused = Arc<[(usize, Outcome)]>;

/// How many users one job makes caches forget.
const USERS_A_JOB: usize = 100;

/// Makes users in the actor's tenant, and sends each a mail. Seats are given from the top.
///
/// # Errors
/// [`Error::Forbidden`], [`Error::NoTenant`], [`Error::InFlight`]; [`Error::NotAll`] where nothing was made because not all could
/// be.
pub async fn create_many(
    app: &App,
    actor: Actor,
    rows: Vec<BulkRow>,
    extent: Extent,
    once: Once<Outcomes>,
) -> Result<Outcomes> {
    actor.require(Role::Admin)?;
    let app = app.clone();
    to_the_end(async move {
        let mut client = app.db.client().await?;
        let tx = db::as_actor(&mut client, actor, actor.tenant).await?;
        let once = once.begin(&tx).await?;
        seats::lock(&tx, actor.tenant).await?;
        let (wanted, mut outcomes) = sift(&app, &tx, actor, &rows).await?;
        if extent == Extent::None || extent == Extent::All && !outcomes.is_empty() {
            return Err(Error::NotAll(outcomes.into()));
        }
        let made = insert(&tx, actor.tenant, &wanted).await?;
        let by_address: HashMap<_, _> = made.iter().map(|user| (user.email.as_str(), user)).collect();
        for row in &wanted {
            let outcome = match by_address.get(row.email.as_str()) {
                Some(user) => Outcome::Created((*user).clone()),
                // Somebody has shown in the meantime that it is theirs.
                None => Outcome::Exists,
            };
            outcomes.push((row.index, outcome));
        }
        if extent == Extent::All && made.len() < wanted.len() {
            outcomes.retain(|(_, outcome)| !matches!(outcome, Outcome::Created(_)));
            return Err(Error::NotAll(outcomes.into()));
        }
        outcomes.sort_by_key(|(index, _)| *index);
        if !made.is_empty() {
            let seats = i32::try_from(made.len()).map_err(|_| Error::NoSeat)?;
            seats::take(&app, &tx, actor.tenant, seats).await?;
            let created: Vec<_> = made.iter().map(|user| (user.id.0, json!({"role": user.role}))).collect();
            audit::record_many(&tx, actor.tenant, actor, "user.created", &created).await?;
        }
        once.end(&app, &tx, &outcomes).await?;
        commit(&app, tx, actor.tenant, &made).await?;
        Ok(outcomes)
    })
    .await
}

/// Those rows that can be made, and why the others cannot. The seats' lock is held.
async fn sift<'a>(
    app: &App,
    tx: &Transaction<'_>,
    actor: Actor,
    rows: &'a [BulkRow],
) -> Result<(Vec<&'a BulkRow>, Outcomes)> {
    let taken = taken(tx, actor.tenant, rows).await?;
    let (mut seen, mut wanted, mut outcomes) = (HashSet::new(), vec![], vec![]);
    for row in rows {
        let refused = if row.role > actor.rank() || row.role == Role::SuperAdmin {
            Outcome::RoleForbidden
        } else if row.password_hash.is_some() && matches!(actor.who, Who::ApiKey(_)) {
            // Whoever holds the key could sign in as somebody of their making, and go on when it is revoked.
            Outcome::HashForbidden
        } else if !seen.insert(row.email.as_str()) {
            Outcome::Repeated
        } else if taken.contains(row.email.as_str()) {
            Outcome::Exists
        } else {
            wanted.push(row);
            continue;
        };
        outcomes.push((row.index, refused));
    }
    let free = seats::free(app, tx, actor.tenant, wanted.len()).await?;
    for row in wanted.drain(free.min(wanted.len())..) {
        outcomes.push((row.index, Outcome::NoSeat));
    }
    outcomes.sort_by_key(|(index, _)| *index);
    Ok((wanted, outcomes))
}

/// The addresses that somebody has.
async fn taken(tx: &Transaction<'_>, tenant: TenantId, rows: &[BulkRow]) -> Result<HashSet<String>> {
    let addresses: Vec<_> = rows.iter().map(|row| row.email.as_str()).collect();
    let statement = tx
        .prepare_cached(
            "select email from tenantry.users where tenant_id = $1 and email = any ($2) and deleted_at is null",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0, &addresses]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Inserts rows and credentials and enqueues the mails. Leaves out whose address somebody has got meanwhile.
async fn insert(tx: &Transaction<'_>, tenant: TenantId, rows: &[&BulkRow]) -> Result<Vec<User>> {
    let ids: Vec<_> = rows.iter().map(|_| UserId::generate().0).collect();
    let emails: Vec<_> = rows.iter().map(|row| row.email.as_str()).collect();
    let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
    let roles: Vec<_> = rows.iter().map(|row| row.role.as_str()).collect();
    let statement = tx
        .prepare_cached(&format!(
            "insert into tenantry.users (tenant_id, id, email, name, role)
             select $1, n.id, n.email, n.name, n.role
             from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as n (id, email, name, role)
             on conflict (tenant_id, email) where deleted_at is null do nothing
             returning {COLUMNS}"
        ))
        .await?;
    let made = tx.query(&statement, &[&tenant.0, &ids, &emails, &names, &roles]).await?;
    let made = made.iter().map(User::try_from).collect::<Result<Vec<_>>>()?;
    let hashes: HashMap<_, _> =
        rows.iter().filter_map(|row| Some((row.email.as_str(), row.password_hash.as_ref()?))).collect();
    let (brought, chosen): (Vec<&User>, Vec<&User>) =
        made.iter().partition(|user| hashes.contains_key(user.email.as_str()));
    if !brought.is_empty() {
        let ids: Vec<_> = brought.iter().map(|user| user.id.0).collect();
        let hashes: Vec<_> = brought
            .iter()
            .filter_map(|user| hashes.get(user.email.as_str()))
            .map(|hash| hash.as_str())
            .collect();
        let statement = tx
            .prepare_cached(
                "insert into tenantry.credentials (tenant_id, user_id, password_hash)
                 select $1, n.id, n.hash from unnest($2::uuid[], $3::text[]) as n (id, hash)",
            )
            .await?;
        tx.execute(&statement, &[&tenant.0, &ids, &hashes]).await?;
        let mails: Vec<_> = ids.iter().map(|id| VerifyEmail { user_id: *id }).collect();
        tenantry_queue::enqueue_many(tx, tenant.0, &mails, None, 0).await?;
    }
    if !chosen.is_empty() {
        let mails: Vec<_> = chosen.iter().map(|user| ResetPasswordEmail { user_id: user.id.0 }).collect();
        tenantry_queue::enqueue_many(tx, tenant.0, &mails, None, 0).await?;
    }
    Ok(made)
}

/// As [`commit`](super::commit), for many users that were written together, with all of their addresses: floors, jobs, feed,
/// COMMIT, in this order (docs/cache.md).
async fn commit(app: &App, tx: Transaction<'_>, tenant: TenantId, users: &[User]) -> Result<()> {
    let rows: Vec<_> = users.iter().map(|user| (key(tenant, user.id), user.version)).collect();
    let Some(mut writes) = app.cache.begin_writes_on(tx.opened(), &rows).await else {
        let _ = tx.rollback().await;
        return Err(NotPrimary::Overtaken.into());
    };
    writes.unlink(users.iter().map(|user| pointer(tenant, &user.email)).collect()).await;
    let rows: Vec<_> = users.iter().map(|user| (user.id.0, user.version)).collect();
    let _change = app.lists.change(tenant);
    if let Err(error) = tell(&tx, tenant, &rows, writes.confirmed()).await {
        // Nothing was committed, whether ROLLBACK arrives or the connection is lost.
        let _ = tx.rollback().await;
        writes.rolled_back();
        return Err(error.into());
    }
    match tx.commit().await {
        Ok(()) => {
            app.db.nudge();
            writes.committed().await;
            Ok(())
        }
        Err(error) if db::rolled_back(&error) => {
            writes.rolled_back();
            Err(error.into())
        }
        Err(error) => {
            writes.unknown().await;
            Err(error.into())
        }
    }
}

/// Enqueues what does the rest should we die, and tells every node what Redis could not be told.
async fn tell(
    tx: &Transaction<'_>,
    tenant: TenantId,
    rows: &[(Uuid, Version)],
    confirmed: bool,
) -> std::result::Result<(), tokio_postgres::Error> {
    let stale = |&(id, version): &(Uuid, Version)| Stale { id, version };
    let jobs: Vec<_> = rows
        .chunks(USERS_A_JOB)
        .map(|rows| InvalidateUser { users: rows.iter().map(stale).collect() })
        .collect();
    let delay = if confirmed { SECOND_LOOK } else { Duration::ZERO };
    tenantry_queue::enqueue_many(tx, tenant.0, &jobs, Some(Utc::now() + delay), 0).await?;
    if confirmed { Ok(()) } else { tell_other_nodes(tx, tenant, rows).await }
}
