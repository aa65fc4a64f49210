//! Passwords: what may be one, their hashes, and the threads that hash. Hashing costs 20 ms and 19 MiB on purpose;
//! unbounded, a flood of sign-ins would take all processors and all memory, so what cannot start soon is refused at once.

mod common;
mod cost;
mod personal;
mod pool;
mod stored;

use std::{sync::Arc, time::Instant};

use crate::db::Transaction;
use argon2::password_hash::PasswordHasher;

pub(crate) use common::is_common;
pub use cost::Cost;
pub(crate) use personal::refuse_personal;
pub use stored::{StoredHash, UnusableHash};

use crate::{
    App, Error, Result, TenantId, UserId, db,
    fields::{NewPassword, Secret},
};
use pool::Pool;

/// A place among those whose passwords are hashed, taken before what it costs to find out whom they name. Whoever drops it
/// gives it back.
pub struct Turn(pool::Turn);

/// Hashes and verifies passwords, a few at a time.
pub struct Hasher {
    pool: Pool,
    cost: Cost,
    /// Verified against when there is no account, so that this takes as long.
    nobody: Arc<StoredHash>,
}

impl Hasher {
    /// Works on `threads` of its own; what is hashed from now on costs as much as `cost`.
    ///
    /// # Errors
    /// When no thread or no memory is left.
    pub fn new(threads: usize, cost: Cost) -> Result<Self> {
        let start = Instant::now();
        let nobody = hash("nobody has this password", cost)?;
        let nobody: StoredHash = nobody.parse().map_err(|_| Error::Internal("our own hash is not usable"))?;
        let pace = start.elapsed().as_secs_f64() / nobody.work() as f64;
        Ok(Self { pool: Pool::start(threads, pace)?, cost, nobody: Arc::new(nobody) })
    }

    /// The PHC string to store.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub async fn hash(&self, password: NewPassword) -> Result<String> {
        let cost = self.cost;
        self.turn()?.0.run(cost.work(), move || hash(password.expose(), cost)).await?
    }

    /// A turn to hash or verify a password. Asked for first, a flood is refused before it costs a statement.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub fn turn(&self) -> Result<Turn> {
        Ok(Turn(self.pool.turn(self.cost.work())?))
    }

    /// Whether `password` is the one of `stored`; without an account it takes as long and is false.
    ///
    /// # Errors
    /// When hashing fails.
    pub async fn verify(&self, turn: Turn, password: Secret, stored: Option<String>) -> Result<bool> {
        let known = stored.and_then(|text| match text.parse::<StoredHash>() {
            Ok(hash) => Some(Arc::new(hash)),
            Err(unusable) => {
                // By hand, or by a program that has not asked us. For whoever signs in it is like a wrong password.
                tracing::error!("a stored password hash {unusable}; nobody can sign in with it");
                None
            }
        });
        let (is_known, hash) = (known.is_some(), known.unwrap_or_else(|| self.nobody.clone()));
        let same = turn.0.run(hash.work(), move || hash.is_of(password.expose().as_bytes())).await?;
        Ok(same && is_known)
    }

    /// Whether new hashes are of another algorithm than `stored`, or cost more.
    pub(crate) fn is_outdated(&self, stored: &str) -> bool {
        !stored.parse::<StoredHash>().is_ok_and(|hash| hash.is_up_to_date(self.cost))
    }

    /// As [`hash`](Self::hash), of a password that somebody has already, whatever the rule of today says of it.
    pub(crate) async fn hash_again(&self, password: Secret) -> Result<String> {
        let cost = self.cost;
        self.turn()?.0.run(cost.work(), move || hash(password.expose(), cost)).await?
    }
}

fn hash(password: &str, cost: Cost) -> Result<String> {
    let hash = cost.argon2()?.hash_password(password.as_bytes());
    Ok(hash.map_err(|_| Error::Internal("a password could not be hashed"))?.to_string())
}

/// The password of a user, and what everybody knows about them.
pub(crate) struct Credentials {
    pub(crate) hash: String,
    pub(crate) known: Vec<String>,
}

