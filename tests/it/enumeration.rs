//! Nobody learns from an answer, nor from what is done until it comes, whether an address is somebody's. Counted by the
//! database, statements inside of functions included, and by the process, on a cluster of its own.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{app::PASSWORD, node::Cluster};

/// How often each request is made that is counted.
const TIMES: usize = 8;
/// How often it is made before, at each connection: statements are prepared, and PostgreSQL plans those in functions anew for
/// the first five times.
const BEFORE: usize = 8;
/// So many connections does the process have.
const CONNECTIONS: usize = 2;

/// What this test asks itself.
const JOBS: &str = "select kind, count(*) from tenantry.jobs group by kind";

/// What the client sees, without what names the one request.
#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    headers: BTreeMap<String, String>,
    body: Value,
}

/// What is done for [`TIMES`] requests.
#[derive(Debug, PartialEq)]
struct Done {
    statements: BTreeMap<String, i64>,
    hashes: f64,
    jobs: BTreeMap<String, i64>,
}

/// A request, `n` times different where it must be.
type Request<'a> = (&'a str, Box<dyn Fn(usize) -> Value + 'a>);

impl Cluster {
    /// Makes a request for so often that it costs the same each time from now on.
    async fn warm(&self, (path, body): &Request<'_>) {
        for n in 0..CONNECTIONS * BEFORE {
            self.send(path, &body(TIMES + n)).await;
        }
    }

    /// Asks again and again. What is noise is not counted.
    async fn seen_and_done(&self, (path, body): &Request<'_>, noise: &[String]) -> (Vec<Seen>, Done) {
        let (statements, hashes, jobs) = (self.settled(noise).await, self.hashes().await, self.jobs().await);
        let (mut seen, mut after) = (vec![], BTreeMap::new());
        for n in 0..TIMES {
            seen.push(self.send(path, &body(n)).await);
            after = self.settled(noise).await;
        }
        after.retain(|statement, calls| {
            *calls -= statements.get(statement).unwrap_or(&0);
            *calls > 0 && !is_noise(statement, noise)
        });
        let mut now = self.jobs().await;
        now.retain(|kind, count| {
            *count -= jobs.get(kind).unwrap_or(&0);
            *count > 0
        });
        (seen, Done { statements: after, hashes: self.hashes().await - hashes, jobs: now })
    }

