//! A batch of an import: its users, the outcome of each row, seats, events, mails and how far the import has come, in one
//! transaction. It holds the import's row, so of two workers who come for the same batch one finds it done: the lease of a job
//! keeps them apart, and this holds where it has not.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{COLUMNS, DAYS_KEPT, Import, State, actor};
use crate::{
    Actor, App, Error, ImportId, Result, TenantId, Who, audit,
    db::{self, Transaction},
    tenants::seats,
    users::{
        Role, User,
        many::{self, NewRow},
    },
};

/// How many rows are worked on at once. Meanwhile nobody else takes a seat of the tenant: a few tenths of a second.
const BATCH: i64 = 1_000;
/// Of how many rows the hashes are removed at once, when an import has been stopped.
const LEFT_OVER: i64 = 2_000;
/// How long what a batch tells about the rate counts by half.
const HALF_LIFE: f64 = 10.0;

/// What came of a step.
#[derive(Debug, Clone)]
pub enum Step {
    /// It is further, and there may be more to do.
    Moved(Import),
    /// Somebody else is at it.
    Busy(Import),
    /// There is nothing left to do.
    Ended(Import),
    /// There is no such import, or no more.
    Gone,
}

/// Goes on with an import by one batch.
///
/// # Errors
/// When the database fails: then nothing has happened, or all of it.
pub async fn step(app: &App, tenant: TenantId, id: ImportId) -> Result<Step> {
    let began = Instant::now();
    let mut client = app.db.client().await?;
    let tx = db::as_tenant(&mut client, tenant).await?;
    by_indexes(&tx).await?;
    let Some(row) = lock(&tx, tenant, id).await? else {
        return Ok(super::find(&tx, tenant, id).await.map_or(Step::Gone, Step::Busy));
    };
    let batch = Batch {
        import: Import::try_from(&row)?,
        by: actor::of(&row, tenant)?,
        position: row.try_get("position")?,
        is_closed: row.try_get("is_closed")?,
        lately: (row.try_get("lately_rows")?, row.try_get("lately_took")?),
    };
    match batch.import.state {
        // Nobody has said that all of it is there.
        State::Uploading => Ok(Step::Busy(batch.import)),
        State::Queued | State::Running => match batch.obstacle(&tx).await? {
            Some(reason) => fail(tx, tenant, &batch.import, reason).await,
            None => batch.work(app, tx, began).await,
        },
        State::Done | State::Cancelled | State::Failed => batch.clear(tx).await,
    }
}

/// Statements are planned once and kept: one that is planned while the tenant has few users would look at all of them for each
/// row when it has many.
async fn by_indexes(tx: &Transaction<'_>) -> Result<()> {
    let statement = tx
        .prepare_cached("select set_config('enable_seqscan', 'off', true), set_config('jit', 'off', true)")
        .await?;
    tx.execute(&statement, &[]).await?;
    Ok(())
}

/// The import's row, unless somebody else holds it.
async fn lock(tx: &Transaction<'_>, tenant: TenantId, id: ImportId) -> Result<Option<Row>> {
    let statement = tx
        .prepare_cached(&format!(
            "select {COLUMNS}, i.position, i.actor_home, i.actor_kind, i.actor_id, i.actor_role, i.actor_version,
               i.actor_session, i.actor_address::text as actor_address, t.deleted_at is not null as is_closed
             from tenantry.user_imports i join tenantry.tenants t on t.id = i.tenant_id
             where i.tenant_id = $1 and i.id = $2 for update of i skip locked"
        ))
        .await?;
    Ok(tx.query_opt(&statement, &[&tenant.0, &id.0]).await?)
}

