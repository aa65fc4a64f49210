//! Many users at once, in one transaction and few statements.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::json;

use super::{
    Role, User,
    many::{self, NewRow},
};
use crate::{
    Actor, App, Error, Result, TenantId, Who, audit,
    db::{self, Transaction},
    fields::{Email, Name},
    idempotency::Once,
    passwords::StoredHash,
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

impl<'a> From<&'a BulkRow> for NewRow<'a> {
    fn from(row: &'a BulkRow) -> Self {
        Self {
            email: row.email.as_str(),
            name: row.name.as_str(),
            role: row.role,
            is_verified: false,
            is_active: true,
            made_at: None,
            password_hash: row.password_hash.as_ref().map(StoredHash::as_str),
        }
    }
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
        let rows: Vec<_> = wanted.iter().copied().map(NewRow::from).collect();
        let made = many::insert(&tx, actor.tenant, &rows, true).await?;
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
        many::commit(&app, tx, actor.tenant, &made).await?;
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
