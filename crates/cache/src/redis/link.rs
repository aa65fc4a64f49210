//! Connections to one run of Redis: one to a single server, or one to each master of a cluster.
//!
//! A link is made as a whole and ends as a whole. Whom it leads to is asked when it is made and again and again, and it is
//! thrown away when anybody else answers, so that nothing is ever sent under the names of one run to another one.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    sync::RwLock,
};

use deadpool_redis::redis::{
    ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, aio::MultiplexedConnection,
};
use futures_util::{
    future::try_join_all,
    stream::{FuturesUnordered, StreamExt},
};
use sha2::{Digest, Sha256};

use super::servers::{Problem, Report, SLOTS, Server, View};
use crate::sync::Shared;

pub(super) struct Link {
    /// Eight hexadecimal digits that name the run.
    pub(super) tag: String,
    nodes: Vec<Node>,
    /// The place in `nodes` of whoever has a slot; `None` for a single server.
    slots: Option<RwLock<Vec<usize>>>,
    /// More nodes of the cluster to ask when these are gone.
    pub(super) replicas: Vec<ConnectionInfo>,
}

struct Node {
    /// In a cluster, where it is the node's for ever.
    id: String,
    server: Server,
}

/// A slot that nobody has.
const NOBODY: usize = usize::MAX;

/// The tag of a run that is not told.
pub(super) const UNTOLD: &str = "00000000";

impl Link {
    /// Connects to what is found at `seeds`, or else, if it is a cluster, at the nodes that it had when it was last seen.
    pub(super) async fn make(seeds: &[ConnectionInfo], seen: &[ConnectionInfo]) -> Result<Self, Problem> {
        let mut asked: FuturesUnordered<_> = seeds
            .iter()
            .chain(seen)
            .enumerate()
            .map(|(place, info)| async move { (place, Server::connect(info).await) })
            .collect();
        let mut tried: HashSet<String> = HashSet::new();
        let mut problem = None;
        while let Some((place, answer)) = asked.next().await {
            let link = match answer {
                Ok((server, report)) => match &report.view {
                    None if seeds.len() == 1 && place == 0 => Self::of_one(server, &report),
                    None => Err(Problem::NotACluster(server.info.addr().to_string())),
                    // The nodes of a cluster may not agree, so each of its views is tried once.
                    Some(view) if tried.insert(Vec::from_iter(view.ids()).join(" ")) => {
                        Self::of_cluster(view).await
                    }
                    Some(_) => continue,
                },
                Err(problem) => Err(problem),
            };
            match link {
                Ok(link) => return Ok(link),
                // That of a seed says most.
                Err(found) if place < seeds.len() || problem.is_none() => problem = Some(found),
                Err(_) => {}
            }
        }
        Err(problem.unwrap_or(Problem::Slow))
    }

    fn of_one(server: Server, report: &Report) -> Result<Self, Problem> {
        if !report.is_master {
            return Err(Problem::Replica(server.info.addr().to_string()));
        }
        let nodes = vec![Node { id: String::new(), server }];
        Ok(Self { tag: tag(&[report]), nodes, slots: None, replicas: Vec::new() })
    }

    async fn of_cluster(view: &View) -> Result<Self, Problem> {
        let connected = view.masters.iter().map(|(id, info)| async move {
            let (server, report) = Server::connect(info).await?;
            Ok((Node { id: id.clone(), server }, report))
        });
        let (nodes, reports): (Vec<_>, Vec<_>) = try_join_all(connected).await?.into_iter().unzip();
        let slots = Some(RwLock::new(agreed(&nodes, &reports)?));
        let tag = tag(&Vec::from_iter(&reports));
        Ok(Self { tag, nodes, slots, replicas: view.replicas.clone() })
    }

