use std::{collections::BTreeMap, time::Duration};

use deadpool_postgres::{Object, Pool};
use tenantry_jobs::{Backoff, Kind};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use crate::{JobId, Leased, Outcome, registry::Held};

/// The worker's side of the queue in SQL. Each method is one statement, which is its own transaction.
#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
    lease: Duration,
}

/// Which jobs a fetch may return.
pub(crate) struct Wanted<'a> {
    pub(crate) worker: &'a str,
    pub(crate) total: usize,
    /// The kinds, each with how many of it.
    pub(crate) rooms: &'a [(Kind, usize)],
    pub(crate) tenant: Option<Uuid>,
    pub(crate) except: &'a [Uuid],
}

/// What a fetch found.
#[derive(Default)]
pub(crate) struct Fetched {
    pub(crate) leased: Vec<Leased>,
    /// Jobs of dead workers: kind, job, and whether it was their last crash.
    pub(crate) crashed: Vec<(Kind, JobId, bool)>,
    /// Leased, but their payload is JSON that we cannot even read.
    pub(crate) unreadable: Vec<Leased>,
}

impl Store {
    /// All leases are for this long.
    pub(crate) fn new(pool: Pool, lease: Duration) -> Self {
        Self { pool, lease }
    }

    pub(crate) async fn fetch(&self, wanted: Wanted<'_>) -> Result<Fetched, StoreError> {
        let kinds: Vec<&str> = wanted.rooms.iter().map(|(kind, _)| kind.as_str()).collect();
        let rooms: Vec<i32> = wanted.rooms.iter().map(|(_, room)| int(*room)).collect();
        let rows = self
            // Whatever a fetch leases that nobody hears of counts as a crash: wait as long as that lasts.
            .query_within(
                self.lease,
                "select tenant_id, id, kind, payload, state, attempts, max_attempts, lease, created_at
                 from tenantry.fetch_jobs($1, make_interval(secs => $2), $3, $4, $5, $6, $7)",
                &[
                    (&wanted.worker, Type::TEXT),
                    (&self.lease.as_secs_f64(), Type::FLOAT8),
                    (&int(wanted.total), Type::INT4),
                    (&kinds, Type::TEXT_ARRAY),
                    (&rooms, Type::INT4_ARRAY),
                    (&wanted.tenant, Type::UUID),
                    (&wanted.except, Type::UUID_ARRAY),
                ],
            )
            .await?;
        let mut fetched = Fetched::default();
        for row in &rows {
            fetched.add(row)?;
        }
        Ok(fetched)
    }

