//! What is asked for, how often, and how it should be answered.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use hmac::{Hmac, Mac};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;
use sha2::Sha256;

use crate::{
    Result,
    auth::{PASSWORD, Person, people},
    rate::Ask,
    servers::{Database, Servers},
};

/// So many that each is in memory soon.
const HOT: usize = 1_000;
const SECRET: &str = "whsec_of_the_load_test";
/// Jobs that are all due at once.
const JOBS: i32 = 5_000;

pub(super) type Next = Arc<dyn Fn(u64) -> Ask + Send + Sync>;
type Before = for<'a> fn(&'a Servers, &'a Database) -> BoxFuture<'a, Result<()>>;
type After = for<'a> fn(&'a Servers, &'a Database, Instant) -> BoxFuture<'a, Result<String>>;

pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    /// Requests a second: far below what can be done, but for the floods.
    pub(super) rate: f64,
    pub(super) expected: &'static [u16],
    /// Milliseconds that 99 of 100 may take: about ten times what two processors need who have other things to do.
    pub(super) threshold: f64,
    pub(super) next: Next,
    pub(super) command: &'static str,
    pub(super) settings: Vec<(&'static str, &'static str)>,
    /// Just before it is measured.
    pub(super) before: Option<Before>,
    /// Just after, since a moment; what there is to be told.
    pub(super) after: Option<After>,
    /// Whether oha asks, too: requests of one caller differ by nothing but their paths.
    pub(super) by_oha: bool,
}

fn path(person: &Person) -> String {
    format!("/api/v1/users/{}", person.id)
}

type People = Arc<Vec<Person>>;

fn at(people: &People, n: u64) -> &Person {
    &people[usize::try_from(n).unwrap_or_default() % people.len()]
}

/// A number of the request's own, the same in each run.
fn chance(n: u64) -> SmallRng {
    SmallRng::seed_from_u64(n)
}

fn look_up(person: &Person) -> Ask {
    Ask::get(path(person), &person.token)
}

/// Look-ups of a thousand users.
pub(super) fn hot(database: &Database, name: &'static str, rate: f64) -> Result<Scenario> {
    let hot: People = Arc::new(people(database)?.into_iter().take(HOT).collect());
    Ok(with(&hot, plain(name, "look-ups of a thousand users", rate, 30.0), |hot, n| look_up(at(hot, n))))
}

pub(super) fn all(database: &Database) -> Result<Vec<Scenario>> {
    let people: People = Arc::new(people(database)?);
    let hot: People = Arc::new(people.iter().take(HOT).cloned().collect());
    Ok(vec![
        self::hot(database, "hot", 2_000.0)?,
        with(&people, plain("zipf", "look-ups, the rarer the less wanted", 2_000.0, 50.0), |people, n| {
            // Log-uniform ranks: Zipf's law with exponent 1.
            let rank = (people.len() as f64).powf(chance(n).random::<f64>());
            look_up(at(people, rank as u64 - 1))
        }),
        Scenario {
            settings: vec![("CACHE_LOCAL_TTL", "1ms"), ("CACHE_TTL", "1ms")],
            ..with(
                &people,
                plain("cold", "look-ups of users who are in no cache", 500.0, 80.0),
                |people, n| look_up(at(people, n)),
            )
        },
        with(&hot, plain("batch", "a hundred users each", 200.0, 80.0), |hot, n| {
            // Of one tenant, whose token it is.
            let first = at(hot, n);
            let ids: Vec<_> = hot
                .iter()
                .filter(|other| other.tenant == first.tenant)
                .take(100)
                .map(|other| other.id)
                .collect();
            Ask::send("POST", "/api/v1/users/batch-get", &first.token, &json!({"ids": ids}))
        }),
        with(
            &hot,
            plain("list", "lists of up to fifty users, some of them searched for", 200.0, 150.0),
            |hot, n| {
                let limit = 10 + n % 40;
                let search = if n % 4 == 0 { format!("&search={}", at(hot, n).email) } else { String::new() };
                Ask::get(format!("/api/v1/users?limit={limit}&cursor=first{search}"), &at(hot, n).token)
            },
        ),
        Scenario {
            by_oha: false,
            ..with(&people, plain("login", "sign-ins", 10.0, 1_000.0), |people, n| {
                let who = at(people, n);
                let body = json!({"tenant": who.tenant, "email": who.email, "password": PASSWORD});
                Ask::send("POST", "/api/v1/auth/login", "", &body)
            })
        },
        Scenario {
            by_oha: false,
            ..with(
                &hot,
                plain("mixed", "look-ups, and of twenty requests a change", 500.0, 100.0),
                |hot, n| {
                    let who = at(hot, n);
                    match n % 20 {
                        0 => {
                            Ask::send("PATCH", &path(who), &who.token, &json!({"name": format!("Name {n}")}))
                        }
                        _ => look_up(who),
                    }
                },
            )
        },
        Scenario {
            expected: &[200, 429],
            settings: vec![("RATE_LIMIT_CALLER", "100/1m")],
            ..with(
                &hot,
                plain("429 storm", "twenty times as much as callers may", 2_000.0, 30.0),
                |hot, n| look_up(at(hot, n)),
            )
        },
        Scenario {
            command: "all",
            before: Some(enqueue),
            after: Some(drained),
            ..with(
                &hot,
                plain("job storm", "look-ups beside 5,000 jobs that are due at once", 500.0, 150.0),
                |hot, n| look_up(at(hot, n)),
            )
        },
        Scenario {
            by_oha: false,
            // Nobody works: what is counted is taking them in.
            settings: vec![
                ("STRIPE_SECRET_KEY", "sk_test_of_the_load_test"),
                ("STRIPE_WEBHOOK_SECRETS", SECRET),
            ],
            ..with(
                &hot,
                plain("webhook storm", "events of Stripe, each of them twice", 200.0, 150.0),
                |_, n| webhook(n / 2),
            )
        },
    ])
}

