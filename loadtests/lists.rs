//! What a list and a search cost, by how many users the tenant has: `make load-lists`. Each size is a database of its own with one
//! tenant; every case is asked of all of them in turn, so that a machine that is slower for a while is so for all.

use std::{
    fs,
    time::{Duration, Instant},
};

use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::{
    Result, Settings,
    figures::Figures,
    process::{Process, free_address, program},
    servers::Servers,
};

/// Of tenants, up to the most that are asked for.
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// The size that others are compared with.
const BASE: u64 = 10_000;
/// So many are made at once.
const BATCH: u64 = 50_000;
/// Requests before those that count: statements are planned, pages of the disk are read.
const BEFORE: u32 = 20;

/// What is asked, of a node that shares no answer. `<deep>` leads to the last tenth, `<one>` is somebody's address.
const CASES: [(&str, &str); 14] = [
    ("page 1, with the total", "limit=10"),
    ("part 1", "limit=10&cursor=first"),
    ("part 1 by name", "limit=10&sort_by=name&sort_order=asc&cursor=first"),
    ("part 1 by last sign-in", "limit=10&sort_by=last_login_at&cursor=first"),
    ("a part after 90 % by name", "limit=10&sort_by=name&sort_order=asc&cursor=<deep>"),
    ("page 1000, or the last", "limit=10&sort_by=name&sort_order=asc&page=<last>"),
    ("administrators by name", "limit=10&sort_by=name&role=admin&cursor=first"),
    ("unverified by address", "limit=10&sort_by=email&email_verified=false&cursor=first"),
    ("a day's, by name", "limit=10&sort_by=name&created_after=<day>"),
    ("search: one address", "limit=10&search=<one>"),
    ("search: nobody", "limit=10&search=qqqqqq"),
    ("search: 3 % by a first name", "limit=10&search=grace"),
    ("search: a third by a domain", "limit=10&search=example"),
    ("search: two letters", "limit=10&search=gr"),
];

/// A tenant, and the node that serves it.
struct Tenant {
    users: u64,
    token: String,
    node: Process,
    deep: String,
    one: String,
    day: String,
    active: u64,
}

pub(crate) async fn measure(settings: &Settings, servers: &Servers) -> Result<Figures> {
    let most = settings.users.unwrap_or(SIZES[SIZES.len() - 1]);
    let sizes = SIZES.into_iter().filter(|size| *size < most).chain([most]);
    let mut figures = Figures::new("what a list costs, by how many users the tenant has", settings);
    figures.note("one request after another on one connection, none answered from memory; p50, and time of PostgreSQL's processes");
    let (mut tenants, client) = (vec![], Client::new());
    for users in sizes {
        tenants.push(Tenant::make(&mut figures, servers, users).await?);
    }
    for tenant in &mut tenants {
        eprintln!("going through {} users", tenant.users);
        tenant.deep = tenant.walk(&mut figures, &client).await?;
    }
    for round in 1..=settings.rounds {
        for (name, query) in CASES {
            eprintln!("round {round} of {}: {name}", settings.rounds);
            let mut costs = vec![];
            for tenant in &tenants {
                costs.push(tenant.cost(settings, servers, &client, query).await?);
            }
            compare(&mut figures, name, &tenants, &costs);
        }
        shared(&mut figures, settings, servers, &client, &tenants).await?;
    }
    for tenant in tenants {
        tenant.node.stop().await?;
    }
    Ok(figures)
}

/// What a request has cost.
struct Cost {
    p50: f64,
    postgres: f64,
}

fn compare(figures: &mut Figures, name: &'static str, tenants: &[Tenant], costs: &[Cost]) {
    for (tenant, cost) in tenants.iter().zip(costs) {
        figures.add(name, format!("{} users: p50", tenant.users), "ms", cost.p50);
        figures.add(name, format!("{} users: PostgreSQL", tenant.users), "ms", cost.postgres);
    }
    let base = tenants.iter().position(|tenant| tenant.users == BASE);
    let Some((base, last)) = base.map(|base| &costs[base]).zip(costs.last()) else { return };
    let most = tenants.last().map_or(0, |tenant| tenant.users);
    figures.add(name, format!("{most} users, times {BASE}: p50"), "", last.p50 / base.p50);
    figures.add(name, format!("{most} users, times {BASE}: PostgreSQL"), "", last.postgres / base.postgres);
}

