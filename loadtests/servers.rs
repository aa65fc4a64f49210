//! The private PostgreSQL and Redis, and databases full of users.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Client as RedisClient, aio::MultiplexedConnection, cmd};
use rand::seq::SliceRandom;
use rustix::process::{Pid, setpriority_process};
use tenantry::{
    dev::{Home, Server, postgres, redis},
    migrate,
};
use tokio::process::Command;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::{
    Result,
    process::{Process, cpu, cpu_of_family, free_address, program},
};

pub(crate) struct Servers {
    pub(crate) folder: PathBuf,
    home: Home,
    postgres: Server,
    redis: Server,
}

/// A database with tenants and users, who are shuffled.
pub(crate) struct Database {
    pub(crate) settings: Vec<(&'static str, String)>,
    /// A file with an access token for each tenant, a line each.
    pub(crate) tokens: PathBuf,
    pub(crate) users: Vec<User>,
    /// How long making the users took.
    pub(crate) seeded_in: Duration,
}

pub(crate) struct User {
    /// The line of the tenant's token, from 1 on.
    pub(crate) token: usize,
    pub(crate) id: Uuid,
    pub(crate) email: String,
    pub(crate) tenant: String,
}

impl Servers {
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let home = Home::open(&folder.join("home")).await?;
        let postgres = postgres::start(&home, postgres::Use::Dev).await?;
        let redis = redis::start(&home).await?;
        Ok(Self { folder: folder.to_owned(), home, postgres, redis })
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.postgres.stop().await;
        self.redis.stop().await;
        Ok(self.home.remove()?)
    }

    /// From here on they come after all others that want a processor, as if they had one of their own.
    pub(crate) fn step_back(&self) -> Result<()> {
        const AFTER_OTHERS: i32 = 10;
        for server in [&self.redis, &self.postgres] {
            // Those that it starts for connections are as it is.
            let pid = server.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
            setpriority_process(Some(pid.ok_or("a server has ended")?), AFTER_OTHERS)?;
        }
        Ok(())
    }

    /// Seconds of processor time that Redis and PostgreSQL have used so far.
    pub(crate) fn cpu(&self) -> Result<[f64; 2]> {
        let (redis, postgres) = (self.redis.pid().ok_or("Redis has ended")?, self.postgres.pid());
        Ok([cpu(redis)?, cpu_of_family(postgres.ok_or("PostgreSQL has ended")?)?])
    }

    pub(crate) fn redis_pid(&self) -> Result<u32> {
        Ok(self.redis.pid().ok_or("Redis has ended")?)
    }

    pub(crate) fn redis_url(&self) -> String {
        redis::url(&self.home)
    }

    pub(crate) async fn redis(&self) -> Result<MultiplexedConnection> {
        Ok(RedisClient::open(self.redis_url())?.get_multiplexed_async_connection().await?)
    }

