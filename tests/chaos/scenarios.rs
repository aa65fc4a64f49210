//! For each planted bug the steps that show it, forced by fail-points, links that are cut and processes that die. The same
//! steps must break no rule without the bug. Node A writes mostly, node B reads, node C helps.

use std::{sync::Arc, time::Duration};

use tenantry_cache::planted::Bug;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    Result,
    client::Client,
    cluster::Cluster,
    history::{Change, Effect, Event, GONE, History, Level, Outcome, Read, Version},
    points::{Action, Points},
    proxy::Link,
};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

/// Longer than the process may show an entry of its own, counted from the acknowledgement of a newer write.
const PAST_LOCAL: Duration = Duration::from_millis(1_150);
/// Longer than the feed and the process may take.
const PAST_FEED: Duration = Duration::from_millis(2_350);
/// Longer than the job and the process may take, when Redis has forgotten a floor.
const PAST_JOB: Duration = Duration::from_millis(5_150);
/// Longer than an answer of Redis may be under way.
const PAST_REDIS: Duration = Duration::from_millis(300);

/// One run of a scenario, with a user of its own.
pub(crate) struct Stage {
    cluster: Arc<Cluster>,
    client: Client,
    key: usize,
}

/// Runs the scenario of a bug once, and returns what was seen. An error: it did not come about.
pub(crate) async fn play(cluster: &Arc<Cluster>, bug: Bug, key: usize) -> Result<History> {
    let client = Client::new(cluster, &Client::http()?);
    let stage = Stage { cluster: cluster.clone(), client, key };
    let played = stage.play(bug).await;
    stage.clear().await?;
    played?;
    let mut history = stage.client.take();
    cluster.confess(&mut history).await?;
    if !cuts_off_the_writer(bug) && history.ledger[key].iter().any(|one| one.by_feed) {
        return Err("Redis did not confirm a floor in time".into());
    }
    Ok(history)
}

impl Stage {
    async fn play(&self, bug: Bug) -> Result<()> {
        match bug {
            Bug::DeleteAfterCommit => self.writer_dies_after_commit().await,
            Bug::NoOutbox => self.redis_forgets_and_writer_dies().await,
            Bug::NoLease => self.reader_fills_late().await,
            Bug::UntokenedWriteThrough => self.writer_fills_late().await,
            Bug::TtlFromInsert => self.reader_inserts_late().await,
            Bug::WriteThroughFromInsert => self.writer_inserts_late().await,
            Bug::JoinAnyFlight => self.joins_after_a_write("after-select", false).await,
            Bug::HitKeepsBoarding => self.joins_after_a_write("before-insert", true).await,
            Bug::HitIgnoresFloor => self.reads_during_a_slow_write().await,
            Bug::LateAnswersCount => self.joins_a_late_answer().await,
            Bug::TwoSelects => self.write_between_two_selects().await,
            Bug::MinIgnored => self.asks_for_what_was_written_elsewhere().await,
            Bug::FloorOutlivesRollback => self.write_is_rolled_back().await,
            Bug::LeaseBelowNodeFloor => self.reads_its_own_unconfirmed_write(false).await,
            Bug::BatchBelowNodeFloor => self.reads_its_own_unconfirmed_write(true).await,
            Bug::FeedIgnored => self.learns_from_the_feed().await,
            Bug::AnswersBlindly => self.starts_after_an_unconfirmed_write().await,
            Bug::PointerBelieved => self.pointer_is_stored_late().await,
            Bug::IfMatchIgnored => self.changes_what_was_changed().await,
        }
    }

    /// Redis holds the first version, and no process does that matters.
    async fn warm(&self) -> Result<()> {
        for _ in 0..6 {
            self.read(A).await?;
            if self.read(C).await?.level == Level::Redis {
                return Ok(());
            }
            // A node that was cut off before does not use Redis at once; and what the process holds answers for a second.
            sleep(PAST_LOCAL).await;
        }
        Err("Redis is not filled".into())
    }

    /// The new version is committed and nobody was told; one who asks for it gets it, so the others must, too.
    async fn writer_dies_after_commit(&self) -> Result<()> {
        self.warm().await?;
        self.arm(A, "after-commit", Action::Kill)?;
        let dying = self.spawn_write(A);
        self.cluster.apis[A].died().await?;
        dying.await?;
        self.read_at_least(C, 2).await?;
        self.watch(B, PAST_REDIS).await?;
        self.cluster.apis[A].start().await
    }

    /// Redis loses the floor, a reader brings the old row back, and the writer dies before it can place the floor again.
    async fn redis_forgets_and_writer_dies(&self) -> Result<()> {
        self.arm(A, "after-floor", Action::Hold)?;
        let dying = self.spawn_write(A);
        self.points(A).reached("after-floor").await?;
        self.flush().await?;
        self.read(B).await?;
        self.arm(A, "after-commit", Action::Kill)?;
        self.points(A).release("after-floor")?;
        self.cluster.apis[A].died().await?;
        dying.await?;
        self.read_at_least(C, 2).await?;
        self.watch(B, PAST_JOB).await?;
        self.cluster.apis[A].start().await
    }

