//! What a process knows of a limit that Redis keeps, and what it lets in by that while Redis does not answer.

use std::{num::NonZeroU32, time::Duration};

use super::Cells;

/// What a process knows of a limit that Redis keeps. Times are those since the process began.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::limits) struct Known {
    /// When all there is will have been replenished.
    pub(in crate::limits) until: Duration,
    /// The run of Redis that said so; 0 for none.
    run: u32,
    /// What this process has let in by itself since, of which Redis has not been told; less than nothing where it was told of
    /// what has been given back here since.
    owed: i32,
    /// The birth of what that run holds.
    born: u64,
}

/// What Redis is told of that.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::limits) struct Told {
    /// How far ahead the limit is, what is owed included.
    pub(super) ahead: Duration,
    /// How far what is owed has brought it ahead,
    pub(super) owed: Duration,
    /// or what was told and is given back takes it back.
    pub(super) back: Duration,
    pub(super) run: u32,
    pub(super) born: u64,
    /// How many are owed, should Redis not hear of it.
    count: i32,
}

/// What Redis has given, or nothing.
#[derive(Debug, Clone, Copy)]
pub(in crate::limits) struct Taken {
    pub(in crate::limits) count: u32,
    /// Until when that and all else is replenished, by the clock of Redis.
    pub(super) until: u64,
    /// How far that is ahead.
    pub(super) ahead: Duration,
    /// After this time another may be taken.
    pub(in crate::limits) wait: Duration,
    /// The run of Redis that has given it, and the birth of what it was taken of.
    pub(super) run: u32,
    pub(super) born: u64,
}

/// What was taken and not used.
#[derive(Debug, Clone, Copy)]
pub(in crate::limits) struct Unused {
    pub(in crate::limits) count: u32,
    pub(super) until: u64,
    pub(super) run: u32,
    pub(super) born: u64,
}

impl Taken {
    #[cfg(test)]
    pub(in crate::limits) const fn of(count: u32, ahead: Duration, wait: Duration) -> Self {
        Self { count, until: 0, ahead, wait, run: 7, born: 9 }
    }

    /// So many of it.
    pub(in crate::limits) fn unused(&self, count: u32) -> Unused {
        let &Self { until, run, born, .. } = self;
        Unused { count, until, run, born }
    }
}

impl Known {
    /// What Redis is to be told. What is owed is in it from now on, and told by nobody else.
    pub(in crate::limits) fn tell(&mut self, cells: Cells, replicas: NonZeroU32, now: Duration) -> Told {
        let (count, ahead) = (std::mem::take(&mut self.owed), self.until.saturating_sub(now));
        // What has been replenished since is not owed any more: of what is ahead this process has let its share in.
        let (owed, back) = match u32::try_from(count) {
            Ok(owed) => (cells.times(owed).min(ahead / replicas.get()), Duration::ZERO),
            Err(_) => (Duration::ZERO, cells.times(count.unsigned_abs()).min(ahead)),
        };
        let ahead = (ahead - back).min(cells.burst());
        Told { ahead, owed, back, run: self.run, born: self.born, count }
    }

    /// Redis may not have heard what it was told.
    pub(in crate::limits) fn not_told(&mut self, told: Told) {
        self.owed = self.owed.saturating_add(told.count);
    }

    /// What Redis has not been asked to take back is told the next time, unless it has lost what that was taken of.
    pub(in crate::limits) fn not_given_back(&mut self, unused: &[Unused]) {
        for unused in unused.iter().filter(|unused| (unused.run, unused.born) == (self.run, self.born)) {
            self.owed = self.owed.saturating_sub_unsigned(unused.count);
        }
    }

    /// Takes note of what Redis has said. Others may have been let in meanwhile of whom it does not know yet.
    pub(in crate::limits) fn learn(
        &mut self,
        taken: &Taken,
        cells: Cells,
        replicas: NonZeroU32,
        now: Duration,
    ) {
        let owed = cells.times(self.owed.max(0).unsigned_abs()).saturating_mul(replicas.get());
        let ahead = taken.ahead.saturating_add(owed).min(cells.share(replicas).1);
        *self = Self { until: now + ahead, run: taken.run, born: taken.born, owed: self.owed };
    }

    /// Lets one in by what this process knows, at its share of the rate, or tells how long that has to wait. One is always let
    /// in when there is nothing to be replenished: the share of a process is never nothing.
    pub(in crate::limits) fn take(
        &mut self,
        cells: Cells,
        replicas: NonZeroU32,
        now: Duration,
    ) -> Result<(), Duration> {
        let (each, burst) = cells.share(replicas);
        let until = self.until.max(now) + each;
        let wait = until.saturating_sub(now + burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        (self.until, self.owed) = (until, self.owed.saturating_add(1));
        Ok(())
    }

    /// Gives one back that was let in here. True: Redis has been told of it, and has to be told this as well.
    #[must_use]
    pub(in crate::limits) fn give_back(&mut self, cells: Cells, replicas: NonZeroU32) -> bool {
        let was_told = self.owed <= 0;
        if !was_told {
            let (each, _) = cells.share(replicas);
            self.until = self.until.saturating_sub(each);
        }
        self.owed = self.owed.saturating_sub(1);
        was_told
    }
}

impl Cells {
    /// In how long so many are replenished.
    fn times(self, count: u32) -> Duration {
        Duration::from_micros(self.each.saturating_mul(count.into()))
    }