    /// How many calls clients have made; what scripts do inside is not counted.
    pub(crate) async fn redis_calls(&self) -> Result<f64> {
        let stats: String = cmd("INFO").arg("commandstats").query_async(&mut self.redis().await?).await?;
        let calls = stats.lines().filter_map(|line| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            ["evalsha", "get", "set", "del"].contains(&name).then_some(rest.split(',').next()?)
        });
        calls.map(|calls| Ok(calls.parse::<f64>()?)).sum()
    }

    /// Writes requests to a file of their own; see `requests.lua`.
    pub(crate) fn write(&self, lines: &[String]) -> Result<PathBuf> {
        let path = self.folder.join(format!("{}.requests", Uuid::new_v4()));
        fs::write(&path, lines.join("\n") + "\n")?;
        Ok(path)
    }

    /// How the owner and the application reach the database of that name.
    pub(crate) fn urls(&self, name: &str) -> (String, String) {
        let (owner, app) = (postgres::owner_url(&self.home), postgres::app_url(&self.home));
        (in_database(&owner, name), in_database(&app, name))
    }

    /// A connection to it, past every wall.
    pub(crate) async fn superuser(&self, name: &str) -> Result<tokio_postgres::Client> {
        connect(&in_database(&postgres::superuser_url(&self.home), name)).await
    }

    /// Makes a database of that name with so many users.
    pub(crate) async fn database(&self, name: &str, tenants: u64, users: u64) -> Result<Database> {
        let in_it = |url: String| in_database(&url, name);
        let (owner, app) = self.urls(name);
        let maintenance = connect(&postgres::superuser_url(&self.home)).await?;
        maintenance.batch_execute(&format!("create database {name} owner tenantry_owner")).await?;
        migrate::run(&owner, &app).await?;
        let settings = vec![
            ("DATABASE_URL", app),
            ("REDIS_URL", self.redis_url()),
            ("PUBLIC_URL", "http://tenantry.test".into()),
            ("JWT_KEYS_DIR", self.folder.join("keys").display().to_string()),
            ("ACCESS_TOKEN_TTL", "1d".into()),
            ("RATE_LIMIT_IP", "1000000000/15m".into()),
            ("RATE_LIMIT_CALLER", "1000000000/15m".into()),
            ("RATE_LIMIT_TENANT_ENTERPRISE", "1000000000/15m".into()),
        ];
        eprintln!("making {users} users in {tenants} tenants");
        let start = Instant::now();
        let numbers = [tenants.to_string(), users.to_string()];
        tenantry(&settings, &["seed", "--tenants", &numbers[0], "--users", &numbers[1]]).await?;
        let seeded_in = start.elapsed();

        let database = connect(&in_it(postgres::superuser_url(&self.home))).await?;
        // So that nobody does it while we measure.
        database.batch_execute("vacuum analyze").await?;
        database.batch_execute("checkpoint").await?;
        let slugs = database
            .query("select slug from tenantry.tenants where slug like 'seed-%' order by id", &[])
            .await?;
        self.make_key(&settings).await?;
        let tokens = self.folder.join(format!("{name}.tokens"));
        let mut file = fs::File::create(&tokens)?;
        for row in &slugs {
            let arguments = ["token", "--tenant", row.try_get(0)?, "--email", "admin@example.org"];
            file.write_all(tenantry(&settings, &arguments).await?.as_bytes())?;
        }
        let sql = "select dense_rank() over (order by tenant_id), id, email, tenant_id::text from tenantry.users where role = 'user'";
        let user = |row: &tokio_postgres::Row| -> Result<User> {
            Ok(User {
                token: usize::try_from(row.try_get::<_, i64>(0)?)?,
                id: row.try_get(1)?,
                email: row.try_get(2)?,
                tenant: row.try_get(3)?,
            })
        };
        let mut users = database.query(sql, &[]).await?.iter().map(user).collect::<Result<Vec<_>>>()?;
        users.shuffle(&mut rand::rng());
        Ok(Database { settings, tokens, users, seeded_in })
    }

    /// Starts the program in a role on a database, with settings that differ; what it says goes to the log of that name.
    pub(crate) async fn tenantry(
        &self,
        database: &Database,
        role: &str,
        different: &[(&str, &str)],
        log: &str,
    ) -> Result<Process> {
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg(role).env_clear().envs(database.settings.iter().cloned()).current_dir(&self.folder);
        command.env("LISTEN", address.to_string()).envs(different.iter().copied());
        Process::start(command, address, &self.folder.join(log).with_extension("log")).await
    }

    /// The first API that starts makes the key that tokens are signed with.
    async fn make_key(&self, settings: &[(&'static str, String)]) -> Result<()> {
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg("api").env_clear().envs(settings.iter().cloned()).env("LISTEN", address.to_string());
        command.current_dir(&self.folder);
        Process::start(command, address, &self.folder.join("key.log")).await?.stop().await
    }
}

fn in_database(url: &str, name: &str) -> String {
    url.replacen("/tenantry?", &format!("/{name}?"), 1)
}

async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs a command of the program, and returns what it prints.
async fn tenantry(settings: &[(&'static str, String)], arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program("tenantry")?);
    command.args(arguments).env_clear().envs(settings.iter().cloned()).current_dir("/").stdin(Stdio::null());
    let output = command.output().await?;
    if !output.status.success() {
        return Err(format!("tenantry {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}