    /// The statements so far, once none is added any more: some things are noted beside the answer, and of several notes at once
    /// one is written.
    async fn settled(&self, noise: &[String]) -> BTreeMap<String, i64> {
        let mut before = None;
        loop {
            let now = self.statements().await;
            let mut own = now.clone();
            own.retain(|statement, _| !is_noise(statement, noise));
            if before.as_ref() == Some(&own) {
                return now;
            }
            before = Some(own);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn send(&self, path: &str, body: &Value) -> Seen {
        let url = format!("http://{}/api/v1{path}", self.nodes[1].address);
        let response = reqwest::Client::new().post(url).json(body).send().await.unwrap();
        let status = response.status();
        let own = ["date", "x-request-id", "traceresponse", "server-timing", "x-process-time", "location"];
        let headers = response.headers().iter();
        let headers = headers
            .filter(|(name, _)| !own.contains(&name.as_str()))
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let mut body: Value = response.json().await.unwrap();
        body["timestamp"].take();
        if body["error"].is_object() {
            body["error"]["request_id"].take();
        }
        Seen { status, headers, body }
    }

    async fn hashes(&self) -> f64 {
        self.nodes[1].metric("tenantry_password_hashes_total", "done").await
    }

    /// Jobs that are waiting, by kind.
    async fn jobs(&self) -> BTreeMap<String, i64> {
        let rows = self.database.query(JOBS, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Statements that run while nobody asks for anything.
    async fn noise(&self) -> Vec<String> {
        let before = self.statements().await;
        let start = Instant::now();
        let polls = || async {
            let now = self.statements().await;
            now.into_iter()
                .filter(|(statement, calls)| before.get(statement) != Some(calls))
                .collect::<Vec<_>>()
        };
        // The processes read the feed every quarter of a second.
        while start.elapsed() < Duration::from_secs(1) || polls().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let mut noise: Vec<_> = polls().await.into_iter().map(|(statement, _)| statement).collect();
        // Sent at most once in a while, however many jobs there are to tell workers of.
        noise.push("notify tenantry_jobs".into());
        noise.push(JOBS.into());
        noise
    }
}

/// What each process does once in a while is nothing that a request does.
fn is_noise(statement: &String, noise: &[String]) -> bool {
    let upkeep = ["revocations", "lifetime", "oldest_waiting", "min(j.run_at)"];
    noise.contains(statement) || upkeep.iter().any(|of| statement.contains(of))
}

fn assert_alike(what: &str, mut cases: Vec<(&str, (Vec<Seen>, Done))>) {
    let (first, (seen, done)) = cases.remove(0);
    println!(
        "{what}: {} statements, {} hashes, jobs {:?}",
        done.statements.values().sum::<i64>(),
        done.hashes,
        done.jobs
    );
    assert!(done.statements.values().sum::<i64>() >= TIMES as i64, "nothing was counted: {done:?}");
    for (case, (also_seen, also_done)) in cases {
        assert_eq!(also_done, done, "{what}: {case} beside {first}");
        for answer in seen.iter().chain(&also_seen) {
            assert_eq!(answer, &seen[0], "{what}: {case} beside {first}");
        }
    }
}

#[tokio::test]
async fn known_and_unknown_look_alike_and_cost_the_same() {
    let mut cluster =
        Cluster::start(1, 4, &[("RATE_LIMIT_LOGIN", "off"), ("DATABASE_POOL", &CONNECTIONS.to_string())])
            .await;
    // Counts what functions do inside, in connections that are opened from now on: those of another node.
    let name: String = cluster.database.query_one("select current_database()", &[]).await.unwrap().get(0);
    // One plan for all: while plans are made anew for what is asked, functions are called for the plan as well.
    let track = format!(
        "alter database {name} set pg_stat_statements.track = 'all';
         alter database {name} set plan_cache_mode = 'force_generic_plan'"
    );
    cluster.database.batch_execute(&track).await.unwrap();
    cluster.add_node().await;
    let sql = "select slug from tenantry.tenants where id = $1";
    let slug: String = cluster.database.query_one(sql, &[&cluster.tenant]).await.unwrap().get(0);
    cluster
        .database
        .batch_execute(
            "update tenantry.users set is_active = false, version = version + 1 where email = 'user2@example.org';
             delete from tenantry.credentials where user_id in (select id from tenantry.users where email = 'user3@example.org');",
        )
        .await
        .unwrap();
    let noise = cluster.noise().await;

    let login = |tenant: &str, email: &str| -> Request<'_> {
        let body = json!({"tenant": tenant, "email": email, "password": "Wrong-Horse-1"});
        ("/auth/login", Box::new(move |_| body.clone()))
    };
    let mut cases = vec![];
    cluster.warm(&login(&slug, "user1@example.org")).await;
    for (case, tenant, email) in [
        ("known", slug.as_str(), "user1@example.org"),
        ("unknown", &slug, "nobody@example.org"),
        ("unknown tenant", "no-such-tenant", "user1@example.org"),
        ("inactive", &slug, "user2@example.org"),
        ("without a password", &slug, "user3@example.org"),
    ] {
        cases.push((case, cluster.seen_and_done(&login(tenant, email), &noise).await));
    }
    let (_, (seen, done)) = &cases[0];
    assert_eq!((seen[0].status, done.hashes, done.jobs.len()), (StatusCode::UNAUTHORIZED, TIMES as f64, 0));
    assert_alike("login", cases);

    for path in ["/auth/forgot-password", "/auth/resend-verification"] {
        let ask = |tenant: &str, email: &str| -> Request<'_> {
            let body = json!({"tenant": tenant, "email": email});
            (path, Box::new(move |_| body.clone()))
        };
        let mut cases = vec![];
        cluster.warm(&ask(&slug, "warm@example.org")).await;
        for (case, tenant, email) in [
            ("known", slug.as_str(), "user1@example.org"),
            ("unknown", &slug, "nobody@example.org"),
            ("inactive", &slug, "user2@example.org"),
            ("without a password", &slug, "user3@example.org"),
            ("unknown tenant", "no-such-tenant", "user1@example.org"),
        ] {
            let before = cluster.jobs().await;
            cases.push((case, cluster.seen_and_done(&ask(tenant, email), &noise).await));
            let made: i64 = cluster.jobs().await.values().sum::<i64>() - before.values().sum::<i64>();
            assert_eq!(
                made, 1,
                "{path}: a job for whoever it is, and one that waits takes the place of more"
            );
        }
        let (_, (seen, done)) = &cases[0];
        assert_eq!((seen[0].status, done.hashes), (StatusCode::ACCEPTED, 0.0));
        assert_alike(path, cases);
    }

    let taken = slug.clone();
    let sign_up = |slug: String, email: &'static str| -> Request<'_> {
        let taken = &taken;
        let body = move |n: usize| {
            let slug = if slug == *taken { slug.clone() } else { format!("{slug}-{n}") };
            json!({"tenant": {"name": "Acme", "slug": slug}, "email": email, "password": PASSWORD, "name": "Ada"})
        };
        ("/auth/register", Box::new(body))
    };
    for (what, slugs) in [("register, taken slug", [slug.as_str(), &slug]), ("register", ["new-a", "new-b"])]
    {
        let mut cases = vec![];
        cluster.warm(&sign_up(slugs[0].into(), "warm@example.org")).await;
        for (case, slug, email) in
            [("known", slugs[0], "user1@example.org"), ("unknown", slugs[1], "nobody@example.org")]
        {
            let (mut seen, done) = cluster.seen_and_done(&sign_up(slug.into(), email), &noise).await;
            if what == "register" {
                assert!(seen.iter().all(|seen| seen.status == StatusCode::CREATED), "{seen:?}");
                for seen in &mut seen {
                    // They hold the address.
                    seen.body["data"].take();
                    seen.headers.remove("content-length");
                }
            } else {
                assert!(seen.iter().all(|seen| seen.status == StatusCode::CONFLICT), "{seen:?}");
            }
            assert_eq!(done.hashes, TIMES as f64);
            cases.push((case, (seen, done)));
        }
        assert_alike(what, cases);
    }

    let mut cases = vec![];
    for (case, email, accepted, ended, expired) in [
        ("unknown", "", false, false, false),
        ("accepted", "user1@example.org", true, false, false),
        ("withdrawn", "user4@example.org", false, true, false),
        ("expired", "new@example.org", false, false, true),
    ] {
        let token = [cluster.tenant, Uuid::new_v4(), Uuid::new_v4()].map(Uuid::into_bytes).concat();
        if !email.is_empty() {
            let hash = Sha256::digest(&token).to_vec();
            let sql = "insert into tenantry.invitations
                         (tenant_id, id, email, role, invited_by, hash, expires_at, accepted_at, ended_at)
                       values ($1, $2, $3, 'user', $2, $4, now() + case when $5 then interval '-1 hour' else interval '1 hour' end,
                         case when $6 then now() end, case when $7 then now() end)";
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
                [&cluster.tenant, &Uuid::now_v7(), &email, &hash, &expired, &accepted, &ended];
            cluster.database.execute(sql, &values).await.unwrap();
        }
        let body = json!({"token": URL_SAFE_NO_PAD.encode(&token), "name": "Eve", "password": PASSWORD});
        let accept: Request<'_> = ("/invitations/accept", Box::new(move |_| body.clone()));
        if cases.is_empty() {
            cluster.warm(&accept).await;
        }
        cases.push((case, cluster.seen_and_done(&accept, &noise).await));
    }
    let (_, (seen, done)) = &cases[0];
    assert_eq!((seen[0].status, done.hashes), (StatusCode::UNPROCESSABLE_ENTITY, 0.0));
    assert_alike("accept", cases);
}
