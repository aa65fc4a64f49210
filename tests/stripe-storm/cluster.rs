//! What the storm comes over: an API, two workers and a PostgreSQL of our own.

use std::{collections::HashMap, time::Duration};

use tempfile::TempDir;
use tenantry::{
    dev::{Home, Server, postgres},
    migrate,
};
use tenantry_fake_stripe::Fake;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, NoTls};

use crate::{
    PRICES, Result,
    port::free_address,
    process::Process,
    program::{built, logs},
};

pub(crate) struct Cluster {
    api: Process,
    workers: Vec<Process>,
    home: Home,
    postgres: Server,
    database: Client,
    webhook: String,
    _folder: TempDir,
}

impl Cluster {
    pub(crate) async fn start(fake: &Fake, prices: &[String]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let home = Home::open(&folder.path().join("home")).await?;
        let server = postgres::start(&home, postgres::Use::Dev).await?;
        migrate::run(&postgres::owner_url(&home), &postgres::app_url(&home)).await?;
        let (database, connection) = tokio_postgres::connect(&postgres::superuser_url(&home), NoTls).await?;
        tokio::spawn(connection);
        // It comes round when we say so.
        database.batch_execute("delete from tenantry.schedules").await?;
        let logs = logs("stripe-storm-logs")?;
        println!("the logs of API and workers are in {}", logs.display());
        let address = free_address()?;
        let sold =
            prices.iter().zip(PRICES).map(|(id, (_, plan))| format!("{id}={plan}")).collect::<Vec<_>>();
        let settings: Vec<(String, String)> = [
            ("DATABASE_URL", postgres::app_url(&home)),
            ("LISTEN", address.to_string()),
            ("PUBLIC_URL", format!("http://{address}")),
            ("JWT_KEYS_DIR", folder.path().join("keys").display().to_string()),
            ("SMTP_URL", "smtp://127.0.0.1:9".into()),
            ("STRIPE_SECRET_KEY", "sk_test_storm".into()),
            ("STRIPE_API_BASE", fake.url()),
            ("STRIPE_WEBHOOK_SECRETS", fake.secret().into()),
            ("STRIPE_PRICES", sold.join(",")),
            ("STRIPE_RATE_LIMIT", "400".into()),
            // Longer than what is read may be old.
            ("STRIPE_SETTLE_DELAY", "3s".into()),
            ("RUST_LOG", "warn".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let program = built("tenantry")?;
        let worker =
            |n| Process::new(format!("worker-{n}"), "worker", None, &program, settings.clone(), &logs);
        let cluster = Self {
            api: Process::new("api".into(), "api", Some(address), &program, settings.clone(), &logs),
            workers: (0..2).map(worker).collect(),
            home,
            postgres: server,
            database,
            webhook: format!("http://{address}/api/v1/webhooks/stripe"),
            _folder: folder,
        };
        cluster.api.start().await?;
        for worker in &cluster.workers {
            worker.start().await?;
        }
        fake.send_webhooks_to(&cluster.webhook);
        Ok(cluster)
    }

    /// Makes the tenant that a customer pays for.
    pub(crate) async fn tenant_of(&self, customer: &str) -> Result<()> {
        let slug = customer.to_ascii_lowercase().replace('_', "-");
        let sql = "with made as (
                     insert into tenantry.tenants (id, name, slug) values (gen_random_uuid(), 'Tenant', $1) returning id
                   ), seats as (
                     insert into tenantry.tenant_seats (tenant_id, max) select id, 10 from made
                   )
                   insert into tenantry.billing_customers (tenant_id, customer_id) select id, $2 from made";
        self.database.execute(sql, &[&slug, &customer]).await?;
        Ok(())
    }

    /// kill -9; it starts again after half a second.
    pub(crate) async fn kill_worker(&self, n: usize) -> Result<()> {
        self.workers[n].replace(Duration::from_millis(500)).await
    }

    /// Waits until no job is open.
    pub(crate) async fn drain(&self) -> Result<()> {
        let begun = Instant::now();
        while self.open_jobs().await? > 0 {
            if begun.elapsed() > Duration::from_secs(180) {
                return Err("jobs are still open after three minutes".into());
            }
            sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// Jobs that have not ended.
    async fn open_jobs(&self) -> Result<i64> {
        let sql = "select count(*) from tenantry.jobs where state in ('pending', 'running', 'failed')";
        Ok(self.database.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Jobs that were given up.
    pub(crate) async fn dead_jobs(&self) -> Result<i64> {
        let sql = "select count(*) from tenantry.jobs where state = 'dead'";
        Ok(self.database.query_one(sql, &[]).await?.try_get(0)?)
    }

    pub(crate) async fn reconcile(&self) -> Result<()> {
        let sql =
            "select tenantry.enqueue_job('stripe_reconcile', '{}', '00000000-0000-0000-0000-000000000000')";
        self.database.execute(sql, &[]).await?;
        Ok(())
    }

    pub(crate) async fn backfill(&self) -> Result<()> {
        let sql =
            "select tenantry.enqueue_job('stripe_backfill', '{}', '00000000-0000-0000-0000-000000000000')";
        self.database.execute(sql, &[]).await?;
        Ok(())
    }

    /// Where Stripe sends events.
    pub(crate) fn webhook(&self) -> &str {
        &self.webhook
    }

    /// Events of subscriptions that were taken in, and whether by webhook.
    pub(crate) async fn events(&self) -> Result<HashMap<String, bool>> {
        let sql = "select id, source = 'webhook' from tenantry.stripe_events where kind like 'customer.subscription.%'";
        let rows = self.database.query(sql, &[]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// How many customers and subscriptions the last backfill came by, those of it that have come to their ends.
    pub(crate) async fn taken_in(&self) -> Result<Vec<i64>> {
        let sql = "select done from tenantry.stripe_cursors
                   where name in ('customers', 'backfill') and ended_at is not null order by name";
        let rows = self.database.query(sql, &[]).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    pub(crate) fn database(&self) -> &Client {
        &self.database
    }

    pub(crate) async fn stop(self) -> Result<()> {
        drop((self.api, self.workers, self.database));
        self.postgres.stop().await;
        self.home.remove()?;
        Ok(())
    }
}
