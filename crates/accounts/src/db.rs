//! Connections and the transactions that run in them. Nobody else writes `begin` or sets a role.

use std::{
    ops::Deref,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use deadpool_postgres::{Client, Pool};
use futures_util::future::join;
use tenantry_queue::Nudge;
use tenantry_trace::InDatabase;
use tokio_postgres::{
    Row, Statement, ToStatement,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::{Actor, Error, Result, TenantId, Who, primary::Primary};

/// The pool of connections to the primary.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    primary: Primary,
    nudge: Nudge,
}

impl Db {
    /// Works on connections of `pool`, which logs in as the application's own role and hands out what `primary` admits.
    /// Needs a runtime.
    pub fn new(pool: Pool, primary: Primary) -> Self {
        Self { nudge: Nudge::start(pool.clone()), pool, primary }
    }

    /// Which server may be asked.
    pub fn primary(&self) -> &Primary {
        &self.primary
    }

    /// Tells workers, after COMMIT, that there are jobs for them. Does no I/O.
    pub fn nudge(&self) {
        self.nudge.nudge();
    }

    /// The pool itself, for the queue and for metrics.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A connection; waits at most the pool's time-out.
    pub async fn client(&self) -> Result<Client> {
        let _waiting = InDatabase::waiting();
        Ok(self.pool.get().await?)
    }
}

/// A transaction, and since when its connection has been open.
pub struct Transaction<'a> {
    inner: deadpool_postgres::Transaction<'a>,
    opened: Instant,
    busy: Mutex<InDatabase>,
}

/// As the driver answers.
type Answered<T> = std::result::Result<T, tokio_postgres::Error>;

impl<'a> Transaction<'a> {
    async fn begin(client: &'a mut Client) -> Result<Self> {
        let (opened, busy) = (Client::metrics(client).created, InDatabase::begin());
        Ok(Self { inner: client.transaction().await?, opened, busy: Mutex::new(busy) })
    }

    /// When its connection was opened.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// Ends it, for good.
    pub async fn commit(self) -> Answered<()> {
        let Self { inner, busy, .. } = self;
        let committed = inner.commit().await;
        told(&busy, committed)
    }

    /// As that of the driver; its span tells what is asked.
    pub async fn prepare_cached(&self, sql: &str) -> Answered<Statement> {
        self.asks(sql);
        told(&self.busy, self.inner.prepare_cached(sql).await)
    }

    /// As that of the driver; its span tells what is asked.
    pub async fn query_typed(&self, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Answered<Vec<Row>> {
        self.asks(sql);
        told(&self.busy, self.inner.query_typed(sql, params).await)
    }

    /// As that of the driver.
    pub async fn query(
        &self,
        statement: &(impl ToStatement + ?Sized),
        params: &[&(dyn ToSql + Sync)],
    ) -> Answered<Vec<Row>> {
        told(&self.busy, self.inner.query(statement, params).await)
    }

    /// As that of the driver.
    pub async fn query_one(
        &self,
        statement: &(impl ToStatement + ?Sized),
        params: &[&(dyn ToSql + Sync)],
    ) -> Answered<Row> {
        told(&self.busy, self.inner.query_one(statement, params).await)
    }

    /// As that of the driver.
    pub async fn query_opt(
        &self,
        statement: &(impl ToStatement + ?Sized),
        params: &[&(dyn ToSql + Sync)],
    ) -> Answered<Option<Row>> {
        told(&self.busy, self.inner.query_opt(statement, params).await)
    }

    /// As that of the driver.
    pub async fn execute(
        &self,
        statement: &(impl ToStatement + ?Sized),
        params: &[&(dyn ToSql + Sync)],
    ) -> Answered<u64> {
        told(&self.busy, self.inner.execute(statement, params).await)
    }

    fn asks(&self, sql: &str) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).span().asks(sql);
    }

    /// Ends it without a trace.
    pub async fn rollback(self) -> Answered<()> {
        self.inner.rollback().await
    }
}

/// Notes in the span what failed, by its SQLSTATE.
fn told<T>(busy: &Mutex<InDatabase>, answer: Answered<T>) -> Answered<T> {
    if let Err(error) = &answer {
        let state = error.code().map_or("connection", SqlState::code);
        busy.lock().unwrap_or_else(PoisonError::into_inner).span().fail(state.to_owned());
    }
    answer
}

impl<'a> Deref for Transaction<'a> {
    type Target = deadpool_postgres::Transaction<'a>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

/// A transaction that sees rows of `tenant` only, whatever its statements say: row-level security is its wall.
pub async fn as_tenant(client: &mut Client, tenant: TenantId) -> Result<Transaction<'_>> {
    let tx = Transaction::begin(client).await?;
    let statement = tx.inner.prepare_cached(ENTER).await?;
    tx.execute(&statement, &[&tenant.0, &traceparent()]).await?;
    Ok(tx)
}

/// Makes a transaction one of a tenant.
const ENTER: &str =
    "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1::uuid::text, true),
       set_config('tenantry.traceparent', $2, true)";

