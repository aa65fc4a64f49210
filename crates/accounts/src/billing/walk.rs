//! How far long walks through Stripe have come: whoever goes on with one begins there.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::{Row, types::ToSql};

use super::sync;
use crate::{App, Result, TenantId, db};

/// What is walked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// All customers: the first part of a backfill.
    Customers,
    /// Customers of tenants that were not among them: the second.
    Unlisted,
    /// All subscriptions: the last.
    Subscriptions,
    /// All subscriptions, to compare them.
    Comparison,
    /// Events that may have been missed.
    Events,
}

impl Name {
    /// The parts of a backfill, in their order.
    pub const BACKFILL: [Self; 3] = [Self::Customers, Self::Unlisted, Self::Subscriptions];

    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customers => "customers",
            Self::Unlisted => "unlisted",
            Self::Subscriptions => "backfill",
            Self::Comparison => "comparison",
            Self::Events => "events",
        }
    }
}

/// A walk. Stripe tells no totals and lists the newest first, so how far it is, is told by when things were made.
#[derive(Debug, Clone)]
pub struct Walk {
    /// What was fetched since it began has a higher one.
    pub number: i64,
    /// After what it goes on; none: at the beginning.
    pub position: Option<String>,
    /// How many have been looked at.
    pub done: i64,
    /// How many of them were new or different here.
    pub changed: i64,
    /// How many there are; none: Stripe does not tell.
    pub expected: Option<i64>,
    /// When that was made with which it began.
    pub newest: Option<DateTime<Utc>>,
    /// When that was made that it came by last.
    pub reached: Option<DateTime<Utc>>,
    /// About when that was made with which it will end.
    pub oldest: Option<DateTime<Utc>>,
    /// Of events: since when they are asked for.
    pub since: Option<DateTime<Utc>>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last moved.
    pub moved_at: DateTime<Utc>,
    /// When it came to its end; none: it has not.
    pub ended_at: Option<DateTime<Utc>>,
    /// How far it went of late, and how many seconds that took: what was long ago counts less.
    lately: (f64, f64),
}

/// A step of a walk.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// After what the next one begins; none: this was the last.
    pub next: Option<String>,
    /// When the first was made that it came by.
    pub newest: Option<DateTime<Utc>>,
    /// When the last was made.
    pub reached: Option<DateTime<Utc>>,
    /// About when the oldest of all was made, if that has been found out.
    pub oldest: Option<DateTime<Utc>>,
    /// How many there are, if that has been found out.
    pub expected: Option<i64>,
    /// How many it looked at.
    pub done: i64,
    /// How many of them were new or different here.
    pub changed: i64,
    /// How long it took.
    pub took: Duration,
}

/// After this time what a step says of the pace counts half.
const HALF_LIFE: f64 = 30.0;

impl Walk {
    /// What part of the way is behind it, from 0 to 1; none: that is not known. By when things were made: where most are
    /// recent, a walk that has come by half of them has a smaller share of the way behind it.
    pub fn share(&self) -> Option<f64> {
        let whole = self.whole()?;
        Some(if self.ended_at.is_some() { 1.0 } else { (self.gone() / whole).clamp(0.0, 1.0) })
    }

    /// About how long the rest takes at the pace of late; none: that cannot be told yet.
    pub fn left(&self) -> Option<Duration> {
        let (gone, took) = self.lately;
        let rest = (self.whole()? - self.gone()).max(0.0);
        if gone <= 0.0 || took <= 0.0 || self.ended_at.is_some() {
            return None;
        }
        Duration::try_from_secs_f64(rest / gone * took).ok()
    }

    /// The way in things, or in seconds between the newest and the oldest.
    fn whole(&self) -> Option<f64> {
        let whole = match self.expected {
            Some(expected) => expected.max(self.done) as f64,
            None => seconds(self.newest?, self.oldest?),
        };
        (whole > 0.0).then_some(whole)
    }

    fn gone(&self) -> f64 {
        match (self.expected, self.newest, self.reached) {
            (Some(_), ..) => self.done as f64,
            (None, Some(newest), Some(reached)) => seconds(newest, reached).max(0.0),
            _ => 0.0,
        }
    }

