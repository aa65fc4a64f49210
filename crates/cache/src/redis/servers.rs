//! Where Redis is, and what its servers say of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection, cmd,
    from_redis_value,
};
use tokio::join;

use crate::SetupError;

/// How long making all connections may take, and an answer on one that has been given up for slow.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// How long one connection may take; less, so that whoever waits for all hears which one it was.
const CONNECT: Duration = Duration::from_millis(800);

/// How many slots a cluster has.
pub(super) const SLOTS: u16 = 16_384;

/// The servers of a setting: one, or some nodes of a cluster.
pub(super) fn parse(urls: &str) -> Result<Vec<ConnectionInfo>, SetupError> {
    // A comma may be part of a password; one that begins another URL is not.
    let mut parts: Vec<String> = Vec::new();
    for part in urls.split(',') {
        match parts.last_mut() {
            Some(last) if !part.contains("://") => *last = format!("{last},{part}"),
            _ => parts.push(part.to_owned()),
        }
    }
    let servers: Vec<ConnectionInfo> =
        parts.iter().map(|part| part.trim().into_connection_info()).collect::<Result<_, _>>()?;
    for server in &servers {
        if !server.addr().is_supported() {
            return Err(SetupError::Unsupported);
        }
        if servers.len() > 1 && matches!(server.addr(), ConnectionAddr::Unix(_)) {
            return Err(SetupError::ClusterOnSockets);
        }
    }
    if servers.iter().any(|server| matches!(server.addr(), ConnectionAddr::TcpTls { .. })) {
        // Whoever was first has chosen, and any choice will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Ok(servers)
}

/// Why a Redis cannot be used. No text holds a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("redis {server}: {}", explain(.error))]
    Failed { server: String, error: RedisError },
    #[error("redis {0} ends the connection at once; if it speaks TLS, write rediss://")]
    HungUp(String),
    #[error("redis {0} does not answer in time; if it speaks no TLS, write redis://")]
    Mute(String),
    #[error("redis does not answer in time")]
    Slow,
    #[error("redis {0} is a replica; the cache needs the master")]
    Replica(String),
    #[error("redis {0} is a sentinel; write the address of the server itself")]
    Sentinel(String),
    #[error("redis {0} is no cluster; write the URL of one server, or those of the nodes of a cluster")]
    NotACluster(String),
    #[error("redis {0} has no share in the cluster that its nodes agree on; they may be changing roles")]
    Disagreement(String),
    #[error("redis {0} says that the cluster is down")]
    ClusterDown(String),
    #[error("redis began anew")]
    OtherRun,
}

fn explain(error: &RedisError) -> String {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::AuthenticationFailed => "it refuses the user or the password of the URL".into(),
        ErrorKind::Extension if error.code() == Some("NOAUTH") => {
            "it wants a password; write redis://user:password@host:port".into()
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => "it is loading its data".into(),
        _ if ["UnknownIssuer", "BadSignature", "CaUsedAsEndEntity"].iter().any(|why| text.contains(why)) => {
            format!(
                "{text}; a certificate authority of your own is trusted when SSL_CERT_FILE names its certificate"
            )
        }
        _ => text,
    }
}

impl Problem {
    fn failed(server: &ConnectionInfo) -> impl Fn(RedisError) -> Self {
        let server = server.addr().to_string();
        move |error| Self::Failed { server: server.clone(), error }
    }
}

/// One connection, and whom it leads to.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) info: ConnectionInfo,
    pub(super) connection: MultiplexedConnection,
}

/// What a server says of itself.
pub(super) struct Report {
    /// What names its run: its process and the history of its data, which is another one after each change of roles. A
    /// server that becomes a replica and then the master again is not the one it was: what it holds under the names of
    /// before has not seen what was written meanwhile. `None` if it does not tell.
    pub(super) run: Option<String>,
    pub(super) is_master: bool,
    /// As a node of a cluster.
    pub(super) view: Option<View>,
}

/// The cluster as one of its nodes sees it.
pub(super) struct View {
    /// Of slots, to the id of their master.
    pub(super) ranges: Vec<(u16, u16, String)>,
    pub(super) masters: BTreeMap<String, ConnectionInfo>,
    pub(super) replicas: Vec<ConnectionInfo>,
}

impl View {
    pub(super) fn ids(&self) -> BTreeSet<&str> {
        self.masters.keys().map(String::as_str).collect()
    }
}