    /// Asks all servers once more who they are. An error if this link cannot be used any more.
    pub(super) async fn probe(&self) -> Result<(), Problem> {
        let reports = try_join_all(self.nodes.iter().map(|node| node.server.report())).await?;
        if let Some((node, _)) = self.nodes.iter().zip(&reports).find(|(_, report)| !report.is_master) {
            return Err(Problem::Replica(node.server.info.addr().to_string()));
        }
        if tag(&Vec::from_iter(&reports)) != self.tag {
            return Err(Problem::OtherRun);
        }
        match &self.slots {
            None if reports.iter().any(|report| report.view.is_some()) => Err(Problem::OtherRun),
            None => Ok(()),
            Some(slots) => {
                let found = agreed(&self.nodes, &reports)?;
                if *slots.reading() != found {
                    *slots.writing() = found;
                }
                Ok(())
            }
        }
    }

    /// Waits until every server has answered.
    pub(super) async fn ping(&self) -> Result<(), Problem> {
        try_join_all(self.nodes.iter().map(|node| node.server.ask::<()>(&["PING"]))).await.map(drop)
    }

    /// The connection to the server that has `key`.
    pub(super) fn connection(&self, key: &str) -> Result<MultiplexedConnection, RedisError> {
        let place = match &self.slots {
            None => 0,
            Some(slots) => slots.reading()[usize::from(slot(key))],
        };
        let node = self.nodes.get(place).ok_or_else(|| {
            RedisError::from((ErrorKind::Server(ServerErrorKind::ClusterDown), "nobody has the slot"))
        })?;
        Ok(node.server.connection.clone())
    }

    /// All masters and replicas.
    pub(super) fn members(&self) -> Vec<ConnectionInfo> {
        match self.slots {
            None => Vec::new(),
            Some(_) => {
                self.nodes.iter().map(|node| &node.server.info).chain(&self.replicas).cloned().collect()
            }
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slots {
            None => f.write_str("one server"),
            Some(_) => write!(f, "a cluster of {} masters", self.nodes.len()),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({}, {self})", self.tag)
    }
}

/// Who has which slot, by the word of each master for itself, if all agree on who the masters are. Where a master has been
/// replaced and does not know it yet, it must not be trusted: floors placed there would be lost.
fn agreed(nodes: &[Node], reports: &[Report]) -> Result<Vec<usize>, Problem> {
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    let mut slots = vec![NOBODY; usize::from(SLOTS)];
    for (place, (node, report)) in nodes.iter().zip(reports).enumerate() {
        let Some(view) = report.view.as_ref().filter(|view| report.is_master && view.ids() == ids) else {
            return Err(Problem::Disagreement(node.server.info.addr().to_string()));
        };
        for (first, last, _) in view.ranges.iter().filter(|(_, _, master)| *master == node.id) {
            if let Some(range) = slots.get_mut(usize::from(*first)..=usize::from(*last)) {
                range.fill(place);
            }
        }
    }
    Ok(slots)
}

fn tag(reports: &[&Report]) -> String {
    let Some(mut runs) = reports.iter().map(|report| report.run.as_deref()).collect::<Option<Vec<_>>>()
    else {
        return UNTOLD.into();
    };
    runs.sort_unstable();
    let digest = Sha256::digest(runs.join("\n"));
    digest[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The slot of a key. Names of ours hold no hash tag (braces), so all of it counts.
fn slot(key: &str) -> u16 {
    crc16(key.as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_checksum_that_the_specification_shows() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot("foo"), 12_182);
    }

    #[test]
    fn a_tag_names_the_set_of_runs_in_any_order() {
        let report = |run: Option<&str>| Report { run: run.map(str::to_owned), is_master: true, view: None };
        let (a, b, hidden) = (report(Some("a 1")), report(Some("b 1")), report(None));
        assert_eq!(tag(&[&a, &b]), tag(&[&b, &a]));
        assert_ne!(tag(&[&a, &b]), tag(&[&a]));
        assert_ne!(tag(&[&a]), tag(&[&report(Some("a 2"))]));
        assert_eq!(tag(&[&a, &hidden]), UNTOLD);
    }
}