    /// As it is after a step.
    fn after(&self, step: &Step) -> Self {
        let mut next = self.clone();
        next.position = step.next.clone().or(next.position);
        next.done += step.done;
        next.changed += step.changed;
        next.expected = next.expected.or(step.expected);
        next.newest = next.newest.or(step.newest);
        // On test clocks things are made at any time: it never goes back.
        next.reached = next.reached.into_iter().chain(step.reached).min();
        next.oldest =
            next.oldest.or(step.oldest).map(|oldest| next.reached.map_or(oldest, |at| at.min(oldest)));
        let took = step.took.as_secs_f64();
        let kept = 0.5_f64.powf(took / HALF_LIFE);
        let gone = (next.gone() - self.gone()).max(0.0);
        next.lately = (self.lately.0 * kept + gone, self.lately.1 * kept + took);
        next
    }
}

fn seconds(later: DateTime<Utc>, earlier: DateTime<Utc>) -> f64 {
    (later - earlier).as_seconds_f64()
}

/// The walk of this name; none: there has been none.
///
/// # Errors
/// When the database cannot be asked.
pub async fn find(app: &App, name: Name) -> Result<Option<Walk>> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx.prepare_cached(&format!("select {COLUMNS} {FROM}")).await?;
    let row = tx.query_opt(&statement, &[&name.as_str()]).await?;
    tx.commit().await?;
    row.as_ref().map(Walk::try_from).transpose()
}

const COLUMNS: &str =
    "number, position, done, changed, expected, newest, reached, oldest, since, started_at, moved_at, ended_at,
    lately_gone, lately_took";
const FROM: &str = "from tenantry.stripe_cursors where name = $1";

/// Begins a walk anew. Of events it is said since when they are asked for.
///
/// # Errors
/// When the database cannot be asked.
pub async fn begin(app: &App, name: Name, since: Option<DateTime<Utc>>) -> Result<Walk> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let walk = begin_in(&tx, name, since).await?;
    tx.commit().await?;
    Ok(walk)
}

