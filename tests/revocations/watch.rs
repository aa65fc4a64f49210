//! Who presents one token to every node all the time, and notes until when it is let in.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Result,
    cluster::{Cluster, NODES},
    connection::Connection,
};

/// Between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(2);
/// A token that has been refused for so long is not let in again: longer than a node takes to look at the feed once.
const SETTLED: Duration = Duration::from_millis(300);
const ALL: [usize; NODES] = [0, 1, 2];

/// One token at one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    pub(crate) requests: usize,
    /// When the first and the last of the requests began that were let in.
    pub(crate) first_accepted: Option<Instant>,
    pub(crate) last_accepted: Option<Instant>,
    /// Since when it is refused with 401, and not let in meanwhile.
    pub(crate) refused_since: Option<Instant>,
    /// When it was first answered that it cannot be told, since it was let in.
    pub(crate) unknown_since: Option<Instant>,
    /// An answer that says neither.
    pub(crate) odd: Option<u16>,
}

pub(crate) struct Watch {
    tracks: Vec<Arc<Mutex<Track>>>,
    _clients: Vec<AbortOnDropHandle<()>>,
}

impl Watch {
    /// Presents `bearer` to every node from now on, until this is dropped.
    pub(crate) fn start(cluster: &Cluster, bearer: &str, look_up: &str) -> Result<Self> {
        let tracks: Vec<Arc<Mutex<Track>>> = (0..NODES).map(|_| Arc::default()).collect();
        let mut clients = vec![];
        for (node, track) in tracks.iter().enumerate() {
            let present =
                present(cluster.connect(node)?, bearer.to_owned(), look_up.to_owned(), track.clone());
            clients.push(AbortOnDropHandle::new(tokio::spawn(present)));
        }
        Ok(Self { tracks, _clients: clients })
    }

    pub(crate) fn track(&self, node: usize) -> Track {
        self.tracks[node].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until every node has let the token in lately.
    pub(crate) async fn is_accepted(&self) -> Result<()> {
        self.until(&ALL, "every node lets the token in", |track| {
            track.last_accepted.is_some_and(|at| at.elapsed() < Duration::from_millis(100))
        })
        .await
    }

    /// Waits until every node has refused it for a while.
    pub(crate) async fn is_refused(&self) -> Result<()> {
        self.until(&ALL, "every node refuses the token", |track| {
            track.refused_since.is_some_and(|since| since.elapsed() >= SETTLED)
        })
        .await
    }

    /// Waits until something is so at all of `nodes`.
    pub(crate) async fn until(
        &self,
        nodes: &[usize],
        what: &str,
        fact: impl Fn(&Track) -> bool,
    ) -> Result<()> {
        let patience = Instant::now() + Duration::from_secs(20);
        while !nodes.iter().all(|node| fact(&self.track(*node))) {
            if Instant::now() > patience {
                return Err(format!("it does not come about that {what}: {:?}", self.tracks).into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn present(mut connection: Connection, bearer: String, look_up: String, track: Arc<Mutex<Track>>) {
    loop {
        let start = Instant::now();
        let answer = timeout(Duration::from_secs(8), connection.ask("GET", &look_up, &bearer, "")).await;
        if let Ok(Ok(answer)) = &answer {
            track.lock().unwrap_or_else(PoisonError::into_inner).note(start, answer.status);
        }
        sleep(PAUSE).await;
    }
}

/// Anything but "no" and "this cannot be told".
pub(crate) fn is_let_in(status: u16) -> bool {
    ![401, 503].contains(&status)
}

impl Track {
    fn note(&mut self, start: Instant, status: u16) {
        self.requests += 1;
        match status {
            401 => {
                self.refused_since.get_or_insert(start);
            }
            503 => {
                self.unknown_since.get_or_insert(start);
            }
            status => {
                self.odd = self.odd.or((status != 200).then_some(status));
                self.first_accepted.get_or_insert(start);
                self.last_accepted = Some(start);
                (self.refused_since, self.unknown_since) = (None, None);
            }
        }
    }

    /// For how long after `moment` requests began that were let in.
    pub(crate) fn accepted_past(&self, moment: Instant) -> Duration {
        self.last_accepted.map_or(Duration::ZERO, |last| last.saturating_duration_since(moment))
    }
}
