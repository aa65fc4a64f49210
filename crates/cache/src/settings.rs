use std::time::Duration;

/// How a cache is set up. The defaults are the protocol's; tests shorten them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `redis://`, `rediss://` (TLS), `redis+unix://` or `unix://`, or several of the first two, separated by commas: nodes
    /// of one cluster. Without it the cache lives in this process alone.
    pub redis_url: Option<String>,
    /// The timeline of the database, part of every key in Redis, as the run of Redis is; [`Cache::set_epoch`](crate::Cache::set_epoch) changes it.
    pub epoch: String,
    /// What the bodies look like, such as `users/1`: a value stored under another schema is a miss. No space or newline.
    pub schema: &'static str,
    /// How many entries are held in the process.
    pub local_entries: usize,
    /// How long an entry in the process is shown, counted from before it was read.
    pub local_ttl: Duration,
    /// How many rows written lately the node remembers; with more it bypasses its caches for a while.
    pub node_floors: usize,
    /// How long an entry stays in Redis at most.
    pub ttl: Duration,
    /// How long it is remembered that there is no row by an id, in Redis and, no longer than `local_ttl`, in the process.
    pub absent_ttl: Duration,
    /// How many such ids this node remembers in a second; the others are asked for again each time.
    pub absent_per_second: u32,
    /// How long a reader alone may fill an entry, or a writer.
    pub lease: Duration,
    /// How long a floor stays; longer than any transaction and any read can take.
    pub floor: Duration,
    /// How long one request waits for Redis, over all its calls.
    pub redis_budget: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            redis_url: None,
            epoch: "0".into(),
            schema: "1",
            local_entries: 100_000,
            local_ttl: Duration::from_secs(1),
            node_floors: 65_536,
            ttl: Duration::from_secs(900),
            absent_ttl: Duration::from_secs(5),
            absent_per_second: 100,
            lease: Duration::from_secs(3),
            floor: Duration::from_secs(30),
            redis_budget: Duration::from_millis(50),
        }
    }
}
