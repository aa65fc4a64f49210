//! What happens, what was promised, and how it is judged.

mod clock;
mod database;
mod deployments;
mod disk;
mod idle;
mod upgrade;

use std::{path::Path, time::Duration};

use clap::ValueEnum;
use tokio::time::{Instant, sleep};

use crate::{
    Result, Settings,
    cluster::Cluster,
    load::{Kind, Seen, between, statuses},
    program,
    report::Report,
    servers::Servers,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    Deployments,
    Kills,
    Restart,
    Sessions,
    Lock,
    Clock,
    Idle,
    Disk,
    /// Needs --old
    Upgrade,
}

/// A time: what is promised, and how much more is allowed to a machine that has other things to do.
#[derive(Clone, Copy)]
struct Promise {
    text: &'static str,
    promised: Duration,
    most: Duration,
}

impl Promise {
    const fn new(text: &'static str, promised: Duration, most: Duration) -> Self {
        Self { text, promised, most }
    }
}

/// No request takes longer than 5 s.
const TOLD: Promise =
    Promise::new("and is told within 1 s", Duration::from_secs(1), Duration::from_millis(4500));
/// What was in the middle of it when it happened.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// Where a fault happens, and who hears of it.
pub(crate) struct Scene<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) folder: &'a Path,
    pub(crate) logs: &'a Path,
    pub(crate) report: &'a mut Report,
    name: &'static str,
}

impl Fault {
    /// Those that need nothing else.
    pub(crate) const ALL: [Self; 8] = [
        Self::Deployments,
        Self::Kills,
        Self::Restart,
        Self::Sessions,
        Self::Lock,
        Self::Clock,
        Self::Idle,
        Self::Disk,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Deployments => "deployments",
            Self::Kills => "kills",
            Self::Restart => "restart",
            Self::Sessions => "sessions",
            Self::Lock => "lock",
            Self::Clock => "clock",
            Self::Idle => "idle",
            Self::Disk => "disk",
            Self::Upgrade => "upgrade",
        }
    }

    pub(crate) async fn happen(
        self,
        settings: &Settings,
        folder: &Path,
        logs: &Path,
        report: &mut Report,
    ) -> Result<()> {
        let scene = Scene { settings, folder, logs, report, name: self.name() };
        match self {
            Self::Deployments => deployments::one_after_the_other(scene).await,
            Self::Kills => deployments::kills(scene).await,
            Self::Restart => database::restarts(scene).await,
            Self::Sessions => database::throws_sessions_out(scene).await,
            Self::Lock => database::is_locked(scene).await,
            Self::Clock => clock::steps(scene).await,
            Self::Idle => idle::crowd(scene).await,
            Self::Disk => disk::is_full(scene).await,
            Self::Upgrade => upgrade::under_load(scene).await,
        }
    }
}

impl Scene<'_> {
    /// A cluster of so many processes, with settings that are different.
    async fn cluster(&self, nodes: usize, different: &[(&str, &str)]) -> Result<Cluster> {
        self.cluster_on(Servers::start(&self.folder.join("home")).await?, nodes, different).await
    }

    /// The same on servers that run already.
    async fn cluster_on(
        &self,
        servers: Servers,
        nodes: usize,
        different: &[(&str, &str)],
    ) -> Result<Cluster> {
        self.cluster_of(&program::built("tenantry")?, servers, nodes, different).await
    }

    /// The same of another program.
    async fn cluster_of(
        &self,
        program: &Path,
        servers: Servers,
        nodes: usize,
        different: &[(&str, &str)],
    ) -> Result<Cluster> {
        let set = program::set(&self.settings.set)?;
        let set = set.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let settings: Vec<_> = different.iter().copied().chain(set).collect();
        Cluster::start(program, servers, nodes, self.folder, self.logs, &settings).await
    }

    fn judge(&mut self, promise: &'static str, holds: bool, seen: String) {
        self.report.judge(self.name, promise, holds, seen);
    }

    /// A time that is promised; the machine has other things to do, so it is only broken by more than is allowed for that.
    fn judge_time(&mut self, Promise { text, promised, most }: Promise, took: Duration) {
        let late = if took > promised { ", later than promised" } else { "" };
        self.judge(text, took <= most, format!("{:.2} s{late}", took.as_secs_f64()));
    }

    /// Something that requests needed was away from one moment to another, and had recovered at a third. Whoever is in a cache was
    /// shown meanwhile, and everybody else was told to come again, to the end of it.
    fn judge_outage(
        &mut self,
        seen: &[Seen],
        [from, to, recovered]: [Instant; 3],
        promise: Promise,
    ) -> Result<()> {
        let look_ups = || between(seen, from + UNDER_WAY, to).filter(|one| one.kind == Kind::LookUp);
        let (answered, all) = (look_ups().filter(|one| one.is_answered()).count(), look_ups().count());
        // Those who were changed a moment before are in no cache.
        self.judge("cached users are shown", answered * 10 >= all * 9 && all > 0, statuses(look_ups()));
        let others = between(seen, from, recovered).filter(|one| !one.is_answered());
        if others.clone().count() == 0 {
            // Else every judgement would hold because nothing had happened.
            return Err("nobody noticed anything: what was to fall did not".into());
        }
        let wrong = others.clone().filter(|one| !one.is_put_off()).count();
        let told = format!("of those not answered: {}", statuses(others));
        self.judge("all else gets 503 with Retry-After", wrong == 0, told);
        let longest = between(seen, from, recovered).map(|one| one.took).max().unwrap_or_default();
        self.judge_time(promise, longest);
        Ok(())
    }

    /// Everybody is answered from then on.
    fn judge_after(&mut self, seen: &[Seen], from: Instant) {
        let after = seen.iter().filter(|one| one.due >= from);
        let failed = after.clone().filter(|one| !one.is_answered());
        let (all, wrong) = (after.count(), failed.clone().count());
        let told = format!("{all} requests, failed: {}", statuses(failed));
        self.judge("and nothing fails from then on", wrong == 0 && all > 0, told);
    }

    async fn judge_processes(&mut self, cluster: &Cluster) -> Result<()> {
        let mut ended = vec![];
        for node in &cluster.nodes {
            ended.extend(node.revive().await?);
        }
        let seen = if ended.is_empty() { "none".into() } else { ended.join("; ") };
        self.judge("no process ends", ended.is_empty(), seen);
        Ok(())
    }

    async fn judge_changes(&mut self, cluster: &Cluster) -> Result<()> {
        let (lost, all) = cluster.lost_changes().await?;
        self.judge("no acknowledged change is lost", lost == 0 && all > 0, format!("{lost} of {all}"));
        Ok(())
    }
}

/// Long enough that a fault meets a service that runs.
async fn settle() {
    sleep(Duration::from_secs(1)).await;
}
