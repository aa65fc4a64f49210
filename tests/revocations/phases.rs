//! What goes on while tokens are revoked.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use rand::{Rng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    Result,
    cluster::{Cluster, MAX_LAG, NODES},
    kinds::{Kind, Victim},
    proxy::{Flow, Link},
    watch::{self, Track, Watch},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Phase {
    Calm,
    RedisDown,
    RedisBack,
    PostgresRestarted,
    NodeCutOff,
}

impl Phase {
    pub(crate) const ALL: [Self; 5] =
        [Self::Calm, Self::RedisDown, Self::RedisBack, Self::PostgresRestarted, Self::NodeCutOff];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::RedisDown => "Redis is killed",
            Self::RedisBack => "Redis comes back",
            Self::PostgresRestarted => "PostgreSQL crashes",
            Self::NodeCutOff => "a node is cut off",
        }
    }
}

/// One revocation, and until when the token was let in.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) phase: Phase,
    pub(crate) kind: Kind,
    /// By the node that did it, from the acknowledgement on; none where nobody knows which request did it.
    pub(crate) own: Option<Duration>,
    pub(crate) others: Vec<Other>,
    /// Between two requests with the token, on an average.
    pub(crate) step: Duration,
    /// Answers that nobody expected.
    pub(crate) odd: Option<u16>,
}

/// A node that was not told.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    /// From the acknowledgement on.
    pub(crate) accepted: Duration,
    /// The same, from when PostgreSQL was there again if that was later: before that nobody can be told.
    pub(crate) accepted_in_reach: Duration,
}

/// What a node did that was cut off from PostgreSQL, all from the cut on.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// Until when it let in a token that was never revoked.
    pub(crate) accepted: Duration,
    /// When it first said that it cannot tell.
    pub(crate) unknown: Duration,
    /// Until when it let in one that was revoked elsewhere, from the acknowledgement on.
    pub(crate) revoked_accepted: Duration,
    /// From the end of the cut until it served again.
    pub(crate) back: Duration,
}

/// Revokes one victim of each kind at once, in the middle of what the phase is about.
pub(crate) async fn rounds(
    cluster: &Cluster,
    phase: Phase,
    kinds: &[Kind],
    rng: &mut StdRng,
) -> Result<(Vec<Round>, Option<Cut>)> {
    if phase == Phase::RedisBack {
        cluster.servers.kill_redis().await?;
    }
    let node = rng.random_range(0..NODES);
    let signed_in_at = rng.random_range(0..NODES);
    let victims = try_join_all(kinds.iter().map(|kind| Victim::new(cluster, signed_in_at, *kind))).await?;
    let watches = victims.iter().map(|victim| Watch::start(cluster, &victim.bearer, &victim.look_up));
    let watches = watches.collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    try_join_all(watches.iter().map(Watch::is_accepted)).await?;

    let mut pauses: Vec<Duration> = kinds.iter().map(|_| by_chance(rng, 0..100)).collect();
    let (strike, dead) = (by_chance(rng, 0..400), by_chance(rng, 100..600));
    let hang = rng.random_bool(0.5);
    let revoke_all = try_join_all(victims.iter().map(|victim| {
        let pause = pauses.pop().unwrap_or_default();
        async move {
            sleep(pause).await;
            let first = victim.revoke(cluster, node).await?;
            let acknowledged = Instant::now();
            // Those who watch may just have asked: here the very next request.
            let next = cluster.ask(node, "GET", &victim.look_up, &victim.bearer, "").await?;
            let let_in = watch::is_let_in(next.status).then(|| acknowledged.elapsed());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((
                first,
                acknowledged,
                let_in.unwrap_or_default(),
            ))
        }
    }));
    let (mut back, mut cut) = (begun, None);
    let revoked = match phase {
        Phase::Calm | Phase::RedisDown => revoke_all.await?,
        Phase::RedisBack => {
            let start = async {
                sleep(strike).await;
                cluster.servers.start_redis().await
            };
            tokio::try_join!(revoke_all, start)?.0
        }
        Phase::PostgresRestarted => {
            let crash = async {
                sleep(strike).await;
                cluster.servers.crash_postgres("QUIT", dead).await?;
                Ok(Instant::now())
            };
            let (revoked, started) = tokio::try_join!(revoke_all, crash)?;
            back = started;
            revoked
        }
        Phase::NodeCutOff => {
            let victim = (node + rng.random_range(1..NODES)) % NODES;
            let control = Watch::start(cluster, &cluster.admin, &cluster.home().look_up)?;
            control.is_accepted().await?;
            let flow = if hang { Flow::Held } else { Flow::Lost };
            let began = Instant::now();
            cluster.nodes[victim].postgres.set(Link { requests: flow, answers: flow });
            let revoked = revoke_all.await?;
            cut = Some((victim, cut_off(cluster, victim, &control, began).await?));
            revoked
        }
    };
    try_join_all(watches.iter().map(Watch::is_refused)).await?;
    let (mut rounds, away) = (vec![], cut.as_ref().map(|(node, _)| *node));
    for ((victim, watch), (first, acknowledged, let_in)) in victims.iter().zip(&watches).zip(&revoked) {
        let tracks: Vec<Track> = (0..NODES).map(|node| watch.track(node)).collect();
        let requests: usize = tracks.iter().map(|track| track.requests).sum();
        let is_other = |n: &usize| *n != node && Some(*n) != away;
        if let Some((cut_off, cut)) = &mut cut {
            cut.revoked_accepted = cut.revoked_accepted.max(tracks[*cut_off].accepted_past(*acknowledged));
        }
        rounds.push(Round {
            phase,
            kind: victim.kind,
            own: first.then(|| tracks[node].accepted_past(*acknowledged).max(*let_in)),
            others: (0..NODES)
                .filter(is_other)
                .map(|n| Other {
                    accepted: tracks[n].accepted_past(*acknowledged),
                    accepted_in_reach: tracks[n].accepted_past(back.max(*acknowledged)),
                })
                .collect(),
            step: begun.elapsed() * NODES as u32 / u32::try_from(requests.max(1))?,
            odd: tracks.iter().find_map(|track| track.odd),
        });
    }
    drop(watches);
    for victim in &victims {
        victim.restore(cluster, node).await?;
    }
    Ok((rounds, cut.map(|(_, cut)| cut)))
}

/// Waits until the node that is cut off since `began` refuses, and lets it back.
async fn cut_off(cluster: &Cluster, node: usize, control: &Watch, began: Instant) -> Result<Cut> {
    control.until(&[node], "a node that is cut off refuses", |track| track.unknown_since.is_some()).await?;
    // It does not change its mind.
    sleep(MAX_LAG / 4).await;
    let track = control.track(node);
    let unknown = track.unknown_since.ok_or("a node that is cut off lets somebody in again")?;
    let healed = Instant::now();
    cluster.nodes[node].postgres.set(Link::OPEN);
    control.until(&[node], "a node is back", |track| track.unknown_since.is_none()).await?;
    let back = control.track(node).last_accepted.ok_or("nobody was let in")?;
    Ok(Cut {
        accepted: track.accepted_past(began),
        unknown: unknown.saturating_duration_since(began),
        revoked_accepted: Duration::ZERO,
        back: back.saturating_duration_since(healed),
    })
}

fn by_chance(rng: &mut StdRng, millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(millis))
}