/// The same list, asked for as fast as can be: how often it is read.
async fn shared(
    figures: &mut Figures,
    settings: &Settings,
    servers: &Servers,
    client: &Client,
    tenants: &[Tenant],
) -> Result<()> {
    const SHARED: &str = "page 1, shared by all who ask within a second";
    for tenant in tenants {
        let (start, mut requests) = (Instant::now(), 0.0);
        let [_, before] = servers.cpu()?;
        while start.elapsed() < Duration::from_secs(settings.seconds) {
            tenant.ask(client, "limit=10", false).await?;
            requests += 1.0;
        }
        let [_, after] = servers.cpu()?;
        let users = tenant.users;
        let each = start.elapsed().as_secs_f64() / requests;
        figures.add(SHARED, format!("{users} users: mean"), "ms", each * 1e3);
        figures.add(SHARED, format!("{users} users: PostgreSQL"), "ms", (after - before) / requests * 1e3);
    }
    Ok(())
}

impl Tenant {
    async fn make(figures: &mut Figures, servers: &Servers, users: u64) -> Result<Self> {
        const MADE: &str = "making them";
        let name = format!("lists_{users}");
        let database = servers.database(&name, 1, 1).await?;
        eprintln!("making {users} users in one tenant");
        let (owner, _) = servers.urls(&name);
        let start = Instant::now();
        let Filled { one, day, active } = fill(&owner, users).await?;
        figures.add(MADE, format!("{users} users"), "s", start.elapsed().as_secs_f64());
        let address = free_address()?;
        let mut command = Command::new(program("tenantry")?);
        command.arg("api").env_clear().envs(database.settings.iter().cloned()).current_dir(&servers.folder);
        command.env("LISTEN", address.to_string()).env("RATE_LIMIT_IP", "off");
        let node = Process::start(command, address, &servers.folder.join(format!("{name}.log"))).await?;
        let token = fs::read_to_string(&database.tokens)?.lines().next().ok_or("no token")?.to_owned();
        Ok(Self { users, token, node, deep: String::new(), one, day, active })
    }

    /// Goes through the list by name, and returns the place after nine tenths.
    async fn walk(&self, figures: &mut Figures, client: &Client) -> Result<String> {
        const WALK: &str = "the whole list by name, in parts of a hundred";
        let (mut cursor, mut deep, mut seen, mut times) = ("first".to_owned(), String::new(), 0, vec![]);
        loop {
            let query = format!("sort_by=name&sort_order=asc&limit=100&cursor={cursor}");
            let start = Instant::now();
            let part = self.ask(client, &query, true).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            seen += part["data"].as_array().map_or(0, Vec::len) as u64;
            let Some(next) = part["pagination"]["next_cursor"].as_str() else { break };
            next.clone_into(&mut cursor);
            if seen * 10 <= self.users * 9 {
                deep.clone_from(&cursor);
            }
        }
        let (users, tenth) = (self.users, times.len().div_ceil(10));
        if seen != self.active {
            return Err(format!("{users} users: {} are active, and the list has {seen}", self.active).into());
        }
        figures.add(WALK, format!("{users} users: p50 of the first tenth"), "ms", median(&times[..tenth]));
        figures.add(
            WALK,
            format!("{users} users: p50 of the last tenth"),
            "ms",
            median(&times[times.len() - tenth..]),
        );
        Ok(deep)
    }