/// The stored hash of a user's password; none: the user has no password.
pub(crate) async fn stored(app: &App, tenant: TenantId, user: UserId) -> Result<Option<Credentials>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select c.password_hash, array[u.email, u.name, t.name, t.slug] as known
             from tenantry.credentials c join tenantry.users u on u.tenant_id = c.tenant_id and u.id = c.user_id
               join tenantry.tenants t on t.id = c.tenant_id
             where c.tenant_id = $1 and c.user_id = $2",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &user.0]).await?;
    tx.commit().await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Credentials { hash: row.try_get("password_hash")?, known: row.try_get("known")? }))
}

/// Stores the hash of a user's password, in the place of the one before, if there is one. Those of other services must have
/// been parsed as a [`StoredHash`].
pub(crate) async fn store(tx: &Transaction<'_>, tenant: TenantId, user: UserId, hash: &str) -> Result<()> {
    let statement = tx
        .prepare_cached(
            "insert into tenantry.credentials (tenant_id, user_id, password_hash) values ($1, $2, $3)
             on conflict (tenant_id, user_id) do update set password_hash = excluded.password_hash, updated_at = now()",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &user.0, &hash]).await?;
    Ok(())
}

/// Whether `hash` is still the stored one; it stays so until `tx` ends.
pub(crate) async fn is_still(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    hash: &str,
) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "select password_hash = $3 from tenantry.credentials where tenant_id = $1 and user_id = $2 for share",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &user.0, &hash]).await?;
    Ok(row.map_or(Ok(false), |row| row.try_get(0))?)
}

/// Stores another hash, if `before` is still the stored one; tells whether it did.
pub(crate) async fn replace(
    tx: &Transaction<'_>,
    tenant: TenantId,
    user: UserId,
    before: Option<&str>,
    hash: &str,
) -> Result<bool> {
    let statement = tx
        .prepare_cached(
            "update tenantry.credentials set password_hash = $3, updated_at = now()
             where tenant_id = $1 and user_id = $2 and password_hash = $4",
        )
        .await?;
    Ok(tx.execute(&statement, &[&tenant.0, &user.0, &hash, &before]).await? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::FromText;

    fn secret(text: &str) -> Secret {
        Secret::from_text(text).unwrap()
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let hasher = Hasher::new(1, Cost::default()).unwrap();
        assert!(
            !hasher.verify(hasher.turn().unwrap(), secret("nobody has this password"), None).await.unwrap()
        );
    }

    #[tokio::test]
    async fn a_hash_that_nobody_can_read_matches_nothing_and_is_replaced() {
        let hasher = Hasher::new(1, Cost::default()).unwrap();
        let dear = "$argon2id$v=19$m=4194304,t=9,p=1$bJrOAJc8n2UWNy1Pbm5ZyQ$IMR/En+eB08OkG1W1a6KSL+k/wZNy/bzHARTPpaoI5Q";
        for stored in ["", "plain text", dear] {
            let offered = [secret("plain text"), secret("nobody has this password")];
            for password in offered {
                assert!(!hasher.verify(hasher.turn().unwrap(), password, Some(stored.into())).await.unwrap());
            }
            assert!(hasher.is_outdated(stored));
        }
    }

    #[tokio::test]
    async fn a_raised_cost_counts_for_new_hashes_and_outdates_older_ones() {
        let (cheap, dear) = (Cost::default(), "m=24576,t=3,p=1".parse().unwrap());
        let [before, after] = [cheap, dear].map(|cost| Hasher::new(1, cost).unwrap());
        let old = before.hash(NewPassword::from_text("Correct-Horse-1").unwrap()).await.unwrap();
        assert!(old.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(!before.is_outdated(&old) && after.is_outdated(&old));
        assert!(after.verify(after.turn().unwrap(), secret("Correct-Horse-1"), Some(old)).await.unwrap());

        let new = after.hash_again(secret("Correct-Horse-1")).await.unwrap();

        assert!(new.starts_with("$argon2id$v=19$m=24576,t=3,p=1$"));
        assert!(!before.is_outdated(&new) && !after.is_outdated(&new));
        assert!(before.verify(before.turn().unwrap(), secret("Correct-Horse-1"), Some(new)).await.unwrap());
        assert_eq!(after.nobody.work(), dear.work(), "unknown people cost as much as known ones");
    }
}
