//! A private Redis: a cache, so it keeps nothing on disk.

use super::{
    binaries,
    error::ServerError,
    home::Home,
    process::{Plan, Server},
};

/// Starts the private Redis of `home`.
pub async fn start(home: &Home) -> Result<Server, ServerError> {
    let socket = home.sockets.join("redis.sock");
    let settings = [
        ("--port", "0".into()),
        ("--unixsocket", socket.display().to_string()),
        ("--unixsocketperm", "700".into()),
        ("--pidfile", home.sockets.join("redis.pid").display().to_string()),
        ("--save", String::new()),
        ("--appendonly", "no".into()),
        ("--maxmemory", "256mb".into()),
        ("--maxmemory-policy", "allkeys-lfu".into()),
        ("--daemonize", "no".into()),
    ];
    Server::start(Plan {
        name: "redis",
        home: home.clone(),
        program: binaries::redis()?,
        arguments: settings.into_iter().flat_map(|(name, value)| [name.into(), value]).collect(),
        socket,
        greeting: (b"PING\r\n", b'+'),
        stop: "TERM",
    })
    .await
}

/// Where it listens, for clients (`redis-cli` takes the path alone: `redis-cli -s PATH`).
pub fn url(home: &Home) -> String {
    format!("redis+unix://{}", home.sockets.join("redis.sock").display())
}
