//! What is tormented: a PostgreSQL and three workers of our own, and their jobs.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tenantry::{
    dev::{Home, Server, postgres},
    migrate,
};
use tokio::{sync::Mutex, time::sleep};
use tokio_postgres::{Client, NoTls};

use crate::{
    Result,
    process::{Process, send},
};

/// Of the folder of a run, before the number of its process.
const PREFIX: &str = "tenantry-jobs-chaos-";
const WORKERS: usize = 3;

const TABLES: &str = "
    create schema chaos;
    -- One row an effect, and nothing that would keep a second one out.
    create table chaos.effects (job uuid not null, attempt int not null, at timestamptz not null default clock_timestamp());
    create table chaos.workers (name text not null, pid int not null, at timestamptz not null default clock_timestamp());
    create table chaos.kills (name text not null, pid int not null, at timestamptz not null default clock_timestamp());
    create table chaos.outages (began timestamptz not null, ended timestamptz not null);
    -- What was asked for, as the harness knows it.
    create table chaos.asked (job uuid not null, what text not null);
    grant usage on schema chaos to public;
    grant insert on chaos.effects, chaos.workers to public;
    delete from tenantry.schedules;
    insert into tenantry.tenants (id, name, slug)
      select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'Tenant ' || n, 'tenant-' || n
      from generate_series(1, 21) as n;
";

/// Half mails, half invalidations, of twenty tenants, one of which has half of all. Of a thousand jobs twenty are slow,
/// thirty fail twice, ten panic once, ten are enqueued for later, two are refused. Some in all kill their worker, as many
/// cannot be read.
const JOBS: &str = "
    with planned as (
      select n, case when n % ($1::int / $2::int) = 7 then 'abort' when n % ($1::int / $2::int) = 13 then 'unreadable'
        when n % 1000 < 20 then 'slow' when n % 1000 < 50 then 'fail' when n % 1000 < 60 then 'panic'
        when n % 1000 < 62 then 'refuse' when n % 1000 < 72 then 'later' else 'now' end as what,
        ('00000000-0000-7000-8000-' || lpad((case n % 2 when 0 then 1 else 1 + n % 20 end)::text, 12, '0'))::uuid as tenant,
        case when (n / 2) % 2 = 0 then 'verify_email' else 'invalidate_user' end as kind
      from generate_series(1, $1::int) as n
    )
    insert into chaos.asked
    select tenantry.enqueue_job(p.kind,
        jsonb_build_object('user_id', gen_random_uuid(), 'users', '[]'::jsonb, 'do', p.what)
          || case p.what when 'unreadable' then '{\"n\": 1e999}'::jsonb else '{}'::jsonb end,
        p.tenant, run_at => case p.what when 'later' then now() + interval '5 s' end, priority => -(p.n % 3)), p.what
    from planned p";

/// All due at the same instant.
const AT_ONCE: &str = "
    insert into chaos.asked
    select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid(), 'do', 'now'),
        ('00000000-0000-7000-8000-' || lpad((1 + n % 20)::text, 12, '0'))::uuid, run_at => now() + interval '10 s'), 'at once'
    from generate_series(1, $1::int) as n";

/// A tenant with nothing else waiting.
const PROBE: &str = "
    insert into chaos.asked
    select tenantry.enqueue_job('verify_email', jsonb_build_object('user_id', gen_random_uuid(), 'do', 'now'),
        '00000000-0000-7000-8000-000000000021'), 'probe'";

pub(crate) struct Cluster {
    pub(crate) workers: Vec<Process>,
    home: Home,
    postgres: Mutex<Option<Server>>,
}

impl Cluster {
    pub(crate) async fn start(folder: &Path, logs: &Path, lease: f64) -> Result<Self> {
        let home = Home::open(&folder.join("home")).await?;
        let server = postgres::start(&home, postgres::Use::Dev).await?;
        migrate::run(&postgres::owner_url(&home), &postgres::app_url(&home)).await?;
        let program = std::env::current_exe()?;
        let worker = |n: usize| {
            let settings = vec![
                ("DATABASE_URL".to_owned(), postgres::app_url(&home)),
                ("LEASE".to_owned(), lease.to_string()),
                ("WORKER".to_owned(), format!("worker-{n}")),
            ];
            Process::new(format!("worker-{n}"), "worker", None, &program, settings, logs)
        };
        let workers = (0..WORKERS).map(worker).collect();
        let cluster = Self { workers, home, postgres: Mutex::new(Some(server)) };
        cluster.database().await?.batch_execute(TABLES).await?;
        Ok(cluster)
    }

    pub(crate) async fn database(&self) -> Result<Client> {
        let (client, connection) =
            tokio_postgres::connect(&postgres::superuser_url(&self.home), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(crate) async fn enqueue(&self, jobs: usize, poison: usize, at_once: usize) -> Result<()> {
        let database = self.database().await?;
        database.execute(JOBS, &[&i32::try_from(jobs)?, &i32::try_from(poison)?]).await?;
        database.execute(AT_ONCE, &[&i32::try_from(at_once)?]).await?;
        Ok(())
    }

    pub(crate) async fn enqueue_probe(&self) -> Result<()> {
        self.database().await?.execute(PROBE, &[]).await?;
        Ok(())
    }

    /// How many jobs have not come to an end.
    pub(crate) async fn open(&self) -> Result<i64> {
        let sql = "select count(*) from tenantry.jobs where state in ('pending', 'running', 'failed')";
        Ok(self.database().await?.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// kill -9 of a worker, which starts again after some time; noted as close to the signal as can be.
    pub(crate) async fn kill(&self, n: usize, dead: Duration) -> Result<()> {
        if let Ok(database) = self.database().await {
            let note = "insert into chaos.kills (name, pid)
              select name, pid from chaos.workers where name = $1 order by at desc limit 1";
            let _ = database.execute(note, &[&self.workers[n].name]).await;
        }
        self.workers[n].replace(dead).await
    }

    /// An immediate shutdown, as if by a power cut, some time, and a start.
    pub(crate) async fn crash_postgres(&self, dead: Duration) -> Result<()> {
        let mut slot = self.postgres.lock().await;
        let began = chrono::Utc::now();
        if let Some(server) = slot.take() {
            if let Some(pid) = server.pid() {
                send(pid, "QUIT").await?;
            }
            server.stop().await;
        }
        sleep(dead).await;
        *slot = Some(postgres::start(&self.home, postgres::Use::Dev).await?);
        let note = "insert into chaos.outages values ($1, clock_timestamp())";
        self.database().await?.execute(note, &[&began]).await?;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        drop(self.workers);
        if let Some(server) = self.postgres.into_inner() {
            server.stop().await;
        }
        self.home.remove()?;
        Ok(())
    }
}

/// A folder of ours; those of runs that were killed go.
pub(crate) async fn new_folder() -> Result<PathBuf> {
    for entry in fs::read_dir(std::env::temp_dir())?.flatten() {
        let name = entry.file_name();
        let Some(run) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        if !Path::new("/proc").join(run).exists()
            && let Ok(home) = Home::open(&entry.path().join("home")).await
        {
            home.remove()?;
            fs::remove_dir_all(entry.path())?;
        }
    }
    let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&path)?;
    Ok(path)
}
