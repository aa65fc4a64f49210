//! Safe retries: a request that its client has named by a key has its effect once, however often it is sent. What it was
//! answered is kept in the transaction of the effect, so it is there exactly when the effect is, and is said again for a day.
//!
//! While the transaction is under way it holds a lock of that name, which ends with it whatever happens to the process. A
//! failure leaves nothing behind: the same request again is a new attempt.

use std::time::Duration;

use crate::db::Transaction;
use sha2::{Digest, Sha256};

use crate::{Actor, App, Error, Result, TenantId, Who, encryption::Mac, fields::Secret, tokens};

/// For how long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Who names a request. Nobody's names are in the way of anybody else's.
#[derive(Debug, Clone, Copy)]
pub enum Namer<'a> {
    /// Who is signed in, or a program, in the tenant that they act in.
    Actor(Actor),
    /// Whoever has this token, which one gets by mail.
    Holder(&'a Secret),
    /// People of whom nothing is known, who share their names. Such a name has to be as hard to guess as a UUID of chance.
    Anybody,
}

/// A request that its client has named.
#[derive(Clone, Copy)]
pub struct Named {
    tenant: TenantId,
    name: [u8; 32],
    digest: [u8; 32],
}

impl Named {
    /// The request that `namer` calls `key`; `digest` is the same for the same request only.
    ///
    /// # Errors
    /// [`Error::InvalidToken`] where the namer's has not the form of one.
    pub fn new(namer: Namer<'_>, key: &str, digest: [u8; 32]) -> Result<Self> {
        // What a kind is followed by is always as long, so that no two namers are spelt alike.
        let (tenant, kind, id) = match namer {
            Namer::Actor(actor) => {
                let kind = match actor.who {
                    Who::User(_) => "user",
                    Who::ApiKey(_) => "api_key",
                    Who::Operator => return Err(Error::Forbidden),
                };
                (actor.tenant, kind, actor.id().map(|id| id.as_bytes().to_vec()))
            }
            Namer::Holder(token) => {
                let (tenant, hash) = tokens::parse(token)?;
                (tenant, "holder", Some(hash))
            }
            Namer::Anybody => (TenantId::SYSTEM, "anybody", None),
        };
        let name = Sha256::new()
            .chain_update(tenant.0)
            .chain_update(kind)
            .chain_update(id.unwrap_or_default())
            .chain_update(key);
        Ok(Self { tenant, name: name.finalize().into(), digest })
    }

    /// Tells it from all others.
    pub fn name(&self) -> [u8; 32] {
        self.name
    }

    /// The lock that is held while the request has its effect.
    fn lock(&self) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.name;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// What the request was answered when it had its effect; none if it has had none.
///
/// # Errors
/// [`Error::KeyReused`] when that was another request.
pub async fn answered(app: &App, request: &Named) -> Result<Option<Vec<u8>>> {
    let client = app.db.client().await?;
    let _asking = tenantry_trace::InDatabase::asking("select tenantry.idempotent_answer");
    let statement = client
        .prepare_cached(
            "select key_id, fingerprint, answer from tenantry.idempotent_answer($1, $2, make_interval(secs => $3))",
        )
        .await?;
    let name = request.name.as_slice();
    let row = client.query_opt(&statement, &[&request.tenant.0, &name, &KEPT.as_secs_f64()]).await?;
    let Some(row) = row else { return Ok(None) };
    let fingerprint = Mac { key_id: row.try_get("key_id")?, bytes: row.try_get("fingerprint")? };
    if !app.encryption.is_mac_of(&fingerprint, PURPOSE, &request.digest)? {
        return Err(Error::KeyReused);
    }
    Ok(Some(row.try_get("answer")?))
}

/// What fingerprints are made for.
const PURPOSE: &str = "idempotency key";

/// Sees to it that a request has its effect once, and says what is kept of a `T` that it makes.
pub struct Once<T>(Option<(Named, Answer<T>)>);

type Answer<T> = Box<dyn FnOnce(&T) -> Vec<u8> + Send>;

impl<T> Once<T> {
    /// Of a request without a name, which has its effect each time it is sent.
    pub fn unnamed() -> Self {
        Self(None)
    }

    /// Of a request that [has not been answered](answered). `answer` is what will be said again.
    pub fn new(request: Named, answer: impl FnOnce(&T) -> Vec<u8> + Send + 'static) -> Self {
        Self(Some((request, Box::new(answer))))
    }

    /// To be called as soon as it is known that the actor may act, before anything is changed.
    pub(crate) async fn begin(self, tx: &Transaction<'_>) -> Result<Begun<T>> {
        let Some((request, _)) = &self.0 else { return Ok(Begun(self.0)) };
        let statement = tx.prepare_cached("select pg_try_advisory_xact_lock($1)").await?;
        let locked: bool = tx.query_one(&statement, &[&request.lock()]).await?.try_get(0)?;
        // By a statement of its own, which sees what was committed until the lock was had.
        let statement = tx
            .prepare_cached(
                "select exists (
                   select from tenantry.idempotency_keys
                   where tenant_id = $1 and name = $2 and made_at > now() - make_interval(secs => $3)
                 )",
            )
            .await?;
        let name = request.name.as_slice();
        let is_done: bool =
            tx.query_one(&statement, &[&request.tenant.0, &name, &KEPT.as_secs_f64()]).await?.try_get(0)?;
        if locked && !is_done { Ok(Begun(self.0)) } else { Err(Error::InFlight) }
    }
}

/// A request that has the lock of its name.
#[must_use = "an effect that is not noted happens again"]
pub(crate) struct Begun<T>(Option<(Named, Answer<T>)>);

impl<T> Begun<T> {
    /// Notes what was made, when `tx` commits.
    pub(crate) async fn end(self, app: &App, tx: &Transaction<'_>, made: &T) -> Result<()> {
        let Some((request, answer)) = self.0 else { return Ok(()) };
        let answer = answer(made);
        let fingerprint = app.encryption.mac(PURPOSE, &request.digest)?;
        let statement = tx
            .prepare_cached(
                "insert into tenantry.idempotency_keys as k (tenant_id, name, key_id, fingerprint, answer)
                 values ($1, $2, $3, $4, $5)
                 on conflict (tenant_id, name) do update
                   set key_id = excluded.key_id, fingerprint = excluded.fingerprint, answer = excluded.answer,
                     made_at = excluded.made_at
                   where k.made_at <= now() - make_interval(secs => $6)",
            )
            .await?;
        let (name, kept) = (request.name.as_slice(), KEPT.as_secs_f64());
        let noted = tx
            .execute(
                &statement,
                &[&request.tenant.0, &name, &fingerprint.key_id, &fingerprint.bytes, &answer, &kept],
            )
            .await?;
        if noted > 0 { Ok(()) } else { Err(Error::InFlight) }
    }
}

/// Removes up to `batch` answers that are no longer kept; returns how many. Its own transaction.
///
/// # Errors
/// When the database fails.
pub async fn prune(app: &App, batch: u32) -> Result<u64> {
    let client = app.db.client().await?;
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let statement = client
        .prepare_cached("select tenantry.prune_idempotency_keys(make_interval(secs => $1), $2)")
        .await?;
    let removed: i64 = client.query_one(&statement, &[&KEPT.as_secs_f64(), &batch]).await?.try_get(0)?;
    Ok(removed.unsigned_abs())
}