/// Ends an import that cannot go on.
async fn fail(tx: Transaction<'_>, tenant: TenantId, import: &Import, reason: &str) -> Result<Step> {
    let statement = tx
        .prepare_cached(&format!(
            "update tenantry.user_imports i set state = 'failed', reason = $3, finished_at = clock_timestamp(),
               touched_at = clock_timestamp(), keep_until = clock_timestamp() + make_interval(days => $4)
             where i.tenant_id = $1 and i.id = $2 returning {COLUMNS}"
        ))
        .await?;
    let row = tx.query_one(&statement, &[&tenant.0, &import.id.0, &reason, &DAYS_KEPT.cast_signed()]).await?;
    let import = Import::try_from(&row)?;
    let detail = json!({"state": "failed", "reason": reason, "created": import.created});
    audit::record(&tx, tenant, audit::By::SYSTEM, "import.ended", import.id.0, detail).await?;
    tx.commit().await?;
    Ok(Step::Moved(import))
}

/// What a batch begins with.
struct Batch {
    import: Import,
    by: Actor,
    position: i32,
    is_closed: bool,
    lately: (f64, f64),
}

/// A row that has no outcome yet.
struct Pending {
    number: i32,
    email: String,
    name: String,
    role: Role,
    is_verified: bool,
    is_active: bool,
    made_at: Option<DateTime<Utc>>,
    password_hash: Option<String>,
    /// Whether somebody has the address.
    is_taken: bool,
}

/// What became of a row, as it is stored.
type Outcome = &'static str;

impl Batch {
    /// Why the import cannot go on. Whoever began it may have lost their role or their session since.
    async fn obstacle(&self, tx: &Transaction<'_>) -> Result<Option<&'static str>> {
        if self.is_closed {
            return Ok(Some("tenant_closed"));
        }
        match db::stands(tx, self.by).await {
            Ok(()) => Ok(None),
            Err(Error::Revoked) => Ok(Some("revoked")),
            Err(error) => Err(error),
        }
    }

    async fn work(self, app: &App, tx: Transaction<'_>, began: Instant) -> Result<Step> {
        let (tenant, dry_run) = (self.by.tenant, self.import.dry_run);
        if !dry_run {
            seats::lock(&tx, tenant).await?;
        }
        let rows = pending(&tx, tenant, self.import.id, self.position).await?;
        let is_last = (rows.len() as i64) < BATCH;
        let (wanted, mut outcomes) = self.sift(app, &tx, &rows).await?;
        let made = if dry_run { vec![] } else { self.make(app, &tx, &wanted).await? };
        let by_address: HashMap<_, _> = made.iter().map(|user| (user.email.as_str(), user.id.0)).collect();
        for row in wanted {
            let user = by_address.get(row.email.as_str()).copied();
            // Somebody may have shown in the meantime that the address is theirs.
            let outcome = if dry_run || user.is_some() { "created" } else { "exists" };
            outcomes.push((row.number, outcome, user));
        }
        note(&tx, tenant, self.import.id, &outcomes).await?;
        let position = rows.last().map_or(self.position, |row| row.number);
        let import = self.advance(&tx, position, &outcomes, is_last, began.elapsed()).await?;
        if is_last {
            let detail = json!({
                "state": "done", "created": import.created, "skipped": import.skipped, "failed": import.failed,
                "dry_run": dry_run,
            });
            audit::record(&tx, tenant, self.by, "import.ended", import.id.0, detail).await?;
        }
        many::commit_new(app, tx, tenant).await?;
        Ok(if is_last { Step::Ended(import) } else { Step::Moved(import) })
    }

    /// Those rows whose users can be made, and why the others' cannot. Seats are given from the top.
    async fn sift<'a>(
        &self,
        app: &App,
        tx: &Transaction<'_>,
        rows: &'a [Pending],
    ) -> Result<(Vec<&'a Pending>, Vec<(i32, Outcome, Option<Uuid>)>)> {
        let (mut wanted, mut outcomes) = (vec![], vec![]);
        for row in rows {
            match self.refusal(row) {
                Some(refusal) => outcomes.push((row.number, refusal, None)),
                None => wanted.push(row),
            }
        }
        let free = if self.import.dry_run {
            // As many would be used by now as would have been made.
            let free = seats::count_free(tx, self.by.tenant).await?;
            free.saturating_sub(usize::try_from(self.import.created).unwrap_or(0))
        } else {
            seats::free(app, tx, self.by.tenant, wanted.len()).await?
        };
        for row in wanted.drain(free.min(wanted.len())..) {
            outcomes.push((row.number, "no_seat", None));
        }
        Ok((wanted, outcomes))
    }

