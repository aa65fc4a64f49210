//! What figures cost, by how many users the tenant has, who have signed in three times each: `make load-stats`.

use std::{
    fs,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::{process::Command, time::sleep};
use tokio_postgres::NoTls;

use crate::{
    Result, Settings,
    figures::Figures,
    lists::{fill, median},
    process::{Process, free_address, program},
    servers::Servers,
};

/// Of tenants, up to the most that are asked for. Those of more than 10,000 are counted by a job.
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// How often they are counted in a round.
const COUNTS: usize = 5;

const COUNT: &str = "counting a tenant's users, their sign-ups by day and their sign-ins";
const KEPT: &str = "figures that are kept";
const LIST: &str = "a list of a hundred users";

struct Tenant {
    users: u64,
    token: String,
    node: Process,
    owner: String,
    client: Client,
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let most = settings.users.unwrap_or(SIZES[SIZES.len() - 1]);
    let sizes = SIZES.into_iter().filter(|size| *size < most).chain([most]);
    let mut figures = Figures::new("what figures cost, by how many users the tenant has", settings);
    figures.note("three sign-ins a user; one request after another; p50, and time of PostgreSQL's processes");
    let mut tenants = vec![];
    for users in sizes {
        tenants.push(Tenant::make(servers, users).await?);
    }
    for round in 1..=settings.rounds {
        for tenant in &tenants {
            eprintln!("round {round} of {}: {} users", settings.rounds, tenant.users);
            tenant.count(&mut figures, servers).await?;
            let kept = tenant.cost(settings, servers, "/users/stats").await?;
            figures.add(KEPT, format!("{} users: p50", tenant.users), "ms", kept[0]);
            figures.add(KEPT, format!("{} users: PostgreSQL", tenant.users), "ms", kept[1]);
            for (name, query) in [("without", ""), ("with", "&include=stats")] {
                let path = format!("/users?limit=100&cursor=first{query}");
                let cost = tenant.cost(settings, servers, &path).await?;
                figures.add(LIST, format!("{} users: {name} figures: p50", tenant.users), "ms", cost[0]);
                figures.add(
                    LIST,
                    format!("{} users: {name} figures: PostgreSQL", tenant.users),
                    "ms",
                    cost[1],
                );
            }
        }
    }
    for tenant in tenants {
        tenant.node.stop().await?;
    }
    Ok(figures)
}

impl Tenant {
    async fn make(servers: &Servers, users: u64) -> Result<Self> {
        let name = format!("stats_{users}");
        let database = servers.database(&name, 1, 1).await?;
        eprintln!("making {users} users in one tenant");
        let (owner, _) = servers.urls(&name);
        fill(&owner, users).await?;
        let logins = "insert into tenantry.user_logins (tenant_id, user_id, id, at)
                      select u.tenant_id, u.id,
                        (left(tenantry.uuid_floor(t.at)::text, 18) || right(gen_random_uuid()::text, 18))::uuid, t.at
                      from generate_series(0, 2) n cross join tenantry.users u
                      cross join lateral (select now() - (n * 10 + abs(hashint8(n + extract(epoch from u.created_at)::bigint)) % 10) * interval '1 day' as at) t;
                      vacuum analyze tenantry.user_logins";
        for sql in logins.split(';') {
            connect(&owner).await?.batch_execute(sql).await?;
        }
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg("all").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
        // There is nothing to be mailed.
        command
            .env("LISTEN", address.to_string())
            .env("RATE_LIMIT_IP", "off")
            .env("SMTP_URL", "smtp://127.0.0.1:1");
        let node = Process::start(command, address, &servers.folder.join(format!("{name}.log"))).await?;
        let token = fs::read_to_string(&database.tokens)?.lines().next().ok_or("no token")?.to_owned();
        Ok(Self { users, token, node, owner, client: Client::new() })
    }

    /// As if nobody had asked before: by the request, or, where there are many users, by a job.
    async fn count(&self, figures: &mut Figures, servers: &Servers) -> Result<()> {
        let database = connect(&self.owner).await?;
        let (mut took, mut answered) = (vec![], vec![]);
        let [_, before] = servers.cpu()?;
        for _ in 0..COUNTS {
            database.batch_execute("delete from tenantry.user_stats").await?;
            let start = Instant::now();
            while self.ask("/users/stats").await?.0 == StatusCode::ACCEPTED {
                sleep(Duration::from_millis(20)).await;
            }
            answered.push(start.elapsed().as_secs_f64() * 1e3);
            let row = database.query_one("select took_ms::float8 from tenantry.user_stats", &[]).await?;
            took.push(row.try_get(0)?);
        }
        let [_, after] = servers.cpu()?;
        let users = self.users;
        figures.add(COUNT, format!("{users} users: the statement"), "ms", median(&took));
        figures.add(COUNT, format!("{users} users: until there are figures"), "ms", median(&answered));
        figures.add(
            COUNT,
            format!("{users} users: PostgreSQL"),
            "ms",
            (after - before) / COUNTS as f64 * 1e3,
        );
        Ok(())
    }

    /// p50 of the time, and what PostgreSQL takes for a request, in ms.
    async fn cost(&self, settings: &Settings, servers: &Servers, path: &str) -> Result<[f64; 2]> {
        let (began, mut times) = (Instant::now(), vec![]);
        let [_, before] = servers.cpu()?;
        while began.elapsed() < Duration::from_secs(settings.seconds) {
            let start = Instant::now();
            let (status, body) = self.ask(path).await?;
            if status != StatusCode::OK {
                return Err(format!("{path}: {body}").into());
            }
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let [_, after] = servers.cpu()?;
        Ok([median(&times), (after - before) / times.len() as f64 * 1e3])
    }

    /// An answer that is not one that is shared.
    async fn ask(&self, path: &str) -> Result<(StatusCode, Value)> {
        let request = self.client.get(format!("http://{}/api/v1{path}", self.node.address));
        let answer = request.bearer_auth(&self.token).header("X-Min-Version", "0").send().await?;
        Ok((answer.status(), answer.json().await?))
    }
}

async fn connect(url: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
