//! The level in Redis: the four scripts of the protocol over the connections to one run of it. Keys and pointers come here
//! by their names of an [era](crate::era), which are the names of that run.
//!
//! [`keeper`] looks after the connections, [`link`] is what they are, [`servers`] is where they lead.

mod keeper;
mod link;
mod servers;
mod span;

use std::{
    pin::pin,
    sync::{Arc, RwLock},
    time::Duration,
};

use bytes::Bytes;
use deadpool_redis::redis::{
    self, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, ToRedisArgs,
    aio::MultiplexedConnection,
};
use futures_util::future::try_join_all;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

pub(crate) use self::keeper::keep;
use self::link::Link;
use crate::{
    SetupError, Unreachable, Version,
    breaker::{Breaker, Ticket},
    budget::Budget,
    sync::Shared,
};

/// The Redis of a node, whichever run of it there is.
#[derive(Debug)]
pub(crate) struct Redis {
    servers: Vec<ConnectionInfo>,
    scripts: Scripts,
    breaker: Breaker,
    times: Times,
    state: watch::Sender<State>,
    /// Rings when a call says that something has changed; the keeper looks at once.
    alarm: Notify,
}

/// How the last attempt to connect ended.
#[derive(Clone, Debug)]
enum State {
    Connecting,
    Up(Arc<Link>),
    Down(String),
}

/// One run of Redis: from the start of a process, or the promotion of a replica, to its end. What is sent here reaches this
/// run or nobody: its connections were made to it, and are never replaced by connections to another one.
#[derive(Debug)]
pub(crate) struct Run {
    redis: Arc<Redis>,
    /// Part of every name; empty if there has been no run yet.
    tag: String,
    link: RwLock<Option<Arc<Link>>>,
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
#[derive(Debug)]
pub(crate) struct Times {
    pub(crate) lease: Duration,
    pub(crate) floor: Duration,
    pub(crate) ttl: Duration,
    pub(crate) absent: Duration,
    /// What a request may spend.
    pub(crate) request: Duration,
}

impl Redis {
    /// Connects to nothing yet; that is for [`keep`].
    pub(crate) fn new(urls: &str, times: Times) -> Result<Arc<Self>, SetupError> {
        let scripts = Scripts {
            lease: Script::new(include_str!("../lua/lease.lua")),
            fill: Script::new(include_str!("../lua/fill.lua")),
            floor: Script::new(include_str!("../lua/floor.lua")),
            unfloor: Script::new(include_str!("../lua/unfloor.lua")),
        };
        Ok(Arc::new(Self {
            servers: servers::parse(urls)?,
            scripts,
            breaker: Breaker::new(),
            times,
            state: watch::Sender::new(State::Connecting),
            alarm: Notify::new(),
        }))
    }

    /// Asks whether Redis answers, whether the breaker is open or not. Waits for the first attempt to connect.
    pub(crate) async fn ping(&self, budget: &mut Budget) -> Result<(), Unreachable> {
        budget.spend(self.pong()).await.unwrap_or(Err(Unreachable::TimedOut))
    }

    async fn pong(&self) -> Result<(), Unreachable> {
        let mut state = self.state.subscribe();
        loop {
            let known =
                state.wait_for(|state| !matches!(state, State::Connecting)).await.map(|state| state.clone());
            match known {
                Ok(State::Up(link)) => {
                    if link.ping().await.is_ok() {
                        return Ok(());
                    }
                    // The connection is lost; whether Redis is, the keeper finds out.
                    self.alarm.notify_one();
                    let _ = state.changed().await;
                }
                Ok(State::Down(problem)) => return Err(Unreachable::Unusable(problem)),
                Ok(State::Connecting) | Err(_) => return Err(Unreachable::GivenUp),
            }
        }
    }

    /// Whether nobody waits for Redis now, since it does not answer.
    pub(crate) fn is_given_up(&self) -> bool {
        self.breaker.is_open()
    }
}

impl Run {
    /// Before there is one: nothing can be sent to it, and nothing is under its names.
    pub(crate) fn none(redis: Arc<Redis>) -> Arc<Self> {
        Arc::new(Self { redis, tag: String::new(), link: RwLock::default() })
    }

    fn of(redis: Arc<Redis>, link: Arc<Link>) -> Arc<Self> {
        Arc::new(Self { redis, tag: link.tag.clone(), link: RwLock::new(Some(link)) })
    }

    /// Names it among all others.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
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
        let mut call = Call::new(&self.redis.scripts.lease, key);
        call.arg(token).arg(millis(self.redis.times.lease)).arg(min).arg(rejected);
        match self.call::<Answer>("lease", key, &call, budget).await? {
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
        let Times { ttl, absent, .. } = self.redis.times;
        let ttl = jittered(if version > 0 { ttl } else { absent });
        let mut call = Call::new(&self.redis.scripts.fill, key);
        call.arg(token).arg(version).arg(data).arg(millis(ttl));
        self.call("fill", key, &call, budget).await
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
        let mut call = Call::new(&self.redis.scripts.floor, key);
        call.arg(version).arg(token).arg(millis(self.redis.times.lease)).arg(millis(self.redis.times.floor));
        self.call::<u8>("floor", key, &call, budget).await.map(drop)
    }

    /// The same for many rows, without a token, under one budget; for the breaker they are one call.
    pub(crate) async fn floors(
        &self,
        floors: &[(String, Version)],
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let placed = floors.iter().map(|(key, version)| async move {
            let mut call = Call::new(&self.redis.scripts.floor, key);
            call.arg(version).arg("").arg(millis(self.redis.times.lease)).arg(millis(self.redis.times.floor));
            call.send::<u8>(&mut self.connection(key)?).await
        });
        self.all("floor", try_join_all(placed), budget).await.map(drop)
    }

