//! What happens, what was promised, and how it is judged. Times are told and judged ten times as generously as they are promised:
//! the machine has other things to do.

mod clock;
mod database;
mod deployments;
mod disk;
mod idle;

use std::{path::Path, time::Duration};

use clap::ValueEnum;
use tokio::time::sleep;

use crate::{
    Result, Settings,
    cluster::Cluster,
    load::{Kind, Seen, statuses},
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
}

/// Where a fault happens, and who hears of it.
pub(crate) struct Scene<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) folder: &'a Path,
    pub(crate) logs: &'a Path,
    pub(crate) report: &'a mut Report,
    name: &'static str,
}

impl Fault {
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
        let mut settings = different.to_vec();
        for setting in &self.settings.set {
            settings.push(setting.split_once('=').ok_or("--set takes NAME=VALUE")?);
        }
        Cluster::start(servers, nodes, self.folder, self.logs, &settings).await
    }

    fn judge(&mut self, promise: &'static str, holds: bool, seen: String) {
        self.report.judge(self.name, promise, holds, seen);
    }

    /// A time that is promised.
    fn judge_time(&mut self, promise: &'static str, promised: Duration, took: Duration) {
        self.judge(promise, took <= promised * 10, format!("{:.2} s", took.as_secs_f64()));
    }

    /// While something that requests need was away: whoever is in a cache was shown, and everybody else was told to come again.
    fn judge_outage<'s>(&mut self, seen: impl Iterator<Item = &'s Seen> + Clone) {
        let look_ups = || seen.clone().filter(|one| one.kind == Kind::LookUp);
        let answered = look_ups().filter(|one| one.is_answered()).count();
        let all = look_ups().count();
        let told = statuses(look_ups());
        // Those who were changed a moment before are in no cache.
        self.judge("cached users are shown", answered * 10 >= all * 9 && all > 0, told);
        let others = seen.clone().filter(|one| !one.is_answered());
        let wrong = others.clone().filter(|one| !one.is_put_off()).count();
        self.judge(
            "all else gets 503 with Retry-After",
            wrong == 0,
            format!("of those not answered: {}", statuses(others)),
        );
        let longest = seen.map(|one| one.took).max().unwrap_or_default();
        self.judge_time("and is told within 1 s", Duration::from_secs(1), longest);
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