    /// Extends the leases and returns those that are lost.
    pub(crate) async fn heartbeat(&self, held: &[Held]) -> Result<Vec<Uuid>, StoreError> {
        let tenants: Vec<Uuid> = held.iter().map(|held| held.tenant).collect();
        let ids: Vec<Uuid> = held.iter().map(|held| held.id.0).collect();
        let leases: Vec<Uuid> = held.iter().map(|held| held.lease).collect();
        let rows = self
            .query(
                "select lost from tenantry.heartbeat_jobs($1, $2, $3, make_interval(secs => $4)) as lost",
                &[
                    (&tenants, Type::UUID_ARRAY),
                    (&ids, Type::UUID_ARRAY),
                    (&leases, Type::UUID_ARRAY),
                    (&self.lease.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await?;
        rows.iter().map(|row| Ok(row.try_get("lost")?)).collect()
    }

    /// Stores how the attempt ended; returns the state the job is in, none when the lease is lost.
    pub(crate) async fn settle(&self, job: &Leased, outcome: &Outcome) -> Result<Option<String>, StoreError> {
        match outcome {
            Outcome::Done => self.finish(job, "done", None).await,
            Outcome::Cancel(reason) => self.finish(job, "cancelled", Some(reason)).await,
            Outcome::Dead(reason) => self.finish(job, "dead", Some(reason)).await,
            Outcome::Retry(reason) => self.retry(job, reason, job.kind.policy().backoff).await,
            Outcome::Snooze(delay) => self.defer(job.tenant, job.id, job.lease, *delay).await,
        }
    }

    async fn finish(
        &self,
        job: &Leased,
        state: &str,
        reason: Option<&str>,
    ) -> Result<Option<String>, StoreError> {
        self.state(
            "select tenantry.finish_job($1, $2, $3, $4, $5) as state",
            &[
                (&job.tenant, Type::UUID),
                (&job.id.0, Type::UUID),
                (&job.lease, Type::UUID),
                (&state, Type::TEXT),
                (&reason.map(storable), Type::TEXT),
            ],
        )
        .await
    }

    async fn retry(
        &self,
        job: &Leased,
        reason: &str,
        backoff: Backoff,
    ) -> Result<Option<String>, StoreError> {
        self.state(
            "select tenantry.retry_job($1, $2, $3, $4, make_interval(secs => $5),
               make_interval(secs => $6), make_interval(secs => $7)) as state",
            &[
                (&job.tenant, Type::UUID),
                (&job.id.0, Type::UUID),
                (&job.lease, Type::UUID),
                (&storable(reason), Type::TEXT),
                (&backoff.least.as_secs_f64(), Type::FLOAT8),
                (&backoff.base.as_secs_f64(), Type::FLOAT8),
                (&backoff.cap.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
    }

    /// Hands a job back, without counting the attempt.
    pub(crate) async fn defer(
        &self,
        tenant: Uuid,
        id: JobId,
        lease: Uuid,
        delay: Duration,
    ) -> Result<Option<String>, StoreError> {
        self.state(
            "select tenantry.defer_job($1, $2, $3, make_interval(secs => $4)) as state",
            &[
                (&tenant, Type::UUID),
                (&id.0, Type::UUID),
                (&lease, Type::UUID),
                (&delay.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
    }

    /// Removes up to `batch` jobs that were done or cancelled longer than `keep` ago.
    pub(crate) async fn prune(&self, keep: Duration, batch: i32) -> Result<i64, StoreError> {
        let params: Params<'_> = &[(&keep.as_secs_f64(), Type::FLOAT8), (&batch, Type::INT4)];
        let rows = self
            .query("select tenantry.prune_jobs(make_interval(secs => $1), $2) as removed", params)
            .await?;
        Ok(rows.first().map(|row| row.try_get("removed")).transpose()?.unwrap_or(0))
    }

    async fn state(&self, sql: &str, params: Params<'_>) -> Result<Option<String>, StoreError> {
        let rows = self.query(sql, params).await?;
        Ok(rows.first().map(|row| row.try_get("state")).transpose()?.flatten())
    }

    /// A statement of which the answer is worth waiting for: several fit into a lease.
    async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        self.query_within(self.lease / 3, sql, params).await
    }

    /// A database that takes longer than `patience` is taken for dead, and its connection with it.
    async fn query_within(
        &self,
        patience: Duration,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let deadline = Instant::now() + patience.max(Duration::from_secs(1));
        let client = timeout_at(deadline, self.pool.get())
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::Pool)?;
        match timeout_at(deadline, client.query_typed(sql, params)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => {
                // Nobody else shall queue up behind a connection that does not answer.
                drop(Object::take(client));
                Err(StoreError::TimedOut)
            }
        }
    }
}

type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

impl Fetched {
    fn add(&mut self, row: &Row) -> Result<(), StoreError> {
        let id = JobId(row.try_get("id")?);
        // Only kinds that were asked for come back.
        let Ok(kind) = row.try_get::<_, &str>("kind")?.parse::<Kind>() else { return Ok(()) };
        let state: &str = row.try_get("state")?;
        if state != "running" {
            self.crashed.push((kind, id, state == "dead"));
            return Ok(());
        }
        // Text, so that a value that is JSON to the database and not to us (1e999) spoils its own job only.
        let payload = serde_json::from_str(row.try_get("payload")?);
        let readable = payload.is_ok();
        let job = Leased {
            id,
            tenant: row.try_get("tenant_id")?,
            kind,
            payload: payload.unwrap_or_default(),
            attempt: row.try_get::<_, i32>("attempts")?.unsigned_abs(),
            max_attempts: row.try_get::<_, i32>("max_attempts")?.unsigned_abs(),
            created_at: row.try_get("created_at")?,
            lease: row.try_get("lease")?,
        };
        if readable {
            self.leased.push(job)
        } else {
            self.unreadable.push(job)
        }
        Ok(())
    }
}

/// For how long the oldest due job of each kind has been waiting; zero where none is.
pub async fn oldest_waiting(pool: &Pool) -> Result<BTreeMap<Kind, Duration>, StoreError> {
    let client = pool.get().await.map_err(StoreError::Pool)?;
    let rows = client.query_typed("select kind, seconds from tenantry.oldest_waiting_jobs()", &[]).await?;
    let mut ages: BTreeMap<Kind, Duration> = Kind::ALL.iter().map(|kind| (*kind, Duration::ZERO)).collect();
    for row in &rows {
        if let Ok(kind) = row.try_get::<_, &str>("kind")?.parse() {
            ages.insert(kind, Duration::try_from_secs_f64(row.try_get("seconds")?).unwrap_or_default());
        }
    }
    Ok(ages)
}

/// Removes jobs, as (tenant, id), that became moot before they ran; returns how many. One that is running or
/// finished is left alone. Its own transaction.
pub async fn discard(pool: &Pool, jobs: &[(Uuid, JobId)]) -> Result<u64, StoreError> {
    let tenants: Vec<Uuid> = jobs.iter().map(|(tenant, _)| *tenant).collect();
    let ids: Vec<Uuid> = jobs.iter().map(|(_, id)| id.0).collect();
    let client = pool.get().await.map_err(StoreError::Pool)?;
    let params: Params<'_> = &[(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY)];
    let row = client.query_typed("select tenantry.discard_jobs($1, $2) as removed", params).await?;
    Ok(row.first().map(|row| row.try_get::<_, i64>("removed")).transpose()?.unwrap_or(0).unsigned_abs())
}

/// The queue's database failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection could be had.
    #[error("no connection to the queue's database")]
    Pool(#[source] deadpool_postgres::PoolError),
    /// A statement failed.
    #[error("a statement of the queue failed")]
    Database(#[from] tokio_postgres::Error),
    /// The database did not answer in time.
    #[error("the queue's database did not answer in time")]
    TimedOut,
}

impl StoreError {
    /// Whether the same statement may work later. What the database understood and refused (classes 22, 23, 42) is
    /// refused again.
    pub(crate) fn passes(&self) -> bool {
        match self {
            StoreError::Database(error) => {
                !error.code().is_some_and(|code| matches!(&code.code()[..2], "22" | "23" | "42"))
            }
            StoreError::Pool(_) | StoreError::TimedOut => true,
        }
    }
}

fn int(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A text column holds no NUL, and an operator reads no megabytes.
fn storable(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(2000).collect()
}