    async fn reader_fills_late(&self) -> Result<()> {
        self.arm(B, "before-fill", Action::Hold)?;
        let late = self.spawn_read(B);
        self.points(B).reached("before-fill").await?;
        self.write(A).await?;
        self.flush().await?;
        self.points(B).release("before-fill")?;
        late.await?;
        self.watch(C, PAST_REDIS).await
    }

    async fn writer_fills_late(&self) -> Result<()> {
        self.arm(A, "after-commit", Action::Hold)?;
        let late = self.spawn_write(A);
        self.points(A).reached("after-commit").await?;
        self.write(B).await?;
        self.flush().await?;
        self.points(A).release("after-commit")?;
        late.await?;
        self.watch(C, PAST_REDIS).await
    }

    async fn reader_inserts_late(&self) -> Result<()> {
        self.arm(B, "after-select", Action::Hold)?;
        let late = self.spawn_read(B);
        self.points(B).reached("after-select").await?;
        self.write(A).await?;
        sleep(PAST_LOCAL).await;
        self.points(B).release("after-select")?;
        late.await?;
        self.watch(B, Duration::ZERO).await
    }

    async fn writer_inserts_late(&self) -> Result<()> {
        self.arm(A, "after-commit", Action::Hold)?;
        let late = self.spawn_write(A);
        self.points(A).reached("after-commit").await?;
        self.write(B).await?;
        sleep(PAST_LOCAL).await;
        self.points(A).release("after-commit")?;
        late.await?;
        self.watch(A, Duration::ZERO).await
    }

    /// A read is held at `point`, its node acknowledges a write, and then a second read comes.
    async fn joins_after_a_write(&self, point: &'static str, hit: bool) -> Result<()> {
        if hit {
            self.warm().await?;
        }
        self.arm(B, point, Action::Hold)?;
        let first = self.spawn_read(B);
        self.points(B).reached(point).await?;
        self.write(B).await?;
        // Until the process no longer answers from what the write has stored there.
        sleep(PAST_LOCAL).await;
        self.arm(B, "after-join", Action::Note)?;
        let second = self.spawn_read(B);
        self.points(B).reached("after-join").await?;
        self.points(B).release(point)?;
        first.await?;
        second.await?;
        Ok(())
    }

    /// The write takes so long that it stores nothing in the process, where a reader has stored the old row meanwhile.
    async fn reads_during_a_slow_write(&self) -> Result<()> {
        self.arm(B, "after-floor", Action::Hold)?;
        let writing = self.spawn_write(B);
        self.points(B).reached("after-floor").await?;
        sleep(PAST_LOCAL).await;
        self.read(B).await?;
        self.points(B).release("after-floor")?;
        acknowledged(writing.await?)?;
        self.read(B).await.map(drop)
    }

    /// A reader has an answer of Redis and does not get to look at it for a while; another one joins it meanwhile.
    async fn joins_a_late_answer(&self) -> Result<()> {
        self.warm().await?;
        self.arm(B, "after-lease", Action::Hold)?;
        let first = self.spawn_read(B);
        self.points(B).reached("after-lease").await?;
        self.write(A).await?;
        sleep(PAST_REDIS).await;
        self.arm(B, "after-join", Action::Note)?;
        let second = self.spawn_read(B);
        self.points(B).reached("after-join").await?;
        self.points(B).release("after-lease")?;
        first.await?;
        second.await?;
        Ok(())
    }

    async fn write_between_two_selects(&self) -> Result<()> {
        self.arm(B, "after-row", Action::Hold)?;
        let reading = self.spawn_read(B);
        self.points(B).reached("after-row").await?;
        self.write(A).await?;
        self.points(B).release("after-row")?;
        reading.await?;
        Ok(())
    }

    async fn asks_for_what_was_written_elsewhere(&self) -> Result<()> {
        self.read(B).await?;
        let version = self.write(A).await?;
        self.client.get(B, self.key, Some(version)).await.map(drop).ok_or("no answer".into())
    }