impl Server {
    /// Connects and asks who answers.
    pub(super) async fn connect(info: &ConnectionInfo) -> Result<(Self, Report), Problem> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(PATIENCE))
            .set_pipeline_buffer_size(1024);
        let connected =
            async { Client::open(info.clone())?.get_multiplexed_async_connection_with_config(&config).await };
        let connection = connected.await.map_err(|error| {
            let server = info.addr().to_string();
            match info.addr() {
                ConnectionAddr::TcpTls { .. } if error.is_timeout() => Problem::Mute(server),
                ConnectionAddr::Tcp(..)
                    if error.is_connection_dropped() && !error.is_connection_refusal() =>
                {
                    Problem::HungUp(server)
                }
                _ => Problem::Failed { server, error },
            }
        })?;
        let server = Self { info: info.clone(), connection };
        let report = server.report().await?;
        Ok((server, report))
    }

    /// Who this is, if it answers.
    pub(super) async fn report(&self) -> Result<Report, Problem> {
        let name = || self.info.addr().to_string();
        let (server, replication, pong) =
            join!(self.info_of("server"), self.info_of("replication"), self.ask::<()>(&["PING"]));
        pong?; // the one of the three that is an error while data is loaded
        let (server, replication) = (server?, replication?);
        // The second is Valkey's.
        let mode = server.get("redis_mode").or(server.get("server_mode")).map_or("", String::as_str);
        if mode == "sentinel" {
            return Err(Problem::Sentinel(name()));
        }
        let is_master = replication.get("role").is_none_or(|role| role == "master");
        let ids: Vec<&str> = [server.get("run_id"), replication.get("master_replid")]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        let run = (!ids.is_empty()).then(|| ids.join(" "));
        if mode != "cluster" {
            return Ok(Report { run, is_master, view: None });
        }
        let (state, slots) =
            join!(self.ask::<Vec<u8>>(&["CLUSTER", "INFO"]), self.ask::<Value>(&["CLUSTER", "SLOTS"]));
        let state = fields(&state?);
        if state.get("cluster_state").is_some_and(|state| state != "ok") {
            return Err(Problem::ClusterDown(name()));
        }
        // The epoch of a node is another one after it has been given slots, so that a master without slots that gets some
        // back does not get its old name with them.
        let epoch = state.get("cluster_my_epoch").map_or("0", String::as_str);
        let run = run.map(|run| format!("{run} {epoch}"));
        let view = self.view(slots?).map_err(Problem::failed(&self.info))?;
        Ok(Report { run, is_master, view: Some(view) })
    }

    /// A section of INFO; nothing where the provider refuses it.
    async fn info_of(&self, section: &str) -> Result<BTreeMap<String, String>, Problem> {
        match self.ask::<Vec<u8>>(&["INFO", section]).await {
            Ok(text) => Ok(fields(&text)),
            Err(Problem::Failed { error, .. })
                if matches!(
                    error.kind(),
                    ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
                ) =>
            {
                Ok(BTreeMap::new())
            }
            Err(problem) => Err(problem),
        }
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Problem> {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection.clone()).await.map_err(Problem::failed(&self.info))
    }

    /// Reads the answer to CLUSTER SLOTS: `[first, last, [host, port, id, ...] of the master, of its replicas...]...`.
    fn view(&self, slots: Value) -> Result<View, RedisError> {
        let mut view = View { ranges: Vec::new(), masters: BTreeMap::new(), replicas: Vec::new() };
        for range in from_redis_value::<Vec<Vec<Value>>>(slots)? {
            let mut parts = range.into_iter();
            let (first, last) = (number(parts.next())?, number(parts.next())?);
            for (place, node) in parts.enumerate() {
                let mut parts = from_redis_value::<Vec<Value>>(node)?.into_iter();
                let host: Option<String> = from_redis_value(parts.next().unwrap_or(Value::Nil))?;
                let port = number(parts.next())?;
                let id: String = from_redis_value(parts.next().unwrap_or(Value::Nil))?;
                let info = self.sibling(host, port);
                if place == 0 {
                    view.ranges.push((first, last, id.clone()));
                    view.masters.insert(id, info);
                } else {
                    view.replicas.push(info);
                }
            }
        }
        Ok(view)
    }

    /// Another node of this one's cluster, with this one's TLS, user and password. A node that does not know its own
    /// address is where it was asked.
    fn sibling(&self, host: Option<String>, port: u16) -> ConnectionInfo {
        let addr = match (self.info.addr(), host.filter(|host| !host.is_empty() && host != "?")) {
            (ConnectionAddr::Tcp(own, _), host) => {
                ConnectionAddr::Tcp(host.unwrap_or_else(|| own.clone()), port)
            }
            (ConnectionAddr::TcpTls { host: own, insecure, tls_params, .. }, host) => {
                ConnectionAddr::TcpTls {
                    host: host.unwrap_or_else(|| own.clone()),
                    port,
                    insecure: *insecure,
                    tls_params: tls_params.clone(),
                }
            }
            (own, _) => own.clone(),
        };
        self.info.clone().set_addr(addr)
    }
}

fn number(value: Option<Value>) -> Result<u16, RedisError> {
    Ok(from_redis_value(value.unwrap_or(Value::Nil))?)
}

/// The lines `name:value` of what INFO and CLUSTER INFO answer.
fn fields(text: &[u8]) -> BTreeMap<String, String> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_urls_are_separated_by_commas_which_a_password_may_hold_too() {
        let hosts = |urls: &str| -> Vec<String> {
            parse(urls).unwrap().iter().map(|server| server.addr().to_string()).collect()
        };
        assert_eq!(hosts("redis://a:1"), ["a:1"]);
        assert_eq!(hosts("redis://a:1, rediss://u:p@b:2,redis://c"), ["a:1", "b:2", "c:6379"]);
        assert_eq!(hosts("redis://:p,q@a:1,redis://b:2"), ["a:1", "b:2"]);
        assert_eq!(parse("redis://:p,q@a:1").unwrap()[0].redis_settings().password(), Some("p,q"));
    }

    #[test]
    fn what_is_no_address_is_refused_without_saying_the_password() {
        for urls in
            ["", "http://:secret@x", "redis://:secret@a:1,http://b", "redis://:secret@a:1,unix:///b", ","]
        {
            let error = parse(urls).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