/// Begins all parts of a backfill anew.
///
/// # Errors
/// When the database cannot be asked.
pub async fn begin_backfill(app: &App) -> Result<()> {
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    for name in Name::BACKFILL {
        begin_in(&tx, name, None).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn begin_in(tx: &db::Transaction<'_>, name: Name, since: Option<DateTime<Utc>>) -> Result<Walk> {
    let statement = tx
        .prepare_cached(&format!(
            "insert into tenantry.stripe_cursors (name, since) values ($1, $2)
             on conflict (name) do update set number = excluded.number, position = null, done = 0, changed = 0,
               expected = null, newest = null, reached = null, oldest = null, since = excluded.since, started_at = now(), moved_at = now(),
               ended_at = null, lately_gone = 0, lately_took = 0
             returning {COLUMNS}"
        ))
        .await?;
    Walk::try_from(&tx.query_one(&statement, &[&name.as_str(), &since]).await?)
}

/// The part of a backfill that is to be gone on with; none: all have come to their end.
///
/// # Errors
/// When the database cannot be asked.
pub async fn open_part(app: &App) -> Result<Option<(Name, Walk)>> {
    for name in Name::BACKFILL {
        if let Some(walk) = find(app, name).await?.filter(|walk| walk.ended_at.is_none()) {
            return Ok(Some((name, walk)));
        }
    }
    Ok(None)
}

/// Notes that `walk` is a step further; without a next one it is at its end. Returns how it is now: somebody else may have
/// gone on with it, or begun it anew, and then this step counts for nothing.
///
/// # Errors
/// When the database cannot be asked.
pub async fn advance(app: &App, name: Name, walk: &Walk, step: &Step) -> Result<Option<Walk>> {
    let next = walk.after(step);
    let mut client = app.db.client().await?;
    let tx = db::as_system(&mut client).await?;
    let statement = tx
        .prepare_cached(&format!(
            "update tenantry.stripe_cursors set position = $5, done = $6, changed = $7, newest = $8, reached = $9, oldest = $10,
               expected = $11, lately_gone = $12, lately_took = $13, moved_at = now(), ended_at = case when $14 then now() end
             where name = $1 and number = $2 and position is not distinct from $3 and done = $4 and ended_at is null
             returning {COLUMNS}"
        ))
        .await?;
    let params: [&(dyn ToSql + Sync); 14] = [
        &name.as_str(),
        &walk.number,
        &walk.position,
        &walk.done,
        &next.position,
        &next.done,
        &next.changed,
        &next.newest,
        &next.reached,
        &next.oldest,
        &next.expected,
        &next.lately.0,
        &next.lately.1,
        &step.next.is_none(),
    ];
    let row = tx.query_opt(&statement, &params).await?;
    tx.commit().await?;
    match row {
        Some(row) => Ok(Some(Walk::try_from(&row)?)),
        None => find(app, name).await,
    }
}

/// Has every subscription fetched by itself that has not ended here and was not fetched since `number`: a walk through all
/// of Stripe's did not come by it. Returns how many.
///
/// # Errors
/// When the database cannot be asked.
pub async fn fetch_unlisted(app: &App, number: i64) -> Result<u64> {
    const BATCH: i64 = 500;
    let (mut found, mut after) = (0, String::new());
    loop {
        let mut client = app.db.client().await?;
        let tx = db::as_system(&mut client).await?;
        let statement = tx
            .prepare_cached(
                "select o.id from tenantry.stripe_objects o
                   cross join lateral (
                     select c.tenant_id from tenantry.billing_customers c where c.customer_id = o.customer_id
                     union all
                     select p.tenant_id from tenantry.billing_past_customers p where p.customer_id = o.customer_id
                   ) payer
                   join tenantry.subscriptions s on s.tenant_id = payer.tenant_id and s.stripe_id = o.id
                 where o.applied < $1 and o.id > $2 and s.status not in ('canceled', 'incomplete_expired')
                 order by o.id limit $3",
            )
            .await?;
        let rows = tx.query(&statement, &[&number, &after, &BATCH]).await?;
        for row in &rows {
            after = row.try_get(0)?;
            sync::request(&tx, TenantId::SYSTEM, &after).await?;
        }
        tx.commit().await?;
        app.db.nudge();
        found += rows.len() as u64;
        if (rows.len() as i64) < BATCH {
            return Ok(found);
        }
    }
}

impl TryFrom<&Row> for Walk {
    type Error = crate::Error;

    fn try_from(row: &Row) -> Result<Self> {
        Ok(Self {
            number: row.try_get("number")?,
            position: row.try_get("position")?,
            done: row.try_get("done")?,
            changed: row.try_get("changed")?,
            expected: row.try_get("expected")?,
            newest: row.try_get("newest")?,
            reached: row.try_get("reached")?,
            oldest: row.try_get("oldest")?,
            since: row.try_get("since")?,
            started_at: row.try_get("started_at")?,
            moved_at: row.try_get("moved_at")?,
            ended_at: row.try_get("ended_at")?,
            lately: (row.try_get("lately_gone")?, row.try_get("lately_took")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const NOW: i64 = 1_760_000_000;

    fn at(seconds: i64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(seconds, 0)
    }

    fn begun() -> Walk {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        Walk {
            number: 1,
            position: None,
            done: 0,
            changed: 0,
            expected: None,
            newest: None,
            reached: None,
            oldest: None,
            since: None,
            started_at: now,
            moved_at: now,
            ended_at: None,
            lately: (0.0, 0.0),
        }
    }

    /// A walk through things that were made at these times, the newest first, a hundred at a time, each hundred within
    /// `took`, where the end is known with the step of number `known`: how it is after each step, and how long the others take.
    fn walked(made: &[i64], known: usize, took: impl Fn(usize) -> Duration) -> Vec<(Walk, Duration)> {
        let (mut walk, mut steps) = (begun(), vec![]);
        let pages: Vec<_> = made.chunks(100).collect();
        for (n, page) in pages.iter().enumerate() {
            let last = n + 1 == pages.len();
            let step = Step {
                next: (!last).then(|| n.to_string()),
                newest: at(page[0]),
                reached: at(page[page.len() - 1]),
                oldest: if n == known { at(made[made.len() - 1]) } else { None },
                done: page.len() as i64,
                took: took(n),
                ..Step::default()
            };
            walk = walk.after(&step);
            steps.push((walk.clone(), (n + 1..pages.len()).map(&took).sum()));
        }
        steps
    }

    #[test]
    fn what_is_left_is_told_by_how_far_it_went_of_late() {
        let evenly: Vec<_> = (0..50_000).map(|n| NOW - n * 600).collect();
        let steady = |_| Duration::from_millis(800);
        // Stripe becomes three times as slow in the middle.
        let slower = |n| Duration::from_millis(if n < 250 { 800 } else { 2_400 });
        for (steps, since) in [(walked(&evenly, 4, steady), 5), (walked(&evenly, 0, slower), 300)] {
            for (n, (walk, truth)) in steps.iter().enumerate().skip(since).take(490 - since) {
                let (left, truth) = (walk.left().unwrap().as_secs_f64(), truth.as_secs_f64());
                assert!((left - truth).abs() <= truth * 0.2 + 3.0, "step {n}: {left} s for {truth} s");
                let share = walk.share().unwrap();
                assert!((share - (n + 1) as f64 / 500.0).abs() < 0.02, "step {n}: {share}");
            }
        }
    }

    #[test]
    fn where_most_are_recent_it_is_not_told_too_little() {
        // Twice as many each year, for six years.
        const YEAR: f64 = 31_536_000.0;
        let ago = |n: i64| -(1.0 - n as f64 / 100_000.0 * (1.0 - 1.0 / 64.0)).log2() * YEAR;
        let growing: Vec<_> = (0..100_000).map(|n| NOW - ago(n) as i64).collect();
        for (walk, truth) in walked(&growing, 0, |_| Duration::from_secs(1)).iter().skip(5).take(900) {
            let (left, truth) = (walk.left().unwrap().as_secs_f64(), truth.as_secs_f64());
            assert!(left >= truth && left <= truth * 4.5, "{left} s for {truth} s, {} done", walk.done);
        }
    }

    #[test]
    fn whatever_happens_it_goes_forward_and_is_said_in_numbers_that_make_sense() {
        let seed = rand::rng().random_range(1..1_000_000);
        println!("seed {seed}");
        let mut chance = StdRng::seed_from_u64(seed);
        for _ in 0..500 {
            let n = chance.random_range(1..2_000);
            // In bursts, far apart, and on test clocks that know no order.
            let span = 1_i64 << chance.random_range(0..29);
            let mut made: Vec<_> = (0..n).map(|_| NOW - chance.random_range(0..=span)).collect();
            if chance.random() {
                made.sort_by_key(|at| -at);
            }
            let slow = chance.random_range(0..100_000);
            let steps =
                walked(&made, chance.random_range(0..3), |n| Duration::from_micros(slow * (n as u64 % 7)));
            let mut before = 0.0;
            for (walk, _) in &steps {
                let share = walk.share().unwrap_or(before);
                assert!((before..=1.0).contains(&share), "seed {seed}: from {before} to {share}");
                before = share;
                assert!(walk.left().is_none_or(|left| left < Duration::from_secs(10_000_000_000)));
            }
            assert_eq!(steps.last().unwrap().0.done, i64::from(n));
        }
    }

    #[test]
    fn where_the_number_is_known_it_is_counted() {
        let step = |next: Option<&str>, done| Step {
            next: next.map(str::to_owned),
            expected: Some(80),
            done,
            took: Duration::from_secs(2),
            ..Step::default()
        };
        assert_eq!((begun().share(), begun().left()), (None, None));

        let walk = begun().after(&step(Some("a"), 20));
        assert_eq!((walk.share(), walk.left()), (Some(0.25), Some(Duration::from_secs(6))));
        // There are more by now.
        let walk = walk.after(&step(Some("b"), 100));
        assert_eq!((walk.share(), walk.left()), (Some(1.0), Some(Duration::ZERO)));
        let ended = Walk { ended_at: at(NOW), ..walk };
        assert_eq!((ended.share(), ended.left()), (Some(1.0), None));
    }
}
