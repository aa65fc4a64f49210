//! A PostgreSQL and a Redis of our own, processes of the API on them, a worker, and users to ask for.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
    time::Duration,
};

use tenantry::dev::{postgres, redis};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    Result,
    harness::Process,
    load::Target,
    servers::{Servers, free_address, tenantry},
};

/// Enough that what is asked for is not in the memory of a process by chance alone.
const USERS: usize = 500;

pub(crate) struct Cluster {
    pub(crate) servers: Servers,
    pub(crate) nodes: Vec<Process>,
    /// What clients ask; at a node, until there is a balancer.
    pub(crate) target: Target,
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) logs: PathBuf,
}

impl Cluster {
    /// So many processes of `program` on these servers, with settings that are different.
    pub(crate) async fn start(
        program: &Path,
        servers: Servers,
        nodes: usize,
        folder: &Path,
        logs: &Path,
        different: &[(&str, &str)],
    ) -> Result<Self> {
        let settings = settings(&servers, folder, different);
        tenantry(program, &settings, &["seed", "--tenants", "1", "--users", &USERS.to_string()]).await?;
        let logs = logs.join(folder.file_name().unwrap_or_default());
        fs::create_dir_all(&logs)?;
        let mut processes = vec![];
        for n in 0..nodes {
            let address = Some(free_address()?);
            let name = format!("node-{n}");
            processes.push(Process::new(name, "api", address, program, settings.clone(), &logs));
        }
        // The first makes the keys.
        for process in &processes {
            process.start().await?;
        }
        let database = servers.database().await?;
        let rows = database
            .query("select tenant_id, id, role from tenantry.users where tenant_id <> $1", &[&Uuid::nil()])
            .await?;
        let tenant: Uuid = rows.first().ok_or("nobody was seeded")?.try_get(0)?;
        let users: Vec<Uuid> =
            rows.iter().filter(|row| row.get::<_, &str>(2) == "user").map(|row| row.get(1)).collect();
        let arguments = ["token", "--tenant", &tenant.to_string(), "--email", "admin@example.org"];
        let token = tenantry(program, &settings, &arguments).await?.trim().to_owned();
        let address = processes.first().and_then(|node| node.address).ok_or("no node")?;
        let target = Target { address, token, users: Arc::new(users), names: Arc::default() };
        let cluster = Self { servers, nodes: processes, target, settings, logs };
        cluster.warm_up().await?;
        Ok(cluster)
    }

    /// Everybody is in Redis, and in the memory of the node that is asked.
    async fn warm_up(&self) -> Result<()> {
        let client = reqwest::Client::new();
        for user in self.target.users.iter() {
            let url = format!("http://{}/api/v1/users/{user}", self.target.address);
            client.get(url).bearer_auth(&self.target.token).send().await?.error_for_status()?;
        }
        Ok(())
    }

    /// Waits until a process says that it is ready.
    pub(crate) async fn ready(&self, node: usize) -> Result<()> {
        let address = self.nodes[node].address.ok_or("a node listens nowhere")?;
        until("a process is ready", Duration::from_secs(60), async || {
            status(address, "/health/ready").await == 200
        })
        .await
    }

    /// Of how many users the newest change that was acknowledged is not what the database has, nor was followed by one whose answer
    /// nobody got; and of how many there was one.
    pub(crate) async fn lost_changes(&self) -> Result<(usize, usize)> {
        let sql = "select id, version, name from tenantry.users";
        let rows = self.servers.database().await?.query(sql, &[]).await?;
        let stored: BTreeMap<Uuid, (i64, String)> =
            rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let names = self.target.names.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |(user, (version, name)): (&Uuid, &(i64, String))| {
            stored.get(user).is_some_and(|(now, has)| now > version || (now == version && has == name))
        };
        Ok((names.iter().filter(|change| !holds(*change)).count(), names.len()))
    }

    pub(crate) async fn stop(self) -> Result<()> {
        drop(self.nodes);
        self.servers.stop().await
    }
}

/// The status of an unsigned request; 0: there was no answer.
pub(crate) async fn status(address: SocketAddr, path: &str) -> u16 {
    match reqwest::get(format!("http://{address}{path}")).await {
        Ok(answer) => answer.status().as_u16(),
        Err(_) => 0,
    }
}

/// Waits for a fact.
pub(crate) async fn until(what: &str, patience: Duration, fact: impl AsyncFn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !fact().await {
        if start.elapsed() > patience {
            return Err(format!("not within {patience:?}: {what}").into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn settings(servers: &Servers, folder: &Path, different: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = [
        ("DATABASE_URL", postgres::app_url(&servers.home)),
        ("REDIS_URL", redis::url(&servers.home)),
        ("PUBLIC_URL", "http://tenantry.test".into()),
        ("JWT_KEYS_DIR", folder.join("keys").display().to_string()),
        ("ACCESS_TOKEN_TTL", "1h".into()),
        ("SHUTDOWN_DELAY", "1s".into()),
        // All of them come from one address here.
        ("MAX_CONNECTIONS_PER_ADDRESS", "20000".into()),
        // And by one token, which may not ask for more than 3,000 times a minute.
        ("RATE_LIMIT_CALLER", "off".into()),
        ("RUST_LOG", "warn".into()),
    ];
    let settings =
        settings.into_iter().chain(different.iter().map(|(name, value)| (*name, (*value).to_owned())));
    settings.map(|(name, value)| (name.to_owned(), value)).collect()
}