    /// Takes back the floor that `token` placed, if it is still the last.
    pub(crate) async fn unfloor(
        &self,
        key: &str,
        token: &str,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let mut call = Call::new(&self.redis.scripts.unfloor, key);
        call.arg(token);
        self.call::<u8>("unfloor", key, &call, budget).await.map(drop)
    }

    /// The value of `key` as it is, for a caller who goes through [`Self::all`].
    pub(crate) async fn get(&self, key: &str) -> Result<Option<(Vec<u8>, Bytes)>, RedisError> {
        let mut connection = self.connection(key)?;
        let mut get = redis::cmd("HMGET");
        get.arg(key).arg("v").arg("d");
        let (version, data): (Option<Vec<u8>>, Option<Vec<u8>>) = get.query_async(&mut connection).await?;
        Ok(version.zip(data.map(Bytes::from)))
    }

    /// Sends a command that touches one key, for a caller who goes through [`Self::all`].
    pub(crate) async fn command<T: FromRedisValue>(
        &self,
        key: &str,
        command: &redis::Cmd,
    ) -> Result<T, RedisError> {
        command.query_async(&mut self.connection(key)?).await
    }

    /// The id that `pointer` leads to. What is no id leads nowhere.
    pub(crate) async fn follow(
        &self,
        pointer: &str,
        budget: &mut Budget,
    ) -> Result<Option<Uuid>, Unreachable> {
        let asked =
            async { redis::cmd("GET").arg(pointer).query_async(&mut self.connection(pointer)?).await };
        let id: Option<Vec<u8>> = self.all("follow", asked, budget).await?;
        Ok(id.and_then(|id| Uuid::try_parse_ascii(&id).ok()))
    }

    /// Lets `pointer` lead to `id`.
    pub(crate) async fn point(
        &self,
        pointer: &str,
        id: Uuid,
        budget: &mut Budget,
    ) -> Result<(), Unreachable> {
        let mut set = redis::cmd("SET");
        set.arg(pointer).arg(id.to_string()).arg("PX").arg(millis(jittered(self.redis.times.ttl)));
        let set = async { set.query_async(&mut self.connection(pointer)?).await };
        self.all("point", set, budget).await
    }

    /// Removes pointers, each by a command of its own.
    pub(crate) async fn unlink(&self, pointers: &[String], budget: &mut Budget) -> Result<(), Unreachable> {
        if pointers.is_empty() {
            return Ok(());
        }
        let unlinked = pointers.iter().map(|pointer| async move {
            redis::cmd("DEL").arg(pointer).query_async::<()>(&mut self.connection(pointer)?).await
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
        let mut span = span::begin(name);
        let result = result(name, budget.spend(calls).await);
        span::end(&mut span, &result);
        self.told(ticket, &result);
        result
    }

    pub(crate) async fn call<T: FromRedisValue>(
        &self,
        name: &'static str,
        key: &str,
        call: &Call<'_>,
        budget: &mut Budget,
    ) -> Result<T, Unreachable> {
        // Pinned, so that it is not copied from hand to hand.
        let call = pin!(async { call.send(&mut self.connection(key)?).await });
        self.all(name, call, budget).await
    }

    /// The permission to make a call, if there is time for one, a connection, and the breaker is closed.
    fn admit(&self, budget: &Budget) -> Result<Ticket, Unreachable> {
        if budget.is_spent() {
            return Err(Unreachable::TimedOut);
        }
        if self.link.reading().is_none() {
            return Err(Unreachable::GivenUp);
        }
        self.redis.breaker.admit().ok_or(Unreachable::GivenUp)
    }

    /// The connection to whoever has `key`.
    fn connection(&self, key: &str) -> Result<MultiplexedConnection, RedisError> {
        match &*self.link.reading() {
            Some(link) => link.connection(key),
            None => Err(RedisError::from((ErrorKind::Io, "this run of redis is over"))),
        }
    }

    fn told<T>(&self, ticket: Ticket, result: &Result<T, Unreachable>) {
        if let Err(Unreachable::Failed(error)) = result
            && is_news(error)
        {
            self.redis.alarm.notify_one();
        }
        match result {
            Ok(_) => self.redis.breaker.answered(ticket),
            Err(error) if error.is_refusal() => self.redis.breaker.answered(ticket),
            Err(_) => self.redis.breaker.failed(ticket),
        }
    }
}

/// A script on its way to one key. (The crate's own keeps each argument by itself before it writes it.)
pub(crate) struct Call<'a> {
    script: &'a Script,
    command: Cmd,
}

impl<'a> Call<'a> {
    pub(crate) fn new(script: &'a Script, key: &str) -> Self {
        let mut command = Cmd::with_capacity(8, 256);
        command.arg("EVALSHA").arg(script.get_hash()).arg(1).arg(key);
        Self { script, command }
    }

    pub(crate) fn arg(&mut self, argument: impl ToRedisArgs) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Sends it, and first the script itself to a server that does not know it.
    async fn send<T: FromRedisValue>(&self, connection: &mut MultiplexedConnection) -> Result<T, RedisError> {
        match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                // Seldom, and in a place of its own: the future of each call has room for this.
                Box::pin(self.script.load_async(connection)).await?;
                Box::pin(self.command.query_async(connection)).await
            }
            answer => answer,
        }
    }
}

/// Whether an error means that the connection leads nowhere any more, or to somebody else than it did.
fn is_news(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly};
    error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly)
        )
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
