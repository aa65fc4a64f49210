use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use deadpool_postgres::{Object, Pool};
use tenantry_jobs::{Backoff, Kind};
use tenantry_trace::InDatabase;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use tracing::warn;
use uuid::Uuid;

use crate::{JobId, Leased, Outcome, registry::Held, room::Room};

/// The worker's side of the queue in SQL. Each method is one statement, which is its own transaction.
#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
    lease: Duration,
    /// Who stores many ends in one statement; none: each is stored by itself.
    ends: Option<mpsc::Sender<End>>,
}

/// A job that is done, and who waits for that to be stored.
struct End {
    job: (Uuid, JobId, Uuid),
    /// The state the job is in, none when the lease is lost; nothing comes when the statement failed.
    stored: oneshot::Sender<Option<String>>,
}

/// Which jobs a fetch may return.
pub(crate) struct Wanted<'a> {
    pub(crate) worker: &'a str,
    pub(crate) room: &'a Room,
    /// What runs here already: kind and tenant of each job.
    pub(crate) running: &'a [(Kind, Uuid)],
    /// The tenant of each kind that was served last.
    pub(crate) served: &'a HashMap<Kind, Uuid>,
    /// Whether a suspect may come, and then alone.
    pub(crate) suspect: bool,
    pub(crate) tenant: Option<Uuid>,
    pub(crate) except: &'a [Uuid],
}

/// What a fetch found.
#[derive(Default)]
pub(crate) struct Fetched {
    /// To be run at once.
    pub(crate) leased: Vec<Leased>,
    /// To be run when nothing else runs here; then `leased` is empty.
    pub(crate) suspect: Option<Leased>,
    /// Jobs of dead workers: kind, job, and whether it was their last crash.
    pub(crate) crashed: Vec<(Kind, JobId, bool)>,
    /// Leased, but their payload is JSON that we cannot even read.
    pub(crate) unreadable: Vec<Leased>,
    /// The tenant of each kind that was served last by this fetch.
    pub(crate) served: HashMap<Kind, (i32, Uuid)>,
}

impl Store {
    /// All leases are for this long.
    pub(crate) fn new(pool: Pool, lease: Duration) -> Self {
        Self { pool, lease, ends: None }
    }

