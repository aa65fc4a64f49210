//! The level in Redis: the four scripts of the protocol over one multiplexed connection. Keys and pointers come here by
//! their names of an [era](crate::era).

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use deadpool_redis::redis::{
    self, Client, ErrorKind, FromRedisValue, RedisError, Script,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    SetupError, Unreachable, Version,
    breaker::{Breaker, Ticket},
    budget::Budget,
    sync::Shared,
};

/// How often the connection is tried, and how long it may take to answer before the breaker opens; together less than a
/// second.
const PROBE: Duration = Duration::from_millis(250);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// How long a new connection may take, and an answer on one that has been given up for slow.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Redis {
    client: Client,
    connection: RwLock<ConnectionManager>,
    scripts: Scripts,
    breaker: Breaker,
    lease: Duration,
    floor: Duration,
    ttl: Duration,
    absent: Duration,
    request: Duration,
}

#[derive(Debug)]
struct Scripts {
    lease: Script,
    fill: Script,
    floor: Script,
    unfloor: Script,
}

/// What Redis says to a reader.
pub(crate) enum Lease {
    /// There is a value; it has yet to be decoded.
    Hit { version: Vec<u8>, data: Bytes },
    /// The reader may fill.
    Granted,
    /// Another reader is about to fill.
    Filling,
    /// A writer is under way.
    Writing,
}

/// The times of the protocol.
pub(crate) struct Times {
    pub(crate) lease: Duration,
    pub(crate) floor: Duration,
    pub(crate) ttl: Duration,
    pub(crate) absent: Duration,
    /// What a request may spend.
    pub(crate) request: Duration,
}

impl Redis {
    /// Returns at once; the connection is made, tried and replaced in the background for as long as the value lives.
    pub(crate) fn connect(url: &str, times: Times) -> Result<Arc<Self>, SetupError> {
        let client = Client::open(url)?;
        let connection = RwLock::new(manage(&client)?);
        let scripts = Scripts {
            lease: Script::new(include_str!("lua/lease.lua")),
            fill: Script::new(include_str!("lua/fill.lua")),
            floor: Script::new(include_str!("lua/floor.lua")),
            unfloor: Script::new(include_str!("lua/unfloor.lua")),
        };
        let Times { lease, floor, ttl, absent, request } = times;
        let breaker = Breaker::new();
        let redis =
            Arc::new(Self { client, connection, scripts, breaker, lease, floor, ttl, absent, request });
        tokio::spawn(keep(Arc::downgrade(&redis)));
        Ok(redis)
    }

    /// Asks for the value of `key`, or for the right to fill it with `token`.
    pub(crate) async fn lease(
        &self,
        key: &str,
        token: &str,
        min: Version,
        rejected: &[u8],
        budget: &mut Budget,
    ) -> Result<Lease, Unreachable> {
        type Answer = (u8, Option<Vec<u8>>, Option<Vec<u8>>);
        let mut call = self.scripts.lease.key(key);
        call.arg(token).arg(millis(self.lease)).arg(min).arg(rejected);
        match self.call::<Answer>("lease", &call, budget).await? {
            (1, Some(version), Some(data)) => Ok(Lease::Hit { version, data: data.into() }),
            (0, ..) => Ok(Lease::Granted),
            (2, ..) => Ok(Lease::Filling),
            _ => Ok(Lease::Writing),
        }
    }

    /// Stores `data` (with version 0, that there is no row) if `token` still holds the lease and nothing newer is known; tells whether it did. The lease ends.
    pub(crate) async fn fill(
        &self,
        key: &str,
        token: &str,
        version: Version,
        data: &[u8],
        budget: &mut Budget,
    ) -> Result<bool, Unreachable> {
        let ttl = jittered(if version > 0 { self.ttl } else { self.absent });
        let mut call = self.scripts.fill.key(key);
        call.arg(token).arg(version).arg(data).arg(millis(ttl));
        self.call("fill", &call, budget).await
    }

    /// Gives a lease back unused.
    pub(crate) async fn release(
        &self,
        key: &str,
        token: &str,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        self.fill(key, token, 0, b"", budget).await.map(drop)
    }

    /// Drops everything older than `version` and lets nothing older in. With a token its owner alone may fill.
    pub(crate) async fn floor(
        &self,
        key: &str,
        version: Version,
        token: &str,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let mut call = self.scripts.floor.key(key);
        call.arg(version).arg(token).arg(millis(self.lease)).arg(millis(self.floor));
        self.call::<u8>("floor", &call, budget).await.map(drop)
    }

    /// Takes back the floor that `token` placed, if it is still the last.
    pub(crate) async fn unfloor(
        &self,
        key: &str,
        token: &str,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let mut call = self.scripts.unfloor.key(key);
        call.arg(token);
        self.call::<u8>("unfloor", &call, budget).await.map(drop)
    }

