//! A database of a test's own, on the PostgreSQL that `make test` starts for all tests.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod};
use futures_util::{FutureExt, future::BoxFuture};
use tenantry_jobs::Job;
use tenantry_queue::{JobId, Leased, Outcome, enqueue};
use tokio_postgres::{Client, Config, NoTls, Row};
use uuid::Uuid;

/// A fresh, migrated database with one tenant. Workers of other tests do not see its jobs.
pub(crate) struct Database {
    pub(crate) name: String,
    /// The application's login: it owns nothing and becomes a role inside each transaction.
    pub(crate) pool: Pool,
    /// A superuser, to look behind the walls and to move time.
    pub(crate) admin: Client,
    pub(crate) tenant: Uuid,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let name = format!("queue_{}", Uuid::now_v7().simple());
        let maintenance = connect("postgres").await;
        // A template that nobody is connected to; the wrapper around the tests has made it.
        maintenance
            .batch_execute(&format!("create database {name} template tenantry_template"))
            .await
            .unwrap();
        let database = Self::on(&name).await;
        // Jobs that come round by themselves would be counted with a test's own.
        database.admin.batch_execute("delete from tenantry.schedules").await.unwrap();
        Self { tenant: database.add_tenant().await, ..database }
    }

    /// One that exists, with the tenant "system".
    pub(crate) async fn on(name: &str) -> Self {
        Self { pool: pool(name), admin: connect(name).await, name: name.to_owned(), tenant: Uuid::nil() }
    }

    pub(crate) async fn add_tenant(&self) -> Uuid {
        let id = Uuid::now_v7();
        let slug = format!("t{}", id.simple());
        let sql = "insert into tenantry.tenants (id, name, slug) values ($1, 'Test', $2)";
        self.admin.execute(sql, &[&id, &slug]).await.unwrap();
        id
    }

    /// Another login of the application to this database.
    pub(crate) async fn client(&self) -> Object {
        self.pool.get().await.unwrap()
    }

    /// Enqueues and commits, behind the tenant's wall.
    pub(crate) async fn enqueue<J: Job>(&self, job: &J) -> JobId {
        let mut client = self.client().await;
        let tx = client.transaction().await.unwrap();
        enter(&tx, self.tenant).await;
        let id = enqueue(&tx, self.tenant, job).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn row(&self, id: JobId) -> Row {
        let sql = "select *, payload::text as payload_text from tenantry.jobs where id = $1";
        self.admin.query_one(sql, &[&id.0]).await.unwrap()
    }

    pub(crate) async fn state(&self, id: JobId) -> String {
        self.row(id).await.get("state")
    }

    pub(crate) async fn states(&self) -> Vec<String> {
        let sql = "select state from tenantry.jobs order by state";
        self.admin.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// Time passes: whatever waits is due, and every lease has run out.
    pub(crate) async fn let_time_pass(&self) {
        let sql =
            "update tenantry.jobs set run_at = now() where state in ('pending', 'failed') and run_at > now();
          update tenantry.jobs set lease_expires_at = now() - interval '1 s' where state = 'running'";
        self.admin.batch_execute(sql).await.unwrap();
    }

    pub(crate) async fn run_due<H>(&self, handler: H) -> usize
    where
        H: Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static,
    {
        tenantry_queue::run_due(&self.pool, Some(self.tenant), handler).await.unwrap()
    }

    /// Waits until the job is as the condition says.
    pub(crate) async fn until(&self, id: JobId, condition: &str) {
        let sql = format!("select 1 from tenantry.jobs where id = $1 and ({condition})");
        for _ in 0..3000 {
            if self.admin.query_opt(&sql, &[&id.0]).await.unwrap().is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("job {id} never came to be: {condition}; it is {:?}", self.row(id).await);
    }
}

/// Takes the tenant's role, as the application does.
pub(crate) async fn enter(tx: &deadpool_postgres::Transaction<'_>, tenant: Uuid) {
    let sql = "select set_config('role', 'tenantry_app', true), set_config('tenantry.tenant', $1, true)";
    tx.query_one(sql, &[&tenant.to_string()]).await.unwrap();
}

/// Takes the system's role.
pub(crate) async fn enter_system(tx: &deadpool_postgres::Transaction<'_>) {
    tx.batch_execute("set local role tenantry_system").await.unwrap();
}

/// A handler that always ends like this.
pub(crate) fn always(
    outcome: Outcome,
) -> impl Fn(Leased) -> BoxFuture<'static, Outcome> + Clone + Send + Sync + 'static {
    move |_| std::future::ready(outcome.clone()).boxed()
}

/// Connections of the application's login to a database.
pub(crate) fn pool(database: &str) -> Pool {
    let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Pool::builder(Manager::from_config(login("TEST_DATABASE_URL", database), NoTls, config))
        .max_size(8)
        .build()
        .unwrap()
}

async fn connect(database: &str) -> Client {
    let (client, connection) = login("TEST_DATABASE_SUPERUSER_URL", database).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn login(variable: &str, database: &str) -> Config {
    let Ok(url) = std::env::var(variable) else {
        panic!("{variable} is not set: run `make test`, or cargo run --example stack -- cargo nextest run")
    };
    let mut config: Config = url.parse().unwrap();
    config.dbname(database);
    config
}