    fn burst(self) -> Duration {
        Duration::from_micros(self.burst)
    }

    /// In how long one is replenished where a process keeps its share by itself, and how far ahead it may let in.
    fn share(self, replicas: NonZeroU32) -> (Duration, Duration) {
        let each = self.times(replicas.get());
        (each, self.burst().max(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::policy::Policy;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    fn cells(quota: u32, seconds: u64) -> Cells {
        let quota = NonZeroU32::new(quota).unwrap();
        Cells::new(&Policy::new("test", quota, at(seconds)), Duration::ZERO)
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn says(ahead: u64) -> Taken {
        Taken::of(1, at(ahead), Duration::ZERO)
    }

    #[test]
    fn by_itself_a_process_lets_its_share_in_at_once_and_then_evenly() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        for _ in 0..3 {
            assert_eq!(known.take(cells, TWO, at(100)), Ok(()));
        }
        assert_eq!(known.take(cells, TWO, at(100)), Err(at(10)));
        // Those that are refused do not count.
        assert_eq!(known.take(cells, TWO, at(109)), Err(at(1)));
        assert_eq!(known.take(cells, TWO, at(110)), Ok(()));
        assert_eq!(known.take(cells, TWO, at(110)), Err(at(10)));
        assert_eq!(known.owed, 4);
        assert!(!known.give_back(cells, TWO), "Redis knows of none");
        assert_eq!(known.take(cells, TWO, at(110)), Ok(()));
        assert_eq!(known.take(cells, TWO, at(110)), Err(at(10)));
    }

    #[test]
    fn a_share_is_of_what_is_left_and_never_nothing() {
        // Four of six are used up: one of the two that are left is ours.
        let mut known = Known { until: at(120), ..Known::default() };
        assert_eq!(known.take(cells(6, 30), TWO, at(100)), Ok(()));
        assert_eq!(known.take(cells(6, 30), TWO, at(100)), Err(at(10)));
        // Half of one an hour is one in two hours.
        let mut known = Known::default();
        assert_eq!(known.take(cells(1, 3600), TWO, at(100)), Ok(()));
        assert_eq!(known.take(cells(1, 3600), TWO, at(100)), Err(at(7200)));
        assert_eq!(known.take(cells(1, 3600), TWO, at(7300)), Ok(()));
    }

    #[test]
    fn what_redis_was_told_is_owed_no_more_and_what_came_since_is() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        known.take(cells, TWO, at(100)).unwrap();
        let told = known.tell(cells, TWO, at(100));
        assert_eq!((told.ahead, told.owed), (at(10), at(5)));
        // Somebody else who asks at the same time does not tell it again.
        assert_eq!(known.tell(cells, TWO, at(100)).owed, Duration::ZERO);
        known.take(cells, TWO, at(101)).unwrap();
        known.learn(&says(15), cells, TWO, at(101));
        assert_eq!((known.until, known.run, known.born, known.owed), (at(126), 7, 9, 1));
        let told = known.tell(cells, TWO, at(101));
        assert_eq!((told.ahead, told.owed, told.run, told.born), (at(25), at(5), 7, 9));
        known.not_told(told);
        assert_eq!(known.owed, 1);
    }

    #[test]
    fn what_was_told_and_is_given_back_is_told_too() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        known.take(cells, TWO, at(100)).unwrap();
        known.tell(cells, TWO, at(100));
        known.learn(&says(5), cells, TWO, at(100));
        assert!(known.give_back(cells, TWO));
        let told = known.tell(cells, TWO, at(101));
        // A second of it has been replenished.
        assert_eq!((told.ahead, told.owed, told.back), (at(0), at(0), at(4)));
        known.not_told(told);
        assert_eq!(known.tell(cells, TWO, at(105)).back, at(0), "all of it");
        // So is what Redis could not be asked to take back; of another Redis it is nothing.
        let taken = says(5);
        let mut known = Known::default();
        known.not_given_back(&[taken.unused(1)]);
        assert_eq!(known.owed, 0);
        known.learn(&taken, cells, TWO, at(100));
        known.not_given_back(&[taken.unused(1)]);
        assert_eq!(known.tell(cells, TWO, at(102)).back, at(3));
        // One that is let in meanwhile is the one that was given back.
        let mut known = Known { until: at(110), owed: -1, ..Known::default() };
        known.take(cells, TWO, at(100)).unwrap();
        let told = known.tell(cells, TWO, at(100));
        assert_eq!((told.owed, told.back), (at(0), at(0)));
    }

    #[test]
    fn a_long_outage_leaves_no_larger_debt_than_a_short_one() {
        let (cells, mut known) = (cells(6, 30), Known::default());
        let let_in = (0..600).filter(|second| known.take(cells, TWO, at(*second)).is_ok()).count();
        assert_eq!(let_in, 3 + 59);
        // Half of a burst, less what was replenished since the last was let in.
        assert_eq!(known.tell(cells, TWO, at(600)).owed, at(10));
        known.learn(&says(30), cells, TWO, at(600));
        assert_eq!(known.take(cells, TWO, at(600)), Err(at(10)), "closed for no longer than one takes");
        // Long after there is no debt.
        let mut known = Known::default();
        known.take(cells, TWO, at(0)).unwrap();
        assert_eq!(known.tell(cells, TWO, at(100)).owed, Duration::ZERO);
    }
}
