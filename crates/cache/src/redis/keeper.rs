//! Keeps the connections: asks again and again whether they still lead where they led, makes new ones, and begins an era
//! when Redis has.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use super::{
    Redis, Run, State,
    link::{Link, UNTOLD},
    servers::{PATIENCE, Problem},
};
use crate::{Inner, Key, Version, budget::Budget, era::Era, sync::Shared};

/// How often the connections are tried, and how long an answer may take before the breaker opens; together less than a
/// second.
const PROBE: Duration = Duration::from_millis(250);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// The least time between two looks, however often the alarm rings.
const BREATH: Duration = Duration::from_millis(50);

/// A Redis that has been away for longer than `HURRY` is tried every `PATIENCE` only, so that a server that refuses us is not
/// kept busy by that.
const HURRY: Duration = Duration::from_secs(10);

/// How many floors are placed at a time when an era begins.
const FLOORS: usize = 64;

/// Keeps the connections of `cache` for as long as it lives.
pub(crate) async fn keep(cache: Weak<Inner>, redis: Arc<Redis>) {
    let mut keeper = Keeper { redis: redis.clone(), run: None, nodes: Vec::new(), lost: None, warned: false };
    while let Some(cache) = cache.upgrade() {
        keeper.look(&cache).await;
        drop(cache);
        keeper.pause().await;
    }
}

struct Keeper {
    redis: Arc<Redis>,
    /// The run there is, or was last.
    run: Option<Arc<Run>>,
    /// The nodes of the cluster when it was last seen.
    nodes: Vec<deadpool_redis::redis::ConnectionInfo>,
    /// Since when there is none.
    lost: Option<Instant>,
    /// That runs are not told has been said.
    warned: bool,
}

impl Keeper {
    async fn look(&mut self, cache: &Arc<Inner>) {
        let linked = self.run.as_ref().and_then(|run| run.link.reading().clone());
        if let Some(link) = linked {
            let patience = if self.redis.is_given_up() { PATIENCE } else { PROBE_PATIENCE };
            match timeout(patience, link.probe()).await {
                Ok(Ok(())) => return self.close_if_quick(&link).await,
                Ok(Err(_)) => self.let_go(),
                Err(_) => {
                    self.let_go();
                    self.redis.breaker.open(&Problem::Slow.to_string());
                }
            }
        }
        match timeout(PATIENCE, Link::make(&self.redis.servers, &self.nodes)).await {
            Ok(Ok(link)) => self.take(cache, Arc::new(link)).await,
            Ok(Err(problem)) => self.fail(&problem),
            Err(_) => self.fail(&Problem::Slow),
        }
    }

    /// From here on nothing is sent to the run, unless it is found again.
    fn let_go(&mut self) {
        if let Some(run) = &self.run {
            *run.link.writing() = None;
        }
        self.redis.state.send_replace(State::Connecting);
    }

    fn fail(&mut self, problem: &Problem) {
        self.lost.get_or_insert_with(Instant::now);
        self.redis.breaker.open(&problem.to_string());
        self.redis.state.send_replace(State::Down(problem.to_string()));
    }

    async fn take(&mut self, cache: &Arc<Inner>, link: Arc<Link>) {
        self.nodes = link.members();
        self.lost = None;
        if link.tag == UNTOLD && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                "redis does not tell its run (INFO is refused): run it without persistence, or the cache may show old \
                 values after a restart or a fail-over"
            );
        }
        match &self.run {
            Some(run) if run.tag == link.tag => *run.link.writing() = Some(link.clone()),
            _ => {
                let run = Run::of(self.redis.clone(), link.clone());
                self.run = Some(run.clone());
                cache.begin_run(run);
                tokio::spawn(place_floors(Arc::downgrade(cache), cache.era()));
            }
        }
        self.close_if_quick(&link).await;
        self.redis.state.send_replace(State::Up(link));
    }

    /// Closes the breaker if Redis answers as fast as a request needs it.
    async fn close_if_quick(&self, link: &Link) {
        if self.redis.is_given_up() {
            let patience = self.redis.times.request.min(PATIENCE);
            if let Ok(Ok(())) = timeout(patience, link.ping()).await {
                self.redis.breaker.close(link);
            }
        }
    }

    async fn pause(&self) {
        let every = match self.lost {
            Some(since) if since.elapsed() > HURRY => PATIENCE,
            _ => PROBE,
        };
        sleep(BREATH).await;
        // While there is no connection nobody has news.
        if self.lost.is_some() {
            sleep(every - BREATH).await;
        } else {
            let _ = timeout(every - BREATH, self.redis.alarm.notified()).await;
        }
        self.redis.breaker.say();
    }
}

/// Places the floors of this node in the era that has begun. Until a node knew of it, its writes placed theirs under the
/// names of the run before, where nodes that knew did not look.
async fn place_floors(cache: Weak<Inner>, era: Arc<Era>) {
    let begun = Instant::now();
    let Some(mut floors) = cache.upgrade().map(|cache| cache.floors.settled()) else { return };
    let known = floors.len();
    loop {
        let mut failed = Vec::new();
        for some in floors.chunks(FLOORS) {
            let Some(cache) = cache.upgrade().filter(|cache| !cache.is_over(&era)) else { return };
            let placed = join_all(some.iter().map(|floor| place_floor(&era, *floor))).await;
            // What is older than any floor may be forgotten.
            if begun.elapsed() > cache.settings.floor {
                return;
            }
            failed.extend(some.iter().zip(placed).filter(|(_, placed)| !placed).map(|(floor, _)| *floor));
        }
        if failed.is_empty() {
            tracing::debug!("placed {known} floors in the new era");
            return;
        }
        floors = failed;
        sleep(PROBE).await;
    }
}

async fn place_floor(era: &Era, (key, version): (Key, Version)) -> bool {
    match &era.run {
        Some(run) => run.floor(&era.row(&key), version, "", &mut Budget::new(PATIENCE)).await.is_ok(),
        None => true,
    }
}