    /// Why this user is not made; none: as far as can be told without a seat, it can be.
    fn refusal(&self, row: &Pending) -> Option<Outcome> {
        if row.role > self.by.rank() || row.role == Role::SuperAdmin {
            return Some("role_forbidden");
        }
        if row.password_hash.is_some() && matches!(self.by.who, Who::ApiKey(_)) {
            // Whoever holds the key could sign in as somebody of their making, and go on when it is revoked.
            return Some("hash_forbidden");
        }
        if row.is_verified && self.by.rank() < Role::SuperAdmin {
            // Anybody may be an administrator, and others believe what our tokens say of an address.
            return Some("verified_forbidden");
        }
        row.is_taken.then_some("exists")
    }

    async fn make(&self, app: &App, tx: &Transaction<'_>, wanted: &[&Pending]) -> Result<Vec<User>> {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let tenant = self.by.tenant;
        let rows: Vec<_> = wanted.iter().map(|row| row.user()).collect();
        let made = many::insert(tx, tenant, &rows, self.import.invite).await?;
        if !made.is_empty() {
            seats::take(app, tx, tenant, i32::try_from(made.len()).map_err(|_| Error::NoSeat)?).await?;
            let events: Vec<_> = made
                .iter()
                .map(|user| (user.id.0, json!({"role": user.role, "import": self.import.id})))
                .collect();
            audit::record_many(tx, tenant, self.by, "user.created", &events).await?;
        }
        Ok(made)
    }

    /// Notes how far the import is.
    async fn advance(
        &self,
        tx: &Transaction<'_>,
        position: i32,
        outcomes: &[(i32, Outcome, Option<Uuid>)],
        is_last: bool,
        took: Duration,
    ) -> Result<Import> {
        let count = |of: fn(Outcome) -> bool| {
            i32::try_from(outcomes.iter().filter(|(_, outcome, _)| of(outcome)).count()).unwrap_or(i32::MAX)
        };
        let (created, skipped) =
            (count(|outcome| outcome == "created"), count(|outcome| outcome == "exists"));
        let failed = count(|outcome| outcome != "created" && outcome != "exists");
        let kept = 0.5_f64.powf(took.as_secs_f64() / HALF_LIFE);
        let lately_rows = self.lately.0 * kept + outcomes.len() as f64;
        let lately_took = self.lately.1 * kept + took.as_secs_f64();
        let statement = tx
            .prepare_cached(&format!(
                "update tenantry.user_imports i set position = $3, created = i.created + $4, skipped = i.skipped + $5,
                   failed = i.failed + $6, lately_rows = $7, lately_took = $8, touched_at = clock_timestamp(),
                   started_at = coalesce(i.started_at, now()), state = case when $9 then 'done' else 'running' end,
                   finished_at = case when $9 then clock_timestamp() end,
                   keep_until = case when $9 then clock_timestamp() + make_interval(days => $10) end
                 where i.tenant_id = $1 and i.id = $2 returning {COLUMNS}"
            ))
            .await?;
        let row = tx
            .query_one(
                &statement,
                &[
                    &self.by.tenant.0,
                    &self.import.id.0,
                    &position,
                    &created,
                    &skipped,
                    &failed,
                    &lately_rows,
                    &lately_took,
                    &is_last,
                    &DAYS_KEPT.cast_signed(),
                ],
            )
            .await?;
        Import::try_from(&row)
    }

