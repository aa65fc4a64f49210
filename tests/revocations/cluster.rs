//! What is asked: three API processes on a PostgreSQL and a Redis of our own, which each reaches through a proxy, and
//! tenants full of people who have not signed in yet.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::future::try_join_all;
use serde_json::json;
use tenantry::dev::{postgres, redis};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    Result,
    connection::{Answer, Connection},
    harness::Process,
    program::{built, set},
    proxy::Proxy,
    servers::{SOCKET, Servers, free_address, tenantry},
};

pub(crate) const NODES: usize = 3;
/// Tenants to suspend and to close by turns; more than that happens to at once.
const SUSPENDED: usize = 8;
/// A node that cannot read the feed refuses after this.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(2);
/// Of all seeded people.
pub(crate) const PASSWORD: &str = "Tenantry-Demo-1";

/// Somebody who may suspend and close tenants, with the password of an administrator.
const OPERATOR: &str = "
    with made as (
      insert into tenantry.users (tenant_id, id, email, name, role)
      values ('00000000-0000-0000-0000-000000000000', gen_random_uuid(), 'operator@example.org', 'Operator', 'super_admin')
      returning tenant_id, id
    )
    insert into tenantry.credentials (tenant_id, user_id, password_hash)
    select m.tenant_id, m.id, c.password_hash from made m, (select password_hash from tenantry.credentials limit 1) c;
";

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) servers: Servers,
    /// Who may do everything.
    pub(crate) operator: String,
    /// The administrator of the tenant where people are revoked.
    pub(crate) admin: String,
    /// The first is where people are revoked; the others are suspended and closed.
    tenants: Vec<Tenant>,
    next_person: AtomicUsize,
    next_tenant: AtomicUsize,
}

pub(crate) struct Node {
    pub(crate) process: Process,
    /// On its way to PostgreSQL.
    pub(crate) postgres: Proxy,
    /// On its way to Redis, which is taken away at the other end.
    _redis: Proxy,
}

pub(crate) struct Tenant {
    pub(crate) id: Uuid,
    /// A look-up that every process answers from memory: what it is answered with is up to the token alone.
    pub(crate) look_up: String,
    people: Vec<(Uuid, String)>,
}

/// Somebody who has not signed in yet, and the tenant.
pub(crate) struct Person<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) id: Uuid,
    pub(crate) email: &'a str,
}