/// With defaults.
fn plain(name: &'static str, what: &'static str, rate: f64, threshold: f64) -> Scenario {
    Scenario {
        name,
        what,
        rate,
        expected: &[200],
        threshold,
        next: Arc::new(|_| Ask::get("/health".into(), "")),
        command: "api",
        settings: vec![("CACHE_LOCAL_TTL", "10m")],
        before: None,
        after: None,
        by_oha: true,
    }
}

fn with(people: &People, scenario: Scenario, next: fn(&People, u64) -> Ask) -> Scenario {
    let people = people.clone();
    Scenario { next: Arc::new(move |n| next(&people, n)), ..scenario }
}

fn webhook(n: u64) -> Ask {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let event = json!({
        "id": format!("evt_load_{n}"), "object": "event", "type": "customer.subscription.updated", "created": now,
        "livemode": false, "api_version": "2025-09-30.clover", "pending_webhooks": 1, "request": null,
        "data": {"object": {"id": format!("sub_load_{}", n % 500), "object": "subscription", "customer": format!("cus_load_{}", n % 500)}},
    });
    let ask = Ask::send("POST", "/api/v1/webhooks/stripe", "", &event);
    // HMAC takes keys of any length; unsigned it would be refused.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()) else { return ask };
    mac.update(format!("{now}.{}", ask.body).as_bytes());
    let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    Ask { header: format!("Stripe-Signature: t={now},v1={signature}\r\n"), ..ask }
}

fn enqueue<'a>(servers: &'a Servers, _: &'a Database) -> BoxFuture<'a, Result<()>> {
    Box::pin(async {
        let sql = "insert into tenantry.jobs (tenant_id, id, kind, payload, run_at, ready, max_attempts)
                   select u.tenant_id, gen_random_uuid(), 'invalidate_user',
                     jsonb_build_object('users', jsonb_build_array(jsonb_build_object('id', u.id, 'version', u.version))), now(), true, 5
                   from (select * from tenantry.users where role = 'user' order by id limit $1::int::bigint) u";
        servers.superuser("suite").await?.execute(sql, &[&JOBS]).await?;
        Ok(())
    })
}

fn drained<'a>(servers: &'a Servers, _: &'a Database, since: Instant) -> BoxFuture<'a, Result<String>> {
    Box::pin(async move {
        let client = servers.superuser("suite").await?;
        let sql = "select count(*) filter (where state <> 'done'), extract(epoch from max(finished_at) - min(created_at))::float8
                   from tenantry.jobs where kind = 'invalidate_user' and created_at > now() - $1::float8 * interval '1 second'";
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let row = client.query_one(sql, &[&(since.elapsed().as_secs_f64() + 5.0)]).await?;
            if row.get::<_, i64>(0) == 0 {
                return Ok(format!("{JOBS} jobs done in {:.1} s", row.get::<_, f64>(1)));
            }
            if Instant::now() > deadline {
                return Err("the jobs are not done after a minute".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
}
