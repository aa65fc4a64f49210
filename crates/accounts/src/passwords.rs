//! Argon2id on a bounded pool. Hashing costs 20 ms and 19 MiB on purpose; unbounded, a flood of logins would take
//! all processors and all memory, so what cannot start soon is refused at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use deadpool_postgres::Transaction;
use tokio::sync::Semaphore;

use crate::{
    App, Error, Result, TenantId, UserId, db,
    fields::{NewPassword, Secret},
};

/// How many may wait for each running hash: about a third of a second's worth.
const WAITING_PER_WORKER: usize = 16;

/// Hashes and verifies passwords, a few at a time.
pub struct Hasher {
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    /// Verified against when there is no account, so that this takes as long.
    nobody: String,
}

impl Hasher {
    /// Runs `workers` hashes at a time, with the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane).
    pub fn new(workers: usize) -> Result<Self> {
        Ok(Self {
            running: Arc::new(Semaphore::new(workers)),
            waiting: AtomicUsize::new(0),
            most_waiting: workers * WAITING_PER_WORKER,
            nobody: hash("nobody has this password")?,
        })
    }

    /// The PHC string to store.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub async fn hash(&self, password: NewPassword) -> Result<String> {
        self.run(move || hash(password.expose())).await
    }

    /// Whether `password` is the one of `stored`; without an account it takes as long and is false.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait already.
    pub async fn verify(&self, password: Secret, stored: Option<String>) -> Result<bool> {
        let known = stored.is_some();
        let stored = stored.unwrap_or_else(|| self.nobody.clone());
        let same = self
            .run(move || {
                let hash = PasswordHash::new(&stored)
                    .map_err(|_| Error::Internal("a stored hash is not readable"))?;
                Ok(Argon2::default().verify_password(password.expose().as_bytes(), &hash).is_ok())
            })
            .await?;
        Ok(same && known)
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let permit = {
            let _place = Place::take(self)?;
            self.running.clone().acquire_owned().await.map_err(|_| Error::Busy)?
        };
        // The permit goes with the work: a client that leaves does not free a processor that is still hashing.
        let work = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::Internal("hashing panicked"))?
    }
}

/// A place in the queue, given back when it is left, however that happens.
struct Place<'a>(&'a Hasher);

impl<'a> Place<'a> {
    fn take(hasher: &'a Hasher) -> Result<Self> {
        let before = hasher.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(hasher);
        metrics::gauge!("tenantry_hash_queue_depth").set((before + 1) as f64);
        if before >= hasher.most_waiting { Err(Error::Busy) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let before = self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("tenantry_hash_queue_depth").set((before - 1) as f64);
    }
}

fn hash(password: &str) -> Result<String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(|_| Error::Internal("a password could not be hashed"))?.to_string())
}

/// The stored hash of a user's password; none: the user has no password.
pub(crate) async fn stored(app: &App, tenant: TenantId, user: UserId) -> Result<Option<String>> {
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    let statement = tx
        .prepare_cached(
            "select password_hash from tenantry.credentials where tenant_id = $1 and user_id = $2",
        )
        .await?;
    let row = tx.query_opt(&statement, &[&tenant.0, &user.0]).await?;
    tx.commit().await?;
    Ok(row.map(|row| row.try_get("password_hash")).transpose()?)
}

/// Stores another hash, if `before` is still the stored one; tells whether it did. Links that were mailed to reset the
/// password are void.
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

    #[tokio::test]
    async fn what_cannot_start_soon_is_refused_at_once() {
        let hasher = Arc::new(Hasher::new(1).unwrap());
        let one = hasher.running.clone().acquire_owned().await.unwrap();
        let waiting: Vec<_> = (0..WAITING_PER_WORKER)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.hash(NewPassword::from_text("Passw0rd").unwrap()).await })
            })
            .collect();
        while hasher.waiting.load(Ordering::Relaxed) < WAITING_PER_WORKER {
            tokio::task::yield_now().await;
        }

        let refused = hasher.verify(Secret::from_text("x").unwrap(), None).await;

        assert!(matches!(refused, Err(Error::Busy)));
        drop(one);
        for task in waiting {
            assert!(task.await.unwrap().unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        }
        assert_eq!(hasher.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn nobody_has_no_password() {
        let hasher = Hasher::new(1).unwrap();
        let offered = Secret::from_text("nobody has this password").unwrap();
        assert!(!hasher.verify(offered, None).await.unwrap());
    }
}