    /// Of an import that was stopped: notes that the rows which are left will not be worked on, and removes their hashes.
    async fn clear(self, tx: Transaction<'_>) -> Result<Step> {
        let (tenant, id) = (self.by.tenant, self.import.id);
        if self.import.state == State::Done {
            return Ok(Step::Ended(self.import));
        }
        let statement = tx
            .prepare_cached(
                "update tenantry.user_import_rows r set outcome = 'cancelled', password_hash = null
                 where r.tenant_id = $1 and r.import_id = $2 and r.number in (
                   select l.number from tenantry.user_import_rows l
                   where l.tenant_id = $1 and l.import_id = $2 and l.number > $3 and l.outcome is null
                   order by l.number limit $4)
                 returning r.number",
            )
            .await?;
        let rows = tx.query(&statement, &[&tenant.0, &id.0, &self.position, &LEFT_OVER]).await?;
        let last: Option<i32> = rows.iter().map(|row| row.get(0)).max();
        let statement = tx
            .prepare_cached("update tenantry.user_imports set position = $3 where tenant_id = $1 and id = $2")
            .await?;
        tx.execute(&statement, &[&tenant.0, &id.0, &last.unwrap_or(self.position)]).await?;
        tx.commit().await?;
        let is_last = (rows.len() as i64) < LEFT_OVER;
        Ok(if is_last { Step::Ended(self.import) } else { Step::Moved(self.import) })
    }
}

impl Pending {
    fn user(&self) -> NewRow<'_> {
        NewRow {
            email: &self.email,
            name: &self.name,
            role: self.role,
            is_verified: self.is_verified,
            is_active: self.is_active,
            made_at: self.made_at,
            password_hash: self.password_hash.as_deref(),
        }
    }
}

/// The next rows that have no outcome. The seats' lock is held, so nobody else makes users meanwhile.
async fn pending(tx: &Transaction<'_>, tenant: TenantId, id: ImportId, after: i32) -> Result<Vec<Pending>> {
    let statement = tx
        .prepare_cached(
            "select r.number, r.email, r.name, r.role, r.email_verified, r.is_active, r.made_at, r.password_hash,
               taken.by is not null as is_taken
             from tenantry.user_import_rows r
               left join lateral (select u.id as by from tenantry.users u
                 where u.tenant_id = $1 and u.email = r.email and u.deleted_at is null limit 1) taken on true
             where r.tenant_id = $1 and r.import_id = $2 and r.number > $3 and r.outcome is null
             order by r.number limit $4",
        )
        .await?;
    let rows = tx.query(&statement, &[&tenant.0, &id.0, &after, &BATCH]).await?;
    rows.iter()
        .map(|row| {
            Ok(Pending {
                number: row.try_get("number")?,
                email: row.try_get("email")?,
                name: row.try_get("name")?,
                role: Role::named(row.try_get("role")?)
                    .ok_or(Error::Internal("a stored role has no name"))?,
                is_verified: row.try_get("email_verified")?,
                is_active: row.try_get("is_active")?,
                made_at: row.try_get("made_at")?,
                password_hash: row.try_get("password_hash")?,
                is_taken: row.try_get("is_taken")?,
            })
        })
        .collect()
}

/// Stores what became of the rows; their hashes go.
async fn note(
    tx: &Transaction<'_>,
    tenant: TenantId,
    id: ImportId,
    outcomes: &[(i32, Outcome, Option<Uuid>)],
) -> Result<()> {
    let numbers: Vec<_> = outcomes.iter().map(|(number, ..)| *number).collect();
    let texts: Vec<_> = outcomes.iter().map(|(_, outcome, _)| *outcome).collect();
    let users: Vec<_> = outcomes.iter().map(|(.., user)| *user).collect();
    let statement = tx
        .prepare_cached(
            "update tenantry.user_import_rows r set outcome = n.outcome, user_id = n.user_id, password_hash = null
             from unnest($3::int[], $4::text[], $5::uuid[]) as n (number, outcome, user_id)
             where r.tenant_id = $1 and r.import_id = $2 and r.number = n.number",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0, &id.0, &numbers, &texts, &users]).await?;
    Ok(())
}