    async fn cost(
        &self,
        settings: &Settings,
        servers: &Servers,
        client: &Client,
        query: &str,
    ) -> Result<Cost> {
        let last = (self.users / 10).min(1_000).to_string();
        let query = query.replace("<deep>", &self.deep).replace("<last>", &last);
        let query = query.replace("<one>", &self.one).replace("<day>", &self.day);
        for _ in 0..BEFORE {
            self.ask(client, &query, true).await?;
        }
        let (began, mut times) = (Instant::now(), vec![]);
        let [_, before] = servers.cpu()?;
        while began.elapsed() < Duration::from_secs(settings.seconds) {
            let start = Instant::now();
            self.ask(client, &query, true).await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let [_, after] = servers.cpu()?;
        Ok(Cost { p50: median(&times), postgres: (after - before) / times.len() as f64 * 1e3 })
    }

    /// With `anew` the answer is not one that is kept.
    async fn ask(&self, client: &Client, query: &str, anew: bool) -> Result<Value> {
        let url = format!("http://{}/api/v1/users?{query}", self.node.address);
        let mut request = client.get(url).bearer_auth(&self.token);
        if anew {
            request = request.header("X-Min-Version", "0");
        }
        let answer = request.send().await?;
        let (status, body) = (answer.status(), answer.json::<Value>().await?);
        if status == StatusCode::OK { Ok(body) } else { Err(format!("{query}: {body}").into()) }
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// What is asked about those who were made.
pub(crate) struct Filled {
    /// Somebody's address.
    one: String,
    /// The time a day before the last was made.
    day: String,
    /// How many are active.
    active: u64,
}

/// Makes users whose names are those of people, thirty first names and forty thousand last ones.
pub(crate) async fn fill(owner: &str, users: u64) -> Result<Filled> {
    let (mut database, connection) = tokio_postgres::connect(owner, NoTls).await?;
    tokio::spawn(connection);
    let sql = "insert into tenantry.users
                 (tenant_id, id, email, name, role, is_active, email_verified, last_login_at, created_at)
               select t.id, tenantry.uuid_v7(), lower(p.first) || '.' || p.last || n || '@' || (array['example.org', 'mail.test', 'corp.test'])[1 + n % 3],
                 p.first || ' ' || initcap(p.last), case when n % 1000 = 7 then 'admin' else 'user' end, n % 50 <> 3, n % 50 <> 4,
                 case when n % 10 < 7 then now() - n % 100000 * interval '1 min' end, now() - ($3 - n) * interval '10 s'
               from generate_series($1::bigint, $2::bigint) n
               cross join (select id from tenantry.tenants where slug like 'seed-%') t
               cross join lateral (select (array['Ada', 'Grace', 'Alan', 'Edsger', 'Barbara', 'Donald', 'Margaret', 'Linus', 'Ken',
                   'Dennis', 'Bjarne', 'Guido', 'Yukihiro', 'James', 'Radia', 'Frances', 'Jean', 'Kathleen', 'Betty', 'Marlyn',
                   'Ruth', 'Adele', 'Anita', 'Mary', 'Katherine', 'Dorothy', 'Annie', 'Evelyn', 'Hedy', 'Joan']
                 )[1 + abs(hashint8(n)) % 30] as first,
                 translate(left(md5((n % 40000)::text), 5 + (n % 4)::int), '0123456789', 'ghijklmnop') as last) p";
    let insert = database.prepare(sql).await?;
    let mut made = 1;
    while made < users {
        let last = (made + BATCH).min(users) - 1;
        let tx = database.transaction().await?;
        let range = [made, last, users].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        tx.execute(&insert, &[&range[0], &range[1], &range[2]]).await?;
        tx.commit().await?;
        made = last + 1;
    }
    let seats = "update tenantry.tenant_seats s set used = (select count(*) from tenantry.users u where u.tenant_id = s.tenant_id)";
    database.batch_execute(seats).await?;
    database.batch_execute("vacuum analyze tenantry.users").await?;
    database.batch_execute("vacuum analyze tenantry.user_search").await?;
    let sql = "select (select email from tenantry.users where is_active and name <> 'Ada Admin' order by id limit 1),
                 to_char(max(created_at) at time zone 'utc' - interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
                 count(*) filter (where is_active)
               from tenantry.users";
    let row = database.query_one(sql, &[]).await?;
    let active: i64 = row.try_get(2)?;
    Ok(Filled { one: row.try_get(0)?, day: row.try_get(1)?, active: active.unsigned_abs() })
}