    /// The value of `key` as it is, for a caller who goes through [`Self::all`].
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Bytes)>, RedisError> {
        let mut connection = self.connection.reading().clone();
        let mut get = redis::cmd("HMGET");
        get.arg(key).arg("v").arg("d");
        let (version, data): (Option<Vec<u8>>, Option<Vec<u8>>) = get.query_async(&mut connection).await?;
        Ok(version.zip(data.map(Bytes::from)))
    }

    /// Sends a command that touches one key, for a caller who goes through [`Self::all`].
    pub(crate) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, RedisError> {
        let mut connection = self.connection.reading().clone();
        command.query_async(&mut connection).await
    }

    /// The id that `pointer` leads to. What is no id leads nowhere.
    pub(crate) async fn follow(
        &self,
        pointer: &str,
        budget: &mut Budget,
    ) -> Result<Option<Uuid>, Unreachable> {
        let mut connection = self.connection.reading().clone();
        let mut get = redis::cmd("GET");
        get.arg(pointer);
        let id: Option<Vec<u8>> = self.all("follow", get.query_async(&mut connection), budget).await?;
        Ok(id.and_then(|id| Uuid::try_parse_ascii(&id).ok()))
    }

    /// Lets `pointer` lead to `id`.
    pub(crate) async fn point(
        &self,
        pointer: &str,
        id: Uuid,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let mut connection = self.connection.reading().clone();
        let mut set = redis::cmd("SET");
        set.arg(pointer).arg(id.to_string()).arg("PX").arg(millis(jittered(self.ttl)));
        self.all("point", set.query_async(&mut connection), budget).await
    }

    /// Removes pointers, each by a command of its own.
    pub(crate) async fn unlink(&self, pointers: &[String], budget: &mut Budget) -> Result<(), Unreachable> {
        if pointers.is_empty() {
            return Ok(());
        }
        let unlinked = pointers.iter().map(|pointer| {
            let mut connection = self.connection.reading().clone();
            async move { redis::cmd("DEL").arg(pointer).query_async::<()>(&mut connection).await }
        });
        self.all("unlink", try_join_all(unlinked), budget).await.map(drop)
    }

    /// Makes calls under one budget, if Redis is not given up; for the breaker they are one.
    pub(crate) async fn all<T>(
        &self,
        name: &'static str,
        calls: impl Future<Output = Result<T, RedisError>>,
        budget: &mut Budget,
    ) -> Result<T, Unreachable> {
        let ticket = self.admit(budget)?;
        let result = result(name, budget.spend(calls).await);
        self.told(ticket, &result);
        result
    }

    /// Asks whether Redis answers, whether the breaker is open or not. An answer that a request would have waited for
    /// closes it.
    pub(crate) async fn ping(&self, budget: &mut Budget) -> Result<(), Unreachable> {
        let mut connection = self.connection.reading().clone();
        let (ping, start) = (redis::cmd("PING"), Instant::now());
        result("ping", budget.spend(ping.query_async::<()>(&mut connection)).await)?;
        if start.elapsed() <= self.request {
            self.breaker.close();
        }
        Ok(())
    }

    /// Whether nobody waits for Redis now, since it does not answer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.breaker.is_open()
    }

    async fn call<T: FromRedisValue>(
        &self,
        name: &'static str,
        call: &redis::ScriptInvocation<'_>,
        budget: &mut Budget,
    ) -> Result<T, Unreachable> {
        let mut connection = self.connection.reading().clone();
        self.all(name, call.invoke_async(&mut connection), budget).await
    }

    /// The permission to make a call, if there is time for one and the breaker is closed.
    fn admit(&self, budget: &Budget) -> Result<Ticket, Unreachable> {
        if budget.is_spent() {
            return Err(Unreachable::TimedOut);
        }
        self.breaker.admit().ok_or(Unreachable::GivenUp)
    }

    fn told<T>(&self, ticket: Ticket, result: &Result<T, Unreachable>) {
        match result {
            Ok(_) => self.breaker.answered(ticket),
            Err(Unreachable::Failed(error))
                if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) =>
            {
                self.breaker.answered(ticket);
            }
            Err(_) => self.breaker.failed(ticket),
        }
    }
}

fn result<T>(call: &'static str, answer: Option<Result<T, RedisError>>) -> Result<T, Unreachable> {
    let failure = match answer {
        Some(Ok(answer)) => return Ok(answer),
        Some(Err(error)) => Unreachable::Failed(error),
        None => Unreachable::TimedOut,
    };
    metrics::counter!("tenantry_cache_redis_failures_total", "call" => call).increment(1);
    Err(failure)
}

/// Downwards, so that entries stored together do not expire together and the setting stays an upper bound.
fn jittered(ttl: Duration) -> Duration {
    ttl.mul_f64(rand::random_range(0.85..=1.0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A connection that connects on first use and again when it has been lost. It makes one attempt at a time and no pauses:
/// a refused connection is known at once, and the next request makes the next attempt.
fn manage(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_pipeline_buffer_size(1024);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Tries the connection again and again with more patience than a request has; when it fails, opens the breaker and
/// starts anew. The manager mends a lost connection by itself, but not one whose peer has vanished without a word (each
/// request gives up long before TCP does), nor one whose server refused the login for a while.
async fn keep(redis: std::sync::Weak<Redis>) {
    while let Some(redis) = redis.upgrade() {
        redis.probe().await;
        drop(redis);
        sleep(PROBE).await;
    }
}

impl Redis {
    async fn probe(&self) {
        let patience = if self.is_given_up() { PATIENCE } else { PROBE_PATIENCE };
        if self.ping(&mut Budget::new(patience)).await.is_err() {
            self.breaker.open();
            if let Ok(fresh) = manage(&self.client) {
                *self.connection.writing() = fresh;
            }
        } else if self.is_given_up() {
            // The first answer took too long for a request, but it may have had to wait for the connection.
            let _ = self.ping(&mut Budget::new(PATIENCE)).await;
        }
    }
}