    /// From here on jobs that are done are stored together: those that end while a statement is under way go with the
    /// next one, so that nobody waits for company. The task ends with the last clone.
    pub(crate) fn together(self) -> Self {
        const BATCH: usize = 256;
        let (ends, mut ended) = mpsc::channel::<End>(BATCH);
        let store = self.clone();
        tokio::spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while ended.recv_many(&mut batch, BATCH).await > 0 {
                let jobs: Vec<_> = batch.iter().map(|end| end.job).collect();
                match store.finish_many(&jobs).await {
                    Ok(mut states) => {
                        for end in batch.drain(..) {
                            let _ = end.stored.send(states.remove(&end.job.2).flatten());
                        }
                    }
                    // Each is stored by itself, so that what spoils one statement spoils one job.
                    Err(cause) => {
                        warn!(error = ?cause, "storing many ends failed");
                        batch.clear();
                    }
                }
            }
        });
        Self { ends: Some(ends), ..self }
    }

    pub(crate) async fn fetch(&self, wanted: Wanted<'_>) -> Result<Fetched, StoreError> {
        let free = &wanted.room.kinds;
        let kinds: Vec<&str> = free.iter().map(|free| free.kind.as_str()).collect();
        let rooms: Vec<i32> = free.iter().map(|free| int(free.room)).collect();
        let reserved: Vec<i32> = free.iter().map(|free| int(free.reserved)).collect();
        let caps: Vec<i32> = free.iter().map(|free| int(free.cap)).collect();
        let cursors: Vec<Option<Uuid>> = free.iter().map(|k| wanted.served.get(&k.kind).copied()).collect();
        let (held_kinds, held_tenants): (Vec<&str>, Vec<Uuid>) =
            wanted.running.iter().map(|(kind, tenant)| (kind.as_str(), *tenant)).unzip();
        let rows = self
            // Whatever a fetch leases that nobody hears of counts as a crash: wait as long as that lasts.
            .query_within(
                self.lease,
                "select tenant_id, id, kind, payload, state, attempts, max_attempts, lease, created_at, suspect, turn,
                   traceparent
                 from tenantry.lease_jobs($1, make_interval(secs => $2), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
                &[
                    (&wanted.worker, Type::TEXT),
                    (&self.lease.as_secs_f64(), Type::FLOAT8),
                    (&kinds, Type::TEXT_ARRAY),
                    (&rooms, Type::INT4_ARRAY),
                    (&reserved, Type::INT4_ARRAY),
                    (&caps, Type::INT4_ARRAY),
                    (&cursors, Type::UUID_ARRAY),
                    (&int(wanted.room.shared), Type::INT4),
                    (&held_kinds, Type::TEXT_ARRAY),
                    (&held_tenants, Type::UUID_ARRAY),
                    (&wanted.suspect, Type::BOOL),
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

    /// Says that nothing else runs here any more; false when the lease is lost.
    pub(crate) async fn begin_alone(&self, job: &Leased) -> Result<bool, StoreError> {
        let rows = self
            .query(
                "select tenantry.begin_alone($1, $2, $3, make_interval(secs => $4)) as begun",
                &[
                    (&job.tenant, Type::UUID),
                    (&job.id.0, Type::UUID),
                    (&job.lease, Type::UUID),
                    (&self.lease.as_secs_f64(), Type::FLOAT8),
                ],
            )
            .await?;
        Ok(rows.first().map(|row| row.try_get("begun")).transpose()?.unwrap_or(false))
    }

    /// Makes up to `batch` jobs ready whose time has come; returns how many.
    pub(crate) async fn promote(&self, batch: i32) -> Result<i64, StoreError> {
        let rows =
            self.query("select tenantry.promote_jobs($1) as promoted", &[(&batch, Type::INT4)]).await?;
        Ok(rows.first().map(|row| row.try_get("promoted")).transpose()?.unwrap_or(0))
    }

    /// Enqueues what is due by its schedule; returns how many.
    pub(crate) async fn enqueue_scheduled(&self) -> Result<i64, StoreError> {
        let rows = self.query("select tenantry.enqueue_scheduled() as made", &[]).await?;
        Ok(rows.first().map(|row| row.try_get("made")).transpose()?.unwrap_or(0))
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
            Outcome::Done => self.done(job).await,
            Outcome::Cancel(reason) => self.finish(job, "cancelled", Some(reason)).await,
            Outcome::Dead(reason) => self.finish(job, "dead", Some(reason)).await,
            Outcome::Retry(reason) => self.retry(job, reason, job.kind.policy().backoff).await,
            Outcome::Snooze(delay) => self.defer(job, *delay).await,
        }
    }

    async fn done(&self, job: &Leased) -> Result<Option<String>, StoreError> {
        if let Some(ends) = &self.ends {
            let (stored, answer) = oneshot::channel();
            let end = End { job: (job.tenant, job.id, job.lease), stored };
            if ends.send(end).await.is_ok()
                && let Ok(state) = answer.await
            {
                return Ok(state);
            }
        }
        self.finish(job, "done", None).await
    }

    /// The state of each job by its lease, none where that is lost.
    async fn finish_many(
        &self,
        jobs: &[(Uuid, JobId, Uuid)],
    ) -> Result<HashMap<Uuid, Option<String>>, StoreError> {
        let tenants: Vec<Uuid> = jobs.iter().map(|(tenant, _, _)| *tenant).collect();
        let ids: Vec<Uuid> = jobs.iter().map(|(_, id, _)| id.0).collect();
        let leases: Vec<Uuid> = jobs.iter().map(|(_, _, lease)| *lease).collect();
        let rows = self
            .query(
                "select lease, state from tenantry.finish_jobs($1, $2, $3)",
                &[(&tenants, Type::UUID_ARRAY), (&ids, Type::UUID_ARRAY), (&leases, Type::UUID_ARRAY)],
            )
            .await?;
        rows.iter().map(|row| Ok((row.try_get("lease")?, row.try_get("state")?))).collect()
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

    /// Puts a job back that is not to run yet, without counting the attempt.
    async fn defer(&self, job: &Leased, delay: Duration) -> Result<Option<String>, StoreError> {
        self.state(
            "select tenantry.defer_job($1, $2, $3, make_interval(secs => $4)) as state",
            &[
                (&job.tenant, Type::UUID),
                (&job.id.0, Type::UUID),
                (&job.lease, Type::UUID),
                (&delay.as_secs_f64(), Type::FLOAT8),
            ],
        )
        .await
    }

    /// Hands a job back that has not ended, without counting the attempt.
    pub(crate) async fn release(&self, held: &Held) -> Result<Option<String>, StoreError> {
        let params: Params<'_> =
            &[(&held.tenant, Type::UUID), (&held.id.0, Type::UUID), (&held.lease, Type::UUID)];
        self.state("select tenantry.release_job($1, $2, $3) as state", params).await
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
        let _asking = InDatabase::asking(sql);
        let client = timeout_at(deadline, self.pool.get())
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::Pool)?;
        match timeout_at(deadline, query_prepared(&client, sql, params)).await {
            Ok(Ok(rows)) => Ok(rows),
            failed => {
                // Nobody else shall queue up behind a connection that does not answer, or meet statements that a
                // migration has made invalid.
                drop(Object::take(client));
                Err(failed.map_or(StoreError::TimedOut, |failed| match failed {
                    Err(error) => StoreError::Database(error),
                    Ok(_) => StoreError::TimedOut,
                }))
            }
        }
    }
}

/// Workers have connections of their own, not through a pooler, so that statements stay prepared.
async fn query_prepared(
    client: &Object,
    sql: &str,
    params: Params<'_>,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let types: Vec<Type> = params.iter().map(|(_, of)| of.clone()).collect();
    let statement = client.prepare_typed_cached(sql, &types).await?;
    let values: Vec<&(dyn ToSql + Sync)> = params.iter().map(|(value, _)| *value).collect();
    client.query(&statement, &values).await
}

type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

impl Fetched {
    /// Whether it brought nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.leased.is_empty() && self.suspect.is_none() && self.unreadable.is_empty()
    }

    /// The kinds of the jobs that are to be run at once.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds: Vec<Kind> = self.leased.iter().map(|job| job.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

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
            trace: row.try_get::<_, Option<&str>>("traceparent")?.and_then(|trace| trace.parse().ok()),
            suspect: row.try_get("suspect")?,
        };
        let turn = row.try_get("turn")?;
        let last = self.served.entry(kind).or_insert((turn, job.tenant));
        if turn >= last.0 {
            *last = (turn, job.tenant);
        }
        match (readable, job.suspect) {
            (true, false) => self.leased.push(job),
            (true, true) => self.suspect = Some(job),
            (false, _) => self.unreadable.push(job),
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

/// Removes up to `batch` jobs that were done or cancelled longer than `keep` ago; returns how many. Its own transaction.
pub async fn prune(pool: &Pool, keep: Duration, batch: u32) -> Result<u64, StoreError> {
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let client = pool.get().await.map_err(StoreError::Pool)?;
    let params: Params<'_> = &[(&keep.as_secs_f64(), Type::FLOAT8), (&batch, Type::INT4)];
    let sql = "select tenantry.prune_jobs(make_interval(secs => $1), $2) as removed";
    let rows = client.query_typed(sql, params).await?;
    Ok(rows.first().map(|row| row.try_get::<_, i64>("removed")).transpose()?.unwrap_or(0).unsigned_abs())
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