    async fn write_is_rolled_back(&self) -> Result<()> {
        self.arm(A, "after-floor", Action::Hold)?;
        let writing = self.spawn_write(A);
        self.points(A).reached("after-floor").await?;
        while self.cluster.end_transactions().await? == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        self.points(A).release("after-floor")?;
        writing.await?;
        let from = self.cluster.clock.now();
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            for node in [A, B, C] {
                self.read(node).await?;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let what = "nobody writes and nothing is wrong".into();
        let to = self.cluster.clock.now();
        self.cluster.note(Event { what, effect: Effect::Warm(self.key), from, to })
    }

    /// Redis still has the old entry, and the node has written a newer one that it could not tell Redis of.
    async fn reads_its_own_unconfirmed_write(&self, batch: bool) -> Result<()> {
        self.warm().await?;
        self.cut_off_a_and_the_workers();
        self.write(A).await?;
        self.cluster.apis[A].redis.set(Link::OPEN);
        sleep(PAST_LOCAL).await;
        let end = Instant::now() + Duration::from_millis(1_500);
        // Until Redis answers again.
        while Instant::now() < end {
            if batch {
                self.client.batch(A, &[self.key]).await;
            } else if self.read(A).await?.level == Level::Redis {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn learns_from_the_feed(&self) -> Result<()> {
        self.warm().await?;
        self.cut_off_a_and_the_workers();
        self.write(A).await?;
        self.watch(B, PAST_FEED).await
    }

    async fn starts_after_an_unconfirmed_write(&self) -> Result<()> {
        self.warm().await?;
        self.cut_off_a_and_the_workers();
        self.write(A).await?;
        let written = Instant::now();
        self.cluster.apis[B].kill().await?;
        self.arm(B, "before-feed", Action::Hold)?;
        self.cluster.apis[B].start().await?;
        self.points(B).reached("before-feed").await?;
        tokio::time::sleep_until(written + PAST_FEED).await;
        let reading = self.spawn_read(B);
        sleep(Duration::from_millis(500)).await;
        self.points(B).release("before-feed")?;
        reading.await?;
        Ok(())
    }

    async fn pointer_is_stored_late(&self) -> Result<()> {
        let (old, outcome) = self.client.change(A, self.key, Change::Address, None).await;
        acknowledged(outcome)?;
        self.arm(C, "before-pointer", Action::Hold)?;
        let (client, wanted) = (self.client.clone(), old);
        let late = tokio::spawn(async move { client.look_up(C, wanted).await });
        self.points(C).reached("before-pointer").await?;
        let (_, outcome) = self.client.change(A, self.key, Change::Address, None).await;
        acknowledged(outcome)?;
        self.points(C).release("before-pointer")?;
        late.await?;
        self.client.look_up(B, old).await.map(drop).ok_or("no answer".into())
    }

    async fn changes_what_was_changed(&self) -> Result<()> {
        let version = self.write(A).await?;
        self.write(B).await?;
        self.client.change(C, self.key, Change::Name, Some(version)).await;
        Ok(())
    }

    async fn read(&self, node: usize) -> Result<Read> {
        self.client.get(node, self.key, None).await.ok_or_else(|| "a look-up was not answered".into())
    }

    async fn read_at_least(&self, node: usize, version: Version) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if self.client.get(node, self.key, Some(version)).await.is_some_and(|read| read.version != GONE) {
                return Ok(());
            }
        }
        Err("the version was not committed".into())
    }

    /// Looks some times, so much later.
    async fn watch(&self, node: usize, later: Duration) -> Result<()> {
        sleep(later).await;
        for _ in 0..5 {
            self.read(node).await?;
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn write(&self, node: usize) -> Result<Version> {
        acknowledged(self.client.rename(node, self.key).await)
    }

    fn spawn_read(&self, node: usize) -> JoinHandle<Option<Read>> {
        let (client, key) = (self.client.clone(), self.key);
        tokio::spawn(async move { client.get(node, key, None).await })
    }

    fn spawn_write(&self, node: usize) -> JoinHandle<Outcome> {
        let (client, key) = (self.client.clone(), self.key);
        tokio::spawn(async move { client.rename(node, key).await })
    }

    fn points(&self, node: usize) -> &Points {
        &self.cluster.apis[node].points
    }

    fn arm(&self, node: usize, point: &str, action: Action) -> Result<()> {
        self.points(node).arm(point, action)
    }

    async fn flush(&self) -> Result<()> {
        self.cluster
            .during("FLUSHALL".into(), Effect::RedisForgets, self.cluster.tell_redis("FLUSHALL"))
            .await
    }

    fn cut_off_a_and_the_workers(&self) {
        for process in self.cluster.workers.iter().chain([&self.cluster.apis[A]]) {
            process.redis.set(Link::LOST);
        }
    }

    /// All as it was before.
    async fn clear(&self) -> Result<()> {
        for process in self.cluster.processes() {
            process.points.clear()?;
            process.redis.set(Link::OPEN);
            if process.run().is_none() {
                process.start().await?;
            }
        }
        self.cluster.revive().await
    }
}

/// Whether the steps keep the writer from placing its floor.
fn cuts_off_the_writer(bug: Bug) -> bool {
    use Bug::{AnswersBlindly, BatchBelowNodeFloor, FeedIgnored, LeaseBelowNodeFloor};
    matches!(bug, AnswersBlindly | BatchBelowNodeFloor | FeedIgnored | LeaseBelowNodeFloor)
}

fn acknowledged(outcome: Outcome) -> Result<Version> {
    match outcome {
        Outcome::Acknowledged(version) => Ok(version),
        outcome => Err(format!("a write was not acknowledged: {outcome:?}").into()),
    }
}
