//! Scripts of others, such as limits of requests: each runs on one name in Redis, over the connections and the breaker of the
//! cache. Their names are of no era: what is counted goes on when the database is on another timeline.

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis;

use crate::{
    Cache, Unreachable,
    budget::{Budget, left_of},
    redis::{Call, Run},
};

/// A script in Lua that touches one key and answers with whole numbers.
#[derive(Debug)]
pub struct Script {
    /// The name of its calls in `tenantry_cache_redis_failures_total`.
    name: &'static str,
    script: redis::Script,
}

impl Script {
    /// The script with this text.
    pub fn new(name: &'static str, text: &str) -> Self {
        Self { name, script: redis::Script::new(text) }
    }
}

/// The run of Redis that there is now. A script that is sent to it reaches this run or none: what somebody remembers of what
/// one run said is not taken for the word of another, which may have begun empty or with old values.
#[derive(Clone, Debug)]
pub struct RedisRun(Arc<Run>);

impl Cache {
    /// The Redis that there is now; none where none is configured.
    pub fn redis(&self) -> Option<RedisRun> {
        self.0.era().run.clone().map(RedisRun)
    }

    /// How long [this request](crate::one_request) may still wait for Redis, over all its calls.
    pub fn redis_time_left(&self) -> Duration {
        left_of(self.0.settings.redis_budget)
    }
}

impl RedisRun {
    /// Names the run among all others; empty before there is one.
    pub fn run(&self) -> &str {
        self.0.tag()
    }

    /// Runs a script on `key`, which has a prefix that no [`Key`](crate::Key) and no [`Pointer`](crate::Pointer) has and holds no
    /// braces. It may take as long as `patience`; what a request waits for it is to be [charged](crate::charge_request) to it.
    ///
    /// # Errors
    /// When Redis has not answered, or is not asked since it has not answered others. The script may have run all the same.
    pub async fn call(
        &self,
        script: &Script,
        key: &str,
        arguments: &[i64],
        patience: Duration,
    ) -> Result<Vec<i64>, Unreachable> {
        let mut call = Call::new(&script.script, key);
        for argument in arguments {
            call.arg(argument);
        }
        self.0.call(script.name, key, &call, &mut Budget::new(patience)).await
    }
}