/// Does `first` and `then` in one round trip: what `then` asks for goes out right behind, and the server does one after the
/// other. When `first` fails so does the transaction, and `then` with it; it is the failure of `first` that counts.
///
/// What `first` asks for must go out as soon as it is polled: its statement is prepared, or of `query_typed`. Otherwise `then`
/// might be done before it.
pub(crate) async fn pipelined<A, B>(
    first: impl Future<Output = Result<A>>,
    then: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    // Not `try_join`: of two failures it may see the second one first.
    match join(first, then).await {
        // A statement that was not prepared after all was overtaken, and says no more than that the other one has failed.
        (Err(first), Err(then)) if is_echo(&first) => Err(then),
        (first, then) => Ok((first?, then?)),
    }
}

fn is_echo(error: &Error) -> bool {
    let failed = SqlState::IN_FAILED_SQL_TRANSACTION;
    matches!(error, Error::Database(error) if error.code() == Some(&failed))
}

/// As [`as_tenant`], for statements that read a page out of however many rows. Their plans are made once, without a look at the
/// values, and only out of what is as quick in a large tenant as in a small one: the planner's statistics are of all tenants
/// together, and its guess about one of them may be a thousand times too low.
pub(crate) async fn as_reader(client: &mut Client, tenant: TenantId) -> Result<Transaction<'_>> {
    let tx = Transaction::begin(client).await?;
    let statement = tx
        .inner
        .prepare_cached(
            "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1::uuid::text, true),
               set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true),
               set_config('enable_sort', 'off', true), set_config('jit', 'off', true)",
        )
        .await?;
    tx.execute(&statement, &[&tenant.0]).await?;
    Ok(tx)
}

/// As [`as_tenant`], for a change that `actor` makes: refused when the actor was deactivated, deleted or given another
/// role since the token was made. What a token says may be minutes old; what it may change is asked of the row.
pub(crate) async fn as_actor(client: &mut Client, actor: Actor, tenant: TenantId) -> Result<Transaction<'_>> {
    let tx = Transaction::begin(client).await?;
    let (statement, trace) = (tx.inner.prepare_cached(ENTER).await?, traceparent());
    let enter = async { Ok(tx.execute(&statement, &[&tenant.0, &trace]).await?) };
    pipelined(enter, stands(&tx, actor)).await?;
    Ok(tx)
}

/// Refuses when the actor may no longer act.
pub(crate) async fn stands(tx: &Transaction<'_>, actor: Actor) -> Result<()> {
    let stands = match actor.who {
        Who::User(user) => {
            let statement = tx.prepare_cached("select tenantry.session_stands($1, $2, $3, $4)").await?;
            let user: [&(dyn ToSql + Sync); 4] = [&actor.home.0, &user.id.0, &user.version, &user.session.0];
            tx.query_one(&statement, &user).await?.try_get(0)?
        }
        Who::ApiKey(key) => {
            let statement = tx.prepare_cached("select tenantry.api_key_stands($1, $2)").await?;
            tx.query_one(&statement, &[&actor.home.0, &key.0]).await?.try_get(0)?
        }
        Who::Operator => true,
    };
    if stands { Ok(()) } else { Err(Error::Revoked) }
}

/// A transaction that sees all tenants, for sign-up and for work that belongs to none.
pub async fn as_system(client: &mut Client) -> Result<Transaction<'_>> {
    let tx = Transaction::begin(client).await?;
    let parameter = [(&traceparent() as &(dyn ToSql + Sync), Type::TEXT)];
    let sql =
        "select set_config('role', 'tenantry_system', true), set_config('tenantry.traceparent', $1, true)";
    tx.inner.query_typed(sql, &parameter).await?;
    Ok(tx)
}

/// What jobs that are enqueued in a transaction note as their trace: the setting `tenantry.traceparent`, empty for none. Every
/// transaction here sets it, and so does a function that enqueues in a transaction of its own:
/// `select tenantry.f($1) from set_config('tenantry.traceparent', $2, true)`.
pub(crate) fn traceparent() -> String {
    tenantry_trace::current().map(|trace| trace.to_string()).unwrap_or_default()
}

/// Translates the violation of a named constraint into what it means.
pub(crate) trait OnConstraint<T> {
    fn on_constraint(self, name: &str, meaning: Error) -> Result<T>;
}

impl<T> OnConstraint<T> for std::result::Result<T, tokio_postgres::Error> {
    fn on_constraint(self, name: &str, meaning: Error) -> Result<T> {
        self.map_err(|error| match error.as_db_error() {
            Some(db) if db.constraint() == Some(name) => meaning,
            _ => error.into(),
        })
    }
}

/// Whether a failed COMMIT certainly left nothing behind: the server answered, and not with "I am going away".
pub(crate) fn rolled_back(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            !matches!(
                *code,
                SqlState::ADMIN_SHUTDOWN
                    | SqlState::CRASH_SHUTDOWN
                    | SqlState::TRANSACTION_RESOLUTION_UNKNOWN
            ) && !code.code().starts_with("08")
        }
        None => false,
    }
}

/// A pattern for `like` that matches `text` anywhere, literally.
pub(crate) fn containing(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    format!("%{escaped}%")
}