impl Cluster {
    /// With at least so many people to revoke, and settings that are different.
    pub(crate) async fn start(
        folder: &Path,
        logs: &Path,
        people: usize,
        different: &[String],
    ) -> Result<Self> {
        let servers = Servers::start(&folder.join("home")).await?;
        let program = built("tenantry")?;
        let mut settings = settings(&servers, folder);
        settings.extend(set(different)?);
        let (tenants, users) =
            ((SUSPENDED + 1).to_string(), ((people + 2) * (SUSPENDED + 1)).max(200).to_string());
        tenantry(&program, &settings, &["seed", "--tenants", &tenants, "--users", &users]).await?;

        let mut nodes = vec![];
        for n in 0..NODES {
            let (name, mut settings) = (format!("node-{n}"), settings.clone());
            let own = folder.join(&name);
            fs::create_dir(&own)?;
            let redis_socket = own.join("redis.sock");
            let postgres = Proxy::start(&own.join(SOCKET), servers.postgres_socket()?)?;
            let redis = Proxy::start(&redis_socket, servers.redis_socket())?;
            settings.push((
                "DATABASE_URL".into(),
                format!("postgresql://tenantry@/tenantry?host={}", own.display()),
            ));
            settings.push(("REDIS_URL".into(), format!("redis+unix://{}", redis_socket.display())));
            let process = Process::new(name, "api", Some(free_address()?), &program, settings, logs);
            nodes.push(Node { process, postgres, _redis: redis });
        }
        try_join_all(nodes.iter().map(|node| node.process.start())).await?;
        // One of them has made the keys.
        let token = async |tenant: Uuid, email: &str| -> Result<String> {
            let arguments = ["token", "--tenant", &tenant.to_string(), "--email", email];
            Ok(tenantry(&program, &settings, &arguments).await?.trim().to_owned())
        };
        let database = servers.database().await?;
        let sql = "select t.id, u.id, u.email, u.role = 'admin' from tenantry.tenants t
                   join tenantry.users u on u.tenant_id = t.id where t.slug like 'seed-%' order by t.id, u.email";
        let (mut tenants, mut admin): (Vec<Tenant>, _) = (vec![], String::new());
        for row in database.query(sql, &[]).await? {
            let (tenant, id): (Uuid, Uuid) = (row.try_get(0)?, row.try_get(1)?);
            if tenants.last().is_none_or(|last| last.id != tenant) {
                tenants.push(Tenant { id: tenant, look_up: String::new(), people: vec![] });
            }
            let place = tenants.last_mut().ok_or("no tenant")?;
            if row.try_get(3)? {
                place.look_up = format!("/api/v1/users/{id}");
                if admin.is_empty() {
                    admin = token(tenant, row.try_get(2)?).await?;
                }
            } else {
                place.people.push((id, row.try_get(2)?));
            }
        }
        database.batch_execute(OPERATOR).await?;
        let operator = token(Uuid::nil(), "operator@example.org").await?;
        let (next_person, next_tenant) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Self { nodes, servers, operator, admin, tenants, next_person, next_tenant })
    }

    /// Somebody new.
    pub(crate) fn person(&self) -> Result<Person<'_>> {
        let tenant = self.home();
        let n = self.next_person.fetch_add(1, Ordering::SeqCst);
        let (id, email) = tenant.people.get(n).ok_or("too few people were made")?;
        Ok(Person { tenant, id: *id, email })
    }

    /// Somebody of the tenant that was neither suspended nor closed for the longest time.
    pub(crate) fn person_to_suspend(&self) -> Result<Person<'_>> {
        let n = self.next_tenant.fetch_add(1, Ordering::SeqCst);
        let tenant = &self.tenants[1 + n % SUSPENDED];
        let (id, email) = tenant.people.first().ok_or("an empty tenant")?;
        Ok(Person { tenant, id: *id, email })
    }

    /// The tenant that is neither suspended nor closed.
    pub(crate) fn home(&self) -> &Tenant {
        &self.tenants[0]
    }

    pub(crate) fn connect(&self, node: usize) -> Result<Connection> {
        Ok(Connection::new(self.nodes[node].process.address.ok_or("a node listens nowhere")?))
    }

    /// Asks a node, and waits for the answer.
    pub(crate) async fn ask(
        &self,
        node: usize,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> Result<Answer> {
        self.ask_if(node, method, path, token, body, "").await
    }

    /// The same, of a certain version.
    pub(crate) async fn ask_if(
        &self,
        node: usize,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
        if_match: &str,
    ) -> Result<Answer> {
        let mut connection = self.connect(node)?;
        // The service answers within 5 s.
        timeout(Duration::from_secs(8), connection.ask_if(method, path, token, body, if_match)).await?
    }

    /// An access token of a new session.
    pub(crate) async fn sign_in(&self, node: usize, person: &Person<'_>) -> Result<String> {
        let body =
            json!({"tenant": person.tenant.id, "email": person.email, "password": PASSWORD}).to_string();
        let answer = self.ask(node, "POST", "/api/v1/auth/login", "", &body).await?;
        let said = answer.json()?;
        match said["data"]["token"].as_str() {
            Some(token) if answer.status == 200 => Ok(token.to_owned()),
            _ => Err(format!("{} cannot sign in: {said}", person.email).into()),
        }
    }

    pub(crate) async fn stop(self) -> Result<()> {
        drop(self.nodes);
        self.servers.stop().await
    }
}

fn settings(servers: &Servers, folder: &Path) -> Vec<(String, String)> {
    let settings = [
        ("DATABASE_URL", postgres::app_url(&servers.home)),
        ("REDIS_URL", redis::url(&servers.home)),
        ("DATABASE_POOL", "10".into()),
        ("PUBLIC_URL", "http://tenantry.test".into()),
        ("JWT_KEYS_DIR", folder.join("keys").display().to_string()),
        ("ACCESS_TOKEN_TTL", "1h".into()),
        ("REVOCATION_MAX_LAG", format!("{}s", MAX_LAG.as_secs())),
        // What is looked up stays in memory, so that every answer is about the token.
        ("CACHE_LOCAL_TTL", "1h".into()),
        ("RATE_LIMIT_IP", "off".into()),
        ("RATE_LIMIT_LOGIN", "off".into()),
        ("RATE_LIMIT_CALLER", "1000000000/15m".into()),
        ("RATE_LIMIT_REGISTER", "off".into()),
        ("RUST_LOG", "warn".into()),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
